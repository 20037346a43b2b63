"""Patients of a department as their DICOM, and `training.prepare` asked to read them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset as Dicom

from model.organs import BY_NAME, Organ
from tests.phantoms import Orientation, Phantom, make_phantom, write_series
from tests.structure_sets import Outline, outlines_of
from training.prepare import main

ARGUMENTS = ["--spacing", "6", "6", "6", "--window", "-1000", "1500"]
DRAWN = tuple(BY_NAME[n] for n in ("brainstem", "parotid_left", "parotid_right", "spinal_cord"))


def patient(seed: int, orientation: Orientation = "axial", **options: Any) -> Phantom:
    """A patient of whom only the organs of `DRAWN` are known."""
    one = make_phantom(
        spacing_mm=(6.0, 6.1, 5.9),
        shape=(36, 36, 36),
        seed=seed,
        orientation=orientation,
        **options,
    )
    labels = one.labels.array
    labels[~np.isin(labels, [organ.label for organ in DRAWN])] = 0
    return one


def outlines(one: Phantom, organ: Organ) -> list[Outline]:
    mask = (one.labels.array == organ.label).astype(np.uint8)
    return outlines_of(one.labels.with_array(mask))


def contours(one: Phantom, organs: Sequence[Organ] = DRAWN) -> dict[str, list[Outline]]:
    return {organ.tg263: outlines(one, organ) for organ in organs}


def write(folder: Path, one: Phantom, *structure_sets: Dicom, **options: Any) -> None:
    """A patient's CT and what was drawn on it."""
    write_series(one, folder, shuffle_seed=0, **options)
    for number, dataset in enumerate(structure_sets):
        dataset.save_as(folder / f"structures{number}.dcm")


def run(source: Path | str, out: Path, *more: str) -> int:
    return main([str(source), "--out", str(out), *ARGUMENTS, *more])


def report(out: Path) -> dict[str, Any]:
    return json.loads((out.with_name(f"{out.name}-private") / "report.json").read_text())


def reasons(out: Path) -> list[str]:
    return [refusal["reason"] for refusal in report(out)["refused"]]
