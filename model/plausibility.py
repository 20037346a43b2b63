"""What a person should look at first: organs that are unlike what organs usually are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.organs import Organ, opposite
from model.usual_volumes import usual_volume
from model.volumes import MM3_PER_ML, TOUCHING, boxes_by_label

ACROSS_MM = 5.0
"""How far an organ may reach over the middle between it and its partner: halves of the mandible
meet there, and heads are turned."""

ACROSS = 0.05
"""How much of an organ may lie further than that."""

ASKEW_DEG = 10.0
"""How far left and right organs may lie from the patient's left-right axis; in OpenKBP 1 of 194
patients lies further, whose mandible is cut, and 99 % less than 6 degrees."""

LEAVES_BY_THE_FEET = frozenset({"spinal_cord"})
"""Organs that are longer than a scan of head and neck: their lower end is always cut."""

MM_PER_CM = 10.0


@dataclass(frozen=True)
class Doubt:
    """Something about one organ that may be right, but seldom is."""

    organ: Organ
    sentence: str  # for the person who reviews; names the organ, has no full stop


@dataclass(frozen=True, eq=False)
class _Found:
    """One organ in the label volume."""

    organ: Organ
    mask: NDArray[np.bool_]  # (Z, Y, X) of the smallest box around it
    left_mm: NDArray[np.float64]  # LPS x of each voxel, which grows to the patient's left
    centre_mm: NDArray[np.float64]  # LPS
    cut: tuple[str, ...]  # by what


def find_doubts(labels: hd.Volume, organs: Sequence[Organ]) -> tuple[Doubt, ...]:
    """Look at how the head lies, and at each organ's side, volume, ends and pieces.

    Args:
        labels: uint8, ``Organ.label`` or 0.
        organs: those that the model knows; others are not looked at.
    """
    boxes = boxes_by_label(labels.array)
    found = {
        organ: _look_at(organ, box, labels)
        for organ in organs
        if (box := boxes.get(organ.label)) is not None
    }
    doubts = []
    if missing := [organ for organ in organs if organ not in found]:
        names = ", ".join(organ.tg263 for organ in missing)
        doubts.append(Doubt(missing[0], f"Not found, or left out: {names}"))
    doubts += _askew(found)
    for organ, one in found.items():
        for said in (_side(one, found), _volume(one, labels), _ends(one), _pieces(one)):
            doubts += [Doubt(organ, sentence) for sentence in said]
    return tuple(doubts)


def _look_at(organ: Organ, box: tuple[slice, slice, slice], labels: hd.Volume) -> _Found:
    mask = labels.array[box] == organ.label
    voxels = np.argwhere(mask) + [side.start for side in box]
    places_mm = labels.map_indices_to_reference(voxels)
    cut = tuple(_cut_by(organ, box, labels))
    return _Found(organ, mask, places_mm[:, 0], places_mm.mean(axis=0), cut)


def _cut_by(organ: Organ, box: tuple[slice, slice, slice], labels: hd.Volume) -> Iterator[str]:
    shape = labels.spatial_shape
    first_is_upper = labels.affine[2, 0] < 0  # LPS z grows towards the head
    ends = [(box[0].start == 0, first_is_upper), (box[0].stop == shape[0], not first_is_upper)]
    for touched, upper in ends:
        if touched and upper:
            yield "the upper end of the scan"
        elif touched and organ.name not in LEAVES_BY_THE_FEET:
            yield "the lower end of the scan"
    if any(box[axis].start == 0 or box[axis].stop == shape[axis] for axis in (1, 2)):
        yield "the edge of the images"


def _askew(found: dict[Organ, _Found]) -> Iterator[Doubt]:
    """Whether the head is turned or leans, told once for all pairs: one alone may be uneven."""
    across = {
        left: one.centre_mm - found[right].centre_mm
        for left, one in found.items()
        if left.side == "left" and (right := opposite(left)) and right in found
    }
    if not across:
        return
    # A pair under each other's name lies as straight as any other.
    x, y, z = np.sum([mm * np.copysign(1.0, mm[0]) for mm in across.values()], axis=0)
    if (degrees := np.degrees(np.arctan2(np.hypot(y, z), x))) > ASKEW_DEG:
        sentence = (
            f"Left and right organs lie askew by {degrees:.0f} degrees, usually at most "
            f"{ASKEW_DEG:g}: the head is turned or leans"
        )
        yield Doubt(next(iter(across)), sentence)


def _side(one: _Found, found: dict[Organ, _Found]) -> Iterator[str]:
    partner = opposite(one.organ)
    if partner is None:
        return
    to_its_side = 1.0 if one.organ.side == "left" else -1.0
    midline = [other.left_mm.mean() for other in found.values() if other.organ.side is None]
    middle_mm = float(np.mean(midline)) if midline else None
    if partner in found:
        between_mm = (one.left_mm.mean() + found[partner].left_mm.mean()) / 2
        across = _across(one, to_its_side, between_mm)
    elif middle_mm is not None:
        across = _across(one, to_its_side, middle_mm)
    else:
        return
    if across > ACROSS:
        yield f"{one.organ.tg263} lies by {across:.0%} on the other side"
    elif middle_mm is not None and to_its_side * (one.left_mm.mean() - middle_mm) < -ACROSS_MM:
        yield f"{one.organ.tg263} lies on the other side of the organs on the midline"


def _across(one: _Found, to_its_side: float, middle_mm: float) -> float:
    """How much of an organ lies further on the other side of a middle than it may."""
    return float(np.mean(to_its_side * (one.left_mm - middle_mm) < -ACROSS_MM))


def _volume(one: _Found, labels: hd.Volume) -> Iterator[str]:
    usual = usual_volume(one.organ)
    amount, unit = amount_of(one.organ, one.mask, labels)
    comparison, limit = "", 0.0
    if amount > usual.high:
        comparison, limit = "larger", usual.high
    elif amount < usual.low and (usual.per_cm or not one.cut):  # what is cut is small: of course
        comparison, limit = "smaller", usual.low
    if comparison:
        yield (
            f"{one.organ.tg263} is {comparison} than usual: {_apart(amount, limit)} {unit}, "
            f"usually {usual.low:g} to {usual.high:g}"
        )


def amount_of(
    organ: Organ, mask: NDArray[np.bool_], labels: hd.Volume
) -> tuple[float, Literal["ml", "ml per cm"]]:
    """How much there is of an organ, and in what, as `usual_volume` has it.

    Args:
        organ: which.
        mask: of the smallest box around it, slices first.
        labels: whose voxels they are.
    """
    ml = np.count_nonzero(mask) * labels.voxel_volume / MM3_PER_ML
    if usual_volume(organ).per_cm:
        return ml / (mask.shape[0] * labels.spacing[0] / MM_PER_CM), "ml per cm"
    return ml, "ml"


def _apart(amount: float, limit: float) -> str:
    """An amount in as many digits as it takes to differ from a limit that it is not."""
    digits = 1 if amount >= 1 else 2
    while float(number := f"{amount:.{digits}f}") == limit:
        digits += 1
    return number


def _ends(one: _Found) -> Iterator[str]:
    if one.cut:
        yield f"{one.organ.tg263} is cut by {' and '.join(one.cut)}"


def _pieces(one: _Found) -> Iterator[str]:
    _, pieces = ndimage.label(one.mask, TOUCHING)
    if pieces > 1:
        yield f"{one.organ.tg263} is in {pieces} pieces"
