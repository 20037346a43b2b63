"""Where the organs of a label volume are, and how much of each it holds."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.organs import Organ

MM3_PER_ML = 1000.0

TOUCHING = np.ones((3, 3, 3))
"""For ``ndimage.label``: voxels that touch at a corner are of one piece."""

Box = tuple[slice, slice, slice]
"""A part of a volume, by its three axes."""


def labelled_box(labels: NDArray[np.uint8]) -> Box:
    """The smallest box of a ``(Z, Y, X)`` array around all that is not 0; empty if nothing is.

    A volume is mostly background, so whatever looks at each voxel is quicker within this box.
    """
    seen = labels.max(axis=0, initial=0)  # along the rays of one view
    rows, columns = _range(seen.max(axis=1)), _range(seen.max(axis=0))
    planes = _range(labels[:, rows, columns].max(axis=(1, 2), initial=0))
    return planes, rows, columns


def boxes_by_label(labels: NDArray[np.uint8]) -> dict[int, Box]:
    """The smallest box of a ``(Z, Y, X)`` array around each value but 0 that occurs, ascending."""
    whole = labelled_box(labels)
    found = ndimage.find_objects(labels[whole], max_label=255)
    return {
        label: box_within(whole, box) for label, box in enumerate(found, start=1) if box is not None
    }


def box_within(outer: Box, inner: Box) -> Box:
    """A box of a part of a volume, as a box of the volume."""
    planes, rows, columns = (
        slice(whole.start + part.start, whole.start + part.stop)
        for whole, part in zip(outer, inner, strict=True)
    )
    return planes, rows, columns


def centre_mm(mask: NDArray[np.bool_], box: Box, volume: hd.Volume) -> NDArray[np.float64]:
    """The centre of what is true in a box of a volume, in LPS."""
    centre = np.argwhere(mask).mean(axis=0) + [side.start for side in box]
    return volume.map_indices_to_reference(centre[None])[0]


def count_voxels(labels: hd.Volume) -> NDArray[np.int64]:
    """Number of voxels of each of the 256 values that a uint8 volume can hold."""
    part = labels.array[labelled_box(labels.array)]
    counts = np.zeros(256, np.int64)
    for plane in part:  # numpy makes an eight-byte integer of each label that it counts
        counts += np.bincount(plane.ravel(), minlength=256)
    counts[0] += labels.array.size - part.size
    return counts


def volumes_ml(labels: hd.Volume, organs: Sequence[Organ]) -> dict[str, float]:
    """Millilitres of each organ that occurs, by its name."""
    counts = count_voxels(labels)
    ml = labels.voxel_volume / MM3_PER_ML
    return {o.name: round(float(counts[o.label] * ml), 6) for o in organs if counts[o.label]}


def _range(values: NDArray[np.uint8]) -> slice:
    """From the first to the last that is not 0."""
    there = values.nonzero()[0]
    return slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 0)
