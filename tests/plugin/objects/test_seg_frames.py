"""The frames that we make quickly are those that highdicom makes."""

from collections.abc import Sequence
from copy import copy
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from model.organs import BY_NAME, ORGANS
from plugin.objects.seg import TRANSFER_SYNTAX, SegmentationType, build_seg
from tests.phantoms import Orientation
from tests.results import ORIENTATIONS, finding_of, headers, origin_of, phantom, stored

OF_FRAMES = (
    *("NumberOfFrames", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
    *("DimensionOrganizationType", "SourceImageSequence", "ReferencedSeriesSequence"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)

VOXELS: dict[str, list[tuple[int, int, int]]] = {
    "one frame": [(11, 3, 4)],
    "frames far apart": [(11, 3, 4), (12, 3, 4), (20, 50, 60)],
    "an even step": [(43, 62, 60), (11, 3, 4), (27, 0, 0)],
    "odd bytes": [(0, 0, 0), (1, 62, 60)],
}


def with_voxels(voxels: Sequence[tuple[int, int, int]], *names: str) -> hd.Volume:
    """Each voxel of the next organ, and of the first again when there is no next."""
    array = np.zeros_like(phantom().labels.array)
    for number, voxel in enumerate(voxels):
        array[voxel] = BY_NAME[names[number % len(names)]].label
    return phantom().labels.with_array(array)


def on_grid(slices: Sequence[Dataset], labels: hd.Volume) -> list[Dataset]:
    """Slices as highdicom wants them: it compares geometry to the last digit."""
    exact = [*map(copy, slices)]
    [orientation] = labels.get_plane_orientation()
    [measures] = labels.get_pixel_measures()
    for header, [position] in zip(exact, labels.get_plane_positions(), strict=True):
        header.ImagePositionPatient = position.ImagePositionPatient
        header.ImageOrientationPatient = orientation.ImageOrientationPatient
        header.PixelSpacing = measures.PixelSpacing
    return exact


def by_highdicom(ours: Dataset, labels: hd.Volume, slices: Sequence[Dataset]) -> Dataset:
    """All frames from highdicom, with our segments' descriptions."""
    number_of = np.zeros(256, np.uint8)
    for segment in ours.SegmentSequence:
        organ = next((o for o in ORGANS if o.tg263 == segment.SegmentLabel), None)
        if organ is not None:  # a LABELMAP also describes its background
            number_of[organ.label] = segment.SegmentNumber
    seg = hd.seg.Segmentation(
        source_images=on_grid(slices, labels),
        pixel_array=labels.with_array(number_of[labels.array]),
        segmentation_type=ours.SegmentationType,
        segment_descriptions=[
            hd.seg.SegmentDescription.from_dataset(one)
            for one in ours.SegmentSequence
            if one.SegmentNumber
        ],
        series_instance_uid=ours.SeriesInstanceUID,
        series_number=1,
        sop_instance_uid=ours.SOPInstanceUID,
        instance_number=1,
        manufacturer="highdicom",
        manufacturer_model_name="highdicom",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=TRANSFER_SYNTAX[ours.SegmentationType],
    )
    return dcmread(BytesIO(stored(seg)))  # without classes that compare only with their own


def check_the_same(
    labels: hd.Volume, slices: Sequence[Dataset], segmentation_type: SegmentationType
) -> None:
    ours = build_seg(finding_of(labels, slices), origin_of(slices), segmentation_type)
    theirs = by_highdicom(ours, labels, slices)
    for keyword in OF_FRAMES:
        assert ours.get(keyword) == theirs.get(keyword), keyword
    # Of an odd number of bytes the one behind them means nothing; highdicom takes the letter 0.
    size = len(ours.PixelData) - 1
    assert ours.PixelData[:size] == theirs.PixelData[:size]
    assert len(ours.PixelData) == len(theirs.PixelData)


@pytest.mark.parametrize("segmentation_type", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_whole_patient(orientation: Orientation, segmentation_type: SegmentationType) -> None:
    check_the_same(phantom(orientation).labels, headers(orientation), segmentation_type)


@pytest.mark.parametrize("segmentation_type", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("names", [("brainstem",), ("parotid_left", "parotid_right")])
@pytest.mark.parametrize("voxels", VOXELS.values(), ids=VOXELS)
def test_a_few_voxels(
    voxels: list[tuple[int, int, int]],
    names: tuple[str, ...],
    segmentation_type: SegmentationType,
) -> None:
    check_the_same(with_voxels(voxels, *names), headers(), segmentation_type)
