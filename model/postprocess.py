"""Postprocessing: no organ in air, one piece each, every one on its own side or not at all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.organs import Organ, opposite
from model.volumes import (
    MM3_PER_ML,
    TOUCHING,
    Box,
    box_within,
    boxes_by_label,
    centre_mm,
    labelled_box,
)

MIN_PAIR_DISTANCE_MM = 5.0
"""Centres of a left and a right organ lie at least this far apart, left more to the left."""

MIDLINE_TOLERANCE_MM = 5.0
"""An organ without its partner may lie this far on the other side of the organs on the midline."""

NO_TISSUE_HU = -900.0
"""HU: below this there is no tissue; what a cropped CT is filled with lies below it too."""

LARGE_PIECE = 0.2
LONG_PIECE_MM = 10.0
"""Pieces that have together this share of the largest, or of which one is as long as this along the
patient, are no crumbs: that they were left out is said."""

OUT_OF_ORDER_MM = 10.0
"""Organs are out of order if one lies so far on the wrong side of another, by their centres."""

CENTRAL = ("brainstem", "spinal_cord")
EYES = ("eye_left", "eye_right", "lens_left", "lens_right")
MANDIBLE = ("mandible_left", "mandible_right")

ORDER = (
    ("above", 2, 1.0, ("brainstem",), ("spinal_cord",)),
    ("above", 2, 1.0, EYES, MANDIBLE),
    ("in front of", 1, -1.0, EYES + MANDIBLE, CENTRAL),
)
"""What is so in every patient, however the head is held: how organs lie to others, along which axis
of LPS and which way, which organs, which others."""

HOLDS_AIR = frozenset({"middle_ear_left", "middle_ear_right"})
"""The organs of the table that are cavities."""


CELL = 4
"""Rows and columns of a cell: as many labels as the bytes of an integer, looked at together."""


class OutOfOrder(ValueError):
    """The organs do not lie as in a patient, so that no side and no name can be relied on."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Voxels of one label that touch each other and no others of it."""

    box: Box  # the smallest around them
    mask: NDArray[np.bool_]  # of the box
    voxels: int


def clean(
    labels: hd.Volume, organs: Sequence[Organ], ct: hd.Volume
) -> tuple[hd.Volume, tuple[str, ...]]:
    """Take organs out of air, keep the largest piece of each, leave out what is on the wrong side.

    Pieces are those of the network, which a dark streak of metal does not part. A left organ that
    is not left of its right partner, in patient coordinates, means that
    something is wrong, and which of the two is not known: both are left out, never swapped.

    Args:
        labels: uint8 organ labels.
        organs: those that may be in it.
        ct: HU on the same grid.

    Returns:
        The cleaned labels, and sentences on what was left out and why.

    Raises:
        OutOfOrder: they lie as in no patient.
    """
    labelled = labelled_box(labels.array)
    pieces = _pieces(labels.array[labelled], labelled)
    warnings: list[str] = []
    kept: dict[Organ, Piece] = {}
    for organ in organs:
        found = pieces.get(organ.label, [])
        if organ.name not in HOLDS_AIR:
            found = [part for piece in found if (part := _without_air(piece, ct)).voxels]
        found.sort(key=lambda piece: -piece.voxels)
        if found:
            kept[organ] = found[0]
        warnings += _left_out(organ, found, labels)
    centres_mm = {organ: centre_mm(one.mask, one.box, labels) for organ, one in kept.items()}
    check_order(centres_mm)
    # LPS x, which grows to the patient's left
    wrong, sides = on_wrong_sides({organ: float(mm[0]) for organ, mm in centres_mm.items()})
    cleaned = np.zeros_like(labels.array)
    for organ, piece in kept.items():
        if organ not in wrong:
            cleaned[piece.box][piece.mask] = organ.label
    return labels.with_array(cleaned), (*sides, *warnings)


def _without_air(piece: Piece, ct: hd.Volume) -> Piece:
    """What of a piece is in tissue."""
    mask = piece.mask & (ct.array[piece.box] >= NO_TISSUE_HU)
    return Piece(piece.box, mask, int(np.count_nonzero(mask)))


