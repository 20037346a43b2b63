"""Pixels that are absent, too many, too few, or mean no Hounsfield units."""

import struct
import zlib

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.corpus.case import RESULT, Case, Files, Images, Spoil, both, in_all, in_one, raw, without

JPEG_2000 = b"\xff\x4f\xff\x51"  # begins a code stream


def encapsulated(syntax: UID, frame: bytes) -> Spoil:
    """The same compressed data in every image."""

    def change(images: Images) -> None:
        for image in images:
            image.file_meta.TransferSyntaxUID = syntax
            image.PixelData = encapsulate([frame])
            image["PixelData"].VR = "OB"
            image["PixelData"].is_undefined_length = True

    return change


def compressed(syntax: UID) -> Spoil:
    """As it should be."""

    def change(images: Images) -> None:
        for image in images:
            image.compress(syntax, generate_instance_uid=False)

    return change


def siz(rows: int, columns: int, components: int = 1) -> bytes:
    """How a JPEG 2000 code stream of this size begins."""
    body = (
        struct.pack(">HIIIIIIIIH", 0, columns, rows, 0, 0, columns, rows, 0, 0, components)
        + b"\x0f\x01\x01" * components
    )
    return JPEG_2000 + struct.pack(">H", len(body) + 2) + body + b"\xff\xd9"


def sof(marker: int, rows: int, columns: int) -> bytes:
    """How a JPEG of this size begins."""
    body = struct.pack(">BHHB", 16, rows, columns, 1) + b"\x01\x11\x00"
    return b"\xff\xd8\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def claims(rows: int, columns: int) -> Spoil:
    """A size in the header, whatever the pixels are."""
    return in_all(Rows=rows, Columns=columns)


def few_pixels(images: Images) -> None:
    images[9].PixelData = images[9].PixelData[:1000]


def air(images: Images) -> None:
    in_all(PixelData=bytes(2048))(images)


def sixteen_times_the_pixels(images: Images) -> None:
    for image in images:
        image.PixelData = image.PixelData * 16


def broken_jpeg_2000(images: Images) -> None:
    compressed(JPEG2000Lossless)(images)
    start = images[5].PixelData.index(JPEG_2000)
    images[5].PixelData = images[5].PixelData[:start] + bytes(len(images[5].PixelData) - start)


