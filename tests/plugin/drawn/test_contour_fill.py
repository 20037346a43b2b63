"""Contours become the voxels that lie inside them, wherever the pixels' centres are."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import highdicom as hd
import numpy as np
import pytest

from plugin.drawn.contour_fill import Contour, UnusableStructure, fill_contours
from tests.phantoms import COSINES, Orientation
from tests.structure_sets import Outline, ellipse

RADII_MM = (21.3, 12.7)
AREA_MM2 = np.pi * RADII_MM[0] * RADII_MM[1]


def grid(
    spacing_mm: tuple[float, float, float] = (3.0, 1.1, 0.9), orientation: Orientation = "axial"
) -> hd.VolumeGeometry:
    """A CT's grid about the origin of the patient."""
    shape = (21, 80, 90)
    geometry = hd.VolumeGeometry.from_attributes(
        image_position=(0, 0, 0),
        image_orientation=COSINES[orientation],
        rows=shape[1],
        columns=shape[2],
        pixel_spacing=spacing_mm[1:],
        spacing_between_slices=spacing_mm[0],
        number_of_frames=shape[0],
        coordinate_system="PATIENT",
    )
    affine = geometry.affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return hd.VolumeGeometry(affine, shape, "PATIENT")


def in_slices(ct: hd.VolumeGeometry, *outlines: Outline) -> list[Contour]:
    """Outlines whose x runs along the rows, y down the columns, and whose z counts slices."""
    along, down, across = ct.direction.T
    turned = np.stack([across, down, along], axis=1)
    contours = []
    for outline in outlines:
        points = outline.points_mm * [1, 1, ct.spacing[0]]
        contours.append(
            Contour(points_mm=points @ turned.T, xor=outline.kind == "CLOSEDPLANAR_XOR")
        )
    return contours


def area_mm2(mask: hd.Volume, k: int) -> float:
    """Of the mask in a slice."""
    return float(mask.array[k].sum()) * mask.spacing[1] * mask.spacing[2]


@pytest.mark.parametrize("orientation", COSINES)
def test_an_ellipse_keeps_its_area_and_place_in_every_orientation(orientation: Orientation) -> None:
    ct = grid(orientation=orientation)
    centre = (3.14, -2.72)

    mask = fill_contours(
        in_slices(ct, *(ellipse((*centre, k), RADII_MM) for k in range(-4, 5))), ct
    )

    assert mask.geometry_equal(ct)
    assert np.flatnonzero(mask.array.any(axis=(1, 2))).tolist() == list(range(6, 15))
    for k in range(6, 15):
        assert area_mm2(mask, k) == pytest.approx(AREA_MM2, rel=0.01)
    found = mask.map_indices_to_reference(np.argwhere(mask.array)).mean(axis=0)
    expected = in_slices(ct, ellipse((*centre, 0), RADII_MM))[0].points_mm.mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_a_border_between_two_pixels_centres_falls_to_the_nearer(shift: float) -> None:
    ct = grid((3, 1, 1))
    # The pixels' centres lie at whole millimetres and a half.
    left, right, top, bottom = -9.0, 11.0 + shift, -9.0, 10.0
    corners = [(left, top, 0), (right, top, 0), (right, bottom, 0), (left, bottom, 0)]
    square = Outline(np.array(corners, float))

    mask = fill_contours(in_slices(ct, square), ct)

    assert mask.array.sum() == 19 * (20 + (shift >= 0.5))


