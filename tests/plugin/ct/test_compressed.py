"""Compressed pixels that were made to harm the decoder, or that a disk has damaged."""

import random
import struct

import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from plugin.ct.compressed import decode
from plugin.ct.series import UnsuitableSeries

SIDE = 64


def image(frame: bytes, syntax: UID) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows = dataset.Columns = SIDE
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.SamplesPerPixel, dataset.PixelRepresentation = 15, 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = encapsulate([frame])
    return dataset


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def with_palette(code_stream: bytes, components: int) -> bytes:
    """A JP2 file whose one component a palette turns into many."""
    header = box(b"ihdr", struct.pack(">IIHBBBB", SIDE, SIDE, 1, 15, 7, 0, 0))
    values = bytes(number % 256 for number in range(256) for _ in range(components))
    palette = struct.pack(">HB", 256, components) + bytes([7] * components) + values
    mapped = b"".join(struct.pack(">HBB", 0, 1, number) for number in range(components))
    colour = box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17))
    boxes = box(b"jp2h", header + box(b"pclr", palette) + box(b"cmap", mapped) + colour)
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + boxes + box(b"jp2c", code_stream)


def test_a_palette_around_jpeg_2000_is_not_shown_to_the_decoder() -> None:
    """It would write 200 components to where there is room for one."""
    pixels = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) % 256
    frame = with_palette(bytes(encode_array(pixels, bits_stored=16)), 200)

    assert (decode(image(frame, JPEG2000Lossless), (SIDE, SIDE)) == pixels).all()


def test_a_fill_byte_does_not_hide_how_large_a_jpeg_is() -> None:
    large = b"\xff\xc3" + struct.pack(">HBHHB", 11, 16, 20000, 20000, 1) + b"\x01\x11\x00"
    small = b"\xff\xc3" + struct.pack(">HBHHB", 11, 16, SIDE, SIDE, 1) + b"\x01\x11\x00"
    # Read as a marker, the fill byte is one of 0xC300 bytes, behind which the small one stands.
    frame = (b"\xff\xd8\xff" + large).ljust(4 + 0xC300, b"\0") + small

    with pytest.raises(UnsuitableSeries, match="are 20000 x 20000, but its header says 64 x 64"):
        decode(image(frame, JPEGLosslessSV1), (SIDE, SIDE))


@pytest.mark.parametrize("table", [0xC4, 0xC8, 0xCC])
def test_a_table_before_the_image_is_not_taken_for_its_size(table: int) -> None:
    large = b"\xff\xc3" + struct.pack(">HBHHB", 11, 16, 20000, 20000, 1) + b"\x01\x11\x00"
    before = bytes([0xFF, table]) + struct.pack(">HBHHB", 11, 16, SIDE, SIDE, 1) + bytes(3)

    with pytest.raises(UnsuitableSeries, match="are 20000 x 20000, but its header says 64 x 64"):
        decode(image(b"\xff\xd8" + before + large, JPEGLosslessSV1), (SIDE, SIDE))


def test_a_jpeg_says_its_rows_before_its_columns() -> None:
    frame = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB", 11, 16, 40, 50, 1) + b"\x01\x11\x00"

    with pytest.raises(UnsuitableSeries, match="are 40 x 50, but its header says 64 x 64"):
        decode(image(frame, JPEGLosslessSV1), (SIDE, SIDE))


def test_the_size_of_a_jpeg_2000_is_what_its_margins_leave() -> None:
    pixels = np.zeros((SIDE, SIDE), np.uint16)
    frame = bytearray(encode_array(pixels, bits_stored=16))
    frame[16:24] = struct.pack(">II", 14, 24)  # left and top, on the reference grid

    with pytest.raises(UnsuitableSeries, match="are 40 x 50, but its header says 64 x 64"):
        decode(image(bytes(frame), JPEG2000Lossless), (SIDE, SIDE))


def test_far_more_data_than_an_image_can_need_are_not_given_to_the_decoder() -> None:
    pixels = np.zeros((SIDE, SIDE), np.uint16)
    frame = bytes(encode_array(pixels, bits_stored=16))

    with pytest.raises(UnsuitableSeries, match="cannot be decoded"):
        decode(image(frame + bytes(10**6), JPEG2000Lossless), (SIDE, SIDE))


def test_rle_at_its_worst_is_twice_the_pixels_and_is_read() -> None:
    """Where no byte is like the next, a poor encoder begins anew for each."""
    pixels = np.random.default_rng(0).integers(0, 2**16, (256, 256), np.uint16)
    high, low = (
        np.stack([np.zeros_like(part), part], axis=1).tobytes()
        for part in pixels.astype(">u2").view(np.uint8).reshape(-1, 2).T
    )
    dataset = image(struct.pack("<16I", 2, 64, 64 + len(high), *[0] * 13) + high + low, RLELossless)
    dataset.Rows = dataset.Columns = 256

    assert (decode(dataset, (256, 256)) == pixels).all()


def test_a_table_that_leads_to_another_frame_is_not_followed() -> None:
    black, white = (rle(np.full((SIDE, SIDE), grey, np.uint16)) for grey in (0, 40000))
    dataset = image(black, RLELossless)
    dataset.PixelData = encapsulate([black, white], has_bot=False)
    dataset.ExtendedOffsetTable = struct.pack("<Q", 8 + len(black))
    dataset.ExtendedOffsetTableLengths = struct.pack("<Q", len(white))

    assert (decode(dataset, (SIDE, SIDE)) == 0).all()


def test_an_image_in_several_sizes_is_refused() -> None:
    parts = [
        bytes([0xFF, marker]) + struct.pack(">HBHHB", 11, 16, side, side, 1) + b"\x01\x11\x00"
        for marker, side in ((0xDE, SIDE), (0xC3, 20000))
    ]
    frame = b"\xff\xd8" + b"".join(parts)

    with pytest.raises(UnsuitableSeries, match="cannot be decoded"):
        decode(image(frame, JPEGLosslessSV1), (SIDE, SIDE))


def rle(pixels: np.ndarray) -> bytes:
    whole = image(b"\0\0", ExplicitVRLittleEndian)
    whole.SOPInstanceUID = "1.2.3"
    whole.PixelData = pixels.tobytes()
    whole.set_original_encoding(False, True)
    whole.compress(RLELossless, generate_instance_uid=False)
    return get_frame(whole.PixelData, 0, number_of_frames=1)


def test_damaged_rle_is_the_studys_fault_even_where_its_decoder_panics() -> None:
    pixels = np.random.default_rng(0).integers(0, 4, (SIDE, SIDE), np.uint16).repeat(4, 0)[:SIDE]
    frame = rle(pixels)
    chance = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(frame)
        for _ in range(3):
            damaged[chance.randrange(64, len(damaged))] = chance.randrange(256)
        try:
            decode(image(bytes(damaged), RLELossless), (SIDE, SIDE))
        except UnsuitableSeries:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_a_stop_or_a_lack_of_memory_while_decoding_is_not_the_studys_fault(
    stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> np.ndarray:
        raise stop

    monkeypatch.setattr("plugin.ct.compressed.pixel_array", stopped)

    with pytest.raises(stop):
        decode(image(rle(np.zeros((SIDE, SIDE), np.uint16)), RLELossless), (SIDE, SIDE))
