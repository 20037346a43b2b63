"""Which CT series are segmented, why not the others, and slices as a volume in HU."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
from pydantic.alias_generators import to_pascal
from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage

from plugin.ct.hounsfield import (
    AIR_HU,
    check_pixel_header,
    check_scale,
    fill_with_hounsfield,
    is_cut_short,
)
from plugin.ct.series_rules import SeriesRules, UnsuitableSeries
from plugin.ct.stack import Stack, image_type, stack_slices
from plugin.dicom_file import (
    LOSSY,
    PIXEL_DATA,
    UnreadableFile,
    as_written,
    comes_back,
    drop_ballast,
    keep_readable,
    keep_readable_alike,
    read_dicom,
)
from plugin.plain_text import counted
from plugin.shelf import Shelf

OF_EACH_SLICE = tuple(
    Tag(keyword)
    for keyword in (
        *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("Modality", "ImageType", "AnatomicalOrientationType", "FrameOfReferenceUID"),
        *("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"),
        *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
        *("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelData", "InstanceNumber"),
        *("AcquisitionNumber", "GantryDetectorTilt"),
        *LOSSY,
    )
)
OF_THE_FIRST = tuple(
    Tag(keyword)
    for keyword in (
        *("BodyPartExamined", "SeriesDescription", "StudyDescription"),
        *("PositionReferenceIndicator", "SliceThickness", "SeriesNumber"),
        *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),
        *("StationName", "InstitutionName"),
    )
)
"""The elements that we and highdicom use: of every slice, and of the first alone.

