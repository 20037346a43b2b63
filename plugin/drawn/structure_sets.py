"""What other people drew: the structures of an RTSTRUCT or SEG, each as a mask on a CT's own grid.

Nothing of it is repaired. A structure that cannot be turned into a mask says why; the others can.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.uid import RLELossless, RTStructureSetStorage, SegmentationStorage

from model.organs import ORGANS, Organ
from plugin.dicom_file import DAMAGE
from plugin.drawn.contour_fill import Contour, Floats, UnusableStructure, fill_contours
from plugin.drawn.segment_masks import segment_masks, segments_of_frames
from plugin.objects.dicom_objects import LABEL_MAP_SEGMENTATION_STORAGE, LATERALITY
from plugin.objects.identity import MANUFACTURER

MODALITIES = frozenset({"RTSTRUCT", "SEG"})
"""Of the series that hold structure sets."""

CLOSED = {"CLOSED_PLANAR": False, "CLOSEDPLANAR_XOR": True}
"""Contour Geometric Types that enclose something, and whether by exclusive or."""

ON_A_LINE_MM = 0.01
"""Points no further from one straight line enclose nothing."""

UNDEFINED_LENGTH = 0xFFFFFFFF
"""Of an element that a delimiter ends."""

FARTHEST_MM = 1e6
"""No patient lies a kilometre from the origin."""


class UnusableStructureSet(Exception):
    """Nothing of this RTSTRUCT or SEG can be used; the message says why and names no patient."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One region that somebody drew."""

    name: str  # as they wrote it, without the blanks around it
    concept: tuple[Organ, ...] = ()  # what its code says it is, if it has one of ours
    fill: Callable[[hd.VolumeGeometry], hd.Volume]  # a CT's grid to a uint8 mask on it


@dataclass(frozen=True, kw_only=True)
class StructureSet:
    """One RTSTRUCT or SEG."""

    modality: str
    sop_instance_uid: str
    frames_of_reference: frozenset[str]  # UIDs
    series: frozenset[str]  # Series Instance UIDs of the images it was drawn on, if it says
    drawn_at: str  # YYYYMMDDHHMMSS, or ""
    ours: bool  # made by this software and not approved by anybody
    structures: tuple[Structure, ...]  # those that enclose anything


def read_structure_set(dataset: Dataset) -> StructureSet:
    """Read an RTSTRUCT or SEG.

    Raises:
        UnusableStructureSet: it is neither, is cut short, was rejected, or lacks what every
            structure needs.
    """
    if _is_cut_short(dataset):
        raise UnusableStructureSet(
            "It is cut short: its last element has fewer bytes than it says."
        )
    if dataset.get("ApprovalStatus") == "REJECTED":
        raise UnusableStructureSet("Who reviewed it rejected it (Approval Status REJECTED).")
    try:
        kind = dataset.get("SOPClassUID")
        if kind == RTStructureSetStorage:
            return _read_rtstruct(dataset)
        if kind in (SegmentationStorage, LABEL_MAP_SEGMENTATION_STORAGE):
            _check_compression(dataset)
            return _read_seg(hd.seg.Segmentation.from_dataset(dataset, copy=False))
    except DAMAGE as error:
        raise UnusableStructureSet("It is not as DICOM wants a structure set.") from error
    raise UnusableStructureSet("It is neither an RT Structure Set nor a Segmentation.")


def _is_cut_short(dataset: Dataset) -> bool:
    # pydicom reads what there is, and structures that stood behind it would count as not drawn.
    return any(
        isinstance(element, RawDataElement)
        and element.value is not None
        and element.length != UNDEFINED_LENGTH
        and len(element.value) < element.length
        for element in map(dataset.get_item, dataset.keys())
    )


def _check_compression(seg: Dataset) -> None:
    """Refuse what only the decoders of JPEG read, which believe what such data say of themselves.

    Raises:
        UnusableStructureSet: with the reason.
    """
    syntax = seg.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != RLELossless:
        raise UnusableStructureSet(
            f"Its pixels are compressed ({syntax.name}), expected none or RLE."
        )


