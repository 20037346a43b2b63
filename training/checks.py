"""What looks wrong about the labels of a case: what is left out for it, and what only is said.

A label that is on the wrong side, in the air or far too large is of something else, or the CT is;
its organ counts as unlabelled. Where organs lie to each other as in no patient, all do. All other
doubts are for a person to judge, and the organ is kept.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.organs import BY_NAME, Organ
from model.plausibility import amount_of, find_doubts
from model.postprocess import HOLDS_AIR, MANDIBLE, OutOfOrder, check_order, on_wrong_sides
from model.preprocess import BODY_HU, ORIENTATION
from model.usual_volumes import usual_volume
from model.volumes import boxes_by_label, centre_mm, volumes_ml
from training.labelled import LabelledCt

FAR_TOO_LARGE = 3.0
"""Times the upper end of what is usual: no organ, but another structure of its name."""

MOSTLY_OUTSIDE = 0.5
PARTLY_OUTSIDE = 0.1
"""Shares of an organ that lie outside the body; eyes and parotids are drawn up to the skin."""

BODY_GRID_MM = 2.0
"""The body is looked for on about this grid, in plane."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found; by the name of the organ."""

    left_out: dict[str, str]  # the reason
    doubts: dict[str, list[str]]  # sentences about organs that are kept
    volumes_ml: dict[str, float]  # of those that are kept


def examine(case: LabelledCt) -> tuple[LabelledCt, Findings]:
    """Check every labelled organ of a case, and leave out those that cannot be what they say."""
    scan = _Scan.of(case)
    boxes = boxes_by_label(scan.labels.array)
    wrong: dict[Organ, str] = {}
    doubts: dict[str, list[str]] = {}
    centres_mm: dict[Organ, NDArray[np.float64]] = {}
    for organ in case.labelled:
        if (box := boxes.get(organ.label)) is None:
            continue  # labelled, and the patient has none
        found = scan.labels.array[box] == organ.label
        centres_mm[organ] = centre_mm(found, box, scan.labels)
        outside = float((found & scan.outside[box]).sum() / found.sum())
        if organ.name in HOLDS_AIR:
            outside = 0.0  # the ear canal lets the air in
        if outside > MOSTLY_OUTSIDE:
            wrong[organ] = f"{outside:.0%} of it lies outside the body"
        elif outside > PARTLY_OUTSIDE:
            doubts[organ.name] = [f"{organ.tg263} lies by {outside:.0%} outside the body"]
        if reason := _far_too_large(organ, found, scan.labels):
            wrong[organ] = reason
    likely_mm = {organ: mm for organ, mm in centres_mm.items() if organ not in wrong}
    wrong |= _misplaced(likely_mm, scan.middle_mm)
    case = without(case, wrong)
    for doubt in find_doubts(scan.labels, case.labelled):
        doubts.setdefault(doubt.organ.name, []).append(doubt.sentence)
    kept = {organ.name for organ in case.labelled}
    return case, Findings(
        left_out={organ.name: reason for organ, reason in wrong.items()},
        doubts={name: sentences for name, sentences in doubts.items() if name in kept},
        volumes_ml=volumes_ml(case.labels, case.labelled),
    )


def _misplaced(
    centres_mm: Mapping[Organ, NDArray[np.float64]], middle_mm: float
) -> dict[Organ, str]:
    """The organs that do not lie where they do in patients, and why that is said."""
    try:
        check_order(centres_mm)
    except OutOfOrder as why:
        return dict.fromkeys(centres_mm, str(why).removesuffix("."))
    x_mm = {organ: float(mm[0]) for organ, mm in centres_mm.items()}
    wrong = on_wrong_sides(x_mm, middle_mm)[0]
    reasons = dict.fromkeys(wrong, "it does not lie on its side of the patient")
    halves = {organ for organ in x_mm if organ.name in MANDIBLE}
    if wrong and not any(organ.side for organ in x_mm.keys() - wrong - halves):
        # Drawn whole, it was halved by the geometry, in which perhaps left is right.
        reasons |= dict.fromkeys(halves, "all other organs of a pair lie on the wrong sides")
    return reasons


def nothing_left(reasons: Mapping[str, str]) -> str:
    """The sentence on a case of which all organs were left out, by the reason of each."""
    if not reasons:
        return "no organ is labelled"
    organs = {
        why: [BY_NAME[o].tg263 for o in reasons if reasons[o] == why] for why in reasons.values()
    }
    said = "; ".join(f"{', '.join(names)}: {why}" for why, names in organs.items())
    return f"no organ is left of those that were drawn: {said}"


@dataclass(frozen=True)
class _Scan:
    """A case with its slices along the first axis."""

    labels: hd.Volume
    outside: NDArray[np.bool_]  # air around the body; nothing that is unknown
    middle_mm: float  # LPS x of the middle of the body

    @classmethod
    def of(cls, case: LabelledCt) -> "_Scan":
        ct, labels = (v.to_patient_orientation(ORIENTATION) for v in (case.ct, case.labels))
        body = _body(ct)
        axes = [body.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
        centre = [float(n @ np.arange(len(n)) / max(n.sum(), 1)) for n in axes]
        outside = ~body
        if case.unknown is not None:
            outside &= case.unknown.to_patient_orientation(ORIENTATION).array == 0
        middle_mm = float(ct.map_indices_to_reference(np.array([centre]))[0, 0])
        return cls(labels, outside, middle_mm)


def _body(ct: hd.Volume) -> NDArray[np.bool_]:
    """Tissue, with what it encloses in each slice."""
    rows, columns = (max(1, round(BODY_GRID_MM / mm)) for mm in ct.spacing[1:])
    body = np.empty(ct.array.shape, bool)
    for plane, out in zip(ct.array, body, strict=True):
        coarse = ndimage.binary_fill_holes(plane[::rows, ::columns] > BODY_HU)
        fine = coarse.repeat(rows, axis=0).repeat(columns, axis=1)
        out[:] = fine[: plane.shape[0], : plane.shape[1]]
    return body


def _far_too_large(organ: Organ, found: NDArray[np.bool_], labels: hd.Volume) -> str:
    """The reason to leave an organ out, or nothing."""
    usual = usual_volume(organ)
    amount, unit = amount_of(organ, found, labels)
    if amount <= FAR_TOO_LARGE * usual.high:
        return ""
    return f"it has {amount:.3g} {unit}, usually {usual.low:g} to {usual.high:g}"


def without(case: LabelledCt, organs: Collection[Organ]) -> LabelledCt:
    """The case with these organs unlabelled."""
    if not organs:
        return case
    array = case.labels.array.copy()
    array[np.isin(array, [organ.label for organ in organs])] = 0
    return replace(
        case,
        labels=case.labels.with_array(array),
        labelled=tuple(organ for organ in case.labelled if organ not in organs),
    )
