"""Organ labels as a DICOM RT Structure Set, which is what planning systems read."""

from collections.abc import Iterator, Sequence
from typing import Literal

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import DA, TM, format_number_as_ds

from model.organs import Organ
from model.volumes import boxes_by_label, volumes_ml
from plugin.objects.dicom_objects import (
    new_object,
    organ_code,
    reference_to,
    side_code,
    sign,
    software_versions,
    without_patient,
)
from plugin.objects.finding import Finding
from plugin.objects.identity import RESEARCH_USE_ONLY, Origin
from plugin.objects.outlines import Floats, keyhole, outlines
from plugin.plain_text import counted

Holes = Literal["keyhole", "xor"]
"""How a hole is written: as a part of the curve around it, over a bridge of no width; or as a curve
of its own, all curves of the organ being of the type CLOSEDPLANAR_XOR of DICOM 2020."""

DECIMALS = 3
"""Of a coordinate in mm: a thousandth is far below a pixel, and leaves the numbers short."""

STUDY_REFERENCE = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management: long retired, and still what names a study here."""

CONTOUR_DATA = Tag("ContourData")

ST_LENGTH = 1024
"""Limit of the value representation ST."""


def rtstruct_uid(origin: Origin, holes: Holes) -> str:
    """The SOP Instance UID that ``build_rtstruct`` gives; known before the work is done."""
    return origin.uid(f"{_kind(holes)} instance 1")


def structure_set_label(origin: Origin) -> str:
    """What planning systems show as its name, often alone: what it is, and which of several runs.

    In 16 characters, the limit of the value representation SH.
    """
    uid = int(origin.uid("RTSTRUCT label").rpartition(".")[2])
    what = "NOT FOR USE" if origin.model.synthetic else "AI RESEARCH"
    return f"{what} {uid % 0x10000:04X}"


def build_rtstruct(finding: Finding, origin: Origin, holes: Holes) -> hd.SOPClass:
    """Write the organs present as one RTSTRUCT instance.

    ROIs are numbered as the segments of ``build_seg`` are. Doubts about an organ that is there
    stand in its description, all other warnings in that of the structure set.

    Raises:
        NoOrganFound: no voxel is labelled.
        ValueError: a label belongs to none of the model's organs.
    """
    labels, slices, present = finding.labels, finding.slices, finding.present
    first = slices[0]
    result = new_object(
        first,
        origin,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        kind=_kind(holes),
        # In the explicit syntaxes, a contour of more than 64 KiB has no room for its length.
        transfer_syntax_uid=ImplicitVRLittleEndian,
    )
    result.StructureSetLabel = structure_set_label(origin)
    result.StructureSetName = f"Organs at risk, {RESEARCH_USE_ONLY.lower()}"
    result.StructureSetDescription = _described(
        f"{RESEARCH_USE_ONLY}. Automatic contours, not reviewed by anybody. Made of "
        f"{counted(len(slices), 'slice')} of series {_series_in_words(first)}.",
        finding.about_none_present(),
    )
    result.StructureSetDate = DA(origin.created.date())
    result.StructureSetTime = TM(origin.created.time())
    result.OperatorsName = None
    result.ApprovalStatus = "UNAPPROVED"
    result.FrameOfReferenceUID = first.FrameOfReferenceUID
    result.PositionReferenceIndicator = without_patient(first).get("PositionReferenceIndicator")
    result.ReferencedFrameOfReferenceSequence = [_references(slices)]
    millilitres = volumes_ml(labels, present)
    boxes = boxes_by_label(labels.array)
    rois, contours, observations = [], [], []
    for number, organ in enumerate(present, 1):
        doubts = finding.doubts_about(organ)
        roi = _roi(number, organ, millilitres[organ.name], doubts, origin)
        roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
        rois.append(roi)
        contours.append(_contours(number, organ, labels, boxes[organ.label], slices, holes))
        observations.append(_observation(number, organ))
    result.StructureSetROISequence = rois
    result.ROIContourSequence = contours
    result.RTROIObservationsSequence = observations
    sign(result, first, origin)
    return result


def _described(first: str, sentences: Sequence[str]) -> str:
    """As a value of VR ST; those sentences that do not fit in are counted."""
    for count in range(len(sentences), -1, -1):
        parts = [first, *(f"{sentence}." for sentence in sentences[:count])]
        if count < len(sentences):
            parts.append(f"And {len(sentences) - count} more: see the SEG or the job.")
        text = " ".join(parts)
        if len(text) <= ST_LENGTH:
            return text
    return first[:ST_LENGTH]


def _series_in_words(header: Dataset) -> str:
    """What tells a series from others of its study, if the scanner has numbered it."""
    number = header.get("SeriesNumber")
    return str(number) if isinstance(number, int) else "without a number"


def _kind(holes: Holes) -> str:
    return f"RTSTRUCT {holes}"


def _references(slices: Sequence[Dataset]) -> Dataset:
    """Frame of reference, study, series and every slice of it."""
    series = Dataset()
    series.SeriesInstanceUID = slices[0].SeriesInstanceUID
    series.ContourImageSequence = [reference_to(header) for header in slices]
    study = Dataset()
    study.ReferencedSOPClassUID = STUDY_REFERENCE
    study.ReferencedSOPInstanceUID = slices[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(number: int, organ: Organ, ml: float, doubts: list[str], origin: Origin) -> Dataset:
    roi = Dataset()
    roi.ROINumber = number
    roi.ROIName = organ.tg263
    roi.ROIDescription = _described(f"{ml:.2f} ml. {RESEARCH_USE_ONLY}.", doubts)
    roi.ROIVolume = format_number_as_ds(ml)
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIGenerationDescription = f"{origin.model.name} {software_versions(origin)}"[-64:]
    return roi


def _observation(number: int, organ: Organ) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.ROIObservationLabel = organ.tg263
    observation.RTROIInterpretedType = "ORGAN"
    observation.ROIInterpreter = None
    code = organ_code(organ)
    if (side := side_code(organ)) is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [side]
    observation.RTROIIdentificationCodeSequence = [code]
    return observation


def _contours(
    number: int,
    organ: Organ,
    labels: hd.Volume,
    box: tuple[slice, slice, slice],
    slices: Sequence[Dataset],
    holes: Holes,
) -> Dataset:
    """The curves of one organ, slice by slice."""
    drawn: list[tuple[Dataset, Floats]] = []  # header, (N, 2) row and column
    has_hole = False
    for index in range(box[0].start, box[0].stop):
        mask: NDArray[np.bool_] = labels.array[index][box[1:]] == organ.label
        for outline in outlines(mask):
            has_hole |= bool(outline.holes)
            curves = (keyhole(outline),) if holes == "keyhole" else (outline.outer, *outline.holes)
            corner = (box[1].start, box[2].start)
            drawn += [(slices[index], curve + corner) for curve in curves]
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(organ.rgb)
    # One type for all curves of an organ: DICOM does not allow to mix them.
    kind = "CLOSEDPLANAR_XOR" if has_hole and holes == "xor" else "CLOSED_PLANAR"
    item.ContourSequence = [
        _contour(header, kind, _in_patient(curve, header, labels)) for header, curve in drawn
    ]
    return item


def _in_patient(curve: Floats, header: Dataset, grid: hd.Volume) -> Floats:
    """``(N, 3)`` in LPS mm. The slice's own place counts, where it differs from the even grid's."""
    corner = np.array(header.ImagePositionPatient, np.float64)
    points: Floats = corner + curve @ grid.affine[:3, 1:3].T
    return points


def _contour(header: Dataset, kind: str, points_mm: Floats) -> Dataset:
    contour = Dataset()
    contour.ContourImageSequence = [reference_to(header)]
    contour.ContourGeometricType = kind
    contour.NumberOfContourPoints = len(points_mm)
    # As text: pydicom would make an object of each number.
    text = list(_numbers(points_mm))
    contour.add(DataElement(CONTOUR_DATA, "DS", text, already_converted=True))
    return contour


def _numbers(points_mm: Floats) -> Iterator[str]:
    rounded = points_mm.round(DECIMALS) + 0.0  # which makes 0 of -0
    return map(format_number_as_ds, rounded.ravel().tolist())
