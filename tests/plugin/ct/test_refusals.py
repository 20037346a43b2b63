"""A series that cannot be used, or is not wanted, is refused by its headers with the reason."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import MRImageStorage

from plugin.ct.series import judge, sort_and_check
from plugin.ct.series_rules import SeriesRules
from tests.phantoms import ct_slices
from tests.plugin.ct.series_files import RULES, phantom, slices

# What is refused by its header, each with its own sentence; tests/corpus has more of them

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


def wider_halfway(datasets: list[Dataset]) -> None:
    """Each distance is near the mean of all, and the slices in the middle are far off the grid."""
    for index, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [0.0, 0.0, -4.0 * index - 0.06 * max(index - 15, 0)]


def two_scans(datasets: list[Dataset]) -> None:
    """Every other slice is of a second one."""
    in_all(AcquisitionNumber=2)(datasets[::2])


def lowered(start: int, offset_mm: float) -> Change:
    def change(datasets: list[Dataset]) -> None:
        for index in range(start, len(datasets)):
            moved(index, 0, 0, -offset_mm)(datasets)

    return change


def side_by_side(datasets: list[Dataset]) -> None:
    for index, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [4.0 * index, 0.0, 0.0]


REFUSED: dict[str, tuple[Change, str]] = {
    "no images": (lambda datasets: datasets.clear(), "no images"),
    "another class among them": (in_one(SOPClassUID=MRImageStorage), "MR Image Storage .1 of 30"),
    "modality": (in_one(Modality="PT"), "Modality is PT, expected CT"),
    "no modality": (without("Modality"), "Modality is missing"),
    "empty class": (in_all(SOPClassUID=""), "SOPClassUID is missing or not one value"),
    "no study UID": (without("StudyInstanceUID"), "StudyInstanceUID is missing"),
    "localiser": (
        in_all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "Localisers .* 30 of 30",
    ),
    "secondary": (in_all(ImageType=["ORIGINAL", "SECONDARY"]), r"expected ORIGINAL\\PRIMARY"),
    "no image type": (without("ImageType"), "ImageType is missing"),
    "few slices": (remove(*range(19, 30)), "19 slices, expected 20"),
    "no frame of reference": (without("FrameOfReferenceUID"), "FrameOfReferenceUID is missing"),
    "no position": (without("ImagePositionPatient"), "ImagePositionPatient is missing"),
    "no orientation": (without("ImageOrientationPatient"), "ImageOrientationPatient is missing"),
    "no pixel spacing": (without("PixelSpacing"), "PixelSpacing is missing"),
    "two pixel spacings": (in_one(PixelSpacing=[7.0, 6.01]), "PixelSpacing differs"),
    "two orientations": (
        in_one(ImageOrientationPatient=[0.9998, 0.02, 0, -0.02, 0.9998, 0]),
        "ImageOrientationPatient differs",
    ),
    "no direction of length one": (
        in_all(ImageOrientationPatient=[1, 0, 0, 0, 0.5, 0]),
        "not two perpendicular directions of length one",
    ),
    "directions of two decimals": (
        in_all(ImageOrientationPatient=[0.98, 0.17, 0, -0.17, 0.98, 0]),
        "not two perpendicular directions of length one",
    ),
    "a tilt that the orientation does not know of": (
        in_all(GantryDetectorTilt="-20"),
        "GantryDetectorTilt is -20 degrees.* only 0 degrees from axial",
    ),
    "two scans in one": (two_scans, "different acquisitions .* lie between each other"),
    "same place": (moved(5, 0, 0, -4), "1 pair .* same place, the first at z = 124.0 mm"),
    "all beside each other": (side_by_side, "116.0 mm beside each other"),
    "one slice a little beside": (moved(5, 0, 0.7, 0), "0.7 mm beside each other"),
    "one missing": (remove(12), "1 slice missing: .* between z = 96.0 and 104.0 mm"),
    "three missing": (remove(12, 13, 20), "3 slices missing"),
    "a gap of no whole slice": (lowered(15, 2.4), "varies from 4.00 to 6.40 mm"),
    "a little irregular": (moved(5, 0, 0, 0.15), "varies from 3.85 to 4.15 mm"),
    "drifting": (wider_halfway, "varies from 4.00 to 4.06 mm"),
    "columns beyond any scanner": (in_all(PixelSpacing=[6, 60]), "images are 192 x 2.4e.03 mm"),
    "colour": (in_one(SamplesPerPixel=3), "SamplesPerPixel is 3"),
    "inverted grey": (in_one(PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"),
    "sign": (without("PixelRepresentation"), "PixelRepresentation is None"),
    "no slope": (without("RescaleSlope"), "RescaleSlope or RescaleIntercept is missing"),
    "no intercept": (without("RescaleIntercept"), "RescaleSlope or RescaleIntercept is missing"),
    "empty slope": (in_one(RescaleSlope=None), "RescaleSlope or RescaleIntercept is missing"),
    "slope no number": (in_one(RescaleSlope=float("nan")), "not a number"),
    "intercept of no scanner": (in_one(RescaleIntercept="-1e7"), "RescaleIntercept -1e.07"),
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


def test_slices_of_two_patients_are_refused_and_neither_is_named() -> None:
    """Of a folder; Orthanc keeps patients apart."""
    datasets = slices()
    for dataset in datasets[:15]:
        dataset.PatientID = "SOMEBODY-ELSE"

    verdict = judge(datasets, RULES)

    assert verdict.reason == "The images have 2 different PatientID, expected one."


def test_blanks_around_a_patients_id_make_no_other_patient() -> None:
    datasets = slices()
    datasets[7].PatientID += " "
    assert judge(datasets, RULES).chosen


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


def test_slices_whose_places_are_rounded_to_tenths_are_evenly_apart() -> None:
    headers = slices()
    for index, header in enumerate(headers):
        header.ImagePositionPatient = [0, 0, round(-3.75 * index, 1)]
    assert "every 3.75 mm" in judge(headers, RULES).reason


def test_directions_that_are_not_quite_perpendicular_are_taken_as_if_they_were() -> None:
    headers = slices()
    in_all(ImageOrientationPatient=[1, 0, 0, 0.0015, 0.999999, 0])(headers)
    assert judge(headers, RULES).chosen


def test_a_scanner_that_counts_an_acquisition_for_every_turn_has_made_one_scan() -> None:
    headers = slices()
    for index, header in enumerate(headers):
        header.AcquisitionNumber = 1 + index // 4
    assert judge(headers, RULES).chosen


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_tilt_counts_also_where_the_image_type_is_written_in_small_letters() -> None:
    headers = slices()
    in_all(GantryDetectorTilt="-20", ImageType=["original", "primary", "axial"])(headers)
    assert "GantryDetectorTilt is -20 degrees" in judge(headers, RULES).reason


def test_what_was_made_straight_of_a_tilted_scan_may_still_say_so() -> None:
    headers = slices()
    in_all(GantryDetectorTilt="18.5", ImageType=["DERIVED", "PRIMARY", "AXIAL"])(headers)
    assert judge(headers, SeriesRules(AcceptDerived=True)).chosen


@pytest.mark.parametrize("cosines", [[0.9985, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1.0015, 0]])
def test_a_direction_that_is_not_quite_of_length_one_stretches_no_patient(
    cosines: list[float],
) -> None:
    headers = slices()
    in_all(ImageOrientationPatient=cosines)(headers)
    geometry = sort_and_check(headers, RULES).geometry
    np.testing.assert_allclose(geometry.affine, phantom().ct.affine, atol=1e-9)


def turned(degrees: float) -> list[Dataset]:
    """The stack turned about the patient's left-right axis."""
    headers = slices()
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for number, header in enumerate(headers):
        header.ImageOrientationPatient = [1, 0, 0, 0, round(c, 9), round(s, 9)]
        header.ImagePositionPatient = [0, round(-4 * s * number, 6), round(4 * c * number, 6)]
    return headers


