"""The faults: what happens in one repeat of each, and to which Orthanc."""

import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.faults import faulty_script
from tests.faults.places import Site, on_a_small_disk, with_images_apart
from tests.faults.tally import Tally
from tests.faults.ward import ENDED, Patient, Ward
from tests.integration.conftest import STABLE_AGE_S, wait_until

JOB_S = 4.0
"""From the last slice to the result: a second until the study is stable, and the job."""

STAGES = ("reading", "segmenting", "writing", "storing")
"""Of a job, as the pipeline names them."""

SCRIPT = Path(faulty_script.__file__)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault. Its name and the first line of its story say what it is."""

    name: str
    site: Site
    story: Callable[[Ward], None]  # one repeat
    repeats: int
    short: int = 1  # repeats in the tests

    def run(self, ward: Ward, repeats: int) -> Tally:
        """All repeats, and what became of every study that was accepted meanwhile."""
        ward.begin()
        for _ in range(repeats):
            self.story(ward)
        return ward.tally(repeats)


# --- Orthanc ends --------------------------------------------------------------------------------


def kill(ward: Ward) -> None:
    """kill -9 as soon as a stage of a job begins, or at a random moment between the last slice and
    the result
    """
    seen = len(ward.log())
    ward.admit()
    stage = ward.random.choice((*STAGES, ""))
    if stage:
        ward.wait_for_stage(stage, after=seen)
    else:
        time.sleep(ward.random.uniform(0, JOB_S))
    ward.kill()
    ward.notes[ward.running_stage()] += 1
    ward.start()
    ward.finish()


def terminate(ward: Ward) -> None:
    """SIGTERM while three studies arrive; the scanner sends again what was not accepted"""
    patients = [ward.patient() for _ in range(3)]
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
    ward.finish()


def full_queue(ward: Ward) -> None:
    """kill -9 with five jobs waiting"""
    ward.post("/oar/queue/pause")
    for _ in range(5):
        ward.admit()
    wait_until(lambda: ward.get("/oar/health")["jobs"]["queued"] == 5, "all studies wait")
    ward.kill()
    ward.start()
    ward.post("/oar/queue/resume")
    ward.finish()


def bad_weights(ward: Ward) -> None:
    """while a job runs its weights are cut short, or become those of another model of the same
    shape; then a power cut; the operator restores them
    """
    ward.wait_until_at_work(ward.admit())
    weights = ward.models / "steady" / "weights.safetensors"
    kept = weights.with_suffix(".kept")
    shutil.copy(weights, kept)
    if ward.random.random() < 0.5:
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        shutil.copy(ward.models / "blind" / weights.name, weights)
    ward.kill()
    try:
        ward.start()
    except AssertionError:
        assert "is damaged or not the file that its card describes" in ward.log()
        ward.notes["start refused"] += 1
    else:
        raise AssertionError("Orthanc started with damaged weights")
    ward.kill()
    kept.replace(weights)
    ward.start()
    ward.finish()


# --- the disk and the queue's file ---------------------------------------------------------------


def admit_to_network(ward: Ward) -> Patient:
    """One whose job has just come to the network, so that its result is not being stored yet.

    A disk that fails between our look at it and the storing ends Orthanc 1.10 (`orthanc_archive`).
    """
    before = len(ward.log())
    patient = ward.admit()
    ward.wait_for_stage("segmenting", after=before)
    return patient


def full_disk(ward: Ward) -> None:
    """no room on the disk of images, index and queue, from the network's work until the attempt
    is over; then the operator makes room
    """
    patient = admit_to_network(ward)
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
    ward.finish()
    ward.notes[ward.job_of(patient)["state"]] += 1


def read_only(ward: Ward) -> None:
    """Orthanc's storage becomes read-only while a job runs; then the operator mounts it anew"""
    patient = admit_to_network(ward)
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
    ward.finish()
    aside = len(list(ward.queue_file.parent.glob("oar-jobs.db.damaged-*[0-9]")))
    assert aside > ward.notes["set aside"], "the damaged file was not kept"
    ward.notes["set aside"] = aside


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
    ward.finish()


def locked_queue(ward: Ward) -> None:
    """another program locks the queue's file for longer than we wait, while studies arrive"""
    ward.wait_until_at_work(ward.admit())
    with closing(sqlite3.connect(ward.queue_file, isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN EXCLUSIVE")
        ward.admit()
        time.sleep(5)
        status, _, _ = ward.request("GET", "/oar/health")
        assert status == 503, "health said that the queue works while nobody could write to it"
        ward.notes[f"health {status}"] += 1
        other.execute("ROLLBACK")
    ward.finish()


# --- the network ---------------------------------------------------------------------------------


def no_memory(ward: Ward) -> None:
    """the network asks for more memory than there is; the next study is another one's"""
    job = ward.wait_for(ward.admit(StudyDescription="huge"), *ENDED)
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
    job = ward.wait_for(ward.admit(StudyDescription="slow"), *ENDED)
    assert "It was stopped" in job["reason"], job
    ward.wait_for(ward.admit(), "done")


# --- the study -----------------------------------------------------------------------------------


def late_slices(ward: Ward, results: int = 1) -> None:
    """five slices arrive when the result of the others is there; the newer result replaces it"""
    patient = ward.patient()
    patient.results = results
    assert ward.send(patient, patient.slices[:-5])
    first = ward.wait_for(patient, "done")
    assert ward.send(patient)
    wait_until(lambda: ward.job_of(patient)["id"] != first["id"], "the late slices have their job")
    ward.finish()


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
    """a study is deleted as soon as a stage of its job begins; no result brings it back"""
    seen = len(ward.log())
    patient = ward.admit(StudyDescription="steady")
    stage = ward.random.choice(STAGES)
    ward.wait_for_stage(stage, after=seen)
    ward.delete(patient)
    ward.notes[stage] += 1


ENDS = Site(model="steady", oar={"LateSlices": "replace"})  # for studies sent in part, then again
STAYS = Site(script=SCRIPT, oar={"TimeLimitSeconds": 15})
SMALL_DISK = Site(model="steady", place=on_a_small_disk)
IMAGES_APART = Site(model="steady", place=with_images_apart)

FAULTS = (
    Fault(name="kill -9", site=ENDS, story=kill, repeats=20),
    Fault(name="SIGTERM under load", site=ENDS, story=terminate, repeats=5),
    Fault(name="restart with a full queue", site=ENDS, story=full_queue, repeats=3),
    Fault(name="weights damaged or swapped", site=ENDS, story=bad_weights, repeats=4),
    Fault(name="queue damaged, at rest", site=ENDS, story=damaged_queue_at_rest, repeats=6),
    Fault(name="queue damaged, at work", site=ENDS, story=damaged_queue_at_work, repeats=6),
    Fault(name="late slices, replace", site=ENDS, story=late_slices, repeats=10),
    Fault(name="late slices, join", site=STAYS, story=late_slices_join, repeats=10),
    Fault(name="sent five times", site=STAYS, story=sent_five_times, repeats=10),
    Fault(name="deleted while it runs", site=STAYS, story=deleted, repeats=20),
    Fault(name="out of memory", site=STAYS, story=no_memory, repeats=10),
    Fault(name="hanging job", site=STAYS, story=hang, repeats=5),
    Fault(name="too slow a job", site=STAYS, story=too_slow, repeats=5),
    Fault(name="queue locked", site=STAYS, story=locked_queue, repeats=5),
    Fault(name="disk full", site=SMALL_DISK, story=full_disk, repeats=10),
    Fault(name="storage read-only", site=IMAGES_APART, story=read_only, repeats=10),
)