def garbled(syntax: UID, seed: int) -> Spoil:
    """Every image, with bytes of the compressed data changed behind its beginning."""

    def change(images: Images) -> None:
        noise = np.random.default_rng(seed)
        compressed(syntax)(images)
        for image in images:
            data = bytearray(image.PixelData)
            for at in noise.integers(len(data) // 2, len(data) - 16, 20):
                data[at] = noise.integers(256)
            image.PixelData = bytes(data)

    return change


def rle_bomb(images: Images) -> None:
    """Two segments that swell to half a gigabyte."""
    run = b"\x81\x00" * 2**21  # each is 128 zeros
    header = struct.pack("<16I", 2, 64, 64 + len(run), *(0,) * 13)
    encapsulated(RLELossless, header + run + run)(images[:20])
    del images[20:]


def deflated(images: Images) -> None:
    for image in images:
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def deflate_bomb(files: Files) -> Files:
    """The first file has half a megabyte that inflates to half a gigabyte."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = 144 + int.from_bytes(files[0][140:144], "little")  # behind the file's meta elements
    plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(files[0][start:])
    data = deflater.compress(plain + b"\xfc\xff\xfc\xff" + b"OB\0\0" + struct.pack("<I", 2**29))
    data += b"".join(deflater.compress(bytes(2**20)) for _ in range(2**9)) + deflater.flush()
    return [files[0][:start] + data + bytes(len(data) % 2), *files[1:]]


NO_HU = "RescaleSlope or RescaleIntercept is missing"
UNDECODED = "of an image cannot be decoded"

PIXELS = (
    Case("no pixels in any image", "22 of 22 images have no pixel data", without("PixelData")),
    Case(
        "empty pixels in one image",
        "1 of 22 images have",
        in_one(PixelData=b""),
    ),
    Case("one image cut short", "1 of 22 images have fewer bytes of pixel data", few_pixels),
    Case("more pixels than the header says", RESULT, sixteen_times_the_pixels),
    Case("nothing but air", "The images show no patient", air),
    Case("no slope", NO_HU, without("RescaleSlope")),
    Case("an empty intercept in one image", NO_HU, in_one(RescaleIntercept=None)),
    Case("a slope that is not a number", NO_HU, raw("RescaleSlope", b"nan")),
    Case("a slope without end", NO_HU, raw("RescaleSlope", b"inf", one=True)),
    Case("an intercept without end", NO_HU, raw("RescaleIntercept", b"-inf")),
    Case("a slope that is a word", NO_HU, raw("RescaleSlope", b"steep", one=True)),
    Case("two slopes", NO_HU, raw("RescaleSlope", b"1\\2")),
    Case("a slope of zero", "RescaleSlope is 0, expected a positive", in_one(RescaleSlope=0)),
    Case("a negative slope", "RescaleSlope is -1", in_all(RescaleSlope=-1)),
    Case("a slope beyond 32 bits", "RescaleSlope is 1e+39", raw("RescaleSlope", b"1e39")),
    Case(
        "an intercept beyond 32 bits", "RescaleIntercept -1e+39", raw("RescaleIntercept", b"-1e39")
    ),
    Case("a slope of a thousand", "expected at most 65535", in_one(RescaleSlope=1000)),
    Case("other units", "RescaleType is US, expected HU", in_all(RescaleType="US")),
    Case("colour", "SamplesPerPixel is 3", in_all(SamplesPerPixel=3)),
    Case(
        "black for white",
        "PhotometricInterpretation is MONOCHROME1",
        in_all(PhotometricInterpretation="MONOCHROME1"),
    ),
    Case("two frames in an image", "2 frames, expected 1", in_one(NumberOfFrames=2)),
    Case("a billion frames", "999999999 frames", raw("NumberOfFrames", b"999999999")),
    Case("twelve bits", "BitsAllocated is 12", in_one(BitsAllocated=12)),
    Case(
        "sixteen bits written as 16.0", "BitsAllocated is", raw("BitsAllocated", b"16.0", vr="DS")
    ),
    Case("no sign", "PixelRepresentation is None", without("PixelRepresentation")),
    Case(
        "a padding value of forty digits",
        RESULT,
        raw("PixelPaddingValue", b"9" * 40, vr="IS"),
    ),
    Case(
        "rows that are an attribute's number",
        "22 of 22 images have fewer bytes",
        raw("Rows", b"\x28\x00\x10\x00", vr="AT"),
    ),
    Case("rows of three bytes", "Rows is missing", raw("Rows", b"\x20\x00\x00", one=True)),
    Case("no rows at all", "Rows is missing or not 1 number", without("Rows")),
    Case("no rows but a zero", "Rows is 0, expected one positive size", in_all(Rows=0)),
    Case("two sizes", "1 of 22 images have fewer bytes", in_one(Rows=33)),
    Case(
        "images of 65535 x 65535 in 2048 bytes",
        "22 of 22 images have fewer bytes",
        claims(65535, 65535),
    ),
    Case(
        "a compressed series whose headers claim 189 gigabytes",
        "22 slices of 65535 x 65535 pixels do not fit in the memory",
        both(compressed(JPEG2000Lossless), claims(65535, 65535)),
    ),
    Case(
        "a hundred bytes of JPEG 2000 that decode to 32 gigabytes",
        "are 65535 x 65535 x 8, but its header says 32 x 32",
        encapsulated(JPEG2000Lossless, siz(65535, 65535, 8)),
    ),
    Case(
        "a JPEG 2000 of sixteen thousand components",
        "are 32 x 32 x 16384, but its header says 32 x 32",
        encapsulated(JPEG2000Lossless, siz(32, 32, 16384)),
    ),
    Case(
        "a hundred bytes of JPEG that decode to 8 gigabytes",
        "are 65535 x 65535, but its header says 32 x 32",
        encapsulated(JPEGLosslessSV1, sof(0xC3, 65535, 65535)),
    ),
    Case(
        "a hundred bytes of JPEG-LS that decode to 8 gigabytes",
        "are 65535 x 65535, but its header says 32 x 32",
        encapsulated(JPEGLSLossless, sof(0xF7, 65535, 65535)),
    ),
    Case("run lengths that swell to half a gigabyte", UNDECODED, rle_bomb),
    Case(
        "half a megabyte that inflates to half a gigabyte",
        "1 of 22 files cannot be read",
        deflated,
        deflate_bomb,
    ),
    Case("one image's JPEG 2000 overwritten with zeros", UNDECODED, broken_jpeg_2000),
    Case(
        "a JPEG-LS with changed bytes",
        "Half of all that is no air is above",  # by luck: the decoder takes them for an image
        garbled(JPEGLSLossless, 1),
    ),
    Case("an RLE of three segments", UNDECODED, encapsulated(RLELossless, b"\x03" + bytes(99))),
    Case("a JPEG of nothing", UNDECODED, encapsulated(JPEGLosslessSV1, b"\xff\xd8")),
    Case(
        "a JPEG that is a picture of another kind",
        UNDECODED,
        encapsulated(JPEGLosslessSV1, b"GIF89a"),
    ),
    Case(
        "boxes within a JPEG 2000 that lead nowhere",
        UNDECODED,
        encapsulated(JPEG2000Lossless, b"\0\0\0\x08free" * 100_000),
    ),
    Case(
        "compressed pixels that say they are not",
        "fewer bytes of pixel data",
        encapsulated(UID("1.2.840.10008.1.2.1"), bytes(100)),
    ),
)
