"""The measurements behind docs/capacity.md, in their shortest form, still do what they measure."""

import shutil

import pytest

from tests.benchmarks import capacity
from tests.integration.conftest import PLUGINS
from tests.postgresql import SERVERS

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


@pytest.fixture(autouse=True)
def installed() -> None:
    if shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")
    if not any(SERVERS.glob("*/bin/initdb")):
        pytest.skip("needs PostgreSQL: apt-get install postgresql")


def test_nodes_whose_network_sleeps_do_all_jobs_once(capsys):
    assert capacity.main(["--only", "asleep", "--nodes", "2", "--jobs", "4", "--sleep", "0.1"]) == 0

    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 2 |")]
    nodes, threads, jobs, seconds = row.strip("| ").split(" | ")[:4]
    assert (nodes, threads, jobs) == ("2", "1", "4")
    assert float(seconds) > 0


def test_the_queue_is_emptied_by_as_many_as_are_asked_for(capsys):
    shortest = "--only queue --queue-jobs 10 --claimers 1 2 --done 50 --waiting 20"
    assert capacity.main(shortest.split()) == 0

    said = capsys.readouterr().out
    for words in ("taken and ended, 2 at a time", "bytes/job", "beside 50 done and 20 waiting"):
        assert words in said
