"""Many studies at once: `python -m tests.faults.load [--studies 60] [--associations 4]`.

They are pushed over several DICOM associations while REST is polled. Prints what became of them,
how fast Orthanc answered, and how much memory the last third of them added to the peak.
Exit status 1 if it is not what docs/faults.md promises.
"""

import argparse
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.tally import Tally, percentile
from tests.faults.ward import Ward
from tests.integration.conftest import wait_until

SYSTEM_S = 0.5
"""Orthanc's own answers, at the 99th percentile."""

GROWTH = 0.05
"""Of peak memory, by the last third of the studies."""


@dataclass(frozen=True)
class Load:
    """What a run of many studies has shown."""

    tally: Tally
    seconds: float  # from the first slice to the last result
    pushing_s: float
    peak_mib: float
    growth: float  # of the peak, by the last third

    @property
    def p99_s(self) -> float:
        return percentile(self.tally.system_s, 0.99)


def run(folder: Path, *, studies: int, associations: int) -> Load:
    """Push and wait. The associations take the next study each, until none is left."""
    ward = Ward(folder)
    ward.start()
    try:
        patients = [ward.patient() for _ in range(studies)]
        begun = time.monotonic()

        def scan() -> None:
            while patients:
                patient = patients.pop()
                assert ward.send(patient)

        scanners = [threading.Thread(target=scan) for _ in range(associations)]
        for scanner in scanners:
            scanner.start()
        for scanner in scanners:
            scanner.join()
        pushing_s = time.monotonic() - begun
        wait_for_done(ward, studies * 2 // 3)
        before = peak_mib(ward.pid)
        wait_for_done(ward, studies)
        seconds = time.monotonic() - begun
        after = peak_mib(ward.pid)
        return Load(ward.tally(1), seconds, pushing_s, after, after / before - 1)
    finally:
        ward.close()


def wait_for_done(ward: Ward, number: int) -> None:
    """Until so many jobs are done; asks as often as a page does that shows the queue."""
    wait_until(lambda: ward.get("/oar/health")["jobs"]["done"] >= number, f"{number} are done")


def peak_mib(process: int) -> float:
    """Resident memory at its largest since the process began."""
    [kib] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kib) / 1024


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=60)
    parser.add_argument("--associations", type=int, default=4)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        load = run(Path(folder), studies=args.studies, associations=args.associations)
    tally = load.tally
    print(f"""\
| studies | associations | results | lost | twice | pushed in | done in | /system, 99 % | worst \
| peak memory | of it by the last third |
|---|---|---|---|---|---|---|---|---|---|---|
| {tally.accepted} | {args.associations} | {tally.results} | {len(tally.lost)} | {tally.twice} \
| {load.pushing_s:.0f} s | {load.seconds:.0f} s | {load.p99_s:.3f} s | {tally.worst_s:.3f} s \
| {load.peak_mib:.0f} MiB | {100 * load.growth:.1f} % |""")
    kept = (
        tally.survived
        and tally.results == args.studies
        and load.p99_s < SYSTEM_S
        and load.growth < GROWTH
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
