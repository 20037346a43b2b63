"""Closed planar contours, as planning systems draw them, to a mask on a CT's own grid.

A voxel belongs to the mask if at least half of it lies inside, judged by `SAMPLES` x `SAMPLES`
points in the plane of its slice: an outline counts where it was drawn, between the pixels' centres.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]

SAMPLES = 8
"""Points across a pixel, in each direction."""

ON_SLICE_MM = 0.3
"""A plane this near to a slice, and no further than a quarter of the way to the next, is drawn on
it, if none is nearer; a contour's own points lie this flat."""

ONE_PLANE_MM = 0.05
"""Contours whose depths differ by no more were drawn on one plane."""

SAME = 0.05
"""A contour that differs from another by so small a part of it is that one, drawn again."""

MOST_SAMPLES = 2**26
"""Of a plane: those of 1024 x 1024 pixels."""

MOST_ON_A_PLANE = 1000
"""Contours of one structure: each is compared with all others."""

MOST_COMPARED = 2**32
"""Samples around each contour of a plane, times their number: any may be another drawn again."""

MAX_GAP_MM = 10.0
"""Between planes that are no further apart, an undrawn slice takes the shape between them."""

INSIDE = 0.95
"""A contour of which this much lies within what is filled already is a hole."""


class UnusableStructure(Exception):
    """There is no mask of this structure; the message says why and names no patient."""


@dataclass(frozen=True, kw_only=True)
class Contour:
    """One closed outline."""

    points_mm: Floats  # (N, 3), in the patient
    xor: bool = False  # drawn to be combined by exclusive or (CLOSEDPLANAR_XOR)


@dataclass(frozen=True)
class _Window:
    """The part of the slices that the contours need, in pixels."""

    row: int
    column: int
    rows: int
    columns: int

    @property
    def samples(self) -> int:
        return self.rows * self.columns * SAMPLES**2

    @property
    def pixels(self) -> tuple[slice, slice]:
        return (
            slice(self.row, self.row + self.rows),
            slice(self.column, self.column + self.columns),
        )


@dataclass(frozen=True)
class _Outline:
    """A contour within its plane."""

    points: Floats  # (N, 2) row and column, in pixels; whole numbers are centres
    xor: bool


@dataclass(frozen=True)
class _Shape:
    """The sample points inside an outline, in the smallest box that holds them."""

    bits: Bits
    rows: slice  # of the window's samples
    columns: slice
    xor: bool
    area: int  # in samples

    def within(self, rows: slice, columns: slice) -> Bits:
        """Its bits in a part of its box."""
        top, left = self.rows.start, self.columns.start
        return self.bits[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]

    def is_again(self, larger: "_Shape") -> bool:
        """Whether it is another shape, of no smaller area, drawn again."""
        differs = SAME * self.area
        rows, columns = _common(self.rows, larger.rows), _common(self.columns, larger.columns)
        apart = rows.start >= rows.stop or columns.start >= columns.stop
        if apart or larger.area - self.area > differs:
            return False
        both = np.count_nonzero(self.within(rows, columns) & larger.within(rows, columns))
        return self.area + larger.area - 2 * int(both) <= differs


def _common(a: slice, b: slice) -> slice:
    return slice(max(a.start, b.start), min(a.stop, b.stop))


