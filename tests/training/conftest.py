"""One thread for every test of the training, and two small patients."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.cohort import prepare_cohort


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums come out equal on every run, and threads that wait for each other cost minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prepared cases, for tests that only read them."""
    return prepare_cohort(tmp_path_factory.mktemp("cohort"), 2)
