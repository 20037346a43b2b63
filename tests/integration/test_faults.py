"""Every fault of `make faults`, a few times, and a small `make load`: nothing is lost or twice."""

import shutil
from collections.abc import Iterator
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
def ward(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ward]:
    """The Orthanc on which the fault happens, after others of the same site."""
    site: Site = request.param
    if site.why_not:
        pytest.skip(site.why_not)
    with site.open(tmp_path_factory.mktemp("ward")) as one:
        yield one


@pytest.mark.parametrize(
    ("ward", "fault"),
    [pytest.param(one.site, one, id=one.name.replace(" ", "-")) for one in FAULTS],
    indirect=["ward"],
)
def test_every_study_ends_with_one_result_or_one_reason_and_orthanc_answers(
    ward: Ward, fault: Fault
) -> None:
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