def fill_contours(contours: Sequence[Contour], grid: hd.VolumeGeometry) -> hd.Volume:
    """The mask of one structure: uint8, 1 inside, on `grid`.

    On one plane, a contour inside what others fill is a hole, and a narrow channel that leads to a
    hole (a keyhole) closes by itself. Slices between drawn planes are interpolated.

    Args:
        contours: of one structure, in any order.
        grid: of the CT, first axis from slice to slice, in any orientation.

    Raises:
        UnusableStructure: they are not parallel to the slices, leave a gap, or miss the CT.
    """
    planes = _by_plane(contours, grid)
    slices, rows, columns = grid.spatial_shape
    slice_mm = grid.spacing[0]
    depths = np.array(sorted(planes))  # in slices
    gaps_mm = np.diff(depths) * slice_mm
    if len(gaps_mm) and gaps_mm.max() > MAX_GAP_MM:
        raise UnusableStructure(
            f"its contours leave a gap of {gaps_mm.max():.0f} mm, expected at most "
            f"{MAX_GAP_MM:.0f} mm"
        )
    mask = np.zeros(grid.spatial_shape, np.uint8)
    window = _window_around([o for outlines in planes.values() for o in outlines], rows, columns)
    if window.samples > MOST_SAMPLES:
        raise UnusableStructure(
            f"it covers {window.rows} x {window.columns} pixels of a slice, more than any organ"
        )
    for outlines in planes.values():
        if len(outlines) > MOST_ON_A_PLANE:
            raise UnusableStructure(f"{len(outlines)} contours lie on one plane, too many")
        around = sum(_window_around([outline], rows, columns).samples for outline in outlines)
        if around * len(outlines) > MOST_COMPARED:
            raise UnusableStructure(
                f"{len(outlines)} contours lie on one plane, too many of their size for an organ"
            )
    # The first and the last plane stand for half of what lies between planes, and at most for
    # half a slice.
    reach = min(float(np.median(np.diff(depths))), 1.0) / 2 if len(depths) > 1 else 0.5
    first = max(int(np.ceil(depths[0] - reach)), 0)
    last = min(int(np.ceil(depths[-1] + reach)) - 1, slices - 1)
    if window.rows > 0 and window.columns > 0:

        @lru_cache(maxsize=2)  # all planes of a large structure would be gigabytes
        def filled(depth: float) -> Bits:
            return _fill_plane(planes[depth], window)

        @lru_cache(maxsize=2)
        def distance(depth: float) -> Floats:
            return _signed_distance(filled(depth), grid.spacing[1:])

        for k in range(first, last + 1):
            samples = _at_depth(k, depths, filled, distance)
            mask[k][window.pixels] = _coverage(samples) >= 0.5
    if not mask.any():
        raise UnusableStructure("it does not fill a voxel of the CT")
    return hd.Volume(mask, grid.affine, "PATIENT", grid.frame_of_reference_uid)


def _by_plane(contours: Sequence[Contour], grid: hd.VolumeGeometry) -> dict[float, list[_Outline]]:
    """Outlines by the depth of their plane, in slices; a whole number on a slice."""
    slice_mm = grid.spacing[0]
    drawn: list[tuple[float, _Outline]] = []
    for contour in contours:
        indices = grid.map_reference_to_indices(contour.points_mm)  # (N, 3)
        depth = float(indices[:, 0].mean())
        if np.abs(indices[:, 0] - depth).max() * slice_mm > ON_SLICE_MM:
            raise UnusableStructure("its contours are not parallel to the slices of the CT")
        drawn.append((depth, _Outline(indices[:, 1:], contour.xor)))
    drawn.sort(key=lambda one: one[0])
    planes: dict[float, list[_Outline]] = {}
    plane = -np.inf
    for depth, outline in drawn:
        if (depth - plane) * slice_mm > ONE_PLANE_MM:
            plane = depth
        planes.setdefault(plane, []).append(outline)
    nearest: dict[int, float] = {}  # plane of each slice that one may be drawn on
    near = min(ON_SLICE_MM / slice_mm, 0.25)
    for plane in planes:
        k = round(plane)
        if abs(plane - k) <= min(near, abs(nearest.get(k, np.inf) - k)):
            nearest[k] = plane
    on_slice = {plane: float(k) for k, plane in nearest.items()}
    return {on_slice.get(plane, plane): outlines for plane, outlines in planes.items()}


