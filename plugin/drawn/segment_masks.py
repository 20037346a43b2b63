"""The segments of a SEG as masks on a CT's own grid, whatever grid they were drawn on."""

import math
from collections.abc import Callable, Sequence
from functools import cache

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from model.preprocess import resample
from plugin.dicom_file import DAMAGE
from plugin.drawn.contour_fill import UnusableStructure
from plugin.objects.dicom_objects import LABEL_MAP_SEGMENTATION_STORAGE

ALIGNED = 0.1
"""How far, in voxels, a SEG's voxels may lie from the CT's and still be the same."""

FINER = 8
SMALL = 2**24
"""A SEG may have so many times the CT's voxels, or so many: a few bytes can say gigabytes."""

IRREGULAR_MM = 0.2
"""How far a SEG's planes may lie from an even stack; a CT's slices may by half of it."""


def segment_masks(
    seg: hd.seg.Segmentation,
) -> Callable[[int, hd.VolumeGeometry], hd.Volume]:
    """From the number of a segment and the grid of a CT to a uint8 mask on it.

    What is returned raises UnusableStructure: there is no such mask, with the reason.
    """

    @cache  # all segments of a label map are one volume, and decoded at once
    def label_map() -> hd.Volume:
        return seg.get_volume(combine_segments=True, atol=IRREGULAR_MM)

    @cache
    def geometry() -> hd.VolumeGeometry | None:  # what is read is all between the outermost frames
        return None if seg.is_tiled else seg.get_volume_geometry(atol=IRREGULAR_MM)

    def as_drawn(number: int) -> hd.Volume:
        if seg.SOPClassUID == LABEL_MAP_SEGMENTATION_STORAGE:
            volume, inside = label_map(), label_map().array == number
        else:
            volume = seg.get_volume(segment_numbers=[number], atol=IRREGULAR_MM)
            inside = volume.array[..., 0] >= 0.5  # fractional ones too
        return hd.Volume(inside.view(np.uint8), volume.affine, "PATIENT")

    def mask(number: int, ct: hd.VolumeGeometry) -> hd.Volume:
        uneven = "its frames are not an even stack of slices"
        try:
            if (whole := geometry()) is None:
                raise UnusableStructure(uneven)
            if math.prod(whole.spatial_shape) > max(FINER * math.prod(ct.spatial_shape), SMALL):
                raise UnusableStructure("its frames span far more voxels than the CT has")
            drawn = as_drawn(number)
        except DAMAGE as error:
            raise UnusableStructure(uneven) from error
        return on_grid(drawn, ct)

    return mask


def segments_of_frames(seg: hd.seg.Segmentation) -> list[int]:
    """The number of each frame's segment; of one that all frames share, for every frame."""
    shared = _segment(seg.SharedFunctionalGroupsSequence[0])
    of_frames = [_segment(frame) or shared for frame in seg.PerFrameFunctionalGroupsSequence]
    return [number for number in of_frames if number is not None]


def _segment(group: Dataset) -> int | None:
    if "SegmentIdentificationSequence" not in group:
        return None
    return int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def on_grid(mask: hd.Volume, ct: hd.VolumeGeometry) -> hd.Volume:
    """A mask on the CT's grid: voxel for voxel if they agree, else where at least half is inside.

    Raises:
        UnusableStructure: the grids are not parallel, or nothing lies on the CT.
    """
    steps = np.linalg.inv(ct.affine) @ mask.affine  # mask's indices to the CT's
    whole = np.rint(steps)
    moved = np.abs(steps[:3, :3] - whole[:3, :3]) @ np.array(mask.spatial_shape)
    moved += np.abs(steps[:3, 3] - whole[:3, 3])
    if moved.max() <= ALIGNED and abs(round(np.linalg.det(whole[:3, :3]))) == 1:
        array = _moved(mask.array, whole.astype(int), ct.spatial_shape)
    else:
        orientation = ct.get_closest_patient_orientation()
        # A border of nothing, for beyond its border a resampled volume continues.
        mask = mask.to_patient_orientation(orientation).pad(1)
        try:
            share = resample(mask, ct)
        except ValueError as error:
            raise UnusableStructure("its grid is tilted against the CT's") from error
        array = (share.array >= 0.5).astype(np.uint8)
    if not array.any():
        raise UnusableStructure("it does not fill a voxel of the CT")
    return hd.Volume(array, ct.affine, "PATIENT", ct.frame_of_reference_uid)


def _moved(
    drawn: NDArray[np.uint8], steps: NDArray[np.int_], shape: Sequence[int]
) -> NDArray[np.uint8]:
    """Voxels at other indices, and 1 for each that is not 0.

    Args:
        drawn: a volume.
        steps: ``(4, 4)`` from its indices to the new ones; each axis runs along another.
        shape: of what is returned. What lies beyond it is left out.
    """
    axes = np.abs(steps[:3, :3]).argmax(axis=1)  # of `drawn`, in the order of the new ones
    drawn, start = drawn.transpose(axes), steps[:3, 3].copy()
    for axis, size in enumerate(drawn.shape):
        if steps[axis, axes[axis]] < 0:
            drawn = np.flip(drawn, axis)
            start[axis] -= size - 1
    first = np.maximum(start, 0)
    stop = np.maximum(np.minimum(start + drawn.shape, shape), first)
    array = np.zeros(shape, np.uint8)
    inside = tuple(map(slice, first, stop))
    array[inside] = drawn[tuple(map(slice, first - start, stop - start))] != 0
    return array
