"""The even grid that the slices of a series make in the patient, or why they make none."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue

from plugin.ct.series_rules import SeriesRules, UnsuitableSeries
from plugin.dicom_file import number_in
from plugin.plain_text import counted

Floats = NDArray[np.float64]

UNIT_TOLERANCE = 2e-3
"""How far a row or column direction may be from length one, and the two from a right angle: over
250 mm, which is far from the first pixel, this adds up to half a mm."""

TILT_TOLERANCE_DEG = 1.0
"""Between what a scanner says of its gantry's tilt, which is a nominal number, and its slices."""

DUPLICATE_MM = 1e-2
"""Slices closer than this are at the same place."""

FIELD_MM = (10.0, 2000.0)
"""Rows and columns times their spacing: no scanner sees less, and through none fits more."""

FARTHEST = 1e6
"""No number of a patient's geometry is larger, in mm or in pixels."""

LARGEST_VOLUME = 2**30
"""Voxels: a thousand slices of 1024 x 1024, which are 4 GiB of HU."""

ROUNDING_MM = 1e-3
"""What positions with a few decimals add to a distance: 6.0000001 mm are not more than 6 mm."""


@dataclass(frozen=True)
class Stack:
    """Headers of a suitable series in the order of the volume's first axis, and its grid."""

    slices: tuple[Dataset, ...]
    geometry: hd.VolumeGeometry


def stack_slices(headers: Sequence[Dataset], rules: SeriesRules) -> Stack:
    """Sort by place in the patient and fit one even grid to the slices."""
    rows = _one_size(headers, "Rows")
    columns = _one_size(headers, "Columns")
    spacings = np.array([_numbers(h, "PixelSpacing", 2) for h in headers])  # (N, 2) mm
    directions = np.array([_numbers(h, "ImageOrientationPatient", 6) for h in headers])  # (N, 6)
    positions = np.array([_numbers(h, "ImagePositionPatient", 3) for h in headers])  # (N, 3) mm
    if rows * columns * len(headers) > LARGEST_VOLUME:
        raise UnsuitableSeries(
            f"{counted(len(headers), 'slice')} of {rows} x {columns} pixels do not fit in the "
            f"memory, expected at most {LARGEST_VOLUME / 1e9:.1f} billion pixels."
        )
    if (spacings <= 0).any():
        raise UnsuitableSeries("PixelSpacing is not positive.")
    field_mm = spacings.max(axis=0) * (rows, columns)
    if field_mm.min() < FIELD_MM[0] or field_mm.max() > FIELD_MM[1]:
        raise UnsuitableSeries(
            f"The images are {field_mm[0]:.3g} x {field_mm[1]:.3g} mm, "
            f"expected {FIELD_MM[0]:g} to {FIELD_MM[1]:g} mm."
        )
    if np.ptp(spacings, axis=0).max() > rules.pixel_spacing_tolerance_mm:
        raise UnsuitableSeries("PixelSpacing differs between the slices, expected one.")
    if np.ptp(directions, axis=0).max() > rules.orientation_tolerance:
        raise UnsuitableSeries("ImageOrientationPatient differs between the slices, expected one.")
    across, down = _right_angled(directions.mean(axis=0))
    normal = np.cross(across, down)  # (3,), towards the head in an ordinary axial series
    angle_deg = from_axial_deg(normal)
    if angle_deg > rules.max_angle_from_axial_deg:
        raise UnsuitableSeries(
            f"The slices are {angle_deg:.0f} degrees from axial, "
            f"expected at most {rules.max_angle_from_axial_deg:g} degrees."
        )
    _check_gantry(headers, angle_deg)
    # highdicom's order: the first axis runs against the normal, which keeps the grid right-handed.
    order = np.argsort(-(positions @ normal), kind="stable")
    positions = positions[order]
    slices = tuple(headers[i] for i in order)
    _check_acquisitions(slices)
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
    return Stack(slices=slices, geometry=geometry)


def from_axial_deg(normal: Floats) -> float:
    """Between the normal of slices, of length one in LPS, and the patient's head-foot axis."""
    return float(np.degrees(np.arccos(min(1.0, abs(normal[2])))))


def _check_gantry(headers: Sequence[Dataset], angle_deg: float) -> None:
    """Refuse slices of a tilted scanner whose orientation does not know of the tilt."""
    for header in headers:
        if "ORIGINAL" not in image_type(header):
            continue  # made of others, perhaps without their tilt
        tilt_deg = number_in(header, "GantryDetectorTilt") or 0.0
        if abs(tilt_deg) > angle_deg + TILT_TOLERANCE_DEG:
            raise UnsuitableSeries(
                f"GantryDetectorTilt is {tilt_deg:g} degrees, but by ImageOrientationPatient the "
                f"slices are only {angle_deg:.0f} degrees from axial: where they lie is not known."
            )


