"""Every series is either read right or refused with a sentence that says why."""

import copy
import random
import re
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
)

from plugin.ct.series import CtSeries, SeriesRules, UnsuitableSeries, judge, read_series
from tests.phantoms import Orientation, Phantom, ct_slices, make_phantom

DICOM = Path(__file__).parents[4] / "shared" / "data" / "dicom"
RULES = SeriesRules()


@cache
def phantom(orientation: Orientation = "axial", padding_hu: int | None = None) -> Phantom:
    return make_phantom(
        shape=(30, 32, 40),
        spacing_mm=(4.0, 7.0, 6.0),
        orientation=orientation,
        noise_hu=0,
        padding_hu=padding_hu,
    )


def slices() -> list[Dataset]:
    return ct_slices(phantom())


def as_file(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read(datasets: list[Dataset], rules: SeriesRules = RULES) -> CtSeries:
    return read_series([as_file(dataset) for dataset in datasets], rules)


def real(folder: str) -> list[Path]:
    if not (DICOM / folder).is_dir():
        pytest.skip(f"needs shared/data/dicom/{folder} beside the repository")
    return sorted((DICOM / folder).glob("*.dcm"))


# What is accepted


@pytest.mark.parametrize("orientation", ["axial", "flipped_rows", "feet_first", "oblique"])
def test_every_voxel_is_at_its_place_in_the_patient(orientation: Orientation) -> None:
    made = phantom(orientation)
    shuffled = ct_slices(made, shuffle_seed=1)
    series = read(shuffled)
    np.testing.assert_allclose(series.volume.affine, made.ct.affine, atol=1e-5)
    np.testing.assert_array_equal(series.volume.array, made.ct.array)
    assert series.volume.frame_of_reference_uid == made.ct.frame_of_reference_uid
    for index, header in enumerate(series.slices):
        corner = series.volume.map_indices_to_reference(np.array([[index, 0, 0]]))[0]
        np.testing.assert_allclose(corner, header.ImagePositionPatient, atol=1e-5)


def test_the_headers_come_back_without_pixels() -> None:
    assert all("PixelData" not in header for header in read(slices()).slices)


def test_the_order_of_the_files_does_not_matter() -> None:
    files = [as_file(dataset) for dataset in slices()]
    in_order = read_series(files, RULES)
    random.Random(0).shuffle(files)
    shuffled = read_series(files, RULES)
    np.testing.assert_array_equal(in_order.volume.array, shuffled.volume.array)
    assert in_order.slices == shuffled.slices


def test_files_are_read_from_disk_too(tmp_path: Path) -> None:
    for number, dataset in enumerate(slices()):
        (tmp_path / str(number)).write_bytes(as_file(dataset))
    assert read_series(tmp_path.iterdir(), RULES).volume.shape == (30, 32, 40)


def test_an_instance_that_arrived_twice_counts_once() -> None:
    datasets = slices()
    assert len(read([*datasets, datasets[7]]).slices) == 30


def test_slices_thicker_than_their_distance_are_fine() -> None:
    datasets = slices()
    for dataset in datasets:
        dataset.SliceThickness = "6"
    assert read(datasets).volume.spacing[0] == pytest.approx(4.0)


def test_missing_and_empty_type_2_attributes_are_not_needed() -> None:
    datasets = slices()
    for dataset in datasets:
        for keyword in (
            *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientPosition"),
            *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
            *("KVP", "SliceThickness", "PositionReferenceIndicator", "InstanceNumber"),
        ):
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.SeriesNumber = None
        dataset.AcquisitionNumber = None
    assert read(datasets).volume.shape == (30, 32, 40)


def test_rounding_in_the_header_is_tolerated() -> None:
    datasets = slices()
    noise = np.random.default_rng(0)
    for dataset in datasets:
        position = np.array(dataset.ImagePositionPatient, float) + noise.uniform(-0.04, 0.04, 3)
        dataset.ImagePositionPatient = [f"{value:.4f}" for value in position]
    volume = read(datasets).volume
    np.testing.assert_allclose(volume.affine, phantom().ct.affine, atol=0.1)


# Hounsfield units


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


def test_a_padding_value_that_means_water_makes_no_holes() -> None:
    datasets = slices()
    for dataset in datasets:
        dataset.PixelPaddingValue = 1024  # 0 HU with the intercept of -1024
    np.testing.assert_array_equal(read(datasets).volume.array, phantom().ct.array)


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


def test_big_endian_files_are_read() -> None:
    datasets = slices()
    for dataset in datasets:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    files = []
    for dataset in datasets:
        buffer = BytesIO()
        pydicom.dcmwrite(
            buffer, dataset, implicit_vr=False, little_endian=False, enforce_file_format=True
        )
        files.append(buffer.getvalue())
    np.testing.assert_array_equal(read_series(files, RULES).volume.array, phantom().ct.array)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_slices_are_decoded(syntax: str) -> None:
    datasets = slices()
    for dataset in datasets:
        dataset.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read(datasets).volume.array, phantom().ct.array)


