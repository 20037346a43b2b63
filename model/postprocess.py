"""Postprocessing: one piece per organ, and every organ on its own side or not at all."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from scipy import ndimage

from model.organs import Organ, opposite

MIN_PAIR_DISTANCE_MM = 5.0
"""Centres of a left and a right organ lie at least this far apart, left more to the left."""


def clean(labels: hd.Volume, organs: Sequence[Organ]) -> tuple[hd.Volume, tuple[str, ...]]:
    """Keep the largest piece of every organ; leave out pairs that are not on their sides.

    A left organ that is not left of its right partner, in patient coordinates, means that
    something is wrong, and which of the two is not known: both are left out, never swapped.

    Args:
        labels: uint8 organ labels.
        organs: those that may be in it.

    Returns:
        The cleaned labels, and sentences on what was left out and why.
    """
    array = labels.array.copy()
    boxes = ndimage.find_objects(array)
    centres_mm: dict[Organ, float] = {}  # LPS x of the centre, grows to the patient's left
    for organ in organs:
        box = boxes[organ.label - 1] if organ.label <= len(boxes) else None
        if box is None:
            continue
        inside = array[box] == organ.label
        pieces, count = ndimage.label(inside, np.ones((3, 3, 3)))
        if count > 1:
            largest = 1 + int(np.bincount(pieces.ravel())[1:].argmax())
            array[box][inside & (pieces != largest)] = 0
            inside = pieces == largest
        centre = np.argwhere(inside).mean(axis=0) + [s.start for s in box]
        centres_mm[organ] = float(labels.map_indices_to_reference(centre[None])[0, 0])
    warnings = []
    for left in (organ for organ in centres_mm if organ.side == "left"):
        right = opposite(left)
        if right not in centres_mm:
            continue
        distance_mm = centres_mm[left] - centres_mm[right]
        if distance_mm < MIN_PAIR_DISTANCE_MM:
            array[(array == left.label) | (array == right.label)] = 0
            warnings.append(
                f"{left.tg263} and {right.tg263} were left out: they were not found on their sides"
            )
    return labels.with_array(array), tuple(warnings)
