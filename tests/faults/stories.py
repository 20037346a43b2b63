"""The faults: what happens in one repeat of each, and to which Orthanc."""

import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import faulty_script
from tests.faults.ward import ENDED, Tally, Ward, may_mount, small_disk
from tests.integration.conftest import STABLE_AGE_S, wait_until

JOB_S = 4.0
"""From the last slice to the result: a second until the study is stable, and the job."""

SCRIPT = Path(faulty_script.__file__)


@contextmanager
def plain(ward: Ward) -> Iterator[None]:
    """An Orthanc that runs as long as the `with` lasts."""
    ward.start()
    try:
        yield
    finally:
        ward.close()


@contextmanager
def on_a_small_disk(ward: Ward) -> Iterator[None]:
    """The same, images and index and queue on a disk of 64 MiB."""
    with small_disk(ward.folder / "orthanc", 64), plain(ward):
        yield


@contextmanager
def with_images_apart(ward: Ward) -> Iterator[None]:
    """The same, the images on a disk of their own."""
    images = ward.folder / "images"
    ward.adjust(StorageDirectory=str(images))
    with small_disk(images, 64), plain(ward):
        yield


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault. Its name and the first line of its story say what it is."""

    name: str
    story: Callable[[Ward], None]  # one repeat
    repeats: int
    short: int = 1  # repeats in the tests
    model: str = "quick"
    script: Path | None = None
    oar: dict[str, Any] = field(default_factory=dict)
    place: Callable[[Ward], Any] = plain

    @property
    def why_not(self) -> str:
        """Why it cannot be tried here; or empty."""
        if self.place is not plain and not may_mount():
            return "file systems cannot be mounted here"
        return ""

    def run(self, folder: Path, repeats: int) -> Tally:
        """All repeats on one Orthanc, and what became of every study that it had accepted."""
        ward = Ward(folder, model=self.model, script=self.script, **self.oar)
        with self.place(ward):
            for _ in range(repeats):
                self.story(ward)
            return ward.tally(repeats)


# --- Orthanc ends --------------------------------------------------------------------------------


def kill(ward: Ward) -> None:
    """kill -9 at a random moment between the last slice and the result"""
    ward.admit()
    time.sleep(ward.random.uniform(0, JOB_S))
    ward.kill()
    ward.notes[ward.running_stage()] += 1
    ward.start()
    ward.settle()


def terminate(ward: Ward) -> None:
    """SIGTERM while four studies arrive; the scanner sends again what was not accepted"""
    patients = [ward.patient() for _ in range(4)]
    unsent = list(patients)

    def send() -> None:
        while unsent and ward.send(unsent[0]):
            unsent.pop(0)

    scanner = threading.Thread(target=send)
    scanner.start()
    time.sleep(ward.random.uniform(0, JOB_S))
    ward.stop()
    scanner.join()
    ward.notes["sent again"] += len(unsent)
    ward.start()
    send()
    assert not unsent
    ward.settle()


def full_queue(ward: Ward) -> None:
    """kill -9 with eight jobs waiting"""
    ward.post("/oar/queue/pause")
    for _ in range(8):
        ward.admit()
    wait_until(lambda: ward.get("/oar/health")["jobs"]["queued"] == 8, "all studies wait")
    ward.kill()
    ward.start()
    ward.post("/oar/queue/resume")
    ward.settle()


def bad_weights(ward: Ward) -> None:
    """weights damaged while a job runs, then a power cut; the operator restores them"""
    ward.wait_until_at_work(ward.admit())
    weights = ward.models / "steady" / "weights.safetensors"
    kept = weights.with_suffix(".kept")
    shutil.copy(weights, kept)
    if ward.random.random() < 0.5:
        weights.write_bytes(weights.read_bytes()[:-100])
    else:  # those of another model of the same shape
        weights.write_bytes(weights.read_bytes()[:-2] + b"\x00\x3c")
    ward.kill()
    try:
        ward.start()
    except AssertionError:
        assert "is damaged or not the file that its card describes" in ward.log()
        ward.notes["start refused"] += 1
    ward.kill()
    kept.replace(weights)
    ward.start()
    ward.settle()


# --- the disk and the queue's file ---------------------------------------------------------------


def full_disk(ward: Ward) -> None:
    """no room on the disk of images, index and queue, from the network's work until the attempt
    is over; then the operator makes room
    """
    patient = ward.admit()
    ward.wait_until_at_work(patient)
    ballast = ward.folder / "orthanc" / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    time.sleep(JOB_S)
    ballast.unlink()
    ward.settle()
    ward.notes[ward.job_of(patient)["state"]] += 1


def read_only(ward: Ward) -> None:
    """Orthanc's storage becomes read-only while a job runs; then the operator mounts it anew"""
    patient = ward.admit()
    ward.wait_until_at_work(patient)
    images = ward.folder / "images"
    subprocess.run(["mount", "-o", "remount,ro", images], check=True)
    assert not ward.send(ward.patient()), "a study was accepted that cannot be stored"
    job = ward.wait_for(patient, *ENDED)
    subprocess.run(["mount", "-o", "remount,rw", images], check=True)
    ward.notes[job["state"]] += 1


def damage(file: Path, kind: int) -> None:
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    if kind == 0:
        content[:100] = b"noise" * 20
    elif kind == 1:
        content[middle : middle + 8192] = b"noise" * 1638 + b"no"
    else:
        del content[middle:]
    file.write_bytes(content)


