"""The benchmarks as a table: `python -m tests.benchmarks`, which is what `make bench` runs.

A phantom CT of 130 slices of 512 x 512 is pushed to a real Orthanc with the plugin, which is
started anew for each repeat.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model.segmenter import runs_faster_in_bf16
from tests.benchmarks.job import Measured, measure
from tests.demo import UNSEEN_SEED
from tests.phantoms import ct_slices, make_phantom

TARGETS = {
    "everything but the network, s": 6.0,
    "peak resident memory of Orthanc, GiB": 4.0,
    "GET /system, worst, s": 0.2,
}


def rows(runs: Sequence[Measured]) -> dict[str, list[float]]:
    """The value of each repeat, by what it is."""
    stages = {
        f"{stage.replace('.', ': ')}, s": [run.stages_s[stage] for run in runs]
        for stage in runs[0].stages_s
    }
    return stages | {
        "everything but the network, s": [run.all_but_network_s for run in runs],
        "stable study to SEG stored, s": [run.whole_s for run in runs],
        "peak resident memory of Orthanc, GiB": [run.peak_gib for run in runs],
        "GET /system, 99th percentile, s": [float(np.quantile(r.system_s, 0.99)) for r in runs],
        "GET /system, worst, s": [float(run.system_s.max()) for run in runs],
    }


def table(runs: Sequence[Measured]) -> Table:
    """Median and spread of everything measured."""
    shown = Table("", title=f"{len(runs)} repeats")
    for column in ("median", "lowest", "highest", "target"):
        shown.add_column(column, justify="right")
    for name, values in rows(runs).items():
        target = f"< {TARGETS[name]:g}" if name in TARGETS else ""
        figures = (np.median(values), min(values), max(values))
        shown.add_row(name, *(f"{figure:.3f}" for figure in figures), target)
    return shown


def machine() -> str:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo").read_text()
    names = [line.partition(": ")[2] for line in info.splitlines() if "model name" in line]
    precision = "bf16" if runs_faster_in_bf16("cpu") else "float32"
    return (
        f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{torch.get_num_threads()} torch threads, {precision}, "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="hn22-phantom", help="name or folder")
    parser.add_argument("--slices", type=int, default=130)
    parser.add_argument("--size", type=int, default=512, help="rows and columns")
    args = parser.parse_args(argv)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        console.print(f"{machine()}\nmodel {Path(args.model).name}, making the phantom ...")
        phantom = make_phantom(
            spacing_mm=(3, 1, 1), shape=(args.slices, args.size, args.size), seed=UNSEEN_SEED
        )
        slices = ct_slices(phantom)
        runs = []
        for number in range(1, args.repeats + 1):
            run = measure(slices, model=args.model, data=Path(folder) / f"repeat{number}")
            console.print(f"repeat {number} of {args.repeats}: {run.whole_s:.1f} s")
            runs.append(run)
    console.print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
