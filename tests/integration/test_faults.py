"""Every fault of `make faults`, a few times, and a small `make load`: nothing is lost or twice."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.faults import load
from tests.faults.places import Site
from tests.faults.stories import FAULTS, Fault
from tests.faults.ward import Ward
from tests.integration.conftest import PLUGINS

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def _needs_orthanc() -> None:
    if shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")


@pytest.fixture(scope="module")
def ward_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Site], Ward]]:
    """The one Orthanc of a site, on which all its faults happen one after the other."""
    with ExitStack() as wards:
        yield cache(lambda site: wards.enter_context(site.open(tmp_path_factory.mktemp("ward"))))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.name.replace(" ", "-"))
def test_every_study_ends_with_one_result_or_one_reason_and_orthanc_answers(
    ward_at: Callable[[Site], Ward], fault: Fault
) -> None:
    if fault.site.why_not:
        pytest.skip(fault.site.why_not)
    ward = ward_at(fault.site)

    tally = fault.run(ward, fault.short)

    assert tally.lost == []
    assert tally.twice == 0
    assert tally.survived


def test_many_studies_at_once_are_done_once_each_and_orthanc_answers_at_once(
    tmp_path: Path,
) -> None:
    seen = load.run(tmp_path, studies=8, associations=4)

    assert (seen.tally.results, seen.tally.lost, seen.tally.twice) == (8, [], 0)
    assert seen.p99_s < load.SYSTEM_S