def damaged_queue_at_rest(ward: Ward) -> None:
    """the queue's file is damaged while Orthanc is down"""
    done = ward.admit()
    ward.wait_for(done, *ENDED)
    ward.wait_for(ward.admit(), "queued", "running")
    ward.stop()
    damage(ward.queue_file, ward.random.randrange(3))
    ward.start()
    ward.settle()
    ward.notes["set aside"] = len(list(ward.queue_file.parent.glob("oar-jobs.db.damaged-*[0-9]")))


def damaged_queue_at_work(ward: Ward) -> None:
    """the queue's file is damaged while a job runs; health says so, and the operator restarts"""
    patient = ward.admit()
    ward.wait_until_at_work(patient)
    damage(ward.queue_file, ward.random.randrange(3))
    ward.admit()
    time.sleep(2 * STABLE_AGE_S)
    status, _, _ = ward.request("GET", "/oar/health")
    ward.notes[f"health {status}"] += 1
    ward.stop()
    ward.start()
    ward.settle()


def locked_queue(ward: Ward) -> None:
    """another program locks the queue's file for longer than we wait, while studies arrive"""
    ward.wait_until_at_work(ward.admit())
    with closing(sqlite3.connect(ward.queue_file, isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN EXCLUSIVE")
        ward.admit()
        time.sleep(5)
        status, _, _ = ward.request("GET", "/oar/health")
        ward.notes[f"health {status}"] += 1
        other.execute("ROLLBACK")
    ward.settle()


# --- the network ---------------------------------------------------------------------------------


def no_memory(ward: Ward) -> None:
    """the network asks for more memory than there is; the next study is another one's"""
    job = ward.wait_for(ward.admit(StudyDescription="HUGE"), *ENDED)
    assert "does not fit into memory" in job["reason"], job
    ward.wait_for(ward.admit(), *ENDED)


def hang(ward: Ward) -> None:
    """the network hangs and cannot be interrupted; the next study is done"""
    (ward.folder / faulty_script.HANG).touch()
    job = ward.wait_for(ward.admit(), *ENDED)
    assert "could not be stopped" in job["reason"], job
    (ward.folder / faulty_script.HANG).unlink()
    ward.wait_for(ward.admit(), "done")
    wait_until(lambda: ward.get("/oar/health")["hanging"] == 0, "what hung has ended")


def too_slow(ward: Ward) -> None:
    """a job goes on for longer than its time limit; the next study is done"""
    job = ward.wait_for(ward.admit(StudyDescription="SLOW"), *ENDED)
    assert "It was stopped" in job["reason"], job
    ward.wait_for(ward.admit(), "done")


# --- the study -----------------------------------------------------------------------------------


def late_slices(ward: Ward, results: int = 1) -> None:
    """five slices arrive when the result of the others is there; the newer result replaces it"""
    patient = ward.patient()
    patient.results = results
    assert ward.send(patient, patient.slices[:-5])
    ward.wait_for(patient, "done")
    assert ward.send(patient)
    ward.settle()


def late_slices_join(ward: Ward) -> None:
    """the same; the newer result joins it"""
    late_slices(ward, results=2)


def sent_five_times(ward: Ward) -> None:
    """five senders send the same study at once"""
    patient = ward.patient()
    senders = [threading.Thread(target=ward.send, args=(patient,)) for _ in range(5)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()


def deleted(ward: Ward) -> None:
    """a study is deleted at a random moment while its job runs; no result brings it back"""
    patient = ward.admit()
    ward.wait_for(patient, "running")
    time.sleep(ward.random.uniform(0, JOB_S - STABLE_AGE_S - 1))
    state = ward.job_of(patient)["state"]
    ward.delete(patient)
    ward.notes["running" if state == "running" else "done before"] += 1


FAULTS = (
    Fault(name="kill -9", story=kill, repeats=20, short=2, model="steady"),
    Fault(
        name="SIGTERM under load",
        story=terminate,
        repeats=5,
        model="steady",
        oar={"LateSlices": "replace"},  # of a study that was sent in part, then again
    ),
    Fault(name="restart with a full queue", story=full_queue, repeats=3),
    Fault(name="weights damaged", story=bad_weights, repeats=4, model="steady"),
    Fault(name="disk full", story=full_disk, repeats=10, model="steady", place=on_a_small_disk),
    Fault(
        name="storage read-only",
        story=read_only,
        repeats=10,
        model="steady",
        place=with_images_apart,
    ),
    Fault(name="queue damaged, at rest", story=damaged_queue_at_rest, repeats=6),
    Fault(name="queue damaged, at work", story=damaged_queue_at_work, repeats=6, model="steady"),
    Fault(name="queue locked", story=locked_queue, repeats=5, model="steady", script=SCRIPT),
    Fault(
        name="out of memory",
        story=no_memory,
        repeats=10,
        oar={"Models": [{"StudyDescription": "HUGE", "Model": "huge"}]},
    ),
    Fault(name="hanging job", story=hang, repeats=5, script=SCRIPT, oar={"TimeLimitSeconds": 5}),
    Fault(
        name="too slow a job",
        story=too_slow,
        repeats=5,
        oar={"TimeLimitSeconds": 5, "Models": [{"StudyDescription": "SLOW", "Model": "slow"}]},
    ),
    Fault(
        name="late slices, replace",
        story=late_slices,
        repeats=10,
        oar={"LateSlices": "replace"},
    ),
    Fault(name="late slices, join", story=late_slices_join, repeats=10),
    Fault(name="sent five times", story=sent_five_times, repeats=10, short=2),
    Fault(name="deleted while it runs", story=deleted, repeats=20, short=2, model="steady"),
)
