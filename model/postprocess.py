"""Postprocessing: no organ in air, one piece each, every one on its own side or not at all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.organs import ORGANS, Organ, opposite
from model.volumes import MM3_PER_ML, TOUCHING, Box, box_within, boxes_by_label, labelled_box

MIN_PAIR_DISTANCE_MM = 5.0
"""Centres of a left and a right organ lie at least this far apart, left more to the left."""

MIDLINE_TOLERANCE_MM = 5.0
"""An organ without its partner may lie this far on the other side of the organs on the midline."""

NO_TISSUE_HU = -900.0
"""HU: below this there is no tissue; what a cropped CT is filled with lies below it too."""

LARGE_PIECE = 0.2
"""A piece of this share of the largest is no crumb: that it was left out is said."""

HOLDS_AIR = frozenset({"middle_ear_left", "middle_ear_right"})
"""The organs of the table that are cavities."""


CELL = 4
"""Rows and columns of a cell: as many labels as the bytes of an integer, looked at together."""


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

    A left organ that is not left of its right partner, in patient coordinates, means that
    something is wrong, and which of the two is not known: both are left out, never swapped.

    Args:
        labels: uint8 organ labels.
        organs: those that may be in it.
        ct: HU on the same grid.

    Returns:
        The cleaned labels, and sentences on what was left out and why.
    """
    labelled = labelled_box(labels.array)
    pieces = _pieces(_without_air(labels.array[labelled], ct.array[labelled]), labelled)
    warnings: list[str] = []
    kept: dict[Organ, Piece] = {}
    for organ in organs:
        found = sorted(pieces.get(organ.label, ()), key=lambda piece: -piece.voxels)
        if found:
            kept[organ] = found[0]
        if len(found) > 1 and found[1].voxels >= LARGE_PIECE * found[0].voxels:
            ml = found[1].voxels * labels.voxel_volume / MM3_PER_ML
            warnings.append(
                f"{organ.tg263} was found in pieces, and one of {ml:.1f} ml was left out"
            )
    # LPS x, which grows to the patient's left
    centres_mm = {organ: float(_centre_mm(piece, labels)[0]) for organ, piece in kept.items()}
    wrong, sides = on_wrong_sides(centres_mm)
    cleaned = np.zeros_like(labels.array)
    for organ, piece in kept.items():
        if organ not in wrong:
            cleaned[piece.box][piece.mask] = organ.label
    return labels.with_array(cleaned), (*warnings, *sides)


def _without_air(labels: NDArray[np.uint8], hu: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The labels, but none in air that is not of a cavity."""
    holds_air = np.zeros(256, bool)
    holds_air[[organ.label for organ in ORGANS if organ.name in HOLDS_AIR]] = True
    labels = labels.copy()
    in_air = ((hu < NO_TISSUE_HU) & (labels > 0)).nonzero()
    labels[in_air] *= holds_air[labels[in_air]]
    return labels


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


def _centre_mm(piece: Piece, labels: hd.Volume) -> NDArray[np.float64]:
    centre = np.argwhere(piece.mask).mean(axis=0) + [side.start for side in piece.box]
    return labels.map_indices_to_reference(centre[None])[0]


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
