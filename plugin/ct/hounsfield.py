"""The stored pixels of CT slices as Hounsfield units.

Padding is decided here and nowhere else. Scanners fill the corners outside their circle with
values such as -2000 or -3024 that are no measurement. Every value below -1024 HU, and every
pixel of a PixelPaddingValue above the scale of a 12-bit scanner, becomes -1024 HU, which is air
to the network. A PixelPaddingValue within the scale is left as it is: some archives write
one where it means water, and a wrong header must not punch holes into a patient.
"""

import math

import numpy as np
from pydicom import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from plugin.ct.compressed import decode
from plugin.ct.series_rules import UnsuitableSeries
from plugin.dicom_file import number_in

AIR_HU = -1024.0
"""Lowest number of the CT scale, and what padding becomes."""

HIGHEST_12_BIT_HU = 3071.0
"""Highest number of the usual CT scale; a padding value above it can only be padding."""

HIGHEST_HU = 65535.0
"""No CT scale goes beyond 16 bits; a higher number means a wrong header."""

HIGHEST_RESCALE = 1e6
"""No scanner has such a slope or intercept, and 32-bit numbers would not hold what comes of it."""

TISSUE_HU = -200.0
"""Fat is about -100 HU: a series with nothing above this shows no patient."""

THIN_HU = -300.0
"""Between fat and air. Around a patient there is air, and less than this where it meets skin."""

OFF_HU = 150.0
"""How far from water the median of all that is no air may lie: it was -50 to 51 HU in 51 CTs of
head and neck (OpenKBP) and in what is made up here; soft tissue is by far the most of a patient."""

SAMPLED = 8
"""Of so many rows and columns one is looked at for it."""

NATIVE_SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,  # pydicom inflates these when it reads the file
    ExplicitVRBigEndian,
)
"""Transfer syntaxes that hold the pixels as they are; all others are compressed."""


def check_pixel_header(header: Dataset) -> str | None:
    """What keeps the pixels from becoming Hounsfield units, or None. Needs no pixel data."""
    if header.get("SamplesPerPixel", 1) != 1:
        return f"SamplesPerPixel is {header.get('SamplesPerPixel')}, expected 1 (grey)"
    if header.get("PhotometricInterpretation", "MONOCHROME2") != "MONOCHROME2":
        return (
            f"PhotometricInterpretation is {header.PhotometricInterpretation}, expected MONOCHROME2"
        )
    if header.get("NumberOfFrames") not in (None, "", 1):
        return f"an image has {header.NumberOfFrames} frames, expected 1"
    if _whole(header, "BitsAllocated") not in (8, 16, 32):
        return f"BitsAllocated is {header.get('BitsAllocated')}, expected 8, 16 or 32"
    stored, high = _whole(header, "BitsStored"), _whole(header, "HighBit")
    if stored is not None and high is not None and high != stored - 1:
        return f"HighBit is {high} and BitsStored {stored}, expected HighBit one less"
    if _whole(header, "PixelRepresentation") not in (0, 1):
        return f"PixelRepresentation is {header.get('PixelRepresentation')}, expected 0 or 1"
    slope, intercept = _rescale(header)
    if slope is None or intercept is None:
        return (
            "RescaleSlope or RescaleIntercept is missing or not a number, "
            "so the pixels cannot be turned into Hounsfield units"
        )
    if slope <= 0:
        return f"RescaleSlope is {slope:g}, expected a positive number"
    if max(slope, abs(intercept)) > HIGHEST_RESCALE:
        return (
            f"RescaleSlope is {slope:g} and RescaleIntercept {intercept:g}, "
            f"expected none above {HIGHEST_RESCALE:g}"
        )
    if header.get("RescaleType") not in (None, "", "HU"):
        return f"RescaleType is {header.RescaleType}, expected HU"
    return None


def is_cut_short(dataset: Dataset) -> bool:
    """Whether uncompressed pixel data has fewer bytes than the header promises."""
    if _transfer_syntax(dataset) not in NATIVE_SYNTAXES:
        return False
    sides = [_whole(dataset, keyword) for keyword in ("Rows", "Columns", "BitsAllocated")]
    # A size that is missing is the header's fault, and is judged elsewhere.
    return len(dataset.PixelData) < math.prod(side or 0 for side in sides) // 8