def check_frame_of_reference(structure_set: StructureSet, ct: hd.VolumeGeometry) -> None:
    """Refuse what was drawn in another coordinate system.

    Raises:
        UnusableStructureSet: with the reason.
    """
    if not structure_set.frames_of_reference:
        raise UnusableStructureSet(
            f"The {structure_set.modality} does not say its frame of reference."
        )
    if ct.frame_of_reference_uid not in structure_set.frames_of_reference:
        raise UnusableStructureSet(
            f"The {structure_set.modality} was drawn in another frame of reference than the CT's: "
            "its coordinates mean other places."
        )


# --- RTSTRUCT ------------------------------------------------------------------------------------


def _read_rtstruct(dataset: Dataset) -> StructureSet:
    regions = list(dataset.get("StructureSetROISequence") or [])
    numbers = Counter(region.get("ROINumber") for region in regions)
    if any(count > 1 for count in numbers.values()):
        raise UnusableStructureSet("Two structures of the RTSTRUCT have one number.")
    items: dict[int, list[list[Dataset]]] = {}  # closed contours of each, by the structure's number
    for item in dataset.get("ROIContourSequence") or []:
        same = items.setdefault(item.get("ReferencedROINumber"), [])
        if closed := [c for c in item.get("ContourSequence") or [] if _encloses(c)]:
            same.append(closed)
    referenced = list(dataset.get("ReferencedFrameOfReferenceSequence") or [])
    frames = {str(frame.get("FrameOfReferenceUID") or "") for frame in referenced} - {""}
    usual = frames.copy().pop() if len(frames) == 1 else ""
    structures = []
    for region in regions:
        frame = str(region.get("ReferencedFrameOfReferenceUID") or usual)
        if parts := items.get(region.get("ROINumber")):
            frames.add(frame)
            structures.append(
                Structure(name=_name(region, "ROIName"), fill=_contours(parts, frame))
            )
    return StructureSet(
        modality="RTSTRUCT",
        sop_instance_uid=str(dataset.get("SOPInstanceUID") or ""),
        frames_of_reference=frozenset(frames - {""}),
        series=frozenset(
            str(series.SeriesInstanceUID)
            for frame in referenced
            for study in frame.get("RTReferencedStudySequence") or []
            for series in study.get("RTReferencedSeriesSequence") or []
            if "SeriesInstanceUID" in series
        ),
        drawn_at=_time(dataset, "StructureSet"),
        ours=_is_ours(dataset),
        structures=tuple(structures),
    )


def _encloses(contour: Dataset) -> bool:
    """Whether it is closed and has an inside; points and lines are no structure."""
    if contour.get("ContourGeometricType", "CLOSED_PLANAR") not in CLOSED:
        return False
    if len(_values(contour, "ContourData")) < 9:  # three points
        return False
    if (points_mm := _points(contour)) is None:
        return True  # refused when it is filled
    steps = points_mm - points_mm[0]
    longest = steps[np.linalg.norm(steps, axis=1).argmax()]
    areas = np.linalg.norm(np.cross(steps, longest), axis=1)  # of length and distance from the line
    return bool(areas.max() > ON_A_LINE_MM * np.linalg.norm(longest))


def _contours(parts: list[list[Dataset]], frame: str) -> Callable[[hd.VolumeGeometry], hd.Volume]:
    def fill(ct: hd.VolumeGeometry) -> hd.Volume:
        if frame != ct.frame_of_reference_uid:
            raise UnusableStructure("it was drawn in another frame of reference than the CT's")
        if len(parts) > 1:
            raise UnusableStructure(
                f"its contours stand in {len(parts)} items of the RTSTRUCT, expected one"
            )
        return fill_contours([_contour(contour) for contour in parts[0]], ct)

    return fill


def _contour(contour: Dataset) -> Contour:
    if (points_mm := _points(contour)) is None:
        raise UnusableStructure("a contour is not a list of points")
    if _numbers(contour, "ContourOffsetVector").any():
        raise UnusableStructure("a contour has an offset from its points, which DICOM has retired")
    xor = CLOSED[contour.get("ContourGeometricType", "CLOSED_PLANAR")]
    return Contour(points_mm=points_mm, xor=xor)