def test_a_ring_is_the_same_drawn_as_two_contours_by_exclusive_or_and_through_a_keyhole() -> None:
    ct = grid()
    outer, inner = ellipse((0.2, 0.1, 0), RADII_MM), ellipse((1.3, -0.4, 0), (9.1, 6.2))
    xor = [Outline(o.points_mm, "CLOSEDPLANAR_XOR") for o in (outer, inner)]
    start, end = outer.points_mm[:1], inner.points_mm[:1]
    keyhole = Outline(
        np.concatenate([outer.points_mm, start, end, inner.points_mm[::-1], end, start])
    )

    nested = fill_contours(in_slices(ct, inner, outer), ct)

    assert area_mm2(nested, 10) == pytest.approx(AREA_MM2 - np.pi * 9.1 * 6.2, rel=0.01)
    middle = np.rint(ct.map_reference_to_indices(np.array([[1.3, -0.4, 0]]))[0]).astype(int)
    assert nested.array[tuple(middle)] == 0
    for other in (xor, [keyhole]):
        np.testing.assert_array_equal(fill_contours(in_slices(ct, *other), ct).array, nested.array)


def test_a_hole_that_is_drawn_a_hair_beside_the_plane_of_its_outline_is_still_its_hole() -> None:
    ct = grid()
    outer, inner = ellipse((0, 0, 0), (20, 20)), ellipse((0, 0, 0.01), (9, 9))

    mask = fill_contours(in_slices(ct, outer, inner), ct)

    assert area_mm2(mask, 10) == pytest.approx(np.pi * (20**2 - 9**2), rel=0.01)


def test_what_is_added_to_an_outline_may_lie_within_it_for_the_most_part() -> None:
    ct = grid()
    organ, added = ellipse((0, 0, 0), (20, 20)), ellipse((17, 0, 0), (5, 5))

    mask = fill_contours(in_slices(ct, organ, added), ct)

    assert area_mm2(mask, 10) > area_mm2(fill_contours(in_slices(ct, organ), ct), 10)


def test_an_island_in_a_hole_is_inside() -> None:
    ct = grid()
    radii = ((20.0, 20.0), (14.0, 14.0), (6.0, 6.0))

    mask = fill_contours(in_slices(ct, *(ellipse((0, 0, 0), r) for r in radii)), ct)

    assert area_mm2(mask, 10) == pytest.approx(np.pi * (20**2 - 14**2 + 6**2), rel=0.01)


def test_contours_that_overlap_in_part_are_added_and_one_drawn_twice_is_one() -> None:
    ct = grid()
    left, right = ellipse((-6, 0, 0), (10, 10)), ellipse((6, 0, 0), (10, 10))
    lens = 2 * (100 * np.arccos(0.6) - 6 * 8)  # two circles of 10 mm, 12 mm apart

    both = fill_contours(in_slices(ct, left, right, left), ct)

    assert area_mm2(both, 10) == pytest.approx(200 * np.pi - lens, rel=0.01)


@pytest.mark.parametrize(
    "again",
    [
        lambda points: points,
        lambda points: points[::-1],
        lambda points: np.roll(points, 7, axis=0),
        lambda points: np.vstack([points, points[:1]]),
        lambda points: points.round(2),
        lambda points: points * [0.999, 0.999, 1],
        lambda points: points + np.array([0, 0, 0.04]),
    ],
    ids=["as it was", "reversed", "elsewhere begun", "closed", "rounded", "smaller", "higher"],
)
def test_an_outline_that_is_drawn_again_is_no_hole(again: Callable[[Any], Any]) -> None:
    ct = grid()
    planes = [ellipse((0, 0, k), RADII_MM) for k in (-1, 0, 1)]
    once = fill_contours(in_slices(ct, *planes), ct)

    twice = fill_contours(
        [
            *in_slices(ct, *planes),
            *(Contour(points_mm=again(one.points_mm)) for one in in_slices(ct, *planes)),
        ],
        ct,
    )

    assert twice.array.sum() == pytest.approx(once.array.sum(), rel=0.005)


