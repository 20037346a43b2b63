"""What every process that shares the queue is built of."""

import math
import shutil
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from model.segmenter import NoSuchDevice
from plugin.catalogue import Catalogue
from plugin.orthanc_archive import OrthancArchive
from plugin.settings import DeliverySettings, Settings
from plugin.station import Station
from tests.fake_orthanc import FakeOrthanc
from tests.plugin.jobs.asking import add


def station(model: Path, folder: Path, *, does_jobs: bool = True, **settings: object) -> Station:
    return Station(
        Settings(Model=str(model), **settings),
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
    with closing(station(weights / "quick", tmp_path, does_jobs=False, Device="cuda")) as idle:
        assert idle.catalogue.get("quick").device == "cpu"
    with pytest.raises(NoSuchDevice, match="sees no GPU"):
        station(weights / "quick", tmp_path, Device="cuda")


def test_an_orthanc_whose_nodes_do_its_jobs_takes_none(weights: Path, tmp_path: Path) -> None:
    for does_jobs in (False, True):
        with closing(station(weights / "quick", tmp_path, does_jobs=does_jobs)) as one:
            assert one.worker()._paused() is not does_jobs


def test_jobs_are_tried_and_deliveries_given_up_as_the_settings_say(
    weights: Path, tmp_path: Path
) -> None:
    patience = {"MaxAttempts": 2, "RetryDelaySeconds": 0, "LeaseSeconds": 7}
    delivery = DeliverySettings(RetryDelaySeconds=5, GiveUpAfterHours=2)
    with closing(station(weights / "quick", tmp_path, **patience, Delivery=delivery)) as one:
        job = add(one.jobs)
        states = []
        for _ in range(2):
            claimed = one.jobs.claim()
            assert claimed is not None
            one.jobs.fail(claimed.id, "OSError: of ours")
            states.append(one.jobs.get(job.id).state)

        assert states == ["queued", "failed"]
        assert one.jobs.lease_seconds == 7
        assert one.deliveries._retry_delay == timedelta(seconds=5)
        assert one.deliveries._give_up_after == timedelta(hours=2)


def test_a_model_whose_card_is_damaged_hides_no_other(weights: Path, tmp_path: Path) -> None:
    models = shutil.copytree(weights, tmp_path / "models")
    (models / "blind" / "card.json").write_text("{")

    assert Catalogue(default="quick", weights=models).cards().keys() == {"quick"}


@pytest.mark.parametrize(("setting", "limit_s"), [(0, math.inf), (90, 90)])
def test_no_limit_of_time_is_no_limit(
    weights: Path, tmp_path: Path, setting: float, limit_s: float
) -> None:
    with closing(station(weights / "quick", tmp_path, TimeLimitSeconds=setting)) as one:
        assert one.worker()._time_limit_s == limit_s


def test_the_network_has_as_many_threads_as_the_settings_say(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for number in (0, 3):  # 0 is PyTorch's own choice
        station(weights / "quick", tmp_path, Threads=number).close()

    assert threads == [3]


def test_the_network_is_compiled_if_the_settings_say_so(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled.append(f) or f)
    for wanted in (False, True):
        station(weights / "quick", tmp_path, Compile=wanted).close()

    assert len(compiled) == 1