def _window_around(outlines: Sequence[_Outline], rows: int, columns: int) -> _Window:
    """All outlines with a pixel around them, as far as the slices go."""
    points = np.concatenate([outline.points for outline in outlines])
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 2, (rows, columns))
    high = np.maximum(high, low)  # all beside the slices: an empty window
    return _Window(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


def _fill_plane(outlines: Sequence[_Outline], window: _Window) -> Bits:
    """Sample points inside the outlines of one plane, the largest outline first."""
    shapes = [shape for outline in outlines if (shape := _inside(outline, window)).area]
    shapes.sort(key=lambda shape: -shape.area)
    filled = np.zeros((window.rows * SAMPLES, window.columns * SAMPLES), bool)
    for number, shape in enumerate(shapes):
        if any(shape.is_again(larger) for larger in shapes[:number]):
            continue  # the same outline twice is one outline, not a hole of its own size
        part = filled[shape.rows, shape.columns]
        if shape.xor:
            part ^= shape.bits
        elif np.count_nonzero(part & shape.bits) >= INSIDE * shape.area:
            part &= ~shape.bits
        else:
            part |= shape.bits
    return filled


def _inside(outline: _Outline, window: _Window) -> _Shape:
    """Sample points inside one outline, by the even-odd rule along each row of them."""
    height, width = window.rows * SAMPLES, window.columns * SAMPLES
    corner = np.array([window.row, window.column])
    start = (outline.points - corner + 0.5) * SAMPLES - 0.5  # sample i lies at i
    end = np.roll(start, -1, axis=0)
    # An edge is crossed by the rows from its lower end up to, but not including, its upper end.
    first = np.clip(np.ceil(np.minimum(start[:, 0], end[:, 0])), 0, height).astype(int)
    stop = np.clip(np.ceil(np.maximum(start[:, 0], end[:, 0])), 0, height).astype(int)
    count = np.maximum(stop - first, 0)
    edge = np.repeat(np.arange(len(start)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (end[edge, 1] - start[edge, 1]) / (end[edge, 0] - start[edge, 0])
    crossing = start[edge, 1] + (row - start[edge, 0]) * slope
    column = np.clip(np.ceil(crossing), 0, width).astype(int)  # all samples from here on change
    top, left = int(row.min(initial=height)), int(column.min(initial=width))
    height, width = int(row.max(initial=top - 1)) + 1 - top, int(column.max(initial=left)) - left
    place = (row - top) * (width + 1) + column - left
    changes = np.bincount(place, minlength=height * (width + 1)).reshape(height, width + 1)
    sums = np.add.accumulate(changes[:, :width].astype(np.uint8), axis=1, dtype=np.uint8)
    bits = sums % 2 == 1
    rows, columns = slice(top, top + height), slice(left, left + width)
    return _Shape(bits, rows, columns, outline.xor, int(np.count_nonzero(bits)))


def _at_depth(
    depth: float,
    depths: Floats,
    filled: Callable[[float], Bits],
    distance: Callable[[float], Floats],
) -> Bits:
    """The shape at a depth: as drawn there, or between the two planes around it."""
    above = int(np.searchsorted(depths, depth))
    if above in (0, len(depths)):
        return filled(float(depths[-1 if above else 0]))
    if depths[above] == depth:
        return filled(depth)
    low, high = float(depths[above - 1]), float(depths[above])
    share = (depth - low) / (high - low)
    # Shape-based interpolation, Raya and Udupa, IEEE Transactions on Medical Imaging 9, 1990.
    return (1 - share) * distance(low) + share * distance(high) > 0


def _signed_distance(shape: Bits, pixel_mm: Sequence[float]) -> Floats:
    """Of every sample point from the shape's border, positive inside; in mm times SAMPLES."""
    if not shape.any():
        return np.full(shape.shape, -np.inf)
    shape = np.pad(shape, 1)
    inside: Floats = ndimage.distance_transform_edt(shape, sampling=pixel_mm)
    outside: Floats = ndimage.distance_transform_edt(~shape, sampling=pixel_mm)
    return (inside - outside)[1:-1, 1:-1]


def _coverage(samples: Bits) -> Floats:
    """The share of each pixel that lies inside."""
    rows, columns = (side // SAMPLES for side in samples.shape)
    blocks = samples.reshape(rows, SAMPLES, columns, SAMPLES)
    return blocks.mean(axis=(1, 3))
