"""The frames of a SEG: their pixels, and for each where it lies, what it shows and of which slice.

highdicom makes the SEG of one plane, and in it the pattern of a frame's item in
PerFrameFunctionalGroupsSequence. One part of an item says the plane and another the segment, so
each part is encoded once for each of these, and an item is parts joined. highdicom would make all
of it anew for each frame, and all frames of whole planes, in three times the time.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import highdicom as hd
import numpy as np
from highdicom.frame import encode_frame
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag

from model.volumes import boxes_by_label, labelled_box
from plugin.dicom_file import encoded
from plugin.objects.dicom_objects import reference_to

ITEM = b"\xfe\xff\x00\xe0"
"""The tag that begins an item of a sequence, little endian."""

PACKED = 8
"""Frames of one bit a pixel are packed so many at a time: whole bytes, whatever their size."""


@dataclass(frozen=True)
class Frame:
    """What one frame shows."""

    segment: int | None  # None: each pixel is the number of its segment
    plane: int
    shown: tuple[slice, slice]  # rows and columns; there is nothing outside


def with_frames(
    first: hd.seg.Segmentation, numbers: hd.Volume, slices: Sequence[Dataset]
) -> Dataset:
    """The SEG of all planes, as highdicom itself would make it.

    Args:
        first: of any plane with a segment, signed; describes all segments, and refers to any slice.
        numbers: uint8, of each voxel's segment or 0; every segment has a voxel.
        slices: headers of the CT, one for each plane.
    """
    frames = list(_frames(numbers.array, labelmap=first.SegmentationType == "LABELMAP"))
    seg = _reread(first)
    _refer_to(slices, seg)
    seg.NumberOfFrames = len(frames)
    [ours] = numbers.get_pixel_measures()
    [measures] = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    measures.SpacingBetweenSlices = ours.SpacingBetweenSlices  # one plane has none
    planes = sorted({frame.plane for frame in frames})
    if len({frame.segment for frame in frames}) == 1 and len(set(np.diff(planes))) == 1:
        seg.DimensionOrganizationType = "3D"  # nothing but an even step from frame to frame
    items = _items(frames, planes, seg.PerFrameFunctionalGroupsSequence[0], numbers, slices)
    keyword = "PerFrameFunctionalGroupsSequence"
    seg[keyword] = RawDataElement(Tag(keyword), "SQ", len(items), items, 0, False, True)
    if first.SegmentationType == "LABELMAP":
        encoded = encapsulate([_compressed(numbers.array[frame.plane], seg) for frame in frames])
    else:
        encoded = b"".join(_packed(numbers.array, frames))
    seg.PixelData = encoded + bytes(len(encoded) % 2)
    return seg


def _reread(first: hd.seg.Segmentation) -> Dataset:
    """The same without highdicom's notes about its frames, and with parts that stay as they are."""
    file = BytesIO()
    first.save_as(file, enforce_file_format=True)
    return dcmread(BytesIO(file.getvalue()))


def _refer_to(slices: Sequence[Dataset], seg: Dataset) -> None:
    """Name all slices as what the SEG was made of, in place of the one of the first plane."""
    references = [reference_to(header) for header in slices]
    seg.SourceImageSequence = references
    [series] = seg.ReferencedSeriesSequence
    series.ReferencedInstanceSequence = references


def _frames(numbers: np.ndarray, *, labelmap: bool) -> Iterator[Frame]:
    """Segment by segment, and within one plane by plane."""
    if labelmap:
        whole = slice(None), slice(None)
        planes = labelled_box(numbers)[0]
        labelled = [plane for plane in range(planes.start, planes.stop) if numbers[plane].any()]
        yield from (Frame(None, plane, whole) for plane in labelled)
        return
    for segment, box in boxes_by_label(numbers).items():
        for plane in range(box[0].start, box[0].stop):
            if (numbers[plane][box[1:]] == segment).any():
                yield Frame(segment, plane, box[1:])


def _items(
    frames: Sequence[Frame],
    planes: Sequence[int],
    pattern: Dataset,
    numbers: hd.Volume,
    slices: Sequence[Dataset],
) -> bytes:
    """PerFrameFunctionalGroupsSequence; the parts of an item stand in the order of their tags."""
    [source] = pattern.DerivationImageSequence[0].SourceImageSequence
    derivation, position = {}, {}
    for plane in planes:
        source.ReferencedSOPInstanceUID = slices[plane].SOPInstanceUID
        derivation[plane] = encoded(pattern, "DerivationImageSequence")
        pattern.PlanePositionSequence = numbers.get_plane_position(plane)
        position[plane] = encoded(pattern, "PlanePositionSequence")
    identification: dict[int | None, bytes] = {}
    if "SegmentIdentificationSequence" in pattern:  # else it is shared, or the pixels say it
        for segment in {frame.segment for frame in frames}:
            pattern.SegmentIdentificationSequence[0].ReferencedSegmentNumber = segment
            identification[segment] = encoded(pattern, "SegmentIdentificationSequence")
    dimensions = len(np.atleast_1d(pattern.FrameContentSequence[0].DimensionIndexValues))
    indices = struct.Struct(f"<{dimensions}L")  # the value of the one element of its one item
    content = encoded(pattern, "FrameContentSequence")[: -indices.size]
    index_of = {plane: index for index, plane in enumerate(planes, start=1)}
    items = []
    for frame in frames:
        index = [frame.segment, index_of[frame.plane]][-dimensions:]
        item = (
            derivation[frame.plane]
            + content
            + indices.pack(*index)
            + position[frame.plane]
            + identification.get(frame.segment, b"")
        )
        items.append(ITEM + len(item).to_bytes(4, "little") + item)
    return b"".join(items)


def _packed(numbers: np.ndarray, frames: Sequence[Frame]) -> Iterator[bytes]:
    """One bit a pixel, the first in the lowest bit; frames follow each other without a gap."""
    for start in range(0, len(frames), PACKED):
        some = frames[start : start + PACKED]
        bits = np.zeros((len(some), *numbers.shape[1:]), bool)
        for frame, out in zip(some, bits, strict=True):
            out[frame.shown] = numbers[frame.plane][frame.shown] == frame.segment
        yield np.packbits(bits, bitorder="little").tobytes()


def _compressed(plane: np.ndarray, seg: Dataset) -> bytes:
    return encode_frame(
        plane,
        transfer_syntax_uid=seg.file_meta.TransferSyntaxUID,
        bits_allocated=seg.BitsAllocated,
        bits_stored=seg.BitsStored,
        photometric_interpretation=seg.PhotometricInterpretation,
        pixel_representation=seg.PixelRepresentation,
    )