Patient and study are not among them: `sign` copies those. To convert a value takes longer than to
read its file, so what one slice says for all is converted once.
"""

LARGEST_SERIES = 2**32
"""Bytes of its files: four for each voxel of the largest volume."""


@dataclass(frozen=True)
class CtSeries:
    """A suitable series as a volume. What is the same in all slices is to be asked of the first."""

    volume: hd.Volume  # float32, HU, first axis from slice to slice
    slices: tuple[Dataset, ...]  # headers without pixel data, in the order of the first axis


@dataclass(frozen=True)
class Judgement:
    """Whether a series is chosen, and the reason as a sentence."""

    chosen: bool
    reason: str


def judge(headers: Sequence[Dataset], rules: SeriesRules) -> Judgement:
    """Say whether a series would be segmented, from its headers alone."""
    try:
        stack = sort_and_check(headers, rules)
    except UnsuitableSeries as why:
        return Judgement(chosen=False, reason=str(why))
    slices, rows, columns = stack.geometry.spatial_shape
    between, row, column = stack.geometry.spacing
    return Judgement(
        chosen=True,
        reason=f"{slices} axial CT slices of {rows} x {columns} pixels, "
        f"{row:.3g} x {column:.3g} mm, every {between:.3g} mm over {slices * between:.0f} mm.",
    )


def read_series(files: Iterable[bytes | Path], rules: SeriesRules) -> CtSeries:
    """Read, check and decode one series.

    Args:
        files: each a whole DICOM file, in any order. A file given twice counts once.
        rules: which series are accepted.

    Raises:
        UnsuitableSeries: any fault of the files or of the series that they make.
    """
    datasets = read_headers(files, pixels_of_at_most=rules.max_slices)
    if len({_uid(dataset) for dataset in datasets}) <= rules.max_slices:
        _check_pixel_data(datasets)
    stack = sort_and_check(datasets, rules)
    voxels = np.empty(stack.geometry.spatial_shape, np.float32)
    highest = AIR_HU
    for number, dataset in enumerate(stack.slices):
        highest = max(highest, fill_with_hounsfield(dataset, voxels[number]))
        del dataset.PixelData  # one slice at a time, so that no more than one copy is held
    check_scale(voxels, highest)
    return CtSeries(volume=stack.geometry.with_array(voxels), slices=stack.slices)


def read_headers(files: Iterable[bytes | Path], *, pixels_of_at_most: int = 0) -> list[Dataset]:
    """Slices as `judge` and `sort_and_check` take them; what cannot be read of one is missing.

    Args:
        files: each a whole DICOM file, in any order.
        pixels_of_at_most: slices. Their pixel data is kept too, unless there are more: a series
            that is refused for it takes no memory.

    Raises:
        UnsuitableSeries: some of them are no DICOM, or cut short; or they are too large to be kept.
    """
    headers: list[Dataset] = []
    unreadable = size = 0
    different: set[str] = set()  # the same instance may come twice
    known: dict[RawDataElement, DataElement] = {}
    shelf = Shelf() if pixels_of_at_most else None
    for file in files:
        if shelf and len(different) > pixels_of_at_most:
            shelf = None
            for header in headers:
                header.pop(PIXEL_DATA, None)
        if shelf:
            size += len(file) if isinstance(file, bytes) else file.stat().st_size
        if size > LARGEST_SERIES:
            headers.clear()
            continue  # to the end: who gives the files may reckon a hash of all
        try:
            header = read_dicom(file, pixels=shelf is not None, shelf=shelf)
        except UnreadableFile:
            unreadable += 1
            continue
        # pydicom reads a file that ends too early as far as it goes, without complaint.
        if "SOPInstanceUID" not in header and "PixelData" not in header:
            unreadable += 1
        else:
            drop_ballast(header)
            keep_readable_alike(header, OF_EACH_SLICE, known)
            headers.append(header)
            different.add(_uid(header))
    if size > LARGEST_SERIES:
        raise UnsuitableSeries(
            f"The files of the series have {size / 1e9:.1f} GB, "
            f"expected at most {LARGEST_SERIES / 1e9:.1f} GB: more may not fit in the memory."
        )
    if unreadable:
        total = counted(unreadable + len(headers), "file")
        raise UnsuitableSeries(f"{unreadable} of {total} cannot be read: not DICOM, or cut short.")
    return headers


def _uid(header: Dataset) -> str:
    return str(header.get("SOPInstanceUID", ""))


def _check_pixel_data(datasets: Sequence[Dataset]) -> None:
    """Say what a file cut short lacks, before the header that it also lacks is complained of."""
    images = [ds for ds in datasets if ds.get("SOPClassUID") == CTImageStorage]
    total = counted(len(images), "image")
    if missing := sum(not isinstance(ds.get("PixelData"), bytes | memoryview) for ds in images):
        raise UnsuitableSeries(f"{missing} of {total} have no pixel data.")
    if short := sum(is_cut_short(ds) for ds in images):
        raise UnsuitableSeries(
            f"{short} of {total} have fewer bytes of pixel data than their rows and columns need."
        )


def sort_and_check(headers: Sequence[Dataset], rules: SeriesRules) -> Stack:
    """Judge a series by its headers, and put them in order.

    Pixel data is not needed and not touched. The reason that says most comes first: what kind
    of images these are, then whether they are wanted, then what is wrong with them.

    Raises:
        UnsuitableSeries: with the first reason found.
    """
    if not headers:
        raise UnsuitableSeries("The series has no images.")
    _check_kind(headers)
    _check_patient(headers)
    headers = _without_repeats(headers)
    _check_image_type(headers, rules)
    keep_readable(headers[0], OF_THE_FIRST)
    _check_descriptions(headers[0], rules)
    if not rules.min_slices <= len(headers) <= rules.max_slices:
        raise UnsuitableSeries(
            f"The series has {counted(len(headers), 'slice')}, "
            f"expected {rules.min_slices} to {rules.max_slices}."
        )
    _check_given(headers, "FrameOfReferenceUID")
    _check_same(headers, "FrameOfReferenceUID")
    for header in headers:
        if fault := check_pixel_header(header):
            raise UnsuitableSeries(f"The pixels cannot be used: {fault}.")
    stack = stack_slices(headers, rules)
    keep_readable(stack.slices[0], OF_THE_FIRST)  # another one may be the first now
    return stack


def _check_kind(headers: Sequence[Dataset]) -> None:
    """Refuse what is not one series of single-slice CT images."""
    total = len(headers)
    _check_given(headers, "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    for sop_class, number in Counter(UID(h.SOPClassUID) for h in headers).most_common():
        if sop_class == EnhancedCTImageStorage:
            raise UnsuitableSeries(
                "The series is Enhanced CT (multi-frame), which is not supported; "
                "expected CT Image Storage, one slice an image."
            )
        if sop_class != CTImageStorage:
            raise UnsuitableSeries(
                f"The images are {sop_class.name} ({number} of {total}), expected CT Image Storage."
            )
    for header in headers:
        if header.get("Modality") != "CT":
            raise UnsuitableSeries(
                f"Modality is {header.get('Modality') or 'missing'}, expected CT."
            )
        if header.get("AnatomicalOrientationType") == "QUADRUPED":
            raise UnsuitableSeries("The patient is declared a quadruped, expected a human.")
    _check_same(headers, "StudyInstanceUID")
    _check_same(headers, "SeriesInstanceUID")


def _check_patient(headers: Sequence[Dataset]) -> None:
    """Refuse slices whose result would be filed under another patient."""
    different = {
        (as_written(header, "PatientID"), as_written(header, "SpecificCharacterSet")): header
        for header in headers
    }.values()
    if not all(comes_back(header, "PatientID") for header in different):
        raise UnsuitableSeries(
            "PatientID cannot be written again as it is, for it is not of the character set that "
            "the images declare: a result would be filed under another patient."
        )
    # The identifiers themselves stay out of the message.
    patients = {str(header.get("PatientID") or "").strip() for header in different}
    if len(patients) > 1:
        raise UnsuitableSeries(
            f"The images have {len(patients)} different PatientID, expected one."
        )


def _without_repeats(headers: Sequence[Dataset]) -> list[Dataset]:
    """The same instance received twice is one instance; two that share a UID are a fault."""
    different: dict[str, Dataset] = {}
    for header in headers:
        other = different.setdefault(str(header.SOPInstanceUID), header)
        if other is header:
            continue
        keep_readable(other)
        keep_readable(header)
        if other != header:
            raise UnsuitableSeries(
                "Two different images have the same SOPInstanceUID, "
                "so a result could not say which of them it was made of."
            )
    return list(different.values())


def _check_image_type(headers: Sequence[Dataset], rules: SeriesRules) -> None:
    total = len(headers)
    types = [image_type(header) for header in headers]
    if number := sum("LOCALIZER" in values for values in types):
        raise UnsuitableSeries(
            f"Localisers (scout views) among the images: {number} of {total}, expected only slices."
        )
    if rules.accept_derived:
        return
    for values in types:
        if values[:2] != ["ORIGINAL", "PRIMARY"]:
            raise UnsuitableSeries(
                f"ImageType is {chr(92).join(values[:3]) or 'missing'}: reformatted or otherwise "
                "derived images are not accepted, expected ORIGINAL\\PRIMARY (see AcceptDerived)."
            )


def _check_descriptions(header: Dataset, rules: SeriesRules) -> None:
    # The values themselves stay out of the message: people type patients' names into them.
    for keyword, include, exclude in (
        ("BodyPartExamined", "include_body_part", "exclude_body_part"),
        ("SeriesDescription", "include_series_description", "exclude_series_description"),
        ("StudyDescription", "include_study_description", "exclude_study_description"),
    ):
        value = str(header.get(keyword) or "")
        wanted, unwanted = getattr(rules, include), getattr(rules, exclude)
        if wanted and not re.search(wanted, value, re.IGNORECASE):
            raise UnsuitableSeries(f"{keyword} is none of those that {to_pascal(include)} wants.")
        if unwanted and re.search(unwanted, value, re.IGNORECASE):
            raise UnsuitableSeries(f"{keyword} is one that {to_pascal(exclude)} leaves out.")


def _check_given(headers: Sequence[Dataset], *keywords: str) -> None:
    for keyword in keywords:
        if missing := sum(not _has_one(header, keyword) for header in headers):
            raise UnsuitableSeries(
                f"{keyword} is missing or not one value in {missing} of "
                f"{counted(len(headers), 'image')}, so a result could not refer to them."
            )


def _check_same(headers: Sequence[Dataset], keyword: str) -> None:
    if (kinds := len({str(header.get(keyword)) for header in headers})) > 1:
        raise UnsuitableSeries(f"The images have {kinds} different {keyword}, expected one.")


def _has_one(header: Dataset, keyword: str) -> bool:
    """Whether there is one UID; several in one element are a list."""
    value = header.get(keyword)
    return isinstance(value, str) and re.fullmatch(r"[0-9.]{1,64}", value) is not None
