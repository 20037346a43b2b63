"""Which CT series are segmented, why not the others, and slices as a volume in HU."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage

from plugin.hounsfield import TISSUE_HU, check_pixel_header, fill_with_hounsfield
from plugin.series_rules import SeriesRules, UnsuitableSeries

__all__ = [
    "CtSeries",
    "SeriesRules",
    "Stack",
    "UnsuitableSeries",
    "Verdict",
    "judge",
    "read_series",
    "sort_and_check",
]

UNIT_TOLERANCE = 1e-2
"""How far a row or column direction may be from length one, and the two from a right angle."""

DUPLICATE_MM = 1e-2
"""Slices closer than this are at the same place."""


@dataclass(frozen=True)
class Stack:
    """Headers of a suitable series in the order of the volume's first axis, and its grid."""

    slices: tuple[Dataset, ...]
    geometry: hd.VolumeGeometry


@dataclass(frozen=True)
class CtSeries:
    """A suitable series as a volume."""

    volume: hd.Volume  # float32, HU, first axis from slice to slice
    slices: tuple[Dataset, ...]  # headers without pixel data, in the order of the first axis


@dataclass(frozen=True)
class Verdict:
    """Whether a series is chosen, and the reason as a sentence."""

    chosen: bool
    reason: str


def judge(headers: Sequence[Dataset], rules: SeriesRules) -> Verdict:
    """Say whether a series would be segmented, from its headers alone."""
    try:
        stack = sort_and_check(headers, rules)
    except UnsuitableSeries as why:
        return Verdict(chosen=False, reason=str(why))
    slices, rows, columns = stack.geometry.spatial_shape
    between, row, column = stack.geometry.spacing
    return Verdict(
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
    datasets, unreadable, total = [], 0, 0
    for file in files:
        total += 1
        try:
            datasets.append(pydicom.dcmread(BytesIO(file) if isinstance(file, bytes) else file))
        # What pydicom raises on a file that is no DICOM, ends early or has broken elements.
        except (InvalidDicomError, EOFError, ValueError, KeyError, NotImplementedError):
            unreadable += 1
    if unreadable:
        raise UnsuitableSeries(
            f"{unreadable} of {total} files cannot be read: not DICOM, or cut short."
        )
    stack = sort_and_check(datasets, rules)
    voxels = np.empty(stack.geometry.spatial_shape, np.float32)
    for number, dataset in enumerate(stack.slices):
        fill_with_hounsfield(dataset, voxels[number])
        del dataset.PixelData
    if voxels.max() < TISSUE_HU:
        raise UnsuitableSeries(f"The images show no patient: nothing is above {TISSUE_HU:.0f} HU.")
    return CtSeries(volume=stack.geometry.with_array(voxels), slices=stack.slices)


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
    headers = _without_repeats(headers)
    _check_image_type(headers, rules)
    _check_descriptions(headers[0], rules)
    if not rules.min_slices <= len(headers) <= rules.max_slices:
        raise UnsuitableSeries(
            f"The series has {_count(len(headers), 'slice')}, "
            f"expected {rules.min_slices} to {rules.max_slices}."
        )
    _check_same(headers, "FrameOfReferenceUID")
    for header in headers:
        if fault := check_pixel_header(header):
            raise UnsuitableSeries(f"The pixels cannot be used: {fault}.")
    return _stack(headers, rules)


def _check_kind(headers: Sequence[Dataset]) -> None:
    """Refuse what is not one series of single-slice CT images."""
    total = len(headers)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if missing := sum(not header.get(keyword) for header in headers):
            raise UnsuitableSeries(
                f"{keyword} is missing or empty in {missing} of {_count(total, 'image')}, "
                "so a result could not refer to them."
            )
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


def _without_repeats(headers: Sequence[Dataset]) -> list[Dataset]:
    """The same instance received twice is one instance."""
    return list({str(header.SOPInstanceUID): header for header in headers}.values())


def _check_image_type(headers: Sequence[Dataset], rules: SeriesRules) -> None:
    total = len(headers)
    types = [[str(value).upper() for value in _values(h.get("ImageType"))] for h in headers]
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
        ("BodyPartExamined", rules.include_body_part, rules.exclude_body_part),
        (
            "SeriesDescription",
            rules.include_series_description,
            rules.exclude_series_description,
        ),
        ("StudyDescription", rules.include_study_description, rules.exclude_study_description),
    ):
        value = str(header.get(keyword) or "")
        if include and not re.search(include, value, re.IGNORECASE):
            raise UnsuitableSeries(f"{keyword} does not match the wanted {include!r}.")
        if exclude and re.search(exclude, value, re.IGNORECASE):
            raise UnsuitableSeries(f"{keyword} matches the unwanted {exclude!r}.")


