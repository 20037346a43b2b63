"""How much of each organ a label volume holds."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from model.organs import Organ

MM3_PER_ML = 1000.0


def count_voxels(labels: hd.Volume) -> NDArray[np.int64]:
    """Number of voxels of each of the 256 values that a uint8 volume can hold."""
    # Slice by slice: numpy makes an eight-byte integer of each label that it counts.
    return np.sum([np.bincount(plane.ravel(), minlength=256) for plane in labels.array], axis=0)


def volumes_ml(labels: hd.Volume, organs: Sequence[Organ]) -> dict[str, float]:
    """Millilitres of each organ that occurs, by its name."""
    counts = count_voxels(labels)
    ml = labels.voxel_volume / MM3_PER_ML
    return {o.name: round(float(counts[o.label] * ml), 3) for o in organs if counts[o.label]}
