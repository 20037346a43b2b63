"""Agreement of two masks: Dice, surface Dice, Hausdorff distance and what is left to redraw.

Masks are boolean ``(Z, Y, X)`` arrays on one grid, slices along the first axis. If both are empty
there is nothing to agree on and every metric is NaN; if one is, Dice and surface Dice are 0 and the
distance is infinite.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]

TOLERANCE_MM = 2.0
"""Surface Dice counts surface voxels this near to the other surface, in millimetres."""


class Agreement(NamedTuple):
    """Of a predicted with a reference mask."""

    dice: float
    surface_dice: float  # at the tolerance given
    hd95_mm: float  # 95th percentile of the distances of both surfaces to each other


def dice(a: Mask, b: Mask) -> float:
    """Twice the overlap over the sum of the sizes (Dice, Ecology 26, 1945)."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def agreement(
    predicted: Mask,
    reference: Mask,
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float = TOLERANCE_MM,
) -> Agreement:
    """All metrics; surfaces are the mask's voxels with a face-neighbour outside it.

    Args:
        predicted: ``(Z, Y, X)``.
        reference: ``(Z, Y, X)``.
        spacing_mm: of the grid, (z, y, x).
        tolerance_mm: of the surface Dice.
    """
    if not predicted.any() and not reference.any():
        return Agreement(float("nan"), float("nan"), float("nan"))
    if not predicted.any() or not reference.any():
        return Agreement(0.0, 0.0, float("inf"))
    box = ndimage.find_objects((predicted | reference).astype(np.uint8))[0]
    a, b = predicted[box], reference[box]
    surface_a, surface_b = _surface(a), _surface(b)
    to_b = ndimage.distance_transform_edt(~surface_b, sampling=spacing_mm)[surface_a]
    to_a = ndimage.distance_transform_edt(~surface_a, sampling=spacing_mm)[surface_b]
    distances_mm = np.concatenate([to_b, to_a])
    return Agreement(
        dice=dice(a, b),
        surface_dice=float((distances_mm <= tolerance_mm).mean()),
        hd95_mm=float(np.percentile(distances_mm, 95)),
    )


def added_path_length_mm(
    predicted: Mask,
    reference: Mask,
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float = 0.0,
) -> float:
    """Length of the reference's outlines that a person would still have to draw.

    Slice by slice, the pixels of the reference's outline that no pixel of the prediction's outline
    meets, times a pixel's side; an outline is the mask's pixels with an edge-neighbour outside it.
    Nothing predicted leaves every outline to draw. A slice without reference needs none: taking a
    contour away is not drawing. After Vaassen et al., Physics and Imaging in Radiation Oncology 13
    (2020) 1-6, whose tolerance is 0.

    Args:
        predicted: ``(Z, Y, X)``.
        reference: ``(Z, Y, X)``.
        spacing_mm: of the grid, (z, y, x).
        tolerance_mm: outlines this near to each other in the slice meet.
    """
    if not predicted.any() and not reference.any():
        return float("nan")
    pixel_mm = float(np.sqrt(spacing_mm[1] * spacing_mm[2]))
    missing = 0
    for ours, theirs in zip(predicted, reference, strict=True):
        to_draw = _surface(theirs)
        if ours.any():
            drawn = _surface(ours)
            to_draw &= ndimage.distance_transform_edt(~drawn, spacing_mm[1:]) > tolerance_mm
        missing += int(to_draw.sum())
    return missing * pixel_mm


def _surface(mask: Mask) -> Mask:
    """Beyond the array there is nothing."""
    inside: Mask = ndimage.binary_erosion(mask)
    return mask & ~inside
