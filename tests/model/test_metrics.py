"""The metrics: cubes one can compute by hand, and another library's word on random masks."""

from math import inf, isnan
from typing import Any

import numpy as np
import pytest
import SimpleITK

from model.metrics import Mask, added_path_length_mm, agreement, dice

SPACING_MM = (3.0, 1.0, 2.0)

sitk: Any = SimpleITK  # half typed


def cube(z: int = 5, y: int = 5, x: int = 5, *, side: int = 6) -> Mask:
    mask = np.zeros((20, 20, 20), bool)
    mask[z : z + side, y : y + side, x : x + side] = True
    return mask


def blob(seed: int) -> Mask:
    image = sitk.SmoothingRecursiveGaussian(
        sitk.GetImageFromArray(np.random.default_rng(seed).normal(size=(16, 24, 20))), 2.0
    )
    return np.asarray(sitk.GetArrayFromImage(image)) > 0.02


def test_a_mask_agrees_with_itself() -> None:
    assert agreement(cube(), cube(), SPACING_MM) == (1.0, 1.0, 0.0)


def test_a_shifted_cube_is_what_one_computes_by_hand() -> None:
    found = agreement(cube(), cube(y=7), (1.0, 1.0, 1.0), tolerance_mm=0.5)

    assert found.dice == pytest.approx(2 * 4 / (6 + 6))
    # Of a cube's 6^3 - 4^3 = 152 surface voxels, in the slices that both surfaces share: the two
    # x and two z faces over four of six rows, which is 4 * 20 of 6 * 20 without the y faces ...
    faces_beside = 4 * 20
    # ... and nothing of the y faces but their rims, which lie on the other's faces beside:
    assert found.surface_dice == pytest.approx((faces_beside * 2) / (2 * 152))
    assert found.hd95_mm == pytest.approx(2.0)


@pytest.mark.parametrize(("axis", "shift_mm"), [(0, 6.0), (1, 2.0), (2, 4.0)])
def test_distances_are_in_millimetres_along_every_axis(axis: int, shift_mm: float) -> None:
    a = cube(side=1)
    b = np.roll(a, 2, axis)

    found = agreement(a, b, SPACING_MM, tolerance_mm=2.0)

    assert found.hd95_mm == pytest.approx(shift_mm)
    assert found.surface_dice == (1.0 if shift_mm <= 2 else 0.0)


def test_the_tolerance_of_the_surface_dice_is_the_callers() -> None:
    a, b = cube(side=1), cube(y=8, side=1)

    assert agreement(a, b, SPACING_MM, tolerance_mm=2.9).surface_dice == 0
    assert agreement(a, b, SPACING_MM, tolerance_mm=3.0).surface_dice == 1


def test_nothing_found_of_nothing_says_nothing() -> None:
    empty = np.zeros((4, 4, 4), bool)

    assert all(isnan(value) for value in agreement(empty, empty, SPACING_MM))
    assert isnan(dice(empty, empty))


def test_an_organ_missed_or_invented_is_a_full_miss() -> None:
    empty = np.zeros((20, 20, 20), bool)

    assert agreement(empty, cube(), SPACING_MM) == (0.0, 0.0, inf)
    assert agreement(cube(), empty, SPACING_MM) == (0.0, 0.0, inf)


def test_a_mask_at_the_edge_of_the_ct_has_a_surface_there() -> None:
    a = np.zeros((6, 6, 6), bool)
    a[:3] = True
    b = np.ones((6, 6, 6), bool)

    # The outermost planes of both lie together; b's far end is three slices of 3 mm away.
    assert 0 < agreement(a, b, SPACING_MM, tolerance_mm=0.0).surface_dice < 1
    assert agreement(a, b, SPACING_MM).hd95_mm == pytest.approx(9.0)


@pytest.mark.parametrize("seed", range(4))
def test_it_does_not_matter_who_is_the_reference(seed: int) -> None:
    a, b = blob(seed), blob(seed + 100)

    assert agreement(a, b, SPACING_MM) == pytest.approx(agreement(b, a, SPACING_MM))


