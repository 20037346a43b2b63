"""How many studies an hour worker nodes do, in one Orthanc and one PostgreSQL.

With a network that sleeps, what is seen is the queue, reading and storing, and not how many cores
this machine has; with a real one, what a core does.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from model.checkpoint import save
from tests.benchmarks import sleeping_node
from tests.demo import PATIENCE_S, Demo
from tests.phantoms import Phantom, ct_slices, make_phantom
from tests.postgresql import postgresql
from tests.tiny_model import tiny_model

ROOT = Path(__file__).parents[2]

READY = "takes jobs on"


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """What some nodes did."""

    nodes: int
    threads: int  # of each node's network
    jobs: int
    seconds: float  # from the first job's beginning to the last one's end
    job_s: float  # the mean of the stages of a job
    seg_bytes: int  # of one result

    @property
    def per_hour(self) -> float:
        return 3600 * self.jobs / self.seconds


@contextmanager
def hospital(folder: Path, model: Path, phantom: Phantom) -> Iterator[Demo]:
    """An Orthanc with one CT, which leaves its jobs to nodes; its database waits for the disk."""
    with postgresql(durable=True) as database:
        orthanc = Demo(
            folder / "data", str(model), Database=database, TakeJobs=False, Automatic=False
        )
        try:
            orthanc.wait()
            orthanc.push(ct_slices(phantom))
            yield orthanc
        finally:
            orthanc.process.terminate()
            orthanc.process.wait()


def asleep(
    folder: Path, *, numbers: Sequence[int], jobs: int, sleep_s: float
) -> Iterator[Throughput]:
    """So many nodes each, whose networks sleep and then find one organ in a small CT."""
    save(folder / "tiny", *tiny_model("tiny"))
    phantom = make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64), seed=7)
    with hospital(folder, folder / "tiny", phantom) as orthanc:
        for number in numbers:
            with running(orthanc, number, threads=1, sleep_s=sleep_s):
                yield measure(orthanc, number, threads=1, jobs=jobs)


def at_work(folder: Path, *, model: Path, phantom: Phantom, jobs: int) -> Iterator[Throughput]:
    """All cores for one node, then one for each of as many nodes."""
    cores = len(os.sched_getaffinity(0))
    with hospital(folder, model, phantom) as orthanc:
        for number, threads in dict.fromkeys([(1, cores), (cores, 1)]):
            with running(orthanc, number, threads=threads, sleep_s=0.0):
                measure(orthanc, number, threads=threads, jobs=number)  # what is done once
                yield measure(orthanc, number, threads=threads, jobs=jobs)


@contextmanager
def running(orthanc: Demo, number: int, *, threads: int, sleep_s: float) -> Iterator[None]:
    """So many nodes, all of them waiting for work."""
    folder = orthanc.log.parent
    values = json.loads((folder / "orthanc.json").read_text())
    values["Oar"]["Threads"] = threads
    (folder / "node.json").write_text(json.dumps(values))
    command = [sys.executable, "-m", sleeping_node.__name__, str(sleep_s)]
    command += [str(folder / "node.json"), "--orthanc", orthanc.url]
    logs = [folder / f"node{number}of{index}.log" for index in range(number)]
    nodes = []
    for log in logs:
        with log.open("wb") as file:
            nodes.append(subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file))
    try:
        while not all(READY in log.read_text() for log in logs):
            if any(node.poll() is not None for node in nodes):
                raise SystemExit("".join(log.read_text() for log in logs))
            time.sleep(0.1)
        yield
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait()


def measure(orthanc: Demo, number: int, *, threads: int, jobs: int) -> Throughput:
    """Ask for so many jobs while the queue is paused, let them go, and wait for the last."""
    [study] = orthanc.get("/studies")
    post(orthanc, "/oar/queue/pause")
    asked = {
        post(orthanc, f"/oar/studies/{study}/jobs", {"force": True})["jobs"][0]["id"]
        for _ in range(jobs)
    }
    post(orthanc, "/oar/queue/resume")
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        time.sleep(0.5)
        found = orthanc.get("/oar/jobs?limit=1000")["jobs"]
        done = [one for one in found if one["id"] in asked and one["state"] == "done"]
        if len(done) == jobs:
            break
    else:
        raise SystemExit("gave up waiting for the jobs")
    if any(one["attempts"] != 1 for one in done):
        raise SystemExit("a job was begun twice")
    stages = ("reading", "segmenting", "writing", "storing")
    return Throughput(
        nodes=number,
        threads=threads,
        jobs=jobs,
        seconds=max(moment(one["finished"]) for one in done)
        - min(moment(one["started"]) for one in done),
        job_s=sum(one["seconds"][stage] for one in done for stage in stages) / jobs,
        seg_bytes=len(orthanc.file(done[0]["results"][0]["orthanc_id"])),
    )


def moment(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def post(orthanc: Demo, path: str, values: object = None) -> Any:
    body = b"" if values is None else json.dumps(values).encode()
    with urllib.request.urlopen(
        urllib.request.Request(orthanc.url + path, body), timeout=60
    ) as answer:
        return json.load(answer)
