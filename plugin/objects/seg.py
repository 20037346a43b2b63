"""Organ labels as a DICOM Segmentation in the patient and study of the CT they were made from."""

from collections.abc import Sequence
from io import BytesIO
from typing import Literal

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from pydicom.valuerep import DS

from model.organs import ORGANS, Organ
from model.volumes import labelled_box
from plugin.dicom_file import number_in
from plugin.objects.dicom_objects import (
    ANATOMICAL_STRUCTURE,
    device_serial_number,
    organ_code,
    say_what_was_lost,
    series_description,
    series_number,
    side_code,
    sign,
    software_versions,
    tracking_uid,
    without_patient,
)
from plugin.objects.finding import Finding
from plugin.objects.identity import MANUFACTURER, Origin
from plugin.objects.seg_frames import with_frames

SegmentationType = Literal["BINARY", "LABELMAP"]

TRANSFER_SYNTAX = {
    "BINARY": ExplicitVRLittleEndian,  # one bit a pixel; DICOM has no common compression for it
    "LABELMAP": RLELossless,  # one byte a pixel, nearly all background
}

LINE_END = "\r\n"

LT_LENGTH = 10240
"""Limit of the value representation LT."""

GRID_TOLERANCE = 1e-3
"""Between the grid of a CT and that of its SEG, which is written with 16 characters a number."""

THINNEST_MM, THICKEST_MM = 0.01, 100.0
"""What a slice can be; another number is a mistake in the header."""

FILES = "files_blake3"
"""Parameter of the algorithm by which a SEG tells of which files it was made."""

LABELS = {organ.tg263: organ.label for organ in ORGANS}


def seg_uid(origin: Origin, segmentation_type: SegmentationType) -> str:
    """The SOP Instance UID that ``build_seg`` gives; known before the work is done."""
    return origin.uid(f"SEG {segmentation_type} instance")


def seg_series_uid(origin: Origin, segmentation_type: SegmentationType) -> str:
    """The SeriesInstanceUID of the same SEG."""
    return origin.uid(f"SEG {segmentation_type} series")


def build_seg(finding: Finding, origin: Origin, segmentation_type: SegmentationType) -> Dataset:
    """Write the organs present as one SEG instance.

    Segments are numbered from 1 in the order of the table, organs without a voxel left out.
    ``read_warnings`` gives the warnings back. LABELMAP is smaller and newer, and few viewers show
    it yet.

    Raises:
        NoOrganFound: no voxel is labelled.
        ValueError: a label belongs to none of the model's organs.
    """
    slices, present = finding.slices, finding.present
    model = origin.model
    algorithm = hd.AlgorithmIdentificationSequence(
        name=model.name,
        family=codes.DCM.ArtificialIntelligence,
        version=software_versions(origin),
        source=MANUFACTURER,
        parameters={"weights_sha256": model.weights_sha256, FILES: origin.files_blake3},
    )
    numbers = _numbered(finding.labels, present)
    plane = labelled_box(numbers.array)[0].start
    one = numbers[plane : plane + 1]
    seg = hd.seg.Segmentation(
        source_images=[_source(slices, one)],
        pixel_array=one,
        segmentation_type=segmentation_type,
        segment_descriptions=[
            _describe(organ, number, algorithm, origin) for number, organ in enumerate(present, 1)
        ],
        series_instance_uid=seg_series_uid(origin, segmentation_type),
        series_number=series_number(slices[0], "SEG"),
        sop_instance_uid=seg_uid(origin, segmentation_type),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model.name,
        software_versions=software_versions(origin),
        device_serial_number=device_serial_number(origin),
        content_label="SHADOW_NOT_USE" if origin.shadow else "ORGANS_AT_RISK",
        content_description=series_description(origin, "SEG"),
        transfer_syntax_uid=TRANSFER_SYNTAX[segmentation_type],
        content_qualification="RESEARCH",
        content_date=origin.created.date(),
        content_time=origin.created.time(),
    )
    # highdicom draws this one at random.
    dimensions = origin.uid(f"SEG {segmentation_type} dimensions")
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    seg.ContentCreatorName = None  # of type 2, and left out by highdicom where there is none
    if finding.warnings:
        seg.ImageComments = LINE_END.join(finding.warnings)[:LT_LENGTH]
    sign(seg, slices[0], origin)
    return with_frames(seg, numbers, slices)