def test_nineteen_degrees_oblique_are_axial_enough_and_twenty_nine_are_not() -> None:
    assert judge(turned(19.0), RULES).chosen
    assert "29 degrees from axial" in judge(turned(29.0), RULES).reason
    strict = SeriesRules(MaxAngleFromAxialDeg=10)
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


def test_as_many_slices_as_the_rules_name_are_neither_too_few_nor_too_many() -> None:
    rules = SeriesRules(MinSlices=30, MaxSlices=30)
    assert judge(slices(), rules).chosen


def test_derived_images_are_taken_when_the_rules_say_so() -> None:
    headers = slices()
    in_all(ImageType=["DERIVED", "PRIMARY", "AXIAL"])(headers)
    assert not judge(headers, RULES).chosen
    assert judge(headers, SeriesRules(AcceptDerived=True)).chosen


@pytest.mark.parametrize(
    ("keyword", "rule"),
    [
        ("BodyPartExamined", "BodyPart"),
        ("SeriesDescription", "SeriesDescription"),
        ("StudyDescription", "StudyDescription"),
    ],
)
def test_expressions_choose_by_description(keyword: str, rule: str) -> None:
    headers = slices()
    in_all(**{keyword: "KOPFHALS NATIV"})(headers)
    assert judge(headers, SeriesRules(**{f"Include{rule}": "hals"})).chosen
    unwanted = judge(headers, SeriesRules(**{f"Include{rule}": "thorax"})).reason
    assert unwanted == f"{keyword} is none of those that Include{rule} wants."
    left_out = judge(headers, SeriesRules(**{f"Exclude{rule}": "nativ$"})).reason
    assert left_out == f"{keyword} is one that Exclude{rule} leaves out."
    in_all(**{keyword: ""})(headers)
    assert not judge(headers, SeriesRules(**{f"Include{rule}": "hals"})).chosen
    assert judge(headers, SeriesRules(**{f"Exclude{rule}": "nativ$"})).chosen


def test_rules_are_written_as_in_orthancs_configuration() -> None:
    rules = SeriesRules.model_validate({"MinSlices": 40, "IncludeBodyPart": "HEAD|NECK"})
    assert rules.min_slices == 40
    assert "30 slices, expected 40" in judge(slices(), rules).reason


@pytest.mark.parametrize(
    "section",
    [
        {"MinSlice": 40},
        {"min_slices": 40},  # as Python calls it, and Orthanc's configuration does not
        {"IncludeBodyPart": "HEAD("},
        {"MinSlices": 50, "MaxSlices": 40},
        {"MinLengthMm": 500.0, "MaxLengthMm": 400.0},
    ],
)
def test_a_mistake_in_the_rules_is_refused_at_once(section: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"MinSlice|min_slices|regular expression|MinLengthMm"):
        SeriesRules.model_validate(section)
