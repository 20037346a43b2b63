"""Postprocessing: no organ in air, one piece each, every one on its own side or not at all."""

from collections.abc import Mapping, Sequence

import highdicom as hd
import numpy as np
from scipy import ndimage

from model.organs import Organ, opposite
from model.volumes import MM3_PER_ML, boxes_by_label

MIN_PAIR_DISTANCE_MM = 5.0
"""Centres of a left and a right organ lie at least this far apart, left more to the left."""

MIDLINE_TOLERANCE_MM = 5.0
"""An organ without its partner may lie this far on the other side of the organs on the midline."""

AIR_HU = -900.0
"""HU: below this there is no tissue; what a cropped CT is filled with lies below it too."""

LARGE_PIECE = 0.2
"""A piece of this share of the largest is no crumb: that it was left out is said."""

HOLDS_AIR = frozenset({"middle_ear_left", "middle_ear_right"})
"""The organs of the table that are cavities."""


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
    array = labels.array.copy()
    boxes = boxes_by_label(array)
    warnings: list[str] = []
    centres_mm: dict[Organ, float] = {}  # LPS x of the centre, grows to the patient's left
    for organ in organs:
        if (box := boxes.get(organ.label)) is None:
            continue
        found = array[box] == organ.label
        tissue = found if organ.name in HOLDS_AIR else found & (ct.array[box] >= AIR_HU)
        kept, next_largest = _largest_piece(tissue)
        array[box][found & ~kept] = 0
        if next_largest >= LARGE_PIECE * np.count_nonzero(kept) > 0:
            ml = next_largest * labels.voxel_volume / MM3_PER_ML
            warnings.append(
                f"{organ.tg263} was found in pieces, and one of {ml:.1f} ml was left out"
            )
        if kept.any():
            centre = np.argwhere(kept).mean(axis=0) + [s.start for s in box]
            centres_mm[organ] = float(labels.map_indices_to_reference(centre[None])[0, 0])
    wrong, sides = on_wrong_sides(centres_mm)
    if wrong:
        array[np.isin(array, [organ.label for organ in wrong])] = 0
    return labels.with_array(array), (*warnings, *sides)


def _largest_piece(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The largest piece of a mask, and how many voxels the next one has.

    Voxels that touch at a corner are of one piece.
    """
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask, 0
    sizes = np.bincount(pieces[mask])[1:]
    return pieces == 1 + int(sizes.argmax()), int(np.partition(sizes, -2)[-2])


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