def fill_with_hounsfield(dataset: Dataset, out: np.ndarray) -> float:
    """Decode one slice into ``out``, and return its highest HU.

    Args:
        dataset: a slice with pixel data that passed ``check_pixel_header``.
        out: ``(rows, columns)`` float32, overwritten.

    Raises:
        UnsuitableSeries: the pixel data is absent, too short, cannot be decoded or is no CT.
    """
    stored = _stored_pixels(dataset, out.shape)
    slope, intercept = _rescale(dataset)
    if slope is None or intercept is None:
        raise UnsuitableSeries("RescaleSlope or RescaleIntercept is missing or not a number.")
    out[...] = stored
    if slope != 1:
        out *= np.float32(slope)
    out += np.float32(intercept)
    # Of the stored integers, which are half as many bytes as what they become.
    ends = stored.min(), stored.max()
    _check_within_bits(dataset, *ends)
    lowest, highest = (float(end) * slope + intercept for end in ends)
    padding = _whole(dataset, "PixelPaddingValue")
    if padding is not None:
        padding = int(np.array(padding).astype(stored.dtype))  # its VR may be of another sign
        if padding * slope + intercept > HIGHEST_12_BIT_HU:
            out[stored == padding] = AIR_HU
            highest = float(out.max())
    if lowest < AIR_HU:
        np.maximum(out, AIR_HU, out=out)
    if highest > HIGHEST_HU:
        raise UnsuitableSeries(
            f"A pixel would be {highest:.0f} HU; expected at most {HIGHEST_HU:.0f}, "
            "so the rescale values or the pixel format in the header are wrong."
        )
    return highest


def check_scale(voxels: np.ndarray, highest: float) -> None:
    """See whether these can be the Hounsfield units of a patient.

    Args:
        voxels: ``(slices, rows, columns)`` HU.
        highest: of them.

    Raises:
        UnsuitableSeries: no voxel is tissue, or none is air, or tissue is not where it should be.
    """
    if highest < TISSUE_HU:
        raise UnsuitableSeries(f"The images show no patient: nothing is above {TISSUE_HU:.0f} HU.")
    if not any(_shows_thin(plane) for plane in voxels):
        raise UnsuitableSeries(
            f"The images show no air: nothing is below {THIN_HU:.0f} HU but what may be padding, "
            "so the rescale values in the header are probably wrong."
        )
    sampled = voxels[:, ::SAMPLED, ::SAMPLED]
    dense = sampled[sampled > THIN_HU]
    median = float(np.median(dense)) if dense.size else 0.0
    if abs(median) > OFF_HU:
        raise UnsuitableSeries(
            f"Half of all that is no air is above {median:.0f} HU, expected {-OFF_HU:.0f} to "
            f"{OFF_HU:.0f} HU, so the rescale values in the header are probably wrong."
        )


def _shows_thin(hounsfield: np.ndarray) -> bool:
    """Whether a slice has a voxel between padding and ``THIN_HU``."""
    return bool(((hounsfield > AIR_HU) & (hounsfield < THIN_HU)).any())


def _check_within_bits(header: Dataset, *values: np.integer) -> None:
    """Refuse what does not fit into BitsStored.

    Either that is wrong or the bits above it hold something else, a sign that was not continued or
    an overlay: which of the two cannot be seen, and they make hundreds of HU of difference.
    """
    bits = _whole(header, "BitsStored")
    if bits is None:
        return
    signed = header.PixelRepresentation == 1
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if outside := [int(value) for value in values if not lowest <= value <= highest]:
        raise UnsuitableSeries(
            f"A stored pixel is {outside[0]}, which the {bits} bits of BitsStored cannot hold, "
            "so its Hounsfield units are not known."
        )


def _rescale(header: Dataset) -> tuple[float | None, float | None]:
    return number_in(header, "RescaleSlope"), number_in(header, "RescaleIntercept")


def _whole(header: Dataset, keyword: str) -> int | None:
    """A whole number of at most 32 bits; 16.0 is none."""
    value = header.get(keyword)
    return int(value) if isinstance(value, int) and abs(value) < 2**32 else None


def _stored_pixels(dataset: Dataset, shape: tuple[int, ...]) -> np.ndarray:
    """``(rows, columns)`` of the stored integers."""
    syntax = _transfer_syntax(dataset)
    if syntax not in NATIVE_SYNTAXES:
        return decode(dataset, shape)
    # Native pixels without pydicom's general machinery, which takes most of the reading time.
    if is_cut_short(dataset):
        raise UnsuitableSeries("The pixel data of an image is cut short.")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    kind = "i" if dataset.PixelRepresentation == 1 else "u"
    dtype = np.dtype(f"{order}{kind}{dataset.BitsAllocated // 8}")
    pixels = dataset.PixelData
    if order == ">" and dtype.itemsize == 1 and dataset["PixelData"].VR == "OW":
        pixels = np.frombuffer(pixels, np.uint16).byteswap()  # words, whose bytes changed places
    return np.frombuffer(pixels, dtype, math.prod(shape)).reshape(shape)


def _transfer_syntax(dataset: Dataset) -> UID:
    return UID(dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))
