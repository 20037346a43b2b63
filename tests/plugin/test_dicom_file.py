"""Files with large pixel data: put on a shelf as they are, and the file let go."""

from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from plugin.ct.series import read_headers
from plugin.dicom_file import LARGE, read_dicom
from plugin.shelf import BOARD, Shelf
from tests.phantoms import ct_slices, make_phantom
from tests.plugin.ct.series_files import as_file

PRIVATE = (0x0029, 0x1010)


def large_slice(syntax: UID = ExplicitVRLittleEndian) -> Dataset:
    phantom = make_phantom(shape=(20, 200, 220), spacing_mm=(5.0, 1.5, 1.5))
    image = ct_slices(phantom)[10]
    assert len(image.PixelData) > LARGE
    if syntax == RLELossless:
        image.compress(syntax, generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = syntax
    return image


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
    ],
    ids=lambda syntax: syntax.name,
)
def test_pixel_data_is_the_same_with_a_shelf_and_the_file_is_not_kept(syntax: UID) -> None:
    image = large_slice(syntax)
    if syntax == ExplicitVRBigEndian:
        image["PixelData"].VR = "OW"
    file = as_file(image)

    dataset = read_dicom(file, shelf=Shelf())

    native = syntax in {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian}
    assert isinstance(dataset.PixelData, memoryview if native else bytes)
    assert bytes(dataset.PixelData) == image.PixelData
    assert dataset["PixelData"].VR == read_dicom(file)["PixelData"].VR
    assert dataset.buffer is None  # type: ignore[attr-defined]  # of pydicom's FileDataset


def test_of_pixel_data_that_is_cut_short_there_is_what_there_is() -> None:
    image = large_slice()
    file = as_file(image)

    dataset = read_dicom(file[:-5000], shelf=Shelf())

    assert bytes(dataset.PixelData) == image.PixelData[:-5000]


def test_another_large_value_can_still_be_had() -> None:
    image = large_slice()
    image.add_new((0x0029, 0x0010), "LO", "SOMEBODY")
    image.add_new(PRIVATE, "OB", bytes(range(256)) * 300)

    dataset = read_dicom(as_file(image), shelf=Shelf())

    assert dataset[PRIVATE].value == image[PRIVATE].value
    assert bytes(dataset.PixelData) == image.PixelData


def test_what_is_on_the_shelf_stays_when_more_is_put_there() -> None:
    shelf = Shelf()
    values = [np.full(size, n, np.uint8).tobytes() for n, size in enumerate([BOARD // 2] * 3, 1)]
    values.append(BytesIO(bytes(BOARD + 1)).getvalue())  # longer than any board

    places = [shelf.put(memoryview(value)) for value in values]

    assert [bytes(place) for place in places] == values


def test_the_same_bytes_in_another_byte_order_are_another_number() -> None:
    little, big = large_slice(), large_slice(ExplicitVRBigEndian)
    little.Rows, big.Rows = 512, 2  # both are the bytes 00 02
    big["PixelData"].VR = "OW"

    headers = read_headers([as_file(little), as_file(big), as_file(little)], pixels_of_at_most=3)

    assert [header.Rows for header in headers] == [512, 2, 512]


def test_a_slice_with_a_damaged_value_takes_none_from_the_others() -> None:
    good = as_file(large_slice())
    rows, of_eight_bytes = b"\x28\0\x10\0US", b"\x28\0\x10\0FD"  # it has two
    damaged = good.replace(rows, of_eight_bytes)
    assert damaged != good

    headers = read_headers([good, damaged, damaged, good])

    assert ["Rows" in header for header in headers] == [True, False, False, True]


def test_what_inflates_to_much_that_nobody_needs_is_not_kept() -> None:
    image = large_slice(DeflatedExplicitVRLittleEndian)
    image.add_new((0x0009, 0x0010), "LO", "BALLAST")
    image.add_new((0x0009, 0x1001), "OB", bytes(2**24))
    file = as_file(image)
    assert len(file) < 2**20

    [header] = read_headers([file], pixels_of_at_most=1)

    assert (0x0009, 0x1001) not in header
    assert bytes(header.PixelData) == image.PixelData
    assert (0x0009, 0x1001) in read_dicom(file), "of a drawing, large sequences are all"
