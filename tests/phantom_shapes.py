"""Smooth implicit shapes in millimetres, and the painting of them on any grid.

Shapes live in the phantom's own head frame (x to the left, y to the back, z to the top, origin
between the ear canals). A ``Pose`` bends that frame into one patient's space, so whatever is nested
in the head frame stays nested in every patient.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Points = NDArray[np.float64]  # (..., 3), mm

EDGE_MM = 1.2
"""Width over which one tissue fades into the next, as a scanner's point spread does."""

SLAB_VOXELS = 1_000_000
"""How many voxels are painted at once: few enough to stay near the processor's cache."""


class Shape(Protocol):
    """A solid body, known by how deep or far away every point is."""

    def bounds(self) -> tuple[Points, Points]:
        """Lowest and highest corner of a box around the shape, mm."""
        ...

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Roughly the distance to the surface in mm, negative inside."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, or with ``boxy`` one of exponent four, nearly a rounded box."""

    centre: Sequence[float] | Points
    radii: Sequence[float] | Points
    boxy: bool = False

    def bounds(self) -> tuple[Points, Points]:
        centre, radii = np.asarray(self.centre, float), np.asarray(self.radii, float)
        return centre - radii, centre + radii

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        squares: Floats = np.zeros((), np.float32)
        for values, centre, radius in zip((x, y, z), self.centre, self.radii, strict=True):
            q = (values - np.float32(centre)) * np.float32(1 / radius)
            q *= q
            if self.boxy:
                q *= q
            squares = squares + q
        length = np.sqrt(np.sqrt(squares)) if self.boxy else np.sqrt(squares)
        return (length - np.float32(1)) * np.float32(min(self.radii))


@dataclass(frozen=True)
class Capsule:
    """A rod with round ends whose radius changes from one end to the other.

    ``stretch`` multiplies the radius along x, y and z, for rods with an oval section.
    """

    start: Sequence[float] | Points
    end: Sequence[float] | Points
    radius: float  # at the start
    end_radius: float
    stretch: tuple[float, float, float] = (1, 1, 1)

    def bounds(self) -> tuple[Points, Points]:
        start, end, stretch = (np.asarray(v, float) for v in (self.start, self.end, self.stretch))
        low = np.minimum(start - self.radius * stretch, end - self.end_radius * stretch)
        return low, np.maximum(start + self.radius * stretch, end + self.end_radius * stretch)

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        stretch = np.asarray(self.stretch, float)
        start = np.asarray(self.start, float) / stretch
        along = np.asarray(self.end, float) / stretch - start
        px, py, pz = (
            v * np.float32(1 / s) - np.float32(o)
            for v, s, o in zip((x, y, z), stretch, start, strict=True)
        )
        ax, ay, az = along.astype(np.float32)
        t = (px * ax + py * ay + pz * az) * np.float32(1 / (along @ along))
        np.clip(t, 0, 1, out=t)
        px -= t * ax
        py -= t * ay
        pz -= t * az
        t *= np.float32(self.end_radius - self.radius)
        t += np.float32(self.radius)
        distance: Floats = np.sqrt(px * px + py * py + pz * pz) - t
        return distance


@dataclass(frozen=True)
class Clipped:
    """The part of a shape on one side of a plane across x (0), y (1) or z (2)."""

    shape: Shape
    axis: int
    at: float  # mm
    keep: int  # 1: what is above the plane, -1: what is below it

    def bounds(self) -> tuple[Points, Points]:
        low, high = self.shape.bounds()
        if self.keep > 0:
            low[self.axis] = max(low[self.axis], self.at)
        else:
            high[self.axis] = min(high[self.axis], self.at)
        return low, high

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        beyond = (np.float32(self.at) - (x, y, z)[self.axis]) * np.float32(self.keep)
        distance: Floats = np.maximum(self.shape.distance(x, y, z), beyond)
        return distance


class Layer(NamedTuple):
    """One coat of paint: later layers cover earlier ones."""

    shape: Shape
    hu: float
    label: int | None = 0  # None keeps the label that is there already


