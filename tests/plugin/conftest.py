"""A small patient, a model that finds one organ, and a queue, for the tests of the service."""

from pathlib import Path

import pytest
import torch
from pydicom.dataset import Dataset

from model.checkpoint import save
from model.segmenter import Segmenter
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import Jobs
from tests.fake_orthanc import FakeOrthanc
from tests.phantoms import Phantom, ct_slices, make_phantom
from tests.plugin.parts import new_queue
from tests.tiny_model import tiny_model


@pytest.fixture(scope="session")
def small_phantom() -> Phantom:
    return make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(22, 32, 32))


@pytest.fixture
def ct(small_phantom: Phantom) -> list[Dataset]:
    return ct_slices(small_phantom)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two models: `quick` finds an organ, `blind` none."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("weights")
    save(folder / "quick", *tiny_model("quick"))
    save(folder / "blind", *tiny_model("blind", finds=False))
    return folder


@pytest.fixture
def orthanc(ct: list[Dataset]) -> FakeOrthanc:
    """An Orthanc that has the CT."""
    one = FakeOrthanc()
    one.receive(ct)
    return one


@pytest.fixture(scope="module")
def quick(weights: Path) -> Segmenter:
    return Segmenter.load(weights / "quick", device="cpu")


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def jobs(database: str) -> Jobs:
    return new_queue(open_database(database), max_attempts=3, retry_delay_seconds=0.0)