# What is refused by its header, each with its own sentence

Change = Callable[[list[Dataset]], None]


def in_all(**values: object) -> Change:
    def change(datasets: list[Dataset]) -> None:
        for dataset in datasets:
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

    return change


def in_one(**values: object) -> Change:
    return lambda datasets: in_all(**values)(datasets[5:6])


def without(keyword: str) -> Change:
    def change(datasets: list[Dataset]) -> None:
        delattr(datasets[5], keyword)

    return change


def moved(index: int, *offset_mm: float) -> Change:
    def change(datasets: list[Dataset]) -> None:
        position = np.array(datasets[index].ImagePositionPatient, float) + offset_mm
        datasets[index].ImagePositionPatient = position.tolist()

    return change


def remove(*indices: int) -> Change:
    def change(datasets: list[Dataset]) -> None:
        for index in sorted(indices, reverse=True):
            del datasets[index]

    return change


def apart(spacing_mm: float) -> Change:
    def change(datasets: list[Dataset]) -> None:
        for index, dataset in enumerate(datasets):
            dataset.ImagePositionPatient = [0.0, 0.0, -index * spacing_mm]

    return change


SAGITTAL = [0, 1, 0, 0, 0, -1]

REFUSED: dict[str, tuple[Change, str]] = {
    "no images": (lambda datasets: datasets.clear(), "no images"),
    "magnetic resonance": (in_all(SOPClassUID=MRImageStorage), "MR Image Storage .*30 of 30"),
    "enhanced CT": (in_all(SOPClassUID=EnhancedCTImageStorage), r"Enhanced CT \(multi-frame\)"),
    "another class among them": (in_one(SOPClassUID=MRImageStorage), "MR Image Storage .1 of 30"),
    "modality": (in_one(Modality="PT"), "Modality is PT, expected CT"),
    "no modality": (without("Modality"), "Modality is missing"),
    "an animal": (in_all(AnatomicalOrientationType="QUADRUPED"), "quadruped"),
    "empty class": (in_all(SOPClassUID=""), "SOPClassUID is missing or not one value"),
    "no instance UID": (without("SOPInstanceUID"), "SOPInstanceUID is missing or not one value"),
    "no study UID": (without("StudyInstanceUID"), "StudyInstanceUID is missing"),
    "two series": (in_one(SeriesInstanceUID="1.2.3"), "2 different SeriesInstanceUID"),
    "two studies": (in_one(StudyInstanceUID="1.2.3"), "2 different StudyInstanceUID"),
    "localiser": (
        in_all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "Localisers .* 30 of 30",
    ),
    "reformatted": (
        in_all(ImageType=["DERIVED", "SECONDARY", "REFORMATTED"]),
        r"DERIVED\\SECONDARY\\REFORMATTED.*see AcceptDerived",
    ),
    "secondary": (in_all(ImageType=["ORIGINAL", "SECONDARY"]), r"expected ORIGINAL\\PRIMARY"),
    "no image type": (without("ImageType"), "ImageType is missing"),
    "another body part": (in_all(BodyPartExamined="PELVIS"), "BodyPartExamined matches"),
    "one slice": (remove(*range(1, 30)), "1 slice, expected 20 to 1000"),
    "few slices": (remove(*range(19, 30)), "19 slices, expected 20"),
    "two frames of reference": (
        in_one(FrameOfReferenceUID="1.2.3"),
        "2 different FrameOfReferenceUID",
    ),
    "no frame of reference": (without("FrameOfReferenceUID"), "FrameOfReferenceUID is missing"),
    "no position": (without("ImagePositionPatient"), "ImagePositionPatient is missing"),
    "no orientation": (without("ImageOrientationPatient"), "ImageOrientationPatient is missing"),
    "no pixel spacing": (without("PixelSpacing"), "PixelSpacing is missing"),
    "negative pixel spacing": (in_all(PixelSpacing=[-1, 1]), "PixelSpacing is not positive"),
    "two pixel spacings": (in_one(PixelSpacing=[7.0, 6.01]), "PixelSpacing differs"),
    "two orientations": (
        in_one(ImageOrientationPatient=[0.9998, 0.02, 0, -0.02, 0.9998, 0]),
        "ImageOrientationPatient differs",
    ),
    "no right angle": (
        in_all(ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]),
        "not two perpendicular directions",
    ),
    "sagittal": (in_all(ImageOrientationPatient=SAGITTAL), "90 degrees from axial"),
    "same place": (moved(5, 0, 0, -4), "1 pair of different slices at the same place"),
    "one slice beside": (moved(5, 3, 0, 0), "3.0 mm beside each other"),
    "one missing": (remove(12), "1 slice missing: there is a gap between z = .* and .* mm"),
    "three missing": (remove(12, 13, 20), "3 slices missing"),
    "irregular": (moved(5, 0, 0, 1.3), "varies from 2.70 to 5.30 mm"),
    "wide": (apart(7.0), "7.0 mm apart, expected at most 6 mm"),
    "short": (apart(1.0), "cover 30 mm, expected 100 to 1000 mm"),
    "colour": (in_one(SamplesPerPixel=3), "SamplesPerPixel is 3"),
    "inverted grey": (in_one(PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"),
    "frames": (in_one(NumberOfFrames=2), "2 frames"),
    "bits": (in_one(BitsAllocated=12), "BitsAllocated is 12"),
    "sign": (without("PixelRepresentation"), "PixelRepresentation is None"),
    "no slope": (without("RescaleSlope"), "RescaleSlope or RescaleIntercept is missing"),
    "no intercept": (without("RescaleIntercept"), "RescaleSlope or RescaleIntercept is missing"),
    "empty slope": (in_one(RescaleSlope=None), "RescaleSlope or RescaleIntercept is missing"),
    "slope no number": (in_one(RescaleSlope=float("nan")), "not a number"),
    "slope of zero": (in_one(RescaleSlope="0"), "RescaleSlope is 0"),
    "other units": (in_one(RescaleType="US"), "RescaleType is US, expected HU"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_unsuitable_series_is_refused_with_its_reason(fault: str) -> None:
    change, sentence = REFUSED[fault]
    headers = slices()
    change(headers)
    verdict = judge(headers, RULES)
    assert not verdict.chosen
    assert re.search(sentence, verdict.reason)
    assert "PHANTOM" not in verdict.reason, "a refusal never names the patient"


def test_sizes_that_differ_are_refused() -> None:
    headers = slices()
    headers[5].Rows = 20
    assert "Rows is 20 or 32" in judge(headers, RULES).reason


def test_a_tilted_gantry_is_refused_with_its_angle() -> None:
    tilted = ct_slices(phantom(), gantry_tilt_degrees=12.0)
    verdict = judge(tilted, RULES)
    assert not verdict.chosen
    assert "slanted by 12.0 degrees (gantry tilt)" in verdict.reason


def test_slices_as_wide_apart_as_is_allowed_are_taken_in_spite_of_rounding() -> None:
    headers = slices()
    apart(6.0000002)(headers)
    assert judge(headers, RULES).chosen


def test_twenty_degrees_oblique_is_axial_enough_and_forty_is_not() -> None:
    assert judge(ct_slices(phantom("oblique")), RULES).chosen
    strict = SeriesRules(max_angle_from_axial_deg=10)
    assert "degrees from axial" in judge(ct_slices(phantom("oblique")), strict).reason


def test_a_chosen_series_is_described() -> None:
    verdict = judge(slices(), RULES)
    assert verdict.chosen
    assert verdict.reason == (
        "30 axial CT slices of 32 x 40 pixels, 7 x 6 mm, every 4 mm over 120 mm."
    )


def test_judging_needs_no_pixels() -> None:
    headers = slices()
    for header in headers:
        del header.PixelData
    assert judge(headers, RULES).chosen


# Rules


def test_derived_images_are_taken_when_the_rules_say_so() -> None:
    headers = slices()
    in_all(ImageType=["DERIVED", "PRIMARY", "AXIAL"])(headers)
    assert not judge(headers, RULES).chosen
    assert judge(headers, SeriesRules(accept_derived=True)).chosen


@pytest.mark.parametrize(
    ("keyword", "rule"),
    [
        ("BodyPartExamined", "body_part"),
        ("SeriesDescription", "series_description"),
        ("StudyDescription", "study_description"),
    ],
)
def test_expressions_choose_by_description(keyword: str, rule: str) -> None:
    headers = slices()
    in_all(**{keyword: "KOPFHALS NATIV"})(headers)
    assert judge(headers, SeriesRules(**{f"include_{rule}": "hals"})).chosen
    assert not judge(headers, SeriesRules(**{f"include_{rule}": "thorax"})).chosen
    assert not judge(headers, SeriesRules(**{f"exclude_{rule}": "nativ$"})).chosen
    in_all(**{keyword: ""})(headers)
    assert not judge(headers, SeriesRules(**{f"include_{rule}": "hals"})).chosen
    assert judge(headers, SeriesRules(**{f"exclude_{rule}": "nativ$"})).chosen


def test_rules_are_written_as_in_orthancs_configuration() -> None:
    rules = SeriesRules.model_validate({"MinSlices": 40, "IncludeBodyPart": "HEAD|NECK"})
    assert rules.min_slices == 40
    assert "30 slices, expected 40" in judge(slices(), rules).reason


@pytest.mark.parametrize(
    "section",
    [
        {"MinSlice": 40},
        {"IncludeBodyPart": "HEAD("},
        {"MinSlices": 50, "MaxSlices": 40},
        {"MinLengthMm": 500.0, "MaxLengthMm": 400.0},
    ],
)
def test_a_mistake_in_the_rules_is_refused_at_once(section: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"MinSlice|regular expression|MinLengthMm"):
        SeriesRules.model_validate(section)


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


def test_numbers_that_no_scanner_measures_are_refused() -> None:
    datasets = slices()
    datasets[2].RescaleSlope = "1000"
    with pytest.raises(UnsuitableSeries, match=r"would be \d+ HU; expected at most 65535"):
        read(datasets)


def test_a_scan_of_air_is_refused() -> None:
    datasets = slices()
    for dataset in datasets:
        dataset.PixelData = bytes(len(dataset.PixelData))
    with pytest.raises(UnsuitableSeries, match="show no patient"):
        read(datasets)


def test_a_refusal_leaves_the_headers_as_they_were() -> None:
    headers = slices()
    headers[3].RescaleSlope = "0"
    before = copy.deepcopy(headers)
    judge(headers, RULES)
    assert headers == before


# Real series


@pytest.mark.slow
def test_a_real_planning_ct_is_read_as_highdicom_reads_it() -> None:
    paths = real("head_neck_planning_ct")
    series = read_series(paths, RULES)
    reference = hd.get_volume_from_series([pydicom.dcmread(p) for p in paths], dtype=np.float32)
    assert series.volume.geometry_equal(reference)
    np.testing.assert_array_equal(series.volume.array, np.maximum(reference.array, -1024))


def test_a_real_tilted_series_is_refused_with_its_angle() -> None:
    with pytest.raises(UnsuitableSeries, match=r"slanted by 18\.5 degrees \(gantry tilt\)"):
        read_series(real("head_ct_gantry_tilt"), RULES)


def test_a_real_series_without_uids_is_refused_by_name() -> None:
    with pytest.raises(UnsuitableSeries, match="SOPClassUID is missing or not one value"):
        read_series(real("body_ct_jpeg2000"), RULES)


@pytest.mark.slow
def test_real_jpeg_2000_slices_are_decoded_once_they_have_uids() -> None:
    datasets = [pydicom.dcmread(path) for path in real("body_ct_jpeg2000")]
    for dataset in datasets:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    with pytest.raises(UnsuitableSeries, match="cover 40 mm, expected 100"):
        read(datasets)
    volume = read(datasets, SeriesRules(min_length_mm=20)).volume
    assert volume.spacing[0] == pytest.approx(2.0)
    assert volume.array.max() == max(int(ds.pixel_array.max()) for ds in datasets) - 1024