def _check_acquisitions(slices: Sequence[Dataset]) -> None:
    """Refuse two scans that mesh: the patient may have moved from the one to the other."""
    numbers = [number_in(one, "AcquisitionNumber") for one in slices]
    runs = [number for number, _ in groupby(n for n in numbers if n is not None)]
    if len(runs) > len(set(runs)):
        raise UnsuitableSeries(
            "Slices of different acquisitions (AcquisitionNumber) lie between each other, expected "
            "one acquisition after the other: the patient may have moved meanwhile."
        )


def _check_tilt(positions: Floats, normal: Floats, rules: SeriesRules) -> None:
    """Refuse a sheared stack: slices that do not lie straight above each other."""
    steps = positions - positions[0]  # (N, 3) mm
    shifts = steps - np.outer(steps @ normal, normal)
    shift_mm = np.linalg.norm(shifts, axis=1)
    if shift_mm.max() <= rules.shift_tolerance_mm:
        return
    depths = steps @ normal  # (N,) mm
    far = int(np.abs(depths).argmax())
    slant = shifts[far] / depths[far] if depths[far] else np.zeros(3)
    if np.linalg.norm(shifts - np.outer(depths, slant), axis=1).max() > rules.shift_tolerance_mm:
        raise UnsuitableSeries(
            f"Slices lie up to {shift_mm.max():.1f} mm beside each other within their plane, "
            f"expected at most {rules.shift_tolerance_mm:g} mm."
        )
    raise UnsuitableSeries(
        f"The stack is slanted by {np.degrees(np.arctan(np.linalg.norm(slant))):.1f} degrees "
        f"(gantry tilt): slices are shifted by up to {shift_mm.max():.1f} mm within their plane, "
        f"expected at most {rules.shift_tolerance_mm:g} mm."
    )


def _even_spacing(positions: Floats, normal: Floats, rules: SeriesRules) -> float:
    """The distance between slices in mm, all checked to lie evenly."""
    depths = -(positions @ normal)  # (N,) mm, ascending
    gaps = np.diff(depths)
    usual = float(np.median(gaps))
    if (same := int((gaps < DUPLICATE_MM).sum())) > 0:
        where = positions[int(gaps.argmin()), 2]
        raise UnsuitableSeries(
            f"{counted(same, 'pair')} of different slices at the same place, "
            f"the first at z = {where:.1f} mm."
        )
    spacing_mm = float(depths[-1] - depths[0]) / len(gaps)
    off = np.abs(depths - depths[0] - spacing_mm * np.arange(len(depths)))
    if off.max() > rules.spacing_tolerance_mm:
        raise UnsuitableSeries(_uneven(positions, gaps, usual, rules))
    length_mm = len(depths) * spacing_mm
    if spacing_mm > rules.max_slice_spacing_mm + ROUNDING_MM:
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


def _uneven(positions: Floats, gaps: Floats, usual: float, rules: SeriesRules) -> str:
    """Say whether slices are missing, and where, or the spacing is irregular."""
    times = gaps / usual
    wide = np.flatnonzero(np.round(times) > 1)
    whole = np.abs(gaps - np.round(times) * usual) <= 2 * rules.spacing_tolerance_mm
    if len(wide) and whole.all():
        missing = int((np.round(times) - 1).sum())
        first = int(wide[0])
        a, b = sorted((positions[first, 2], positions[first + 1, 2]))
        return (
            f"{counted(missing, 'slice')} missing: there is a gap between z = {a:.1f} and "
            f"{b:.1f} mm, where slices are {usual:.2f} mm apart elsewhere."
        )
    return (
        f"The distance between slices varies from {gaps.min():.2f} to {gaps.max():.2f} mm, "
        f"expected one distance within {rules.spacing_tolerance_mm:g} mm."
    )


def _right_angled(cosines: Floats) -> tuple[Floats, Floats]:
    """Row and column directions with rounding errors of the header removed."""
    across, down = cosines[:3], cosines[3:]
    lengths = float(np.linalg.norm(across)), float(np.linalg.norm(down))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(across @ down))) > UNIT_TOLERANCE:
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
        numbers = tuple(float(value) for value in values_of(header.get(keyword)))
    except (TypeError, ValueError, OverflowError):  # text that is no number, or endless digits
        numbers = ()
    # What is no number at all is not below either.
    if len(numbers) != count or not all(abs(number) < FARTHEST for number in numbers):
        raise UnsuitableSeries(
            f"{keyword} is missing or not {counted(count, 'number')} in an image."
        )
    return numbers


def image_type(header: Dataset) -> list[str]:
    """The values of ImageType, in capitals as DICOM has them, however they were written."""
    return [str(value).upper() for value in values_of(header.get("ImageType"))]


def values_of(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list) else [value]
