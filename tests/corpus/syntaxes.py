"""Every transfer syntax: those that pydicom's decoders read, and some that nobody reads here."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.corpus.case import RESULT, Case, Images, Spoil, as_file
from tests.corpus.pixels import UNDECODED, encapsulated

PROGRAMS = ("dcmcjpeg", "ojph_compress")
"""Encoders for what pydicom can only decode; Debian's packages dcmtk and openjph-tools."""

Encode = Callable[[Dataset], bytes]


def each(change: Callable[[Dataset], None]) -> Spoil:
    """Of every image."""

    def spoil(images: Images) -> None:
        for image in images:
            change(image)

    return spoil


def written(syntax: UID) -> Spoil:
    """Not compressed, but written in another way."""

    def change(image: Dataset) -> None:
        image.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            image.PixelData = np.frombuffer(image.PixelData, "<i2").astype(">i2").tobytes()
            image["PixelData"].VR = "OW"

    return each(change)


def by_pydicom(syntax: UID, **options: object) -> Spoil:
    """Those that it can also encode."""
    return each(lambda image: image.compress(syntax, generate_instance_uid=False, **options))


def eight_bits(syntax: UID) -> Spoil:
    """JPEG of one byte a pixel, every eighth HU."""

    def change(image: Dataset) -> None:
        image.PixelData = (np.frombuffer(image.PixelData, "<i2") // 16).astype("u1").tobytes()
        image.BitsAllocated = image.BitsStored = 8
        image.HighBit, image.PixelRepresentation, image.RescaleSlope = 7, 0, 16
        picture = BytesIO()
        Image.frombytes("L", (image.Columns, image.Rows), image.PixelData).save(picture, "JPEG")
        _put(image, syntax, picture.getvalue())

    return each(change)


def by_dcmtk(syntax: UID, option: str) -> Spoil:
    """By DCMTK's `dcmcjpeg`."""

    def change(image: Dataset) -> None:
        _unsigned_12_bits(image)
        with tempfile.TemporaryDirectory() as folder:
            one, other = Path(folder, "in.dcm"), Path(folder, "out.dcm")
            one.write_bytes(as_file(image))
            subprocess.run(["dcmcjpeg", option, str(one), str(other)], check=True)
            made = pydicom.dcmread(other)
        assert made.file_meta.TransferSyntaxUID == syntax
        image.file_meta.TransferSyntaxUID = syntax
        image.PixelData = made.PixelData
        image.RescaleIntercept = made.RescaleIntercept  # it moves the numbers of a lossy JPEG
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True

    return each(change)


def by_openjph(syntax: UID, *options: str) -> Spoil:
    """By `ojph_compress`."""

    def change(image: Dataset) -> None:
        _unsigned_12_bits(image)
        pixels = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
        with tempfile.TemporaryDirectory() as folder:
            one, other = Path(folder, "in.pgm"), Path(folder, "out.j2c")
            one.write_bytes(b"P5\n%d %d\n4095\n" % (image.Columns, image.Rows) + pixels)
            command = ["ojph_compress", "-i", str(one), "-o", str(other), *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            _put(image, syntax, other.read_bytes())

    return each(change)


def _unsigned_12_bits(image: Dataset) -> None:
    image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, 0


def _put(image: Dataset, syntax: UID, frame: bytes) -> None:
    image.file_meta.TransferSyntaxUID = syntax
    image.PixelData = encapsulate([frame])
    image["PixelData"].VR = "OB"
    image["PixelData"].is_undefined_length = True


def have_programs() -> bool:
    """Whether the encoders are there."""
    return all(shutil.which(program) for program in PROGRAMS)


def needs_programs(case: Case) -> bool:
    """Whether a series cannot be made without them."""
    return any(case.name.endswith(syntax.name) for syntax in BY_PROGRAMS)


READ: dict[UID, Spoil] = {
    ImplicitVRLittleEndian: written(ImplicitVRLittleEndian),
    DeflatedExplicitVRLittleEndian: written(DeflatedExplicitVRLittleEndian),
    ExplicitVRBigEndian: written(ExplicitVRBigEndian),
    RLELossless: by_pydicom(RLELossless),
    JPEG2000Lossless: by_pydicom(JPEG2000Lossless),
    JPEG2000: by_pydicom(JPEG2000, j2k_cr=[4]),
    JPEGLSLossless: by_pydicom(JPEGLSLossless),
    JPEGLSNearLossless: by_pydicom(JPEGLSNearLossless, jls_error=3),
    JPEGBaseline8Bit: eight_bits(JPEGBaseline8Bit),
    JPEGExtended12Bit: by_dcmtk(JPEGExtended12Bit, "+ee"),
    JPEGLossless: by_dcmtk(JPEGLossless, "+el"),
    JPEGLosslessSV1: by_dcmtk(JPEGLosslessSV1, "+e1"),
    HTJ2KLossless: by_openjph(HTJ2KLossless, "-reversible", "true"),
    HTJ2KLosslessRPCL: by_openjph(
        HTJ2KLosslessRPCL, "-reversible", "true", "-prog_order", "RPCL", "-num_decomps", "2"
    ),
    # Debian's encoder spoils a lossy image that it halves until a side is one pixel.
    HTJ2K: by_openjph(HTJ2K, "-qstep", "0.0001", "-num_decomps", "2"),
}
"""By UID; explicit little endian is what all other cases are in."""

BY_PROGRAMS = (
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
)

LOSSY = {JPEG2000, JPEGLSNearLossless, JPEGBaseline8Bit, JPEGExtended12Bit, HTJ2K}
LOSSLESS = tuple(syntax for syntax in READ if syntax not in LOSSY)

UNREAD = {
    "1.2.840.10008.1.2.4.92": "a JPEG 2000 of part 2",
    "1.2.840.10008.1.2.4.100": "a film in MPEG-2",
    "1.2.840.10008.1.2.4.102": "a film in MPEG-4",
    "1.2.840.10008.1.2.4.107": "a film in HEVC",
    "1.2.840.10008.1.2.4.204": "pixels that stand on another server",
    "1.2.840.10008.1.2.7.1": "a live film",
    "1.3.6.1.4.1.99999.1": "a transfer syntax of a firm's own",
}

SYNTAXES = (
    *(Case(f"written as {syntax.name}", RESULT, spoil) for syntax, spoil in READ.items()),
    *(Case(name, UNDECODED, encapsulated(UID(uid), b"\0" * 64)) for uid, name in UNREAD.items()),
)
