"""Measure a model: `python -m training.evaluate --model DIR --cases DIR --out DIR`.

CASES is a folder of labelled cases as `training.prepare` reads it. Every CT goes through the very
segmenter that the plugin uses, and is compared on its own grid. With `--predictions DIR` in place
of a model, what another program found is scored in the same way: DIR/CASE.nii.gz holds its label
numbers, those of model/organs.py, on the CT's grid.

OUT gets metrics.csv (a row per case and organ), table.md (a row per organ, beside the published
numbers), dice.png (a box per organ) and worst/ (pictures of the worst case of each organ).
"""

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import CARD, read_card
from model.metrics import TOLERANCE_MM
from model.organs import ORGANS, Organ
from model.segmenter import Segmenter
from training.command_line import above_zero, command, described_by, finite
from training.config import TrainConfig
from training.held_out import cts_of, held_out_folders
from training.json_file import write_json
from training.labelled import case_folders
from training.measure import by_files, by_model, measure_cases
from training.measured_report import write_report
from training.scores import Row, summary

POOR = 0.5
"""Mean Dice below which it is said aloud that patients get an organ."""


@dataclass(frozen=True)
class Patients:
    """Whom to measure."""

    folders: list[Path]
    in_words: str
    cts: Collection[str] | None = None  # hashes that theirs must be among, if that is known


def patients_of(cases: Path, test_of: Path | None, *, all_of_them: bool) -> Patients:
    """All cases of a folder, or of them those whom a training run held out.

    Raises:
        ValueError: none of these is there, or one is missing of `all_of_them`.
    """
    folders = case_folders(cases)
    if test_of is None:
        return Patients(
            folders,
            f"all {len(folders)} cases there, among them perhaps some that trained the network",
        )
    config = TrainConfig.read(test_of)
    held_out, missing = held_out_folders(folders, config)
    whom = f"{len(held_out)} patients held out of the training of {config.name}"
    if missing:
        test = len(held_out) + len(missing)
        if all_of_them:
            raise ValueError(
                f"{len(missing)} of {test} test patients are not there: {' '.join(missing)}. "
                "A card tells of all of them."
            )
        whom += f", of {test}: not there are {' '.join(missing)}"
        print(f"training.evaluate: only {whom}", file=sys.stderr)
    return Patients(sorted(held_out), whom, cts_of(config))


def evaluate(args: argparse.Namespace) -> None:
    """Measure what was asked for, and write what came of it.

    Raises:
        ValueError, OSError, BadCheckpoint: it cannot be measured; with the reason.
    """
    patients = patients_of(args.cases, args.test_of, all_of_them=args.write_card)
    organs: Sequence[Organ] = ORGANS
    seen: Collection[str] = ()
    if args.model is not None:
        segmenter = Segmenter.load(args.model, device=args.device, unmeasured=True)
        organs, labeller = segmenter.organs, by_model(segmenter)
        if args.test_of is not None:
            seen = segmenter.card.seen
        if args.write_card and not seen:
            raise ValueError(f"the card of {args.model} does not say whom it has seen")
    else:
        labeller = by_files(args.predictions)
    measured = measure_cases(
        patients.folders,
        labeller,
        organs,
        unknown_hu=args.unknown_hu,
        tolerance_mm=args.tolerance_mm,
        seen=seen,
        among=patients.cts,
    )
    print(write_report(measured, args.out, patients.in_words))
    if measured.forgotten:
        print(f"training.evaluate: {measured.forgotten}", file=sys.stderr)
    if measured.refused:
        print(
            f"of {len(measured.refused)} of {len(patients.folders)} patients nothing counts, as "
            f"the organs found lie as in no patient: {args.out / 'table.md'} says which",
            file=sys.stderr,
        )
    if args.write_card:
        print(write_measured(args.model, measured.rows), file=sys.stderr)


def write_measured(model: Path, rows: Sequence[Row]) -> str:
    """Put the summary into the model's card; return what the plugin does with it."""
    path = model / CARD
    write_json(path, json.loads(path.read_text()) | {"measured": summary(rows)})
    card = read_card(model)
    given = card.measured_rows()
    others = [organ for organ in card.organ_rows() if organ not in given]
    given_names, other_names = (
        ", ".join(organ.tg263 for organ in organs) or "none" for organs in (given, others)
    )
    poor = [
        f"{organ.tg263} ({100 * mean:.0f} %)"
        for organ in given
        if (mean := card.measured[organ.name]["dice_mean"]) < POOR
    ]
    said = f"{path}: the plugin gives patients {given_names}; not found or measured: {other_names}"
    return f"{said}. HARDLY FOUND, and given all the same: {', '.join(poor)}" if poor else said


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = described_by(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, metavar="DIR")
    what.add_argument("--predictions", type=Path, metavar="DIR", help="made by another program")
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--test-of",
        type=Path,
        metavar="CONFIG",
        help="only the test patients of this training run, whose folders must be there",
    )
    parser.add_argument(
        "--unknown-hu", type=finite, metavar="HU", help="voxels of exactly this value are left out"
    )
    parser.add_argument("--tolerance-mm", type=above_zero, default=TOLERANCE_MM, metavar="MM")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--write-card",
        action="store_true",
        help="put the result into the model's card: the plugin writes measured organs alone",
    )
    args = parser.parse_args(argv)
    if args.write_card and args.model is None:
        parser.error("--write-card needs --model: predictions have no card")
    if args.write_card and args.test_of is None:
        parser.error("--write-card needs --test-of: a card tells of patients not seen before")
    return args


@command("training.evaluate", stopped="the same command begins anew")
def main(argv: Sequence[str] | None = None) -> int:
    evaluate(arguments(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
