"""Structure sets as other people's systems write them, made from shapes or masks that are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from model.organs import Organ

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outline:
    """One contour of a made RTSTRUCT."""

    points_mm: Floats  # (N, 3)
    kind: str = "CLOSED_PLANAR"


def ellipse(
    centre_mm: Sequence[float], radii_mm: tuple[float, float], points: int = 360
) -> Outline:
    """An ellipse in a plane of constant z; its area is nearly pi times the radii."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    x, y, z = centre_mm
    a, b = radii_mm
    return Outline(
        np.stack(
            [x + a * np.cos(angles), y + b * np.sin(angles), np.full(points, float(z))], axis=1
        )
    )


def outlines_of(mask: hd.Volume) -> list[Outline]:
    """The borders of a mask's pixels, slice by slice: filled again they are the same mask."""
    outlines = []
    for k in np.flatnonzero(mask.array.any(axis=(1, 2))):
        for loop in _pixel_borders(mask.array[k] > 0):
            indices = np.column_stack([np.full(len(loop), float(k)), loop])
            outlines.append(Outline(mask.map_indices_to_reference(indices)))
    return outlines


def _pixel_borders(inside: NDArray[np.bool_]) -> list[Floats]:
    """Closed walks along the edges between pixels inside and outside, in (row, column)."""
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}  # corner to next corners
    wide = np.pad(inside, 1)
    for row, column in np.argwhere(inside).tolist():
        above, below = wide[row, column + 1], wide[row + 2, column + 1]
        before, after = wide[row + 1, column], wide[row + 1, column + 2]
        sides = [
            (above, (row, column), (row, column + 1)),
            (after, (row, column + 1), (row + 1, column + 1)),
            (below, (row + 1, column + 1), (row + 1, column)),
            (before, (row + 1, column), (row, column)),
        ]
        for neighbour, start, end in sides:
            if not neighbour:
                edges.setdefault(start, []).append(end)
    loops = []
    while edges:
        corner = start = next(iter(edges))
        loop = []
        while True:
            loop.append(corner)
            following = edges[corner].pop()
            if not edges[corner]:
                del edges[corner]
            corner = following
            if corner == start:
                break
        loops.append(np.array(loop, float) - 0.5)
    return loops


def rtstruct(
    ct: Sequence[Dataset], structures: Mapping[str, Sequence[Outline] | None], **changes: Any
) -> Dataset:
    """An RTSTRUCT on a CT, as sparse as planning systems may write it.

    Args:
        ct: its slices.
        structures: outlines by name; None is a structure without Contour Sequence.
        changes: attributes by keyword, set at the end.
    """
    header = ct[0]
    what = repr((sorted(structures), sorted(changes.items())))
    uid = generate_uid(entropy_srcs=[header.SeriesInstanceUID, "rtstruct", what])
    dataset = _beginning(header, uid, "RTSTRUCT")
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.StructureSetLabel = "PLAN"
    dataset.StructureSetDate, dataset.StructureSetTime = "20200102", "080000"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = header.SeriesInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    for number, (name, outlines) in enumerate(structures.items(), start=1):
        region, contours = Dataset(), Dataset()
        region.ROINumber = contours.ReferencedROINumber = number
        region.ROIName = name
        region.ReferencedFrameOfReferenceUID = header.FrameOfReferenceUID
        region.ROIGenerationAlgorithm = "MANUAL"
        if outlines is not None:
            contours.ContourSequence = [_contour(outline) for outline in outlines]
        dataset.StructureSetROISequence.append(region)
        dataset.ROIContourSequence.append(contours)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return as_read(dataset)


def _contour(outline: Outline) -> Dataset:
    item = Dataset()
    item.ContourGeometricType = outline.kind
    item.NumberOfContourPoints = len(outline.points_mm)
    item.ContourData = [f"{value:.8g}" for value in outline.points_mm.ravel()]
    return item


def seg(
    ct: Sequence[Dataset],
    labels: hd.Volume,
    organs: Sequence[Organ],
    names: Mapping[Organ, str] | None = None,
    masks: Sequence[np.ndarray] | None = None,
    **options: Any,
) -> Dataset:
    """A SEG on a CT by somebody else, a segment for each organ.

    Args:
        ct: its slices, as in `labels`.
        labels: organ labels.
        organs: which of them to write.
        names: segment labels; without it TG-263's.
        masks: of the organs; without it where their labels are.
        options: of highdicom's Segmentation.
    """
    masks = masks or [labels.array == organ.label for organ in organs]
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=organ.tg263 if names is None else names[organ],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=Code("85756007", "SCT", "Tissue"),
            algorithm_type="MANUAL",
        )
        for number, organ in enumerate(organs, start=1)
    ]
    kind = options.pop("segmentation_type", "BINARY")
    values = {
        "segment_descriptions": descriptions,
        "series_instance_uid": generate_uid(entropy_srcs=[ct[0].SeriesInstanceUID, "seg series"]),
        "series_number": 9,
        "sop_instance_uid": generate_uid(entropy_srcs=[ct[0].SeriesInstanceUID, "seg"]),
        "instance_number": 1,
        "manufacturer": "somebody else",
        "manufacturer_model_name": "by hand",
        "software_versions": "1",
        "device_serial_number": "1",
    }
    return as_read(
        hd.seg.Segmentation(
            source_images=list(ct),
            pixel_array=np.stack(masks, axis=-1).astype(np.uint8),
            segmentation_type=kind,
            **values | options,
        )
    )


def as_read(dataset: Dataset) -> Dataset:
    """What comes back when an object has been written to a file."""
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    file.seek(0)
    return pydicom.dcmread(file)


def _beginning(header: Dataset, uid: str, modality: str) -> Dataset:
    """Patient, study and series of a new object."""
    dataset = Dataset()
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
        setattr(dataset, keyword, header[keyword].value)
    for keyword in ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
        setattr(dataset, keyword, header[keyword].value)
    dataset.Modality = modality
    dataset.Manufacturer = "somebody else"
    dataset.SOPInstanceUID = uid
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[uid, "series"])
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset
