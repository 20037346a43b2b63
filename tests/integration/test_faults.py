"""Every fault of `make faults`, a few times, and a small `make load`: nothing is lost or twice."""

import shutil
from pathlib import Path

import pytest

from tests.faults import load
from tests.faults.stories import FAULTS, Fault
from tests.integration.conftest import PLUGINS

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _needs_orthanc() -> None:
    if shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_every_study_ends_with_one_result_or_one_reason_and_orthanc_answers(
    fault: Fault, tmp_path: Path
) -> None:
    if fault.why_not:
        pytest.skip(fault.why_not)

    tally = fault.run(tmp_path, fault.short)

    assert tally.lost == []
    assert tally.twice == 0
    assert tally.survived


def test_many_studies_at_once_are_done_once_each_and_orthanc_answers_at_once(
    tmp_path: Path,
) -> None:
    seen = load.run(tmp_path, studies=8, associations=4)

    assert (seen.tally.results, seen.tally.lost, seen.tally.twice) == (8, [], 0)
    assert seen.p99_s < load.SYSTEM_S