def itk_surface_distances_mm(a: Mask, b: Mask) -> np.ndarray:
    """From every surface voxel of `a` to the surface of `b`, as SimpleITK sees them."""

    def image(mask: Mask) -> Any:
        found = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        found.SetSpacing(SPACING_MM[: -mask.ndim - 1 : -1])
        return found

    contour_a, contour_b = (
        sitk.BinaryContour(image(m), fullyConnected=False, backgroundValue=0, foregroundValue=1)
        for m in (a, b)
    )
    distance = sitk.SignedMaurerDistanceMap(contour_b, squaredDistance=False, useImageSpacing=True)
    return np.maximum(sitk.GetArrayFromImage(distance)[sitk.GetArrayFromImage(contour_a) > 0], 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_simpleitk_agrees(seed: int) -> None:
    a, b = blob(seed), blob(seed + 100)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*(sitk.GetImageFromArray(m.astype(np.uint8)) for m in (a, b)))
    distances = np.concatenate([itk_surface_distances_mm(a, b), itk_surface_distances_mm(b, a)])

    found = agreement(a, b, SPACING_MM, tolerance_mm=2.5)

    assert found.dice == pytest.approx(overlap.GetDiceCoefficient())
    assert found.surface_dice == pytest.approx((distances <= 2.5).mean(), abs=1e-9)
    assert found.hd95_mm == pytest.approx(np.percentile(distances, 95), abs=1e-4)


def square(y: int = 5, x: int = 5, *, slices: slice = slice(4, 7), side: int = 6) -> Mask:
    mask = np.zeros((12, 20, 20), bool)
    mask[slices, y : y + side, x : x + side] = True
    return mask


def test_what_is_drawn_already_need_not_be_drawn_again() -> None:
    assert added_path_length_mm(square(), square(), SPACING_MM) == 0


@pytest.mark.parametrize("predicted", [np.zeros((12, 20, 20), bool), square(slices=slice(8, 9))])
@pytest.mark.parametrize("tolerance_mm", [0.0, 4.0])
def test_an_organ_that_was_not_found_is_drawn_whole(predicted: Mask, tolerance_mm: float) -> None:
    """Also in the corner of the images: there is nothing that it could be near to."""
    # Three slices, each with the 6 * 6 - 4 * 4 = 20 outermost pixels of a square of 6.
    found = added_path_length_mm(predicted, square(0, 0), (3.0, 2.0, 2.0), tolerance_mm)

    assert found == pytest.approx(3 * 20 * 2.0)


def test_only_the_part_of_the_outline_that_differs_is_drawn() -> None:
    """One row too many at the bottom: the sides stay, the lowest row is to be drawn anew."""
    predicted = square()
    predicted[:, 11, 5:11] = True

    found = added_path_length_mm(predicted, square(), (3.0, 1.0, 1.0))

    assert found == pytest.approx(3 * 4)  # its two corners lie on the prediction's sides


def test_contours_that_must_only_be_deleted_cost_no_drawing() -> None:
    assert added_path_length_mm(square(slices=slice(0, 12)), square(), SPACING_MM) == 0
    assert added_path_length_mm(square(), np.zeros((12, 20, 20), bool), SPACING_MM) == 0


def test_a_pixel_that_is_not_square_counts_with_its_mean_side() -> None:
    nothing = np.zeros((12, 20, 20), bool)

    found = added_path_length_mm(nothing, square(slices=slice(4, 5)), (3.0, 1.0, 4.0))

    assert found == pytest.approx(20 * 2.0)


def test_the_tolerance_of_what_to_redraw_is_in_millimetres_and_in_the_slice() -> None:
    shifted = square(y=6)

    assert added_path_length_mm(shifted, square(), (1.0, 3.0, 1.0), 2.9) > 0
    assert added_path_length_mm(shifted, square(), (1.0, 3.0, 1.0), 3.0) == 0


def test_nothing_to_draw_of_nothing_says_nothing() -> None:
    empty = np.zeros((4, 4, 4), bool)

    assert isnan(added_path_length_mm(empty, empty, SPACING_MM))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tolerance_mm", [0.0, 2.5])
def test_simpleitk_agrees_on_what_to_redraw(seed: int, tolerance_mm: float) -> None:
    a, b = blob(seed), blob(seed + 100)
    a[:, 0, 0] = True  # no slice without prediction: SimpleITK has no distance to nothing
    slices = [itk_surface_distances_mm(theirs, ours) for ours, theirs in zip(a, b, strict=True)]
    pixels = int((np.concatenate(slices) > tolerance_mm).sum())

    found = added_path_length_mm(a, b, SPACING_MM, tolerance_mm)

    assert found == pytest.approx(pixels * np.sqrt(SPACING_MM[1] * SPACING_MM[2]))
