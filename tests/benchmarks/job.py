"""One job in a real Orthanc, from the stable study to the stored SEG: seconds, memory, latency.

And how long Orthanc takes from its start until the plugin takes a job. Seconds are by the clock.
"""

import json
import re
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from plugin.serve import environment
from tests.benchmarks.contest import Options, Row
from tests.demo import PATIENCE_S, Demo
from tests.phantoms import ct_slices

SAMPLE_EVERY_S = 0.05

ENDED = {"done", "skipped", "failed", "cancelled"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one job took."""

    stages_s: dict[str, float]  # as the first job itself tells
    whole_s: float  # from the stable study to the stored SEG
    later_s: float  # the same CT once more, in the same Orthanc
    later_network_s: float
    start_s: float  # from the start of a new Orthanc to its first job
    peak_gib: float  # of the Orthanc process since its start, resident
    system_s: np.ndarray  # each GET /system while the job was there

    @property
    def all_but_network_s(self) -> float:
        return self.whole_s - self.stages_s["segmenting.network"]

    @property
    def later_all_but_network_s(self) -> float:
        return self.later_s - self.later_network_s


def rows(options: Options) -> list[Row]:
    """Orthanc starts anew for each repeat."""
    slices = ct_slices(options.phantom())
    runs = [
        measure(slices, model=str(options.model), data=options.folder / f"orthanc{number}")
        for number in range(options.repeats)
    ]
    note = f"{len(slices)} slices of {options.size} x {options.size}, {options.model.name}"
    share = [100 * run.all_but_network_s / run.whole_s for run in runs]
    later = [run.later_all_but_network_s for run in runs]
    later_share = [100 * run.later_all_but_network_s / run.later_s for run in runs]
    stages = [
        Row(what=stage.replace(".", ": "), unit="s", ours=[run.stages_s[stage] for run in runs])
        for stage in runs[0].stages_s
    ]
    return [
        Row(what="stable study to SEG stored", unit="s", ours=[r.whole_s for r in runs], note=note),
        *stages,
        Row(
            what="everything but the network",
            unit="s",
            ours=[run.all_but_network_s for run in runs],
            target=3.0,
        ),
        Row(what="everything but the network", unit="%", ours=share, target=10.0),
        Row(what="the same CT again", unit="s", ours=[run.later_s for run in runs]),
        Row(what="the same CT again: everything but the network", unit="s", ours=later, target=3.0),
        Row(
            what="the same CT again: everything but the network",
            unit="%",
            ours=later_share,
            target=10.0,
        ),
        Row(
            what="start of Orthanc to first job taken",
            unit="s",
            ours=[run.start_s for run in runs],
            target=6.0,
        ),
        Row(
            what="Orthanc's peak resident memory",
            unit="GiB",
            ours=[run.peak_gib for run in runs],
            target=4.0,
        ),
        Row(
            what="GET /system meanwhile, 99th percentile",
            unit="s",
            ours=[float(np.quantile(run.system_s, 0.99)) for run in runs],
        ),
        Row(
            what="GET /system meanwhile, worst",
            unit="s",
            ours=[float(run.system_s.max()) for run in runs],
            target=0.2,
        ),
    ]


def measure(slices: list[Dataset], *, model: str, data: Path) -> Measured:
    """Push the slices to an Orthanc of their own, whose storage is under `data`, and wait."""
    orthanc = Demo(data, model)
    try:
        orthanc.wait()
        orthanc.push(slices)
        stop = threading.Event()
        samples: list[tuple[float, float]] = []  # when, and how long it took
        sampler = threading.Thread(target=_sample, args=(f"{orthanc.url}/system", samples, stop))
        sampler.start()
        try:
            job = first_job(orthanc)
        finally:
            stop.set()
            sampler.join()
        peak_gib = _peak_gib(orthanc.process.pid)
        later = another_job(orthanc)
    finally:
        _end(orthanc)
    return Measured(
        stages_s=job["seconds"],
        whole_s=_whole_s(job),
        later_s=_whole_s(later),
        later_network_s=later["seconds"]["segmenting.network"],
        start_s=_start_s(orthanc, data),
        peak_gib=peak_gib,
        system_s=np.array(
            [
                seconds
                for when, seconds in samples
                if _time(job["created"]) <= when <= _time(job["finished"])
            ]
        ),
    )


def first_job(orthanc: Demo) -> dict[str, Any]:
    """The job of the study that was pushed, once it is done."""
    end = time.monotonic() + PATIENCE_S
    while not (jobs := orthanc.get("/oar/jobs")["jobs"]):
        if time.monotonic() > end:
            raise SystemExit("no job came of the study")
        time.sleep(0.2)
    return _done(orthanc, jobs[0]["id"])


def another_job(orthanc: Demo) -> dict[str, Any]:
    """A forced job of the same study, once it is done."""
    return _done(orthanc, _ask(orthanc))


def _ask(orthanc: Demo) -> str:
    [study] = orthanc.get("/studies")
    request = urllib.request.Request(
        f"{orthanc.url}/oar/studies/{study}/jobs", json.dumps({"force": True}).encode()
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        job: str = json.loads(answer.read())["jobs"][0]["id"]
        return job


def _done(orthanc: Demo, job_id: str) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        job: dict[str, Any] = orthanc.get(f"/oar/jobs/{job_id}")
        if job["state"] == "done":
            return job
        if job["state"] in ENDED:
            raise SystemExit(f"the job is {job['state']}: {job['reason']}")
        time.sleep(0.2)
    raise SystemExit("gave up waiting for the result")


def _start_s(orthanc: Demo, data: Path) -> float:
    """Start Orthanc again on the same storage, and ask for a job as soon as it answers."""
    begun = time.time()
    with orthanc.log.open("ab") as log:
        orthanc.process = subprocess.Popen(
            ["Orthanc", str(data / "orthanc.json")], stdout=log, stderr=log, env=environment()
        )
    try:
        orthanc.wait()
        job_id = _ask(orthanc)
        while (job := orthanc.get(f"/oar/jobs/{job_id}"))["started"] is None:
            time.sleep(0.02)
        return _time(job["started"]) - begun
    finally:
        _end(orthanc)


def _end(orthanc: Demo) -> None:
    orthanc.process.terminate()
    orthanc.process.wait()


def _sample(url: str, samples: list[tuple[float, float]], stop: threading.Event) -> None:
    while not stop.wait(SAMPLE_EVERY_S):
        when, begun = time.time(), time.perf_counter()
        with urllib.request.urlopen(url, timeout=60) as answer:
            answer.read()
        samples.append((when, time.perf_counter() - begun))


def _whole_s(job: dict[str, Any]) -> float:
    return _time(job["finished"]) - _time(job["created"])


def _time(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def _peak_gib(process: int) -> float:
    [kib] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kib) / 2**20
