"""Pixels become Hounsfield units, or are refused with a sentence that says why."""

import copy
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    RLELossless,
)

from plugin.ct.series import judge, read_series
from plugin.ct.series_rules import UnsuitableSeries
from tests.phantoms import ct_slices
from tests.plugin.ct.series_files import RULES, as_file, phantom, read, slices

# Hounsfield units


@pytest.mark.parametrize("padding_hu", [None, -3024])
def test_a_ct_whose_intercept_makes_water_of_its_air_is_refused(padding_hu: int | None) -> None:
    datasets = ct_slices(phantom(padding_hu=padding_hu))
    for dataset in datasets:
        dataset.RescaleIntercept = 0
    with pytest.raises(UnsuitableSeries, match="The images show no air"):
        read(datasets)


@pytest.mark.parametrize(("slope", "intercept"), [(1, -424), (1, -1224), (2, -1024)])
def test_a_ct_whose_tissue_is_not_near_water_is_refused(slope: float, intercept: float) -> None:
    datasets = slices()
    for dataset in datasets:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    with pytest.raises(UnsuitableSeries, match="rescale values in the header are probably wrong"):
        read(datasets)


def test_padding_outside_the_scanners_circle_becomes_air() -> None:
    made = phantom(padding_hu=-3024)
    assert made.ct.array.min() == -3024
    volume = read(ct_slices(made)).volume
    np.testing.assert_array_equal(volume.array, np.maximum(made.ct.array, -1024))


def test_padding_brighter_than_bone_becomes_air() -> None:
    datasets = slices()
    for dataset in datasets:
        pixels = np.frombuffer(dataset.PixelData, "<i2").copy()
        pixels[:5] = 32767
        dataset.PixelData = pixels.tobytes()
        dataset.PixelPaddingValue = 32767
    assert (read(datasets).volume.array[:, 0, :5] == -1024).all()


@pytest.mark.parametrize("hu", [0, 3000, 3071])
def test_a_padding_value_that_means_water_or_metal_makes_no_holes(hu: int) -> None:
    datasets = slices()
    for dataset in datasets:
        pixels = np.frombuffer(dataset.PixelData, "<i2").copy()
        pixels[:5] = dataset.PixelPaddingValue = hu + 1024  # with the intercept of -1024
        dataset.PixelData = pixels.tobytes()
    assert (read(datasets).volume.array[:, 0, :5] == hu).all()


def test_a_padding_value_is_rescaled_before_it_is_judged() -> None:
    datasets = slices()
    for dataset in datasets:
        pixels = 2 * np.frombuffer(dataset.PixelData, "<i2")
        pixels[:5] = dataset.PixelPaddingValue = 6000  # of half a HU each: bone
        dataset.PixelData, dataset.RescaleSlope = pixels.tobytes(), "0.5"
    assert (read(datasets).volume.array[:, 0, :5] == 1976).all()


def test_a_padding_value_with_another_sign_than_the_pixels_is_known_by_its_bits() -> None:
    datasets = ct_slices(phantom(padding_hu=-2000))
    padding = -2000 + 1024
    for dataset in datasets:
        stored = np.frombuffer(dataset.PixelData, "<i2").astype("<u2")
        dataset.PixelData, dataset.PixelRepresentation = stored.tobytes(), 0
        dataset.add_new("PixelPaddingValue", "SS", padding)
    expected = np.maximum(phantom(padding_hu=-2000).ct.array, -1024)
    np.testing.assert_array_equal(read(datasets).volume.array, expected)


def test_each_slice_is_rescaled_by_its_own_slope_and_intercept() -> None:
    datasets = slices()
    pixels = np.frombuffer(datasets[3].PixelData, "<i2")
    datasets[3].PixelData = (2 * (pixels - 1000)).astype("<i2").tobytes()
    datasets[3].RescaleSlope, datasets[3].RescaleIntercept = "0.5", "-24"
    np.testing.assert_array_equal(read(datasets).volume.array, phantom().ct.array)


def test_unsigned_pixels_use_the_whole_of_their_16_bits() -> None:
    datasets = slices()
    for dataset in datasets:
        pixels = np.frombuffer(dataset.PixelData, "<i2").astype("<u2") + 40000
        dataset.PixelData = pixels.astype("<u2").tobytes()
        dataset.PixelRepresentation = 0
        dataset.RescaleIntercept = "-41024"
    np.testing.assert_array_equal(read(datasets).volume.array, phantom().ct.array)


def eight_bits() -> list[Dataset]:
    """One byte a pixel, every sixteenth HU."""
    datasets = slices()
    for dataset in datasets:
        dataset.PixelData = (np.frombuffer(dataset.PixelData, "<i2") // 16).astype("u1").tobytes()
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelRepresentation, dataset.RescaleSlope = 0, 16
    return datasets


def test_pixels_of_eight_bits_are_read() -> None:
    stored = (phantom().ct.array + 1024) // 16
    np.testing.assert_array_equal(read(eight_bits()).volume.array, 16 * stored - 1024)


def big_endian(datasets: list[Dataset]) -> list[bytes]:
    """As files, of slices whose pixels are in words of two bytes."""
    files = []
    for dataset in datasets:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        buffer = BytesIO()
        pydicom.dcmwrite(
            buffer, dataset, implicit_vr=False, little_endian=False, enforce_file_format=True
        )
        files.append(buffer.getvalue())
    return files


def test_big_endian_files_are_read() -> None:
    files = big_endian(slices())
    np.testing.assert_array_equal(read_series(files, RULES).volume.array, phantom().ct.array)


def test_pixels_of_eight_bits_do_not_change_places_in_big_endian_words() -> None:
    volume = read_series(big_endian(eight_bits()), RULES).volume
    np.testing.assert_array_equal(volume.array, read(eight_bits()).volume.array)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_slices_are_decoded(syntax: str) -> None:
    datasets = slices()
    for dataset in datasets:
        dataset.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read(datasets).volume.array, phantom().ct.array)