@pytest.mark.parametrize("slice_mm", [0.5, 3.0])
@pytest.mark.parametrize("shift_mm", [0.0, 0.1, 0.25])
def test_a_sphere_keeps_its_volume_wherever_its_planes_lie(
    slice_mm: float, shift_mm: float
) -> None:
    """Two planes may be as near to a slice as one would have to be to be drawn on it."""
    ct = grid((slice_mm, 1.1, 0.9))
    radius_mm = 9 * slice_mm
    planes_mm = np.arange(-radius_mm + slice_mm / 4, radius_mm, 0.5)
    outlines = [
        ellipse((0, 0, (z + shift_mm) / slice_mm), (4 / 9 * across, 4 / 9 * across))
        for z, across in zip(planes_mm, np.sqrt(radius_mm**2 - planes_mm**2), strict=True)
        if across > radius_mm / 20
    ]

    mask = fill_contours(in_slices(ct, *outlines), ct)

    expected = 4 / 3 * np.pi * radius_mm * (4 / 9 * radius_mm) ** 2
    assert mask.array.sum() * mask.voxel_volume == pytest.approx(expected, rel=0.06)


def test_what_would_fill_the_memory_is_no_organ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugin.drawn.contour_fill.MOST_SAMPLES", 64 * 400)
    ct = grid()

    assert fill_contours(in_slices(ct, ellipse((0, 0, 0), (6, 5))), ct).array.any()
    with pytest.raises(UnusableStructure, match="more than any organ"):
        fill_contours(in_slices(ct, ellipse((0, 0, 0), RADII_MM)), ct)


def test_an_organ_in_many_pieces_takes_the_memory_of_all_together_and_not_for_each() -> None:
    ct = grid()
    centres = [(x, y) for x in range(-32, 36, 8) for y in range(-36, 40, 8)]
    pieces = in_slices(ct, *(ellipse((x, y, 0), (2, 3)) for x, y in centres))

    tracemalloc.start()
    mask = fill_contours(pieces, ct)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert area_mm2(mask, 10) == pytest.approx(len(pieces) * np.pi * 6, rel=0.02)
    assert peak < 10e6  # the window of all has 390,000 samples; of each that was 35 million


def test_more_contours_than_could_be_compared_with_each_other_are_no_organ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("plugin.drawn.contour_fill.MOST_COMPARED", 2 * 4 * 64 * 400)
    ct = grid()
    one, *_ = several = [ellipse((x, 0, 0), (6, 5)) for x in (-20, -8, 0, 8, 20)]

    assert fill_contours(in_slices(ct, one, several[1]), ct).array.any()
    with pytest.raises(UnusableStructure, match="5 contours lie on one plane, too many"):
        fill_contours(in_slices(ct, *several), ct)


def test_thousands_of_contours_beside_the_ct_are_not_compared_with_each_other() -> None:
    ct = grid()
    inside, beside = ellipse((0, 0, 0), (6, 5)), ellipse((500, 0, 0), (6, 5))

    with pytest.raises(UnusableStructure, match="4001 contours lie on one plane, too many"):
        fill_contours(in_slices(ct, inside, *[beside] * 4000), ct)


def test_two_separate_contours_of_a_slice_are_two_pieces() -> None:
    ct = grid()
    mask = fill_contours(
        in_slices(ct, ellipse((-20, 0, 0), (5, 5)), ellipse((20, 0, 0), (7, 7))), ct
    )
    assert area_mm2(mask, 10) == pytest.approx(np.pi * (25 + 49), rel=0.02)


def cone(k: float) -> tuple[float, float]:
    return 20 - 1.5 * k, 14 - 1.0 * k


@pytest.mark.parametrize("above", [0.4, 0.5, 0.6])
def test_planes_between_the_slices_give_the_slices_the_shape_between_them(above: float) -> None:
    ct = grid()
    planes = [k + above for k in range(-6, 6)]

    mask = fill_contours(in_slices(ct, *(ellipse((0, 0, k), cone(k)) for k in planes)), ct)

    filled = np.flatnonzero(mask.array.any(axis=(1, 2)))
    assert len(filled) == len(planes)
    for k in filled:
        a, b = cone(np.clip(k - 10, planes[0], planes[-1]))  # behind the last, its own shape
        assert area_mm2(mask, k) == pytest.approx(np.pi * a * b, rel=0.02)


