"""Measure a model: `python -m training.evaluate --model DIR --cases DIR --out DIR`.

CASES is a folder of labelled cases as `training.prepare` reads it. Every CT goes through the very
segmenter that the plugin uses, and is compared on its own grid. OUT gets metrics.csv (a row per
case and organ) and table.md (a row per organ, beside the published numbers).
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from rich.progress import track

from model.checkpoint import CARD
from model.organs import ORGANS, Organ
from model.segmenter import Segmenter
from training.cases import Dataset
from training.config import TrainConfig
from model.metrics import TOLERANCE_MM, agreement
from training.prepare import LabelledCt, case_folders, read_case
from training.published import SECOND_READER, TABLE_1
from training.split import split_cases


@dataclass(frozen=True, kw_only=True)
class Row:
    """One organ of one case; the columns of metrics.csv."""

    case: str
    organ: str
    dice: float
    surface_dice: float  # at TOLERANCE_MM
    hd95_mm: float
    volume_ml: float
    reference_ml: float


def measure(segmenter: Segmenter, case: LabelledCt, tolerance_mm: float) -> list[Row]:
    """Segment one case and compare every organ that the case labels and the model knows."""
    predicted = segmenter(case.ct).labels.array
    known = np.ones(predicted.shape, bool) if case.unknown is None else case.unknown.array == 0
    spacing_mm = case.ct.spacing
    ml = float(np.prod(spacing_mm)) / 1000
    rows = []
    for organ in (organ for organ in segmenter.organs if organ in case.labelled):
        ours = (predicted == organ.label) & known
        theirs = (case.labels.array == organ.label) & known
        found = agreement(ours, theirs, spacing_mm, tolerance_mm)
        rows.append(
            Row(
                case=case.name,
                organ=organ.name,
                **found._asdict(),
                volume_ml=float(ours.sum()) * ml,
                reference_ml=float(theirs.sum()) * ml,
            )
        )
    return rows


def summary(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """By organ: mean and standard deviation of Dice, and over how many patients."""
    out = {}
    for organ in ORGANS:
        dice = [row.dice for row in rows if row.organ == organ.name and not np.isnan(row.dice)]
        if dice:
            out[organ.name] = {
                "dice_mean": round(float(np.mean(dice)), 4),
                "dice_sd": round(float(np.std(dice)), 4),
                "patients": len(dice),
            }
    return out


def table(rows: Sequence[Row], tolerance_mm: float) -> str:
    """Markdown: a row per organ, Dice in percent beside the published ones."""
    lines = [
        f"| organ | patients | Dice % | lowest | surface Dice % at {tolerance_mm:g} mm | HD95 mm "
        "| nnSAM-UNet, published | second reader |",
        "|---|---|---|---|---|---|---|---|",
    ]
    means = []
    for organ in ORGANS:
        mine = [row for row in rows if row.organ == organ.name and not np.isnan(row.dice)]
        if mine:
            means.append(np.mean([row.dice for row in mine]))
            lines.append(_line(organ, mine))
    lines.append(f"| mean over organs | | {100 * float(np.mean(means)):.1f} | | | | | |")
    return "\n".join(lines) + "\n"


def _line(organ: Organ, rows: Sequence[Row]) -> str:
    dice = 100 * np.array([row.dice for row in rows])
    surface = 100 * np.array([row.surface_dice for row in rows])
    far = np.array([row.hd95_mm for row in rows])
    missed = int(np.isinf(far).sum())
    distance = f"{far[np.isfinite(far)].mean():.1f}" if missed < len(far) else "-"
    distance += f" ({missed} not found)" if missed else ""
    published = TABLE_1[organ.name][-1]
    reader = SECOND_READER.get(organ.name)
    return (
        f"| {organ.tg263} | {len(rows)} | {dice.mean():.1f} ± {dice.std():.1f} | {dice.min():.1f} "
        f"| {surface.mean():.1f} | {distance} | {published.mean:.1f} ± {published.sd:.1f} "
        f"| {'' if reader is None else reader} |"
    )


def write_measured(model: Path, rows: Sequence[Row]) -> None:
    """Put the summary into the model's card."""
    path = model / CARD
    values = json.loads(path.read_text())
    values["measured"] = summary(rows)
    path.write_text(json.dumps(values, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--test-of",
        type=Path,
        metavar="CONFIG",
        help="only the test patients of this training run; its prepared cases must be there",
    )
    parser.add_argument(
        "--unknown-hu", type=float, help="voxels of exactly this value are left out"
    )
    parser.add_argument("--tolerance-mm", type=float, default=TOLERANCE_MM)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--write-card", action="store_true", help="put the result into the model's card"
    )
    args = parser.parse_args(argv)
    folders = case_folders(args.cases)
    if args.test_of is not None:
        config = TrainConfig.read(args.test_of)
        split = split_cases(
            Dataset.read(config.cases).cases,  # CASES may hold fewer, and would be dealt otherwise
            config.seed,
            test=config.test_patients,
            validation=config.validation_patients,
        )
        folders = [folder for folder in folders if folder.name in split.test]
        if not folders:
            parser.error(f"none of the test patients of {args.test_of} is in {args.cases}")
    segmenter = Segmenter.load(args.model, device=args.device)
    rows = []
    for folder in track(folders, "Measuring", disable=not sys.stderr.isatty()):
        rows += measure(segmenter, read_case(folder, args.unknown_hu), args.tolerance_mm)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    text = table(rows, args.tolerance_mm)
    (args.out / "table.md").write_text(text)
    print(text)
    if args.write_card:
        write_measured(args.model, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
