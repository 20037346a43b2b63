"""Worker nodes are real processes here, beside a real Orthanc and a real PostgreSQL."""

import hashlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import PATIENCE_S, PLUGINS, Orthanc, wait_until
from tests.phantoms import ct_slices, make_phantom
from tests.postgresql import NoPostgresql, new_database, postgresql

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

ROOT = Path(__file__).parents[2]

LEASE_S = 10
"""How long the silence of a node is borne; the usual minute would be long to wait for."""


class Node:
    """One node: started, stopped, killed and frozen at will."""

    def __init__(self, folder: Path, orthanc: Orthanc) -> None:
        self.alive = folder / "alive"
        self._log = folder / "log"
        command = [sys.executable, "-m", "plugin.node", str(orthanc.folder / "orthanc.json")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--orthanc", orthanc.url, "--alive", str(self.alive)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, words: str) -> None:
        """Wait until it has said so."""

        def said() -> bool:
            assert self._process.poll() is None, self.log()
            return words in self.log()

        wait_until(said, f"the node says: {words}")

    def has_begun(self, job: str) -> bool:
        return f"job {job} on series" in self.log()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, number: signal.Signals) -> int:
        """Its exit status."""
        self._process.send_signal(number)
        return self._process.wait(PATIENCE_S)


class Hospital(Orthanc):
    """An Orthanc that leaves all work to nodes."""

    seeds = iter(range(100, 200))

    def new_study(self) -> str:
        """A patient who was not there before."""
        before = set(self.get("/studies"))
        phantom = make_phantom(
            spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64), seed=next(self.seeds)
        )
        self.push(ct_slices(phantom))
        [study] = set(self.get("/studies")) - before
        return study

    def ask_for(self, study: str, model: str = "quick") -> str:
        """A new job, whatever there was before."""
        [job] = self.post(f"/oar/studies/{study}/jobs", {"model": model, "force": True})["jobs"]
        return job["id"]

    def wait_for(self, job: str, state: str, progress: float = 0.0) -> dict[str, Any]:
        def come() -> dict[str, Any] | None:
            now = self.get(f"/oar/jobs/{job}")
            return now if now["state"] == state and now["progress"] >= progress else None

        return wait_until(come, f"the job is {state}")

    def segs_of(self, study: str) -> list[str]:
        """Identifiers of its SEG instances."""
        series = self.get(f"/studies/{study}/series")
        found = [one["Instances"] for one in series if one["MainDicomTags"]["Modality"] == "SEG"]
        return [instance for instances in found for instance in instances]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")
    try:
        with postgresql() as url:
            yield url
    except NoPostgresql as why:
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def orthanc(
    tmp_path_factory: pytest.TempPathFactory, server: str, quick_model: Path, slow_model: Path
) -> Iterator[Hospital]:
    one = Hospital(
        tmp_path_factory.mktemp("hospital"),
        quick_model,
        Database=new_database(server, "hospital"),
        TakeJobs=False,
        Automatic=False,
        CompareCorrections=False,
        LeaseSeconds=LEASE_S,
        Models=[{"Model": str(slow_model), "SeriesDescription": "never"}],
    )
    one.start()
    yield one
    one.kill()


@pytest.fixture
def new_node(tmp_path: Path, orthanc: Hospital) -> Iterator[Callable[[], Node]]:
    """Starts nodes; whatever still runs at the end is killed."""
    made: list[Node] = []

    def make() -> Node:
        folder = tmp_path / f"node{len(made)}"
        folder.mkdir()
        made.append(Node(folder, orthanc))
        return made[-1]

    yield make
    for one in made:
        one.end(signal.SIGKILL)


def test_several_nodes_do_every_job_once_and_tell_nothing_of_the_patient(orthanc, new_node):
    study = orthanc.new_study()
    jobs = [orthanc.ask_for(study) for _ in range(8)]
    nodes = [new_node() for _ in range(3)]

    done = [orthanc.wait_for(job, "done") for job in jobs]
    later = [orthanc.ask_for(study) for _ in range(4)]  # now all are awake
    done += [orthanc.wait_for(job, "done") for job in later]

    begun = Counter(job for job in [*jobs, *later] for node in nodes if node.has_begun(job))
    assert begun == dict.fromkeys([*jobs, *later], 1)
    assert {job["attempts"] for job in done} == {1}
    results = [result["orthanc_id"] for job in done for result in job["results"]]
    assert sorted(results) == sorted(orthanc.segs_of(study))
    assert len(results) == len(set(results)) == 12
    metadata = f"/studies/{study}/metadata/OarState"
    assert orthanc.text(metadata) == "done"
    number = orthanc.get("/oar/health")["jobs"]["done"]
    wait_until(
        lambda: f"oar_jobs_done {number}" in orthanc.text("/tools/metrics-prometheus"),
        "Orthanc's metrics count what nodes have done",
    )
    said = "".join(node.log() for node in nodes)
    assert "PHANTOM" not in said
    wait_until(lambda: all(node.alive.exists() for node in nodes), "the nodes are healthy")


