"""What every process that shares the queue is built of."""

from contextlib import closing
from pathlib import Path

import pytest
import torch

from model.segmenter import NoSuchDevice
from plugin.archive import OrthancArchive
from plugin.settings import Settings
from plugin.station import Station
from tests.fake_orthanc import FakeOrthanc


def station(model: Path, folder: Path, *, does_jobs: bool) -> Station:
    return Station(
        Settings(Model=str(model), Device="cuda"),
        archive=OrthancArchive(FakeOrthanc({}, str(folder / "orthanc.json"))),
        database_url=f"sqlite:///{folder / 'jobs.db'}",
        owner="here",
        changed=lambda jobs, job: None,
        does_jobs=does_jobs,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_orthanc_whose_nodes_do_its_jobs_leaves_the_gpu_to_them(
    weights: Path, tmp_path: Path
) -> None:
    with closing(station(weights / "quick", tmp_path, does_jobs=False)) as idle:
        assert idle.catalogue.get("quick").device == "cpu"
    with pytest.raises(NoSuchDevice, match="sees no GPU"):
        station(weights / "quick", tmp_path, does_jobs=True)