def tube(
    points: Iterable[Sequence[float] | Points],
    radii: Iterable[float],
    stretch: tuple[float, float, float] = (1, 1, 1),
) -> list[Capsule]:
    """A chain of capsules through ``points`` with a radius at each of them."""
    nodes = list(zip(points, radii, strict=True))
    return [
        Capsule(start, end, radius, end_radius, stretch)
        for (start, radius), (end, end_radius) in pairwise(nodes)
    ]


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How one patient's space maps to the head frame: place, size, nod of the head, smooth bend."""

    position_mm: Points  # of the head frame's origin in the patient, LPS
    scale: Points  # patient mm per head frame mm, along x, y, z
    turn: NDArray[np.float64]  # (3, 3) rotation of the head against the shoulders
    wave_mm: Points  # amplitude of the bend along x, y, z
    wave_phase: Points
    wave_length_mm: float = 170.0

    PIVOT = np.array([0.0, 18.0, -95.0])  # between C3 and C4
    RIGID_ABOVE_MM = -50.0  # the head turns as one; the neck takes up the rotation
    STILL_BELOW_MM = -170.0  # the shoulders stay

    def to_head_frame(self, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats, Floats]:
        """Head frame coordinates of points in the patient; the arrays broadcast."""
        u, v, w = (
            (values - np.float32(origin)) * np.float32(1 / scale)
            for values, origin, scale in zip((x, y, z), self.position_mm, self.scale, strict=True)
        )
        k = np.float32(2 * np.pi / self.wave_length_mm)
        a, p = self.wave_mm.astype(np.float32), self.wave_phase.astype(np.float32)
        u, v, w = (
            u + a[0] * np.sin(k * w + p[0]),
            v + a[1] * np.sin(k * w + p[1]),
            w + a[2] * np.sin(k * v + p[2]),
        )
        t = (w - np.float32(self.STILL_BELOW_MM)) * np.float32(
            1 / (self.RIGID_ABOVE_MM - self.STILL_BELOW_MM)
        )
        np.clip(t, 0, 1, out=t)
        weight = t * t * (3 - 2 * t)
        m = (self.turn.T - np.eye(3)).astype(np.float32)
        du, dv, dw = (c - np.float32(o) for c, o in zip((u, v, w), self.PIVOT, strict=True))
        x_head, y_head, z_head = (
            c + weight * (row[0] * du + row[1] * dv + row[2] * dw)
            for c, row in zip((u, v, w), m, strict=True)
        )
        return x_head, y_head, z_head

    def to_patient(self, points: Points) -> Points:
        """Patient coordinates (LPS, mm) of ``(N, 3)`` points of the head frame."""
        found = points * self.scale + self.position_mm
        for _ in range(20):  # the bend is gentle: the correction shrinks several-fold each time
            x, y, z = found.T.astype(np.float32)
            found += (points - np.stack(self.to_head_frame(x, y, z), axis=1)) * self.scale
        return found


def paint(
    layers: Sequence[Layer],
    pose: Pose,
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    ct: Floats,
) -> NDArray[np.uint8]:
    """Paint over ``ct`` in place, each layer only within its own box.

    Args:
        affine: ``(4, 4)``, from (slice, row, column) to LPS mm; it may be sheared.
        ct: ``shape``, what is there before, HU.

    Returns:
        ``shape``, the labels.
    """
    labels = np.zeros(shape, np.uint8)
    boxes = _index_boxes(layers, pose, affine, shape)
    thickness = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for first in range(0, shape[0], thickness):
        last = min(first + thickness, shape[0])
        here = [
            (layer, np.clip(box, [[first, 0, 0]] * 2, [[last, *shape[1:]]] * 2))
            for layer, box in zip(layers, boxes, strict=True)
        ]
        here = [(layer, box) for layer, box in here if (box[1] > box[0]).all()]
        if not here:
            continue
        low = np.min([box[0] for _, box in here], axis=0)
        high = np.max([box[1] for _, box in here], axis=0)
        coordinates = [
            np.ascontiguousarray(np.broadcast_to(c, tuple(high - low)))
            for c in pose.to_head_frame(*_grid(affine, low, high))
        ]
        for layer, box in here:
            at = tuple(slice(a, b) for a, b in (box - low).T)
            x, y, z = (c[at] for c in coordinates)
            distance = layer.shape.distance(x, y, z)
            there = tuple(slice(a, b) for a, b in box.T)
            if layer.label is not None:
                labels[there][distance <= 0] = layer.label
            cover = distance
            cover *= np.float32(-1 / EDGE_MM)
            cover += np.float32(0.5)
            np.clip(cover, 0, 1, out=cover)
            cover *= np.float32(layer.hu) - ct[there]
            ct[there] += cover
    return labels


def labels_at(layers: Sequence[Layer], pose: Pose, points: Points) -> NDArray[np.uint8]:
    """Labels of ``(N, 3)`` points in the patient, LPS mm."""
    x, y, z = pose.to_head_frame(*points.T.astype(np.float32))
    labels = np.zeros(len(points), np.uint8)
    for layer in layers:
        if layer.label is not None:
            labels[layer.shape.distance(x, y, z) <= 0] = layer.label
    return labels


def _grid(
    affine: NDArray[np.float64], low: NDArray[np.int64], high: NDArray[np.int64]
) -> tuple[Floats, Floats, Floats]:
    """LPS mm of the voxel centres of a box; axes along which nothing changes have length one."""
    k, j, i = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    x, y, z = (
        sum(
            (r * n for r, n in zip(row[:3], (k, j, i), strict=True) if r),
            np.full((1, 1, 1), row[3]),
        )
        for row in affine[:3]
    )
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)


def _index_boxes(
    layers: Sequence[Layer],
    pose: Pose,
    affine: NDArray[np.float64],
    size: tuple[int, int, int],
) -> NDArray[np.int64]:
    """``(layers, 2, 3)``: first and one past the last (slice, row, column) each can touch."""
    bounds = np.array([layer.shape.bounds() for layer in layers])  # (layers, 2, 3)
    low, extent = bounds[:, :1], bounds[:, 1:] - bounds[:, :1]
    margin = EDGE_MM + 0.03 * extent  # the bend between the points looked at
    steps = np.indices((5, 5, 5)).reshape(3, -1).T / 4  # (125, 3), from 0 to 1
    points = low - margin + steps * (extent + 2 * margin)  # (layers, 125, 3)
    patient = pose.to_patient(points.reshape(-1, 3)).reshape(points.shape)
    index = (patient - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    boxes = np.stack([np.floor(index.min(axis=1)), np.ceil(index.max(axis=1)) + 1], axis=1)
    clipped: NDArray[np.int64] = np.clip(boxes, 0, size).astype(np.int64)
    return clipped
