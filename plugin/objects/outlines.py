"""The outlines of a mask in one plane: smooth closed curves, finer than its pixels.

Every curve crosses each line between the centre of a pixel inside and that of its neighbour outside
exactly once, somewhere between the two. So whatever the smoothing does, whoever fills the curves
again gets the mask back, pixel for pixel, and nothing thin is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import contourpy
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]

MARGIN = 0.05
"""Pixels: a curve keeps this far from the centres, so that no reader sees one on the curve."""

FORWARD, BACKWARD, ROUNDS = 0.5, -0.53, 20
"""How far a point moves towards the middle of its neighbours, back again, and how often (Taubin,
SIGGRAPH 1995): the steps of the pixels go, and the curve does not shrink."""

STEEPEST = 0.2
"""A smoothed curve that crosses a line between two centres at a flatter angle is taken for this
steep, lest the place where they cross run away."""

SHORTEST = 16
"""Points: a curve around fewer has no shape to speak of, and would shrink."""

SHORE, MIDDLE = 0.4, 0.5
"""Where on an edge a bridge ends. From point to point, or from middle to middle, it could run over
the centres of pixels."""


@dataclass(frozen=True)
class Outline:
    """One piece of a mask. Points are (row, column), 0 at the centre of the first pixel."""

    outer: Floats  # (N, 2), closed without repeating the first point
    holes: tuple[Floats, ...]  # each (N, 2), running the other way round


def outlines(mask: NDArray[np.bool_]) -> list[Outline]:
    """The pieces of a mask, with their holes.

    Args:
        mask: ``(rows, columns)``; beyond its edge there is nothing.
    """
    generator = contourpy.contour_generator(
        z=np.pad(mask, 1).astype(np.float64), fill_type=contourpy.FillType.OuterOffset
    )
    found = []
    for points, starts in zip(*generator.filled(0.5, np.inf), strict=True):
        rings = [ring[:-1, ::-1] - 1 for ring in np.split(points, starts[1:-1])]
        outer, *holes = _smooth(rings)
        found.append(Outline(outer, tuple(holes)))
    return found


def _smooth(rings: Sequence[Floats]) -> list[Floats]:
    """The same curves without the pixels' steps.

    Each point begins half way between two neighbouring centres and stays on the line between them.
    """
    start = np.concatenate(rings)  # (N, 2)
    lengths = np.array([len(ring) for ring in rings])
    ends = np.cumsum(lengths)
    before, after = np.arange(len(start)) - 1, np.arange(len(start)) + 1
    before[ends - lengths], after[ends - 1] = ends - 1, ends - lengths
    free = start.copy()
    for step in (FORWARD, BACKWARD) * ROUNDS:
        free += step * ((free[before] + free[after]) / 2 - free)
    # Back to the lines between the centres, along the smoothed curve's own direction.
    point = np.arange(len(start))
    along = (start % 1 != 0).argmax(axis=1)  # the axis of each point's line
    across = 1 - along
    direction = free[after] - free[before]
    rise = direction[point, across]
    rise = np.copysign(np.maximum(np.abs(rise), STEEPEST), rise)
    way = np.clip((start - free)[point, across] / rise, -1, 1)
    shift = (free - start)[point, along] + way * direction[point, along]
    shift[np.repeat(lengths < SHORTEST, lengths)] = 0
    points = start.copy()
    points[point, along] += np.clip(shift, MARGIN - 0.5, 0.5 - MARGIN)
    return np.split(points, ends[:-1])


def keyhole(outline: Outline) -> Floats:
    """Outer curve and holes as one curve: there and back again over the shortest bridges.

    ``(N, 2)``; of no area between the two ways of a bridge, whichever rule fills it.
    """
    curve, left = outline.outer, list(outline.holes)
    while left:
        shores = _on_edges(curve, SHORE)
        tree = cKDTree(shores)
        bridges = [tree.query(_on_edges(hole, MIDDLE)) for hole in left]
        # The hole with the shortest bridge is next: no other can lie in its way.
        chosen = min(range(len(left)), key=lambda i: bridges[i][0].min())
        lengths, partners = bridges[chosen]
        hole = left.pop(chosen)
        there = int(lengths.argmin())
        here = int(partners[there])
        shore, landing = shores[[here]], _on_edges(hole, MIDDLE)[[there]]
        around = np.roll(hole, -there - 1, axis=0)
        curve = np.concatenate(
            [curve[: here + 1], shore, landing, around, landing, shore, curve[here + 1 :]]
        )
    return curve


def _on_edges(ring: Floats, fraction: float) -> Floats:
    """A place on each edge, so far from the point that the edge begins with."""
    return (1 - fraction) * ring + fraction * np.roll(ring, -1, axis=0)
