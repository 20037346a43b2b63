"""Organ labels as a DICOM Segmentation in the patient and study of the CT they were made from."""

import math
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from pydicom.valuerep import DA, DS, DT, TM

from model.organs import Organ

SegmentationType = Literal["BINARY", "LABELMAP"]

MANUFACTURER = "orthanc-oar"

SERIES_NUMBER_OFFSET = 9000
"""Added to the CT's series number, so that results stand behind the images they belong to."""

HIGHEST_SERIES_NUMBER = 2**31 - 1
"""Limit of the value representation IS."""

TRANSFER_SYNTAX = {
    "BINARY": ExplicitVRLittleEndian,  # one bit a pixel; DICOM has no common compression for it
    "LABELMAP": RLELossless,  # one byte a pixel, nearly all background
}

ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")

LATERALITY = {
    "left": Code("7771000", "SCT", "Left"),
    "right": Code("24028007", "SCT", "Right"),
}

SOURCE_ATTRIBUTES = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "StationName",
    "InstitutionName",
)
"""What highdicom is shown of each slice as it is; its place comes from the labels."""

TYPE_2_OF_PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""What every SEG has, if only empty."""


class NoOrganFound(Exception):
    """The label volume is all background, so there is nothing to write."""


def result_uid(sop_instance_uids: Sequence[str], *, model: str, kind: str, run: str = "") -> str:
    """The UID that this model's result for exactly these slices always gets.

    Running twice is then harmless, and asking the archive for the UID tells whether the work is
    already done. A late slice changes it, as it should.

    Args:
        sop_instance_uids: of the source slices, in any order.
        model: name, version and weights hash.
        kind: what the UID is for; see ``seg_uid`` for a Segmentation's own.
        run: set by a forced run, which is a new result.
    """
    slices = sorted({str(uid) for uid in sop_instance_uids})
    name = "\n".join([MANUFACTURER, model, kind, run, *slices])
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def model_id(name: str, version: str, weights_sha256: str) -> str:
    """The ``model`` of ``result_uid``."""
    return f"{name} {version} {weights_sha256}"


def seg_uid(
    sop_instance_uids: Sequence[str],
    *,
    model: str,
    segmentation_type: SegmentationType = "BINARY",
    run: str = "",
) -> str:
    """The SOP Instance UID that ``build_seg`` gives; known before the work is done."""
    return result_uid(
        sop_instance_uids, model=model, kind=f"SEG {segmentation_type} instance", run=run
    )


def build_seg(
    labels: hd.Volume,
    slices: Sequence[Dataset],
    *,
    organs: Sequence[Organ],
    model_name: str,
    model_version: str,
    weights_sha256: str,
    segmentation_type: SegmentationType = "BINARY",
    run: str = "",
    created: datetime | None = None,
) -> hd.seg.Segmentation:
    """Write the organs present in a label volume as one SEG instance.

    Segments are numbered from 1 in the order of the table, organs without a voxel left out.
    The same arguments give the same bytes.

    Args:
        labels: uint8, ``Organ.label`` or 0, on the grid of the CT.
        slices: headers of the CT, one for each plane of the labels and in their order; not
            altered, and may lack type 2 attributes.
        organs: those that may be present.
        segmentation_type: LABELMAP is smaller and newer, and few viewers show it yet.
        run: see ``result_uid``.
        created: local time for content and creation dates; now, if not given.

    Raises:
        NoOrganFound: no voxel is labelled.
        ValueError: a label belongs to none of ``organs``, or the slices are not those of the grid.
    """
    created = created or datetime.now().replace(microsecond=0)
    counts = np.sum([np.bincount(plane.ravel(), minlength=256) for plane in labels.array], axis=0)
    present = sorted((organ for organ in organs if counts[organ.label]), key=lambda o: o.label)
    if unknown := set(np.flatnonzero(counts).tolist()) - {0, *(o.label for o in present)}:
        raise ValueError(f"labels {sorted(unknown)} are not among the organs of {model_name}")
    if not present:
        raise NoOrganFound("No organ was found in the series.")

    model = model_id(model_name, model_version, weights_sha256)
    sources = [str(header.SOPInstanceUID) for header in slices]
    algorithm = hd.AlgorithmIdentificationSequence(
        name=model_name,
        family=codes.DCM.ArtificialIntelligence,
        version=f"{model_version} {weights_sha256[:12]}",
        source=MANUFACTURER,
        parameters={"weights_sha256": weights_sha256},
    )
    equipment = hd.ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=model_name,
        software_versions=model_version,
        device_serial_number=weights_sha256[:16],
        contribution_datetime=created,
        contribution_description="Automatic segmentation of organs at risk. Research use only.",
    )
    seg = hd.seg.Segmentation(
        source_images=_sources(slices, labels),
        pixel_array=_numbered(labels, present),
        segmentation_type=segmentation_type,
        segment_descriptions=[
            _describe(organ, number, algorithm) for number, organ in enumerate(present, 1)
        ],
        series_instance_uid=result_uid(
            sources, model=model, kind=f"SEG {segmentation_type} series", run=run
        ),
        series_number=_series_number(slices[0]),
        sop_instance_uid=seg_uid(
            sources, model=model, segmentation_type=segmentation_type, run=run
        ),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model_name,
        software_versions=f"{model_version} {weights_sha256[:12]}",
        device_serial_number=weights_sha256[:16],
        content_label="ORGANS_AT_RISK",
        content_description="Automatic organs at risk, research use only",
        transfer_syntax_uid=TRANSFER_SYNTAX[segmentation_type],
        contributing_equipment=[equipment],
        series_description=f"Organs at risk, research use only, {model_name}"[:64],
        content_qualification="RESEARCH",
        content_date=created.date(),
        content_time=created.time(),
    )
    dimensions = result_uid(
        sources, model=model, kind=f"SEG {segmentation_type} dimensions", run=run
    )
    _make_deterministic(seg, dimensions, created)
    _copy_patient_and_study(seg, slices[0])
    return seg


def _numbered(labels: hd.Volume, present: Sequence[Organ]) -> hd.Volume:
    """Segment numbers in place of labels, 1 to n without gaps as DICOM wants them."""
    number_of = np.zeros(256, np.uint8)
    number_of[[organ.label for organ in present]] = np.arange(1, len(present) + 1)
    numbers = np.zeros(labels.shape, np.uint8)
    # Slice by slice: numpy makes an eight-byte integer of each label that it counts or looks up.
    for plane, out in zip(labels.array, numbers, strict=True):
        if plane.any():
            np.take(number_of, plane, out=out, mode="clip")
    return labels.with_array(numbers)


def _describe(
    organ: Organ, number: int, algorithm: hd.AlgorithmIdentificationSequence
) -> hd.seg.SegmentDescription:
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=organ.tg263,
        segmented_property_category=ANATOMICAL_STRUCTURE,
        segmented_property_type=Code(organ.snomed_ct, "SCT", organ.meaning),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        # highdicom takes L*a*b* relative to D65, and so do the viewers that turn it back.
        display_color=CIELabColor.from_rgb(*organ.rgb),
    )
    if organ.side is not None:
        # The side modifies the type and stands within its item (PS3.3, Segment Description Macro).
        [property_type] = description.SegmentedPropertyTypeCodeSequence
        property_type.SegmentedPropertyTypeModifierCodeSequence = [
            CodedConcept.from_code(LATERALITY[organ.side])
        ]
    return description


def _sources(slices: Sequence[Dataset], labels: hd.Volume) -> list[Dataset]:
    """What highdicom needs of the slices, exactly on the grid and with the patient left blank.

    highdicom takes slices for a frame's source only where their geometry agrees to the last
    digits, and refuses some headers that series.py accepts within its tolerances.
    It also refuses headers without type 2 attributes or with a sex outside the standard, and
    logs names that it finds odd: so it never sees the patient (see _copy_patient_and_study).
    """
    if labels.spatial_shape[0] != len(slices):
        raise ValueError(f"{labels.spatial_shape[0]} planes of labels for {len(slices)} slices")
    [orientation] = labels.get_plane_orientation()
    [measures] = labels.get_pixel_measures()
    sources = []
    for header, [plane] in zip(slices, labels.get_plane_positions(), strict=True):
        offset_mm = np.subtract(header.ImagePositionPatient, plane.ImagePositionPatient)
        if np.linalg.norm(offset_mm.astype(float)) > labels.spacing[0] / 2:
            raise ValueError("the slices are not in the order and place of the planes of labels")
        source = Dataset()
        for keyword in SOURCE_ATTRIBUTES:
            if keyword in header:
                source.add(header[keyword])
        source.ImagePositionPatient = plane.ImagePositionPatient
        source.ImageOrientationPatient = orientation.ImageOrientationPatient
        source.PixelSpacing = measures.PixelSpacing
        source.SliceThickness = DS(
            _number(header, "SliceThickness") or measures.SpacingBetweenSlices, auto_format=True
        )
        for keyword in TYPE_2_OF_PATIENT_AND_STUDY:
            setattr(source, keyword, None)
        sources.append(source)
    return sources


def _copy_patient_and_study(seg: hd.seg.Segmentation, header: Dataset) -> None:
    """Patient and study as the scanner wrote them, in its own character set."""
    if "SpecificCharacterSet" in header:
        seg.add(header["SpecificCharacterSet"])
    seg.copy_patient_and_study_information(header)


def _series_number(header: Dataset) -> int:
    number = _number(header, "SeriesNumber") or 0.0
    if not 0 < number <= HIGHEST_SERIES_NUMBER - SERIES_NUMBER_OFFSET:
        return SERIES_NUMBER_OFFSET
    return SERIES_NUMBER_OFFSET + int(number)


def _number(header: Dataset, keyword: str) -> float | None:
    """A value that scanners sometimes leave out or fill with text."""
    try:
        number = float(header.get(keyword))
    except (TypeError, ValueError, OverflowError):  # absent, several, or text
        return None
    return number if math.isfinite(number) else None


def _make_deterministic(
    seg: hd.seg.Segmentation, dimension_organization_uid: str, created: datetime
) -> None:
    """Replace what highdicom draws at random or takes from the clock."""
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimension_organization_uid
    seg.InstanceCreationDate = DA(created.date())
    seg.InstanceCreationTime = TM(created.time())
    for item in seg.ContributingEquipmentSequence:
        if "ContributionDateTime" in item:
            item.ContributionDateTime = DT(created)