def _check_same(headers: Sequence[Dataset], keyword: str) -> None:
    missing = sum(not header.get(keyword) for header in headers)
    if missing:
        raise UnsuitableSeries(
            f"{keyword} is missing or empty in {missing} of {_count(len(headers), 'image')}."
        )
    if (kinds := len({str(header.get(keyword)) for header in headers})) > 1:
        raise UnsuitableSeries(f"The images have {kinds} different {keyword}, expected one.")


def _stack(headers: Sequence[Dataset], rules: SeriesRules) -> Stack:
    """Sort by place in the patient and fit one even grid to the slices."""
    rows = _one_size(headers, "Rows")
    columns = _one_size(headers, "Columns")
    spacings = np.array([_numbers(h, "PixelSpacing", 2) for h in headers])  # (N, 2) mm
    directions = np.array([_numbers(h, "ImageOrientationPatient", 6) for h in headers])  # (N, 6)
    positions = np.array([_numbers(h, "ImagePositionPatient", 3) for h in headers])  # (N, 3) mm
    if (spacings <= 0).any():
        raise UnsuitableSeries("PixelSpacing is not positive.")
    if np.ptp(spacings, axis=0).max() > rules.pixel_spacing_tolerance_mm:
        raise UnsuitableSeries("PixelSpacing differs between the slices, expected one.")
    if np.ptp(directions, axis=0).max() > rules.orientation_tolerance:
        raise UnsuitableSeries("ImageOrientationPatient differs between the slices, expected one.")
    across, down = _right_angled(directions.mean(axis=0))
    normal = np.cross(across, down)  # (3,), towards the head in an ordinary axial series
    angle_deg = np.degrees(np.arccos(min(1.0, abs(normal[2]))))
    if angle_deg > rules.max_angle_from_axial_deg:
        raise UnsuitableSeries(
            f"The slices are {angle_deg:.0f} degrees from axial, "
            f"expected at most {rules.max_angle_from_axial_deg:g} degrees."
        )
    # highdicom's order: the first axis runs against the normal, which keeps the grid right-handed.
    order = np.argsort(-(positions @ normal), kind="stable")
    positions = positions[order]
    _check_tilt(positions, normal, rules)
    spacing_mm = _even_spacing(positions, normal, rules)
    first = positions[0]
    geometry = hd.VolumeGeometry.from_attributes(
        image_position=first.tolist(),
        image_orientation=[*across.tolist(), *down.tolist()],
        rows=rows,
        columns=columns,
        pixel_spacing=spacings.mean(axis=0).tolist(),
        spacing_between_slices=spacing_mm,
        number_of_frames=len(headers),
        coordinate_system="PATIENT",
        frame_of_reference_uid=str(headers[0].FrameOfReferenceUID),
    )
    return Stack(slices=tuple(headers[i] for i in order), geometry=geometry)


