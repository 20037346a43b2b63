"""Places in which no patient can have been."""

from copy import deepcopy

import numpy as np
from pydicom.uid import generate_uid

from tests.corpus.case import (
    RESULT,
    Case,
    Images,
    Spoil,
    in_all,
    in_one,
    raw,
    rename,
    without,
)


def moved(index: int, *offset_mm: float) -> Spoil:
    """One slice elsewhere."""

    def change(images: Images) -> None:
        position = np.array(images[index].ImagePositionPatient, float) + offset_mm
        images[index].ImagePositionPatient = position.tolist()

    return change


def apart(spacing_mm: float) -> Spoil:
    """All slices along z."""

    def change(images: Images) -> None:
        for index, image in enumerate(images):
            image.ImagePositionPatient = [0.0, 0.0, -index * spacing_mm]

    return change


def at_one_place_twice(images: Images) -> Images:
    again = deepcopy(images[9])
    rename(again, generate_uid(entropy_srcs=[again.SOPInstanceUID]))
    return [*images, again]


def a_gap(images: Images) -> Images:
    return images[:12] + images[13:]


def endless_digits(images: Images) -> None:
    raw("ImagePositionPatient", b"0\\0\\" + b"9" * 400)(images)


POSITION = "ImagePositionPatient is missing or not 3 numbers"

GEOMETRY = (
    Case("a tilted gantry", "slanted by 15.0 degrees (gantry tilt)", tilt=15.0),
    Case(
        "a tilt that the orientation does not know of",
        "GantryDetectorTilt is 20 degrees",
        in_all(GantryDetectorTilt=20),
    ),
    Case(
        "two acquisitions that mesh",
        "different acquisitions (AcquisitionNumber) lie between each other",
        lambda images: in_all(AcquisitionNumber=2)(images[::2]),
    ),
    Case("one slice alone", "1 slice, expected 20", lambda images: images[:1]),
    Case("a slice is missing", "1 slice missing: there is a gap between z", a_gap),
    Case("two slices at one place", "1 pair of different slices at the same", at_one_place_twice),
    Case(
        "all slices at one place",
        "21 pairs of different slices at the same place",
        in_all(ImagePositionPatient=[0, 0, 0]),
    ),
    Case("one slice beside the others", "8.0 mm beside each other", moved(5, 8, 0, 0)),
    Case("slices at uneven distances", "varies from 4.00 to 8.00 mm", moved(5, 0, 0, 2)),
    Case("slices seven millimetres apart", "7.0 mm apart, expected at most 6", apart(7.0)),
    Case("a stack of a finger's length", "cover 22 mm, expected 100", apart(1.0)),
    Case("slices a kilometre apart", "ImagePositionPatient is missing or not", apart(1e6)),
    Case("slices in the wrong order", RESULT, lambda images: images[::2] + images[1::2]),
    Case(
        "two frames of reference",
        "2 different FrameOfReferenceUID",
        in_one(FrameOfReferenceUID="2.25.3"),
    ),
    Case("no frame of reference", "FrameOfReferenceUID is", without("FrameOfReferenceUID")),
    Case(
        "half of the slices upside down",
        "ImageOrientationPatient differs",
        lambda images: in_all(ImageOrientationPatient=[1, 0, 0, 0, -1, 0])(images[11:]),
    ),
    Case(
        "sagittal slices",
        "90 degrees from axial",
        in_all(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
    ),
    Case(
        "rows and columns that are not perpendicular",
        "not two perpendicular directions",
        in_all(ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]),
    ),
    Case(
        "an orientation of zeros",
        "not two perpendicular directions",
        in_all(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]),
    ),
    Case(
        "an orientation of five numbers",
        "ImageOrientationPatient is missing or not 6 numbers",
        in_one(ImageOrientationPatient=[1, 0, 0, 0, 1]),
    ),
    Case(
        "an orientation that is not a number",
        "ImageOrientationPatient is missing or not 6 numbers",
        raw("ImageOrientationPatient", b"nan\\nan\\nan\\nan\\nan\\nan"),
    ),
    Case("no position", POSITION, without("ImagePositionPatient")),
    Case("a position that is not a number", POSITION, raw("ImagePositionPatient", b"0\\0\\nan")),
    Case("a position without end", POSITION, raw("ImagePositionPatient", b"0\\0\\inf", one=True)),
    Case("a position farther than the sun", POSITION, raw("ImagePositionPatient", b"0\\0\\1e300")),
    Case("a position of four hundred digits", POSITION, endless_digits),
    Case("a position that is a word", POSITION, raw("ImagePositionPatient", b"HEAD", one=True)),
    Case("no pixel spacing", "PixelSpacing is missing", without("PixelSpacing")),
    Case("one pixel spacing", "PixelSpacing is missing or not 2", raw("PixelSpacing", b"8")),
    Case("a negative pixel spacing", "PixelSpacing is not", in_all(PixelSpacing=[-1, 1])),
    Case("a pixel spacing of nothing", "PixelSpacing is not", raw("PixelSpacing", b"0\\0")),
    Case(
        "two pixel spacings",
        "PixelSpacing differs",
        in_one(PixelSpacing=[8.0, 8.01]),
    ),
    Case("pixels of a kilometre", "images are 3.2e+06 x", raw("PixelSpacing", b"100000\\100000")),
    Case("pixels of an atom", "images are 3.2e-06 x", raw("PixelSpacing", b"1e-7\\1e-7")),
    Case("pixels that are needles", "images are 256 x", raw("PixelSpacing", b"8\\1e-300")),
)
