"""An outline is smooth, finer than the pixels, and gives the mask back pixel for pixel."""

from math import ceil

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from plugin.objects.outlines import Outline, keyhole, outlines

Mask = NDArray[np.bool_]


def windings(curve: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """How often a closed curve goes round the centre of each pixel."""
    times = np.zeros(shape, np.int64)
    for (r1, c1), (r2, c2) in zip(curve, np.roll(curve, -1, axis=0), strict=True):
        for row in range(ceil(min(r1, r2)), ceil(max(r1, r2))):
            column = c1 + (row - r1) * (c2 - c1) / (r2 - r1)
            times[row, : ceil(column)] += 1 if r2 > r1 else -1
    return times


def filled(curves: list[NDArray[np.float64]], shape: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, bool)
    for curve in curves:
        mask ^= windings(curve, shape) % 2 == 1
    return mask


def signed_area(curve: NDArray[np.float64]) -> float:
    row, column = curve.T
    after = np.roll(curve, -1, axis=0)
    return float(column @ after[:, 0] - row @ after[:, 1]) / 2


def blobs(seed: int) -> Mask:
    """Random pieces, some of a single pixel, with random holes, up to the edge."""
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.standard_normal((30, 35)), random.uniform(0, 2.5))
    mask: Mask = noise > np.quantile(noise, random.uniform(0.2, 0.9))
    return mask


def disc(radius: float) -> Mask:
    rows, columns = np.indices((2 * int(radius) + 9,) * 2)
    centre = int(radius) + 4.3
    mask: Mask = np.hypot(rows - centre, columns - centre) <= radius
    return mask


@pytest.mark.parametrize("seed", range(20))
def test_filling_the_outlines_gives_the_mask_back(seed: int) -> None:
    mask = blobs(seed)
    pieces = outlines(mask)

    separate = [ring for piece in pieces for ring in (piece.outer, *piece.holes)]
    np.testing.assert_array_equal(filled(separate, mask.shape), mask)
    np.testing.assert_array_equal(filled([keyhole(p) for p in pieces], mask.shape), mask)


def test_an_empty_mask_has_no_outline() -> None:
    assert outlines(np.zeros((5, 5), bool)) == []


def test_a_single_pixel_is_a_curve_with_an_area() -> None:
    mask = np.zeros((5, 5), bool)
    mask[2, 3] = True
    [piece] = outlines(mask)
    assert len(piece.outer) >= 3
    assert abs(signed_area(piece.outer)) == pytest.approx(0.5)
    np.testing.assert_allclose(piece.outer.mean(axis=0), [2, 3])


def test_a_nerve_one_pixel_wide_keeps_its_width() -> None:
    mask = np.zeros((30, 9), bool)
    mask[4:26, 4] = True
    [piece] = outlines(mask)
    assert abs(signed_area(piece.outer)) == pytest.approx(mask.sum(), rel=0.05)


@pytest.mark.parametrize("radius", [2.0, 4.0, 10.0, 30.0])
def test_a_disc_is_round_and_as_large_as_its_mask(radius: float) -> None:
    mask = disc(radius)
    [piece] = outlines(mask)

    assert abs(signed_area(piece.outer)) == pytest.approx(mask.sum(), rel=0.03)
    from_centre = np.hypot(*(piece.outer - (int(radius) + 4.3)).T)
    assert np.sqrt(np.mean((from_centre - radius) ** 2)) < 0.2  # the pixels' own edges: 0.3
    edges = np.diff(piece.outer, axis=0, append=piece.outer[:1])
    turns = np.diff(np.unwrap(np.arctan2(*edges.T)))
    steps = np.pi / 2  # what each corner of a pixel would turn
    assert np.abs(turns).max() < steps / 2


def test_holes_run_the_other_way_round() -> None:
    mask = disc(12.0) & ~np.pad(disc(5.0), 7)
    [piece] = outlines(mask)
    [hole] = piece.holes
    assert signed_area(piece.outer) * signed_area(hole) < 0
    assert signed_area(keyhole(piece)) == pytest.approx(
        signed_area(piece.outer) + signed_area(hole)
    )


@pytest.mark.parametrize("seed", range(5))
def test_keyholes_mean_the_same_whichever_rule_fills_them(seed: int) -> None:
    """Odd and even, or once round and not at all."""
    mask = blobs(seed) & (np.indices((30, 35)).sum(axis=0) % 7 != 0)
    times = sum(windings(keyhole(piece), mask.shape) for piece in outlines(mask))
    np.testing.assert_array_equal(np.abs(times), mask)


def nearest(curve: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """How near a closed curve comes to the centre of any pixel."""
    centres = np.argwhere(np.ones(shape, bool))[:, None]
    ways = np.roll(curve, -1, axis=0) - curve
    along = ((centres - curve) * ways).sum(-1) / np.maximum((ways**2).sum(-1), 1e-12)
    closest = curve + np.clip(along, 0, 1)[..., None] * ways
    return float(np.linalg.norm(closest - centres, axis=-1).min())


def crossings(curve: NDArray[np.float64]) -> int:
    """How often edges of a closed curve cross each other, not counting where they touch."""
    starts, ends = curve[:, None], np.roll(curve, -1, axis=0)[:, None]

    def sides(points: NDArray[np.float64]) -> NDArray[np.float64]:
        ways, to = ends - starts, points.swapaxes(0, 1) - starts
        return ways[..., 0] * to[..., 1] - ways[..., 1] * to[..., 0]

    crossed = sides(starts) * sides(ends) < -1e-9
    return int(np.count_nonzero(crossed & crossed.T)) // 2


@pytest.mark.parametrize("seed", [2, 7, 9])
def test_a_bridge_runs_over_no_centre_of_a_pixel(seed: int) -> None:
    """Readers differ on whether what lies on a curve is inside."""
    mask = blobs(seed) & ~(np.indices((30, 35)) % 3 == 1).all(axis=0)  # holes of one pixel
    for piece in outlines(mask):
        assert nearest(keyhole(piece), mask.shape) > 1e-3


def test_a_bridge_to_a_hole_within_the_arms_of_another_does_not_run_through_it() -> None:
    mask = np.ones((40, 40), bool)
    mask[8:32, 8:32] = False
    mask[11:29, 11:29] = True  # an air space all around
    mask[8:11, 18:22] = True  # but here
    mask[24:26, 19:21] = False
    [piece] = outlines(mask)
    assert len(piece.holes) == 2
    assert crossings(keyhole(piece)) == 0


@pytest.mark.parametrize("quarters", range(4))
def test_a_bridge_to_a_hole_behind_another_does_not_run_through_it(quarters: int) -> None:
    """Whichever of the two comes first."""
    mask = np.ones((40, 40), bool)
    mask[34:36, 5:35] = False
    mask[30:32, 19:21] = False  # nearest to the edge beyond the first
    [piece] = outlines(np.rot90(mask, quarters))
    assert len(piece.holes) == 2
    assert crossings(keyhole(piece)) == 0


def test_outlines_without_holes_are_left_as_they_are() -> None:
    ring = np.array([[0.0, 0.5], [0.5, 0.0], [0.0, -0.5], [-0.5, 0.0]])
    assert keyhole(Outline(ring, ())) is ring