def test_a_structure_drawn_on_every_other_slice_is_closed() -> None:
    ct = grid()

    mask = fill_contours(in_slices(ct, *(ellipse((0, 0, k), cone(k)) for k in range(-6, 7, 2))), ct)

    assert np.flatnonzero(mask.array.any(axis=(1, 2))).tolist() == list(range(4, 17))
    for k in range(4, 17):
        a, b = cone(k - 10)
        assert area_mm2(mask, k) == pytest.approx(np.pi * a * b, rel=0.015)


def test_towards_an_outline_of_no_area_nothing_is_filled() -> None:
    ct = grid()
    sliver = Outline(np.array([(0, 0, 0), (5, 0, 0), (5, 1e-4, 0)]))

    mask = fill_contours(in_slices(ct, ellipse((0, 0, -2), RADII_MM), sliver), ct)

    assert np.flatnonzero(mask.array.any(axis=(1, 2))).tolist() == [8]


@pytest.mark.parametrize(
    ("planes", "slices"), [((-0.4, 1.6, 3.6), [10, 11, 12, 13, 14]), ((0.15, 0.55), [10])]
)
def test_an_end_reaches_half_way_to_where_another_plane_would_be_and_half_a_slice_at_most(
    planes: tuple[float, ...], slices: list[int]
) -> None:
    ct = grid()

    mask = fill_contours(in_slices(ct, *(ellipse((0, 0, k), RADII_MM) for k in planes)), ct)

    assert np.flatnonzero(mask.array.any(axis=(1, 2))).tolist() == slices


def test_planes_finer_than_the_slices_do_not_make_it_longer() -> None:
    ct = grid()
    planes = np.arange(-15, 16) / 3  # a millimetre apart

    mask = fill_contours(in_slices(ct, *(ellipse((0, 0, k), RADII_MM) for k in planes)), ct)

    assert np.flatnonzero(mask.array.any(axis=(1, 2))).tolist() == list(range(5, 16))


def test_a_long_gap_is_not_guessed() -> None:
    ct = grid()
    with pytest.raises(UnusableStructure, match="a gap of 12 mm"):
        fill_contours(in_slices(ct, *(ellipse((0, 0, k), RADII_MM) for k in (-3, 1, 2))), ct)


def test_contours_across_the_slices_are_refused_however_little_they_lean() -> None:
    ct = grid()
    flat = ellipse((0, 0, 0), RADII_MM).points_mm
    for leaning in (flat[:, [0, 2, 1]], flat + flat[:, :1] * [0, 0, 0.02]):  # by 0.4 mm
        with pytest.raises(UnusableStructure, match="not parallel to the slices"):
            fill_contours([Contour(points_mm=leaning)], ct)


def test_what_lies_beyond_the_ct_is_cut_off_and_nothing_else() -> None:
    ct = grid((3, 1, 1))
    outline = ellipse((-44.5, 0, 0), (20, 20))  # the middle of the first column's pixels
    beyond = [[ellipse((0, 0, k), RADII_MM) for k in end] for end in (range(8, 13), range(-12, -7))]

    assert area_mm2(fill_contours(in_slices(ct, outline), ct), 10) == pytest.approx(
        np.pi * 200 + 0.5 * 40, rel=0.01
    )
    for outlines, filled in zip(beyond, ([18, 19, 20], [0, 1, 2]), strict=True):
        mask = fill_contours(in_slices(ct, *outlines), ct)
        assert np.flatnonzero(mask.array.any(axis=(1, 2))).tolist() == filled
    with pytest.raises(UnusableStructure, match="does not fill a voxel"):
        fill_contours(in_slices(ct, ellipse((500, 0, 0), RADII_MM)), ct)
    with pytest.raises(UnusableStructure, match="does not fill a voxel"):
        fill_contours(in_slices(ct, ellipse((0, 0, 40), RADII_MM)), ct)
