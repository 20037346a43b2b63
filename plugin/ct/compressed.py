"""The compressed pixels of one slice. What they would take is known before they are decoded.

A few bytes can claim to be an image of gigabytes, and the decoders believe them: so the size that
stands in the compressed data itself is compared with the header's, which others have judged.
"""

import math
import struct

import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from plugin.ct.series_rules import UnsuitableSeries

DECODERS = "pylibjpeg"
"""The only ones: pyjpegls and Orthanc's DCMTK hold two CharLS under the same symbols."""

OVERHEAD = 2**16
"""Bytes of tables, comments and profiles that any compressed image may have."""

JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Second bytes of the markers that begin an image (SOF); 0xF7 is JPEG-LS."""

HIERARCHICAL = 0xDE
"""Second byte of the marker of an image in several sizes, of which the first says little."""

Size = tuple[int, int, int]
"""Rows, columns and components."""


def decode(dataset: Dataset, shape: tuple[int, ...]) -> np.ndarray:
    """``(rows, columns)`` of the stored integers.

    Args:
        dataset: one slice.
        shape: rows and columns in its header, as many as may be decoded.

    Raises:
        UnsuitableSeries: they cannot be decoded, or are not of this size.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    for table in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        dataset.pop(table, None)  # could lead to another frame than the one that is looked at here
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        if syntax in JPEG2000TransferSyntaxes:  # high-throughput ones too
            frame = _code_stream(frame)
            dataset.PixelData = encapsulate([frame])
        declared = _declared(syntax, frame, shape)
        if declared == (*shape, 1):
            bytes_needed = math.prod(shape) * dataset.BitsAllocated // 8
            if len(frame) > 2 * bytes_needed + OVERHEAD:  # RLE at its worst is twice the pixels
                raise ValueError("more data than the pixels can need")
            pixels = pixel_array(dataset, decoding_plugin=DECODERS)
            declared = (*pixels.shape, 1)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as why:  # the decoder of RLE is of Rust, whose panic is no Exception
        raise UnsuitableSeries(
            f"The compressed pixels ({syntax.name}) of an image cannot be decoded."
        ) from why
    if declared != (*shape, 1):
        raise UnsuitableSeries(
            f"The compressed pixels of an image are {_times(declared)}, "
            f"but its header says {_times((*shape, 1))}."
        )
    return pixels


def _declared(syntax: UID, frame: bytes, shape: tuple[int, ...]) -> Size:
    """What the data say of themselves; RLE says nothing."""
    if syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        return _size_of_jpeg(frame)
    if syntax in JPEG2000TransferSyntaxes:
        return _size_of_jpeg_2000(frame)
    if syntax == RLELossless:
        return shape[0], shape[1], 1
    raise ValueError("nobody decodes this")


def _size_of_jpeg(frame: bytes) -> Size:
    """From the first frame header (ITU T.81, B.2.2; T.87 for JPEG-LS)."""
    at = 2  # behind the start of image
    while frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4])
        if marker == 0xFF:  # any number of these may stand before a marker (B.1.1.2)
            at += 1
            continue
        if marker == HIERARCHICAL:
            raise ValueError("images of several sizes")
        if marker in JPEG_FRAMES:
            rows, columns, components = struct.unpack_from(">HHB", frame, at + 5)
            return rows, columns, components
        at += 2 + length
    raise ValueError("no frame header")


def _code_stream(frame: bytes) -> bytes:
    """The image alone: some writers leave the boxes of a JP2 file around it.

    A box can hold a palette, which makes many components of one when the image is decoded: the
    decoder would write them over the end of what is made for one.
    """
    at = 0
    while frame[at : at + 2] != b"\xff\x4f":
        length = int.from_bytes(frame[at : at + 4])
        if length < 8:
            raise ValueError("no code stream")
        at += 8 if frame[at + 4 : at + 8] == b"jp2c" else length
    return frame[at:]


def _size_of_jpeg_2000(code_stream: bytes) -> Size:
    """From the SIZ marker, which comes first (ISO 15444-1, A.5.1)."""
    marker, right, bottom, left, top, components = struct.unpack_from(">2xH4xIIII16xH", code_stream)
    if marker != 0xFF51:
        raise ValueError("no SIZ marker")
    return bottom - top, right - left, components


def _times(size: tuple[int, ...]) -> str:
    """Such as "512 x 512", with the components only if there are several."""
    return " x ".join(map(str, size[:-1] if size[-1] == 1 else size))