def read_seg(file: bytes, *, on: hd.Volume | None = None) -> hd.Volume:
    """The labels that ``build_seg`` was given.

    Args:
        file: of the SEG.
        on: the CT, to have them on its whole grid; else on that part of it which has any.
    """
    seg = hd.seg.segread(BytesIO(file))
    label_of = np.zeros(256, np.uint8)
    for segment in seg.SegmentSequence:
        if segment.SegmentLabel in LABELS:  # a LABELMAP also describes its background
            label_of[segment.SegmentNumber] = LABELS[segment.SegmentLabel]
    volume = seg.get_volume(combine_segments=True)
    labels = volume.with_array(label_of[volume.array])
    if on is None:
        return labels
    array = labels.match_geometry(on, tol=GRID_TOLERANCE).array
    return on.with_array(array)


def read_warnings(file: bytes) -> tuple[str, ...]:
    """The warnings that ``build_seg`` was given."""
    seg = dcmread(BytesIO(file), specific_tags=["ImageComments"])
    comments = str(seg.get("ImageComments") or "")
    return tuple(comments.split(LINE_END)) if comments else ()


def read_files_blake3(file: bytes) -> str:
    """Of the origin that ``build_seg`` was given; empty if it does not say."""
    seg = dcmread(BytesIO(file), specific_tags=["SegmentSequence"])
    for segment in seg.SegmentSequence:  # a LABELMAP also describes its background
        if algorithm := segment.get("SegmentationAlgorithmIdentificationSequence"):
            parameters = hd.AlgorithmIdentificationSequence.from_sequence(algorithm).parameters
            return (parameters or {}).get(FILES, "")
    return ""


def _numbered(labels: hd.Volume, present: Sequence[Organ]) -> hd.Volume:
    """Segment numbers in place of labels, 1 to n without gaps as DICOM wants them."""
    number_of = np.zeros(256, np.uint8)
    number_of[[organ.label for organ in present]] = np.arange(1, len(present) + 1)
    numbers = np.zeros(labels.shape, np.uint8)
    box = labelled_box(labels.array)
    numbers[box] = number_of[labels.array[box]]
    return labels.with_array(numbers)


def _describe(
    organ: Organ, number: int, algorithm: hd.AlgorithmIdentificationSequence, origin: Origin
) -> hd.seg.SegmentDescription:
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=organ.tg263,
        segmented_property_category=ANATOMICAL_STRUCTURE,
        segmented_property_type=organ_code(organ),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=tracking_uid(organ, origin),
        tracking_id=organ.tg263,
        # highdicom takes L*a*b* relative to D65, and so do the viewers that turn it back.
        display_color=CIELabColor.from_rgb(*organ.rgb),
    )
    if (side := side_code(organ)) is not None:
        # The side modifies the type and stands within its item (PS3.3, Segment Description Macro).
        [property_type] = description.SegmentedPropertyTypeCodeSequence
        property_type.SegmentedPropertyTypeModifierCodeSequence = [side]
    return description


def _source(slices: Sequence[Dataset], numbers: hd.Volume) -> Dataset:
    """What highdicom needs of a CT's first slice, as if it were the volume's only plane.

    highdicom takes a slice for a frame's source only where their geometry agrees to the last
    digits, and refuses some headers that series.py accepts within its tolerances.
    """
    [position] = numbers.get_plane_position(0)
    [orientation] = numbers.get_plane_orientation()
    [measures] = numbers.get_pixel_measures()
    source = without_patient(slices[0])
    say_what_was_lost(source, slices)
    source.ImagePositionPatient = position.ImagePositionPatient
    source.ImageOrientationPatient = orientation.ImageOrientationPatient
    source.PixelSpacing = measures.PixelSpacing
    thickness_mm = number_in(slices[0], "SliceThickness") or 0.0
    if not THINNEST_MM <= thickness_mm <= THICKEST_MM:
        thickness_mm = measures.SpacingBetweenSlices
    source.SliceThickness = DS(thickness_mm, auto_format=True)
    return source
