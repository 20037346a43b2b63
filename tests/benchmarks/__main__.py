"""The benchmarks against named peers: `python -m tests.benchmarks`, run by `make bench`.

Each compares ours with the peer in one run: the same machine, input and threads, in turns. The
table says how many times better ours was, the median of the turns and their range, and whether
that reaches what was asked. Research use only.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import torch
from rich.console import Console

from model.checkpoint import NOTICE
from model.segmenter import runs_faster_in_bf16
from tests.benchmarks.contest import Options, Row, markdown

WEIGHTS = Path(__file__).parents[2] / "model" / "weights"

BENCHMARKS: Mapping[str, str] = {
    "inference": "a volume through the network: nnU-Net v2, MONAI",
    "memory": "peak memory from CT to labels: nnU-Net v2",
    "seg_writing": "labels to SEG: dcmqi, highdicom",
    "reading": "slices to a volume: pydicom, SimpleITK",
    "job": "a whole job in Orthanc, and its start",
    "beside": "the network beside a busy process: OpenMP's own way to wait",
    "training_steps": "training steps: nnU-Net v2",
}
"""The modules beside this one, each with a function `rows`."""


def machine() -> str:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo").read_text()
    names = [line.partition(": ")[2] for line in info.splitlines() if "model name" in line]
    precision = "bf16" if runs_faster_in_bf16("cpu") else "float32"
    return (
        f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{torch.get_num_threads()} torch threads, {precision}, load {os.getloadavg()[0]:.1f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    listed = "\n".join(f"  {name:<16}{what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=BENCHMARKS, nargs="+", default=list(BENCHMARKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="hn22-phantom", help="name or folder")
    parser.add_argument("--slices", type=int, default=150)
    parser.add_argument("--size", type=int, default=512, help="rows and columns")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu on a machine that is busy"
    )
    args = parser.parse_args(argv)
    console = Console(stderr=True)
    console.print(f"{machine()} at the start")
    model = Path(args.model) if Path(args.model).is_dir() else WEIGHTS / args.model
    rows: list[Row] = []
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder, console.status(name):
            options = Options(
                repeats=args.repeats,
                clock=args.clock,
                slices=args.slices,
                size=args.size,
                model=model,
                folder=Path(folder),
            )
            benchmark: Callable[[Options], list[Row]]
            benchmark = import_module(f"tests.benchmarks.{name}").rows
            found = benchmark(options)
        console.print(markdown(found), markup=False, highlight=False, soft_wrap=True)
        rows += found
    sys.stdout.write(
        f"{markdown(rows)}\n\n{machine()} at the end; median of {args.repeats} "
        f"(lowest to highest), seconds by {args.clock} clock. {NOTICE}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