def _left_out(organ: Organ, found: Sequence[Piece], labels: hd.Volume) -> Iterator[str]:
    """What to say of the pieces behind the first, which is kept."""
    others = found[1:]
    if not others:
        return
    voxels = sum(piece.voxels for piece in others)
    longest_mm = max(piece.mask.shape[0] for piece in others) * labels.spacing[0]
    if voxels >= LARGE_PIECE * found[0].voxels or longest_mm >= LONG_PIECE_MM:
        ml = voxels * labels.voxel_volume / MM3_PER_ML
        many = f"{len(others)} were left out, {ml:.1f} ml in all"
        what = f"one of {ml:.1f} ml was left out" if len(others) == 1 else many
        yield f"{organ.tg263} was found in pieces, and {what}"


def check_order(centres_mm: Mapping[Organ, NDArray[np.float64]]) -> None:
    """Refuse organs in an order that no patient has: then the CT's orientation is wrong, or they.

    Raises:
        OutOfOrder: which of them.
    """
    by_name = {organ.name: (organ, mm) for organ, mm in centres_mm.items()}
    for how, axis, forward, ones, others in ORDER:
        for one, other in product(ones, others):
            if one not in by_name or other not in by_name:
                continue
            (organ, mm), (other_organ, other_mm) = by_name[one], by_name[other]
            if forward * (mm[axis] - other_mm[axis]) < -OUT_OF_ORDER_MM:
                raise OutOfOrder(
                    f"{organ.tg263} was not found {how} {other_organ.tg263}, where it is in "
                    "every patient: the position of the patient may be registered wrongly, "
                    "and left and right with it."
                )


def _pieces(labels: NDArray[np.uint8], place: Box) -> dict[int, list[Piece]]:
    """The pieces of each label in the part of a volume that lies at a place."""
    pieces: dict[int, list[Piece]] = {}
    for around, part in _groups(labels):
        for label, inner in boxes_by_label(part).items():
            of_label, _ = ndimage.label(part[inner] == label, TOUCHING)
            for number, box in enumerate(ndimage.find_objects(of_label), start=1):
                mask = of_label[box] == number
                there = box_within(box_within(box_within(place, around), inner), box)
                pieces.setdefault(label, []).append(Piece(there, mask, int(np.count_nonzero(mask))))
    return pieces


def _groups(labels: NDArray[np.uint8]) -> Iterator[tuple[Box, NDArray[np.uint8]]]:
    """Parts of the labels, and where they are, of which none touches another.

    Stray voxels can make the box around an organ as large as the body, and to look for its pieces
    there takes long. Cells of several pixels are few, and what touches lies in cells that touch.
    """
    if not labels.size:
        return
    planes, rows, columns = labels.shape
    whole = np.zeros((planes, -(-rows // CELL) * CELL, -(-columns // CELL) * CELL), np.uint8)
    whole[:, :rows, :columns] = labels
    cells = whole.view(np.uint32).reshape(planes, -1, CELL, whole.shape[2] // CELL).any(axis=2)
    groups, count = ndimage.label(cells, TOUCHING)
    for number, box in enumerate(ndimage.find_objects(groups, count), start=1):
        around = box[0], *(slice(CELL * side.start, CELL * side.stop) for side in box[1:])
        yield around, whole[around] * (groups[box] == number).repeat(CELL, 1).repeat(CELL, 2)


def on_wrong_sides(
    centres_mm: Mapping[Organ, float], body_mm: float | None = None
) -> tuple[list[Organ], list[str]]:
    """The organs that are not where their names say, and a sentence on each pair or organ.

    Args:
        centres_mm: LPS x of each organ's centre; it grows to the patient's left.
        body_mm: that of the body, for where no organ of the midline is known.
    """
    wrong, warnings = list[Organ](), list[str]()
    midline_mm = [x for organ, x in centres_mm.items() if organ.side is None]
    if not midline_mm and body_mm is not None:
        midline_mm = [body_mm]
    for organ, x in centres_mm.items():
        partner = opposite(organ)
        if partner is None:
            continue
        to_the_left = 1.0 if organ.side == "left" else -1.0
        if partner in centres_mm:
            if organ.side == "left" and x - centres_mm[partner] < MIN_PAIR_DISTANCE_MM:
                wrong += [organ, partner]
                warnings.append(
                    f"{organ.tg263} and {partner.tg263} were left out: "
                    "they were not found on their sides"
                )
        elif midline_mm and to_the_left * (x - np.mean(midline_mm)) < -MIDLINE_TOLERANCE_MM:
            wrong.append(organ)
            warnings.append(f"{organ.tg263} was left out: it was found on the other side")
    return wrong, warnings