def _check_tilt(positions: np.ndarray, normal: np.ndarray, rules: SeriesRules) -> None:
    """Refuse a sheared stack: slices that do not lie straight above each other."""
    steps = positions - positions[0]  # (N, 3) mm
    shifts = steps - np.outer(steps @ normal, normal)
    shift_mm = np.linalg.norm(shifts, axis=1)
    if shift_mm.max() <= rules.shift_tolerance_mm:
        return
    worst = int(shift_mm.argmax())
    angle_deg = np.degrees(np.arctan2(shift_mm[worst], abs(steps[worst] @ normal)))
    raise UnsuitableSeries(
        f"The stack is slanted by {angle_deg:.1f} degrees (gantry tilt): slices are shifted by up "
        f"to {shift_mm[worst]:.1f} mm within their plane, expected at most "
        f"{rules.shift_tolerance_mm:g} mm."
    )


def _even_spacing(positions: np.ndarray, normal: np.ndarray, rules: SeriesRules) -> float:
    """The distance between slices in mm, all checked to lie evenly."""
    depths = -(positions @ normal)  # (N,) mm, ascending
    gaps = np.diff(depths)
    usual = float(np.median(gaps))
    if (same := int((gaps < DUPLICATE_MM).sum())) > 0:
        where = positions[int(gaps.argmin()), 2]
        raise UnsuitableSeries(
            f"{_count(same, 'pair')} of different slices at the same place, "
            f"the first at z = {where:.1f} mm."
        )
    spacing_mm = float(depths[-1] - depths[0]) / len(gaps)
    off = np.abs(depths - depths[0] - spacing_mm * np.arange(len(depths)))
    if off.max() > rules.spacing_tolerance_mm:
        raise UnsuitableSeries(_uneven(positions, gaps, usual, rules))
    length_mm = len(depths) * spacing_mm
    if spacing_mm > rules.max_slice_spacing_mm:
        raise UnsuitableSeries(
            f"The slices are {spacing_mm:.1f} mm apart, "
            f"expected at most {rules.max_slice_spacing_mm:g} mm."
        )
    if not rules.min_length_mm <= length_mm <= rules.max_length_mm:
        raise UnsuitableSeries(
            f"The slices cover {length_mm:.0f} mm, expected "
            f"{rules.min_length_mm:g} to {rules.max_length_mm:g} mm."
        )
    return spacing_mm


def _uneven(positions: np.ndarray, gaps: np.ndarray, usual: float, rules: SeriesRules) -> str:
    """Say whether slices are missing, and where, or the spacing is irregular."""
    times = gaps / usual
    wide = np.flatnonzero(np.round(times) > 1)
    whole = np.abs(gaps - np.round(times) * usual) <= 2 * rules.spacing_tolerance_mm
    if len(wide) and whole.all():
        missing = int((np.round(times) - 1).sum())
        first = int(wide[0])
        a, b = sorted((positions[first, 2], positions[first + 1, 2]))
        return (
            f"{_count(missing, 'slice')} missing: there is a gap between z = {a:.1f} and "
            f"{b:.1f} mm, where slices are {usual:.2f} mm apart elsewhere."
        )
    return (
        f"The distance between slices varies from {gaps.min():.2f} to {gaps.max():.2f} mm, "
        f"expected one distance within {rules.spacing_tolerance_mm:g} mm."
    )


def _right_angled(cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column directions with rounding errors of the header removed."""
    across, down = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(across @ down)) > UNIT_TOLERANCE:
        raise UnsuitableSeries(
            "ImageOrientationPatient is not two perpendicular directions of length one."
        )
    across = across / lengths[0]
    down = down - (down @ across) * across
    return across, down / np.linalg.norm(down)


def _one_size(headers: Sequence[Dataset], keyword: str) -> int:
    sizes = {int(_numbers(header, keyword, 1)[0]) for header in headers}
    if len(sizes) > 1 or min(sizes) < 1:
        raise UnsuitableSeries(
            f"{keyword} is {' or '.join(map(str, sorted(sizes)))}, expected one positive size."
        )
    return sizes.pop()


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in _values(header.get(keyword)))
    except (TypeError, ValueError):  # text that is no number
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise UnsuitableSeries(
            f"{keyword} is missing or not {_count(count, 'number')} in an image."
        )
    return numbers


def _values(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, pydicom.multival.MultiValue | list) else [value]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