def test_the_air_above_a_head_and_below_a_phantom_is_no_scan_of_air() -> None:
    datasets = slices()
    for dataset in (datasets[0], datasets[-1]):
        dataset.PixelData = bytes(len(dataset.PixelData))
    assert read(datasets).volume.array[[0, -1]].max() == -1024


# Files and pixels that are no good


def test_files_that_are_not_dicom_are_counted() -> None:
    files = [as_file(dataset) for dataset in slices()]
    with pytest.raises(UnsuitableSeries, match="2 of 32 files cannot be read"):
        read_series([*files, b"", b"JFIF" * 200], RULES)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of a UID that ends early
@pytest.mark.parametrize(
    ("length", "sentence"),
    [
        (100, "1 of 30 files cannot be read"),
        (400, "1 of 30 files cannot be read"),
        (900, "1 of 30 images have no pixel data"),
        (-100, "1 of 30 images have fewer bytes of pixel data"),
    ],
)
def test_a_file_cut_short_is_refused(length: int, sentence: str) -> None:
    files = [as_file(dataset) for dataset in slices()]
    files[4] = files[4][:length]
    with pytest.raises(UnsuitableSeries, match=sentence):
        read_series(files, RULES)


def test_images_without_pixel_data_are_counted() -> None:
    datasets = slices()
    for dataset in datasets[:3]:
        del dataset.PixelData
    with pytest.raises(UnsuitableSeries, match="3 of 30 images have no pixel data"):
        read(datasets)


def test_damaged_compressed_pixels_are_refused() -> None:
    datasets = slices()
    datasets[2].compress(RLELossless, generate_instance_uid=False)
    datasets[2].PixelData = datasets[2].PixelData[:40] + b"\xff" * 60
    datasets[2].PixelData = pydicom.encaps.encapsulate([b"\x01" + b"\x00" * 99])
    datasets[2]["PixelData"].is_undefined_length = True
    with pytest.raises(UnsuitableSeries, match=r"compressed pixels \(RLE Lossless\)"):
        read(datasets)


@pytest.mark.parametrize("signed", [0, 1])
def test_pixels_that_do_not_fit_into_their_bits_are_refused(signed: int) -> None:
    """A sign that is not continued, or an overlay in the bits above: the HU are not known."""
    datasets = slices()
    for dataset in datasets:
        pixels = np.frombuffer(dataset.PixelData, "<i2") - (1024 if signed else 0)
        dataset.PixelData = np.clip(pixels, -2048, 2047).astype("<u2").tobytes()
        dataset.PixelRepresentation = signed
        dataset.BitsStored, dataset.HighBit = 12, 11
    assert read(datasets).volume.array.max() > 0
    above = np.frombuffer(datasets[4].PixelData, "<u2") & 0x0FFF | (0 if signed else 0x8000)
    datasets[4].PixelData = above.astype("<u2").tobytes()

    with pytest.raises(UnsuitableSeries, match="which the 12 bits of BitsStored cannot hold"):
        read(datasets)


@pytest.mark.parametrize(
    ("signed", "intercept", "lowest", "highest"), [(0, -1024, 0, 4095), (1, 0, -2048, 2047)]
)
def test_metal_and_padding_may_be_the_ends_of_what_the_bits_hold(
    signed: int, intercept: int, lowest: int, highest: int
) -> None:
    datasets = slices()
    for dataset in datasets:
        pixels = np.frombuffer(dataset.PixelData, "<i2") - (1024 + intercept)
        pixels[:2] = lowest, highest
        dataset.PixelData = np.clip(pixels, lowest, highest).astype("<i2").tobytes()
        dataset.PixelRepresentation, dataset.RescaleIntercept = signed, intercept
        dataset.BitsStored, dataset.HighBit = 12, 11
    assert (read(datasets).volume.array[:, 0, :2] == [-1024, highest + intercept]).all()


@pytest.mark.parametrize(("high", "stored"), [(15, 12), (11, 16)])
def test_a_high_bit_that_is_not_the_highest_is_refused(high: int, stored: int) -> None:
    datasets = slices()
    datasets[3].BitsStored, datasets[3].HighBit = stored, high
    with pytest.raises(UnsuitableSeries, match=f"HighBit is {high} and BitsStored {stored}"):
        read(datasets)


def test_numbers_that_no_scanner_measures_are_refused() -> None:
    datasets = slices()
    datasets[2].RescaleSlope = "1000"
    with pytest.raises(UnsuitableSeries, match=r"would be \d+ HU; expected at most 65535"):
        read(datasets)


def test_a_scan_of_foam_is_no_scan_of_a_patient() -> None:
    datasets = slices()
    for dataset in datasets:
        pixels = np.minimum(np.frombuffer(dataset.PixelData, "<i2"), 624)  # -400 HU
        dataset.PixelData = pixels.tobytes()
    with pytest.raises(UnsuitableSeries, match="nothing is above -200 HU"):
        read(datasets)


def test_a_scan_of_air_is_refused_however_bright_its_padding_is() -> None:
    datasets = slices()
    for dataset in datasets:
        dataset.PixelData = bytes(len(dataset.PixelData) - 2) + b"\xff\x7f"
        dataset.PixelPaddingValue = 32767
    with pytest.raises(UnsuitableSeries, match="show no patient"):
        read(datasets)


def test_a_refusal_leaves_the_headers_as_they_were() -> None:
    headers = slices()
    headers[3].RescaleSlope = "0"
    before = copy.deepcopy(headers)
    judge(headers, RULES)
    assert headers == before