def _points(contour: Dataset) -> Floats | None:
    """As rows of three; None if they are no list of points."""
    numbers = _numbers(contour, "ContourData")
    if len(numbers) % 3 or not (np.abs(numbers) <= FARTHEST_MM).all():
        return None
    return numbers.reshape(-1, 3)


def _numbers(contour: Dataset, keyword: str) -> Floats:
    """Of an element; not a number if it holds anything else."""
    try:
        return np.array([float(value) for value in _values(contour, keyword)])
    except (TypeError, ValueError):
        return np.array([np.nan])


def _values(contour: Dataset, keyword: str) -> list[bytes] | list[float]:
    """Of an element, without pydicom's costly object for each of a million numbers."""
    if keyword not in contour:
        return []
    element = contour.get_item(keyword)
    if isinstance(element, RawDataElement):
        text = (element.value or b"").strip(b" \0")
        return text.split(b"\\") if text else []
    value = element.value
    return [] if value in (None, "") else list(value)


# --- SEG -----------------------------------------------------------------------------------------


def _read_seg(seg: hd.seg.Segmentation) -> StructureSet:
    series = {str(s.SeriesInstanceUID) for s in seg.get("ReferencedSeriesSequence") or []}
    drawn, masks = set(_drawn_segments(seg)), segment_masks(seg)
    return StructureSet(
        modality="SEG",
        sop_instance_uid=str(seg.SOPInstanceUID),
        frames_of_reference=frozenset({str(seg.get("FrameOfReferenceUID") or "")} - {""}),
        series=frozenset(series),
        drawn_at=_time(seg, "Content"),
        ours=_is_ours(seg),
        structures=tuple(
            Structure(
                name=_name(item, "SegmentLabel"),
                concept=_concept(item),
                fill=partial(masks, int(item.SegmentNumber)),
            )
            for item in seg.SegmentSequence
            if item.SegmentNumber in drawn
        ),
    )


def _drawn_segments(seg: hd.seg.Segmentation) -> list[int]:
    """Numbers of the segments that have a frame; of a label map all but the background."""
    if seg.SOPClassUID == LABEL_MAP_SEGMENTATION_STORAGE:
        return [n for n in seg.segment_numbers if n != 0]
    return segments_of_frames(seg)


def _concept(segment: Dataset) -> tuple[Organ, ...]:
    """The organs that a segment's code means: two for a pair without a side, none if unknown.

    Not asked is the anatomic region, which says where something is: a tumour's is an organ.
    """
    for code in segment.get("SegmentedPropertyTypeCodeSequence") or []:
        modifiers = code.get("SegmentedPropertyTypeModifierCodeSequence") or []
        sides = {str(modifier.get("CodeValue")) for modifier in modifiers}
        return tuple(
            organ
            for organ in ORGANS
            if (organ.snomed_ct, "SCT") == (code.get("CodeValue"), code.CodingSchemeDesignator)
            and (not organ.side or not sides or LATERALITY[organ.side].value in sides)
        )
    return ()


# --- both ----------------------------------------------------------------------------------------


def _time(dataset: Dataset, what: str) -> str:
    """When it was drawn, in a form that sorts as time does."""
    for prefix in (what, "InstanceCreation", "Series"):
        date, time = (str(dataset.get(f"{prefix}{one}") or "") for one in ("Date", "Time"))
        if re.fullmatch(r"[0-9]{8}", date):  # whatever else a stranger writes goes no further
            return date + (time[:6] if re.fullmatch(r"[0-9]{6}.*", time) else "")
    return ""


def _name(item: Dataset, keyword: str) -> str:
    # Blanks around it mean nothing (PS3.5, LO), and pydicom leaves those before it.
    return str(item.get(keyword) or "").strip()


def _is_ours(dataset: Dataset) -> bool:
    approved = dataset.get("ApprovalStatus") == "APPROVED"
    return dataset.get("Manufacturer") == MANUFACTURER and not approved
