"""Scores: how well one organ of one case was found, kept as rows of metrics.csv."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from model.organs import ORGANS
from model.whole_files import whole_files


@dataclass(frozen=True, kw_only=True)
class Row:
    """One organ of one case; the columns of metrics.csv."""

    case: str
    organ: str
    dice: float  # NaN where neither prediction nor reference has a voxel
    surface_dice: float  # at the tolerance of the evaluation
    hd95_mm: float  # infinite where only one of the two has voxels
    volume_ml: float
    reference_ml: float


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write metrics.csv, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = StringIO(newline="")
    writer = csv.DictWriter(text, [f.name for f in fields(Row)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    with whole_files(path) as (file,):
        file.write(text.getvalue().encode())


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote."""
    with path.open(newline="") as file:
        return TypeAdapter(list[Row]).validate_python(list(csv.DictReader(file)))


def summary(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """By organ: mean and standard deviation of Dice, and over how many patients."""
    return {
        organ: {
            "dice_mean": round(float(np.mean(dice)), 6),
            "dice_sd": round(float(np.std(dice)), 6),
            "patients": len(dice),
        }
        for organ, dice in dice_by_organ(rows).items()
    }


def dice_by_organ(rows: Iterable[Row]) -> dict[str, list[float]]:
    """The Dice of every patient, by organ in the table's order; what says nothing is left out."""
    rows = list(rows)
    found = {
        organ.name: [r.dice for r in rows if r.organ == organ.name and not np.isnan(r.dice)]
        for organ in ORGANS
    }
    return {name: dice for name, dice in found.items() if dice}


def mean_and_sd(fractions: Sequence[float]) -> str:
    """In percent, for people; "-" of nothing."""
    values = 100 * np.array(fractions)
    return f"{values.mean():.1f} ± {values.std():.1f}" if len(values) else "-"


def mean_dice(rows: Sequence[Row]) -> float:
    """The mean over organs of each organ's mean over patients; NaN without any."""
    means = [np.mean(dice) for dice in dice_by_organ(rows).values()]
    return float(np.mean(means)) if means else float("nan")
