"""What a model, or another program, achieves on labelled cases: rows of numbers, and the worst."""

import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import highdicom as hd
import numpy as np
from rich.progress import track

from model.metrics import TOLERANCE_MM, agreement
from model.organs import BY_NAME, Organ
from model.postprocess import OutOfOrder
from model.preprocess import ORIENTATION, NoBody
from model.segmenter import Segmenter
from model.volumes import MM3_PER_ML
from training.checks import examine
from training.filling import filling_hu, not_called_unknown
from training.json_file import write_json
from training.labelled import SAME_GRID_MM, LabelledCt, as_labels, read_case, read_nifti
from training.plots import View
from training.scores import Row, dice_by_organ, read_rows, write_rows

Labeller = Callable[[LabelledCt], hd.Volume]
"""Gives organ labels on a case's own grid: a segmenter, or a reader of what another one found."""


@dataclass(kw_only=True)
class Measured:
    """What a labeller achieved on some cases."""

    tolerance_mm: float  # of the surface Dice
    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # to label a case, by case
    pixel_mm: dict[str, float] = field(default_factory=dict)  # in-plane side, by case
    worst: dict[str, View] = field(default_factory=dict)  # by organ
    left_out: list[str] = field(default_factory=list)  # references that cannot be right: sentences
    refused: dict[str, str] = field(default_factory=dict)  # why nothing was taken, by case
    forgotten: str = ""  # a sentence, if --unknown-hu may have been


def by_model(segmenter: Segmenter) -> Labeller:
    """Label cases with a model."""
    return lambda case: segmenter(case.ct).labels


def by_files(folder: Path) -> Labeller:
    """Take the labels of cases from `folder`, written there by another program."""

    def label(case: LabelledCt) -> hd.Volume:
        path = folder / f"{case.name}.nii.gz"
        if not path.is_file():
            raise FileNotFoundError(f"there is no prediction for {case.name} in {folder}")
        labels = read_nifti(path)
        if not labels.geometry_equal(case.ct, tol=SAME_GRID_MM):
            raise ValueError(f"{path} is not on the grid of the CT of {case.name}")
        try:
            return as_labels(labels)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    return label


def measure_cases(
    folders: Sequence[Path],
    labeller: Labeller,
    organs: Sequence[Organ],
    *,
    unknown_hu: float | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    seen: Collection[str] = (),
    among: Collection[str] | None = None,
) -> Measured:
    """Label every case and compare each of `organs` that it has a label for.

    References that `training.prepare` would leave out are left out here too. What lies as in no
    patient is as good as not found.

    Args:
        folders: of the cases.
        labeller: what is measured.
        organs: that it knows.
        unknown_hu: voxels of exactly this value are left out.
        tolerance_mm: of the surface Dice.
        seen: hashes of CTs that must not be among them, as a card has them.
        among: hashes of the CTs that they must be of, if that is known.

    Raises:
        ValueError: if a case cannot be read or labelled, was seen before, is another patient, or
            none labels any of the organs.
        FileNotFoundError: if something is missing.
    """
    measured = Measured(tolerance_mm=tolerance_mm)
    fillings = []
    for folder in track(folders, "Measuring", disable=not sys.stderr.isatty(), transient=True):
        case, findings = examine(read_case(folder, unknown_hu))
        if seen and case.ct_sha256 in seen:
            raise ValueError(f"{case.name} has trained the network or chosen its weights")
        if among is not None and case.ct_sha256 not in among:
            raise ValueError(
                f"{case.name} in {folder.parent} has another CT than the patients of the training "
                "run: these are not the cases that it was prepared from"
            )
        fillings.append(filling_hu(case.ct))
        for name, reason in findings.left_out.items():
            measured.left_out.append(f"{BY_NAME[name].tg263} of {case.name}: {reason}")
        began = time.perf_counter()
        try:
            predicted = labeller(case)
        except NoBody as error:
            raise ValueError(f"{case.name}: {error}") from error
        except OutOfOrder as why:
            predicted = case.labels.with_array(np.zeros_like(case.labels.array))
            measured.refused[case.name] = str(why)
        measured.seconds[case.name] = time.perf_counter() - began
        in_plane = case.ct.to_patient_orientation(ORIENTATION).spacing[1:]
        measured.pixel_mm[case.name] = float(np.sqrt(np.prod(in_plane)))
        measure(measured, case, predicted, [organ for organ in organs if organ in case.labelled])
    measured.forgotten = not_called_unknown(fillings, unknown_hu)
    if not dice_by_organ(measured.rows):
        raise ValueError("there is nothing to measure: no case labels an organ that is predicted")
    return measured


def measure_once(
    out: Path,
    folders: Sequence[Path],
    load: Callable[[], Segmenter],
    *,
    unknown_hu: float | None,
    unseen: bool,
    among: Collection[str] | None = None,
) -> tuple[list[Row], dict[str, float]]:
    """As `measure_cases` with a model, or what `out` has if just these were measured before.

    Args:
        out: where that is.
        folders: of the cases.
        load: gives the model.
        unknown_hu: as there.
        unseen: none of them may have trained the model or chosen its weights.
        among: as there.

    Returns:
        The rows, and seconds to label a case, by case.
    """
    asked = {"cases": [folder.name for folder in folders], "unknown_hu": unknown_hu}
    record, metrics = out / "measured.json", out / "metrics.csv"
    known = json.loads(record.read_text()) if record.exists() else {}
    if {key: known.get(key) for key in asked} != asked:
        segmenter = load()
        measured = measure_cases(
            folders,
            by_model(segmenter),
            segmenter.organs,
            unknown_hu=unknown_hu,
            seen=segmenter.card.seen if unseen else (),
            among=among,
        )
        record.unlink(missing_ok=True)
        write_rows(measured.rows, metrics)
        known = asked | {"seconds": measured.seconds}
        write_json(record, known)
    return read_rows(metrics), known["seconds"]


def measure(
    measured: Measured, case: LabelledCt, predicted: hd.Volume, organs: Sequence[Organ]
) -> None:
    """Compare one case's labels with its reference, organ by organ; add what came to `measured`."""
    known = True if case.unknown is None else case.unknown.array == 0
    ml = case.ct.voxel_volume / MM3_PER_ML
    for organ in organs:
        ours = (predicted.array == organ.label) & known
        theirs = (case.labels.array == organ.label) & known
        found = agreement(ours, theirs, case.ct.spacing, measured.tolerance_mm)
        row = Row(
            case=case.name,
            organ=organ.name,
            **found._asdict(),
            volume_ml=float(ours.sum()) * ml,
            reference_ml=float(theirs.sum()) * ml,
        )
        measured.rows.append(row)
        worst = measured.worst.get(organ.name)
        if not np.isnan(row.dice) and (worst is None or row.dice < worst.row.dice):
            measured.worst[organ.name] = View.of(row, case.ct, ours, theirs)
