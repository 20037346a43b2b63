"""From an archive to a measured model: `python -m training.whole_way SOURCE --out runs/mine
--name my-model --memory-gib 11`, or with `--cpu-hours 10` in place of a GPU's memory.

One after the other, what docs/training.md does step by step: training.prepare, training.plan,
training.train and training.evaluate with `--write-card`. Options that are not listed here are those
of training.prepare; with its `--like MODEL` that model is trained further. Stopped at any moment,
the same command goes on; a plan.toml or train.toml that is there already, and may have been changed
by hand, is taken as it is.

OUT gets the prepared cases, train.toml and, for a new model on a GPU, plan.toml; OUT-private what
leads back to patients; OUT-model the run, its model for the plugin and its report. Research use
only.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import check_names, read_card
from model.whole_files import whole_files
from training import evaluate, plan, prepare
from training.cases import Dataset
from training.command_line import above_zero, command, described_by
from training.config import ENDLESS, TrainConfig, load_toml
from training.journal import private_folder
from training.labelled import COLLECTED
from training.train import train

CONFIGS = Path(__file__).parent / "configs"
RECIPES = {"cuda": CONFIGS / "hn22-gpu.toml", "cpu": CONFIGS / "hn6-cpu.toml"}

CPU_SPACING_MM = ("2.5", "3.9", "3.9")
"""(z, y, x): that of hn6-cpu.toml, with which a processor trains in hours."""

FROM_NOTHING = 0.02
"""Muon's learning rate for weights that have learned nothing yet; that of hn6-cpu.toml is for
others."""

TEST, MOST_TEST = 0.2, 30
VALIDATION, MOST_VALIDATION = 0.1, 12
"""Shares of the patients who are held out, and how many suffice: those of hn6-openkbp."""


def recipe(args: argparse.Namespace, *, unknown: bool) -> dict[str, Any]:
    """The values of train.toml: our recipe for the device, with this archive's own.

    Args:
        args: the command line.
        unknown: whether voxels of the CTs say nothing, in whose place training invents something.
    """
    dataset = Dataset.read(args.out)
    values = load_toml(RECIPES["cpu" if args.like else args.device])
    values |= {
        "name": args.name,
        "version": args.version,
        "description": f"{len(dataset.organs)} organs at risk, learned from an archive of our own",
        "data": f"{len(dataset.cases)} patients of an archive of our own",
        "cases": str(args.out),
        "out": str(args.run),
        "test_patients": _held_out(dataset, TEST, MOST_TEST),
        "validation_patients": _held_out(dataset, VALIDATION, MOST_VALIDATION),
    }
    if args.like:
        values["start"] = str(args.like)
    else:
        values.pop("start", None)  # of ours, which is not kept
        values["learning_rate"] = FROM_NOTHING
    if args.planned:
        values["plan"] = str(args.plan)
        for planned in ("patch", "batch", "widths", "strides"):
            values.pop(planned, None)
    if args.cpu_hours:
        values |= {"cpu_hours": args.cpu_hours, "steps": ENDLESS}
    else:
        values.pop("cpu_hours", None)
    augment = {key: value for key, value in values.pop("augment", {}).items() if key != "invent"}
    return values | {"augment": augment if unknown else augment | {"invent": 0.0}}


def _held_out(dataset: Dataset, share: float, most: int) -> int:
    return min(ceil(share * len(dataset.cases)), most)


def as_toml(values: dict[str, Any]) -> str:
    """A configuration as a file to read and to change; its one table stands last."""
    lines = ["# Made by `python -m training.whole_way`. Change what you like before it trains."]
    tables = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows = [f"{name} = {json.dumps(one)}" for name, one in value.items()]
            tables += ["", f"[{key}]", *rows]
        else:
            lines.append(f"{key} = {json.dumps(value)}")  # which TOML reads as well
    return "\n".join([*lines, *tables, ""])


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for; `prepare` are the words for training.prepare."""
    parser = described_by(__doc__)
    parser.add_argument("source", metavar="SOURCE", help="as of training.prepare")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--name", required=True, help="of the model")
    parser.add_argument("--version", default="0.1.0", help="of the model (default: 0.1.0)")
    on = parser.add_mutually_exclusive_group(required=True)
    on.add_argument("--memory-gib", type=above_zero, help="train on a GPU, which has so much")
    on.add_argument("--cpu-hours", type=above_zero, help="train on the processor for so long")
    args, others = parser.parse_known_args(argv)
    args.device = "cpu" if args.memory_gib is None else "cuda"
    args.run = args.out.with_name(f"{args.out.name}-model")
    args.prepare = [args.source, "--out", str(args.out), *others]
    prepared = prepare.arguments(args.prepare)
    args.unknown_hu, args.like = prepared.unknown_hu, prepared.like
    if args.device == "cpu" and not (prepared.spacing or prepared.like):
        args.prepare += ["--spacing", *CPU_SPACING_MM]
    args.plan, args.planned = args.out / "plan.toml", args.device == "cuda" and not args.like
    # What would be refused after hours is refused now.
    if prepared.like and not read_card(prepared.like).seen:
        parser.error(
            f"--like: the card of {prepared.like} does not say whom its weights have seen, so that "
            "nobody can be held out"
        )
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--memory-gib: PyTorch sees no GPU; --cpu-hours trains on the processor")
    try:
        check_names(args.name, args.version)
    except ValueError as why:
        parser.error(str(why))
    return args


@command("training.whole_way", stopped="the same command goes on")
def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    config = args.out / "train.toml"
    print("1 of 4: the cases are prepared", flush=True)
    if status := prepare.main(args.prepare):
        return status
    print("2 of 4: the training is planned", flush=True)
    if args.planned and not args.plan.exists():
        memory = ["--memory-gib", str(args.memory_gib)]
        if status := plan.main([str(args.out), *memory, "--out", str(args.plan)]):
            return status
    if not config.exists():
        text = as_toml(recipe(args, unknown=args.unknown_hu is not None))
        with whole_files(config) as (file,):  # half of one would be taken as it is
            file.write(text.encode())
    print(f"3 of 4: the network is trained, as {config} says", flush=True)
    train(TrainConfig.read(config), device=args.device, resume=True)
    print("4 of 4: the model is measured on the patients held out", flush=True)
    collected = args.out / COLLECTED  # of DICOM; a folder of cases is measured where it is
    measured = ["--model", str(args.run / "model"), "--test-of", str(config), "--write-card"]
    measured += ["--cases", str(collected if collected.is_dir() else args.source)]
    measured += ["--out", str(args.run / "report"), "--device", args.device]
    if args.unknown_hu is not None:
        measured += ["--unknown-hu", str(args.unknown_hu)]
    if status := evaluate.main(measured):
        return status
    print(f"What was matched, what looks wrong: {private_folder(args.out.resolve()) / 'report.md'}")
    print(f"How well the model does: {args.run / 'report' / 'table.md'}")
    print(f"What the plugin takes as Model: {(args.run / 'model').resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
