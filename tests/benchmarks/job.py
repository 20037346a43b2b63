"""One job in a real Orthanc, from the stable study to the stored SEG: seconds, memory, latency."""

import re
import threading
import time
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from tests.demo import PATIENCE_S, Demo

SAMPLE_EVERY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one job took."""

    stages_s: dict[str, float]  # as the job itself tells
    whole_s: float  # from the stable study to the stored SEG
    peak_gib: float  # of the Orthanc process since its start, resident
    system_s: np.ndarray  # each GET /system while the job was there

    @property
    def all_but_network_s(self) -> float:
        return self.whole_s - self.stages_s["segmenting.network"]


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
            job = _wait(orthanc)
        finally:
            stop.set()
            sampler.join()
        return Measured(
            stages_s=job["seconds"],
            whole_s=_time(job["finished"]) - _time(job["created"]),
            peak_gib=_peak_gib(orthanc.process.pid),
            system_s=np.array(
                [
                    seconds
                    for when, seconds in samples
                    if _time(job["created"]) <= when <= _time(job["finished"])
                ]
            ),
        )
    finally:
        orthanc.process.terminate()
        orthanc.process.wait()


def _sample(url: str, samples: list[tuple[float, float]], stop: threading.Event) -> None:
    while not stop.wait(SAMPLE_EVERY_S):
        when, begun = time.time(), time.perf_counter()
        with urllib.request.urlopen(url, timeout=60) as answer:
            answer.read()
        samples.append((when, time.perf_counter() - begun))


def _wait(orthanc: Demo) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for job in orthanc.get("/oar/jobs")["jobs"]:
            if job["state"] == "done":
                return job
            if job["state"] not in ("queued", "running"):
                raise SystemExit(f"the job is {job['state']}: {job['reason']}")
        time.sleep(0.5)
    raise SystemExit("gave up waiting for the result")


def _time(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def _peak_gib(process: int) -> float:
    [kib] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kib) / 2**20
