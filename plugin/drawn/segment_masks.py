"""The segments of a SEG as masks on a CT's own grid, whatever grid they were drawn on."""

import math
from collections.abc import Callable
from functools import cache

import highdicom as hd
import numpy as np
from pydicom import Dataset

from model.preprocess import resample
from plugin.ct.stack import LARGEST_VOLUME
from plugin.dicom_file import DAMAGE
from plugin.drawn.contour_fill import UnusableStructure
from plugin.objects.dicom_objects import LABEL_MAP_SEGMENTATION_STORAGE

ALIGNED = 0.1
"""How far, in voxels, a SEG's voxels may lie from the CT's and still be the same."""

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
            if math.prod(whole.spatial_shape) > LARGEST_VOLUME:
                raise UnusableStructure("its frames span more voxels than a CT may have")
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
        drawn = np.unravel_index(np.flatnonzero(mask.array != 0), mask.array.shape)
        found = np.stack(drawn, axis=1) @ whole[:3, :3].T.astype(int) + whole[:3, 3].astype(int)
        inside = ((found >= 0) & (found < ct.spatial_shape)).all(axis=1)
        array = np.zeros(ct.spatial_shape, np.uint8)
        array[tuple(found[inside].T)] = 1
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