def test_a_node_goes_on_when_its_sign_of_life_cannot_be_given(tmp_path, orthanc, new_node):
    node = new_node()
    wait_until(node.alive.exists, "the node is healthy")
    node.alive.unlink()
    node.alive.symlink_to(tmp_path / "gone" / "alive")
    node.wait_for("no sign of life at")

    assert orthanc.wait_for(orthanc.ask_for(orthanc.new_study()), "done")
    assert node.end(signal.SIGTERM) == 0


def test_a_node_that_is_killed_loses_its_job_to_another_one(orthanc, new_node):
    study = orthanc.new_study()
    killed = new_node()
    job = orthanc.ask_for(study, "slow")
    orthanc.wait_for(job, "running", progress=0.1)

    killed.end(signal.SIGKILL)
    other = new_node()

    done = orthanc.wait_for(job, "done")
    assert other.has_begun(job)
    assert done["attempts"] == 2
    assert [one["orthanc_id"] for one in done["results"]] == orthanc.segs_of(study)
    assert len(orthanc.segs_of(study)) == 1


def test_a_node_that_was_frozen_beyond_its_lease_writes_no_second_result(orthanc, new_node):
    study = orthanc.new_study()
    frozen = new_node()
    job = orthanc.ask_for(study, "slow")
    orthanc.wait_for(job, "running", progress=0.1)
    frozen.send(signal.SIGSTOP)
    other = new_node()
    done = orthanc.wait_for(job, "done")
    [seg] = orthanc.segs_of(study)
    file = orthanc.file(seg)

    frozen.send(signal.SIGCONT)
    frozen.wait_for("was handed on")
    assert frozen.end(signal.SIGTERM) == 0

    assert other.has_begun(job)
    assert orthanc.get(f"/oar/jobs/{job}") == done
    assert done["attempts"] == 2
    assert orthanc.segs_of(study) == [seg]
    assert orthanc.file(seg) == file
    assert hashlib.sha256(file).hexdigest() == done["results"][0]["sha256"]


def test_a_node_that_is_stopped_gives_its_job_back_untried(orthanc, new_node):
    study = orthanc.new_study()
    node = new_node()
    job = orthanc.ask_for(study, "slow")
    orthanc.wait_for(job, "running", progress=0.1)

    assert node.end(signal.SIGTERM) == 0

    left = orthanc.get(f"/oar/jobs/{job}")
    assert (left["state"], left["attempts"]) == ("queued", 0)
    assert orthanc.segs_of(study) == []
    orthanc.post(f"/oar/jobs/{job}/cancel")


def test_a_job_outlives_a_restart_of_orthanc(orthanc, new_node):
    study = orthanc.new_study()
    node = new_node()
    job = orthanc.ask_for(study, "slow")
    orthanc.wait_for(job, "running", progress=0.1)

    orthanc.stop()
    orthanc.start()

    orthanc.wait_for(job, "done")
    assert len(orthanc.segs_of(study)) == 1
    assert node.end(signal.SIGTERM) == 0


def test_two_orthancs_that_share_their_database_do_a_study_once(server, tmp_path, quick_model):
    index = PLUGINS / "libOrthancPostgreSQLIndex.so"
    if not index.exists():
        pytest.skip("needs Orthanc's PostgreSQL plugin: apt-get install orthanc-postgresql")
    name, queue = "index", new_database(server, "queue")
    new_database(server, name)
    both = []
    for number in range(2):
        folder = tmp_path / f"orthanc{number}"
        folder.mkdir()
        one = Hospital(folder, quick_model, Database=queue)
        values = json.loads((folder / "orthanc.json").read_text())
        values["Plugins"] = [*values["Plugins"], str(index)]
        values["StorageDirectory"] = str(tmp_path / "storage")
        values["StableAge"] = 8  # each judges by what it has itself; long, for busy machines
        values["PostgreSQL"] = {
            "EnableIndex": True,
            "Host": "127.0.0.1",
            "Port": int(server.rpartition(":")[2].partition("/")[0]),
            "Database": name,
            "Username": "oar",
            "Password": "",
            "EnableSsl": False,
            "Lock": False,  # or the first has it for itself
        }
        (folder / "orthanc.json").write_text(json.dumps(values))
        both.append(one)
    try:
        for one in both:
            one.start()
        images = ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64), seed=99))
        both[0].push(images[::2])
        both[1].push(images[1::2])  # so it becomes stable in each

        [study] = both[0].get("/studies")
        job = both[0].wait_for_job("done")

        def is_stable_again() -> bool:
            changes = both[0].get("/changes?limit=1000")["Changes"]
            return sum(one["ChangeType"] == "StableStudy" for one in changes) > 2

        wait_until(is_stable_again, "it is stable in each, and once more because of the SEG")
        for one in both:
            one.wait_until_quiet()
            assert one.post(f"/oar/studies/{study}/jobs")["jobs"] == [job]
            assert one.jobs() == [job]
            assert one.segs_of(study) == [job["results"][0]["orthanc_id"]]
        assert job["attempts"] == 1
    finally:
        for one in both:
            one.kill()
