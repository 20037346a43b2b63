"""DICOM files that nobody vouches for, read so that they do no harm."""

import math
import struct
import warnings
import zlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.charset import convert_encodings, encode_string
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset, read_preamble
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from plugin.shelf import Shelf

DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,  # of a sequence that is none
    RuntimeError,  # also of what nobody has implemented, and of sequences within sequences
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    BytesLengthException,
    InvalidDicomError,
)
"""What pydicom, highdicom and the decoders raise on objects that are not as DICOM wants them.

Not MemoryError, which is our fault: what would need too much memory is refused beforehand.
"""

LARGEST_INFLATED = 2**28
"""Bytes of a deflated file, which can be a thousand times what was sent."""

CHUNK = 2**20

LARGE = 2**16
"""Values of at least so many bytes are left in the file at first, if there is a shelf for them."""

DEFLATED = DeflatedExplicitVRLittleEndian.encode()

PIXEL_DATA = Tag("PixelData")

LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
"""What a header says of what was lost of its image."""

COMPRESSED = 0xFFFFFFFF
"""The undefined length: compressed pixels come in items, and a last item ends them."""


DEEPEST = 4
"""Sequences within sequences that are read. Nothing that we copy lies deeper, and pydicom's word of
a fault doubles with each: that of an element twenty deep takes gigabytes."""


class UnreadableFile(Exception):
    """It is no DICOM file, or one that is cut short or damaged."""


def read_dicom(
    file: bytes | Path,
    *,
    pixels: bool = True,
    keywords: list[str] | None = None,
    shelf: Shelf | None = None,
) -> Dataset:
    """The dataset of a file. Its values are read when they are asked for, and may be damaged then.

    Args:
        file: the whole of it.
        pixels: whether to go on to the pixel data.
        keywords: of the elements to read; None: all.
        shelf: for native pixel data, which is then a `memoryview` and not bytes.

    Raises:
        UnreadableFile: it cannot be read.
    """
    content = file if isinstance(file, bytes) else file.read_bytes()
    stream = BytesIO(content)
    try:
        if DEFLATED in content:  # perhaps as its transfer syntax
            _check_inflated(stream)
            shelf = None  # there is nothing in the file to copy
        dataset = pydicom.dcmread(
            stream,
            stop_before_pixels=not pixels,
            specific_tags=keywords or None,
            defer_size=LARGE if shelf else None,
        )
        others = len(content)  # bytes of all but the pixel data
        if shelf and PIXEL_DATA in dataset:
            others -= _put_pixels(dataset, content, shelf)
    except DAMAGE as error:
        raise UnreadableFile from error
    if not shelf or others < LARGE:
        dataset.buffer = None  # all is read; pydicom would keep the file as well
    return dataset


def drop_ballast(dataset: Dataset) -> None:
    """Remove large values but the pixel data from a slice whose file inflates.

    They cost nothing to send, and of a series those of all slices would be kept.
    """
    if dataset.file_meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    for tag in [*dataset.keys()]:
        element = dataset.get_item(tag)
        value = element.value if isinstance(element, RawDataElement) else None
        if tag != PIXEL_DATA and value is not None and len(value) >= LARGE:
            del dataset[tag]


def _put_pixels(dataset: Dataset, content: bytes, shelf: Shelf) -> int:
    """Put native pixel data that was left in the file on the shelf; say how many bytes it has."""
    left = dataset.get_item(PIXEL_DATA, keep_deferred=True)
    if isinstance(left, RawDataElement) and left.value is None and left.length != COMPRESSED:
        in_file = memoryview(content)[left.value_tell : left.value_tell + left.length]
        dataset[PIXEL_DATA] = left._replace(value=shelf.put(in_file))
    return len(dataset.PixelData or b"")  # compressed, it is read now


def keep_readable(
    dataset: Dataset, tags: Iterable[BaseTag] | None = None, *, depth: int = 0
) -> None:
    """Remove the elements whose value cannot be had, so that they count as missing.

    Args:
        dataset: altered.
        tags: of the elements to look at; None: all, and those within sequences, of which also those
            go that cannot be written again or that lie deeper than `DEEPEST`.
        depth: of the dataset.
    """
    for tag in [*(dataset.keys() if tags is None else tags)]:
        try:
            value = dataset[tag].value if tag in dataset else None
            if tags is None and isinstance(value, pydicom.Sequence):
                if depth == DEEPEST:
                    raise ValueError("nested too deep")
                for item in value:
                    keep_readable(item, depth=depth + 1)
                if depth == 0:
                    encoded(dataset, tag)
        except DAMAGE:
            del dataset[tag]


def keep_readable_alike(
    dataset: Dataset, tags: Iterable[BaseTag], known: dict[RawDataElement, DataElement]
) -> None:
    """`keep_readable` for one of many slices, most of whose values are those of the others.

    To convert a value takes longer than to find it among those that were converted before.

    Args:
        dataset: altered. What it has as others have it, it shares with them.
        tags: of the elements to look at, none of them text in a character set.
        known: what stood in files already read, and its value; altered.
    """
    for tag in tags:
        element = dataset.get_item(tag, keep_deferred=True) if tag in dataset else None
        if not isinstance(element, RawDataElement) or element.length >= LARGE:
            keep_readable(dataset, [tag])  # what is large is nowhere the same, or left in the file
            continue
        as_it_stands = element._replace(value_tell=0)  # wherever in its file
        if as_it_stands in known:
            dataset[tag] = known[as_it_stands]
            continue
        keep_readable(dataset, [tag])
        if tag in dataset:
            known[as_it_stands] = dataset[tag]


def encoded(dataset: Dataset, tag: BaseTag | str) -> bytes:
    """One element of it, as it stands in a file of ours."""
    one = Dataset()
    one.add(dataset[tag])
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, one)
    return file.getvalue()


def number_in(header: Dataset, keyword: str) -> float | None:
    """A value that scanners sometimes leave out or fill with text."""
    try:
        number = float(header.get(keyword))
    except (TypeError, ValueError, OverflowError):  # absent, several, or text
        return None
    return number if math.isfinite(number) else None


def as_written(dataset: Dataset, keyword: str) -> str:
    """A value as its file has it, not decoded, for comparing with others; empty if it is absent."""
    element = dataset.get_item(keyword)
    return "" if element is None else str(element.value)


def comes_back(dataset: Dataset, keyword: str) -> bool:
    """Whether a text that was read from a file would be written with the same bytes.

    It would not if its bytes are not of the character set that the header declares, or of one
    that pydicom does not write.
    """
    element = dataset.get_item(keyword)
    if not isinstance(element, RawDataElement) or not element.value:
        return True  # nothing, or not from a file
    try:
        encodings = convert_encodings(dataset.get("SpecificCharacterSet") or "ISO_IR 6")
        value = dataset[keyword].value
        texts = value if isinstance(value, MultiValue) else [value]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a letter cannot be written: that is the question
            again = b"\\".join(encode_string(str(text), encodings) for text in texts)
    except DAMAGE:
        return False
    return _bare(again) == _bare(element.value)


def _bare(value: bytes | None) -> bytes:
    return (value or b"").strip(b" \0")


def _check_inflated(stream: BytesIO) -> None:
    """Refuse what is small only because it is deflated, and go back to the start."""
    read_preamble(stream, force=False)
    meta = read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=_behind_meta)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        rest = stream.read()
        while rest and not inflater.eof:
            size += len(inflater.decompress(rest, CHUNK))
            rest = inflater.unconsumed_tail
            if size > LARGEST_INFLATED:
                raise ValueError("too large when inflated")
    stream.seek(0)


def _behind_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2
