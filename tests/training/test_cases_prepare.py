"""Preparation: the network trains on the very grid and grey values that it will see at work."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
import SimpleITK

from model.checkpoint import save
from model.organs import BY_NAME, ORGANS
from model.preprocess import Preprocessing
from plugin.ct.series import read_series
from plugin.ct.series_rules import SeriesRules
from tests.phantoms import COSINES, Orientation, Phantom, make_phantom, write_case, write_series
from tests.tiny_model import tiny_model
from tests.training.cohort import write_cohort
from training.cases import UNKNOWN, Case, Dataset, in_table_order
from training.labelled import case_folders, read_case
from training.prepare import main, prepare

sitk: Any = SimpleITK  # half typed

PARITY = 2e-5
"""Standard deviations of the body: NIfTI keeps its affine in single precision."""

PREPROCESSING = Preprocessing(spacing_mm=(6.0, 4.0, 4.0))


def phantom(seed: int = 2, orientation: Orientation = "axial", noise_hu: float = 0) -> Phantom:
    return make_phantom(
        shape=(64, 64, 68),
        spacing_mm=(3.7, 3.1, 3.0),
        seed=seed,
        orientation=orientation,
        noise_hu=noise_hu,
    )


@pytest.mark.parametrize("orientation", COSINES)
def test_training_and_clinic_show_the_network_the_same(
    tmp_path: Path, orientation: Orientation
) -> None:
    one = phantom(orientation=orientation, noise_hu=12)
    write_case(one, tmp_path / "case")
    files = write_series(one, tmp_path / "dicom", shuffle_seed=0)
    seen_in_clinic = PREPROCESSING.forward(
        read_series(files, SeriesRules.model_validate({})).volume
    )

    prepared = prepare(read_case(tmp_path / "case"), PREPROCESSING)

    np.testing.assert_allclose(prepared.image, seen_in_clinic.array, rtol=0, atol=PARITY)


@pytest.mark.parametrize("orientation", COSINES)
def test_every_organ_lies_where_it_is_in_the_patient(
    tmp_path: Path, orientation: Orientation
) -> None:
    one = phantom(orientation=orientation)
    write_case(one, tmp_path / "case")
    case = prepare(read_case(tmp_path / "case"), PREPROCESSING)
    grid = PREPROCESSING.forward(one.ct.astype(np.float32)).get_geometry()
    assert case.labels.shape == case.image.shape == grid.spatial_shape
    for organ in (o for o in ORGANS if (one.labels.array == o.label).sum() > 200):
        ours_mm, theirs_mm = (
            volume.map_indices_to_reference(np.argwhere(labels == organ.label)).mean(axis=0)
            for volume, labels in ((grid, case.labels), (one.labels, one.labels.array))
        )
        assert np.linalg.norm(ours_mm - theirs_mm) < 1.5, organ.name
    for name in ("eye_left", "parotid_left", "temporal_lobe_left", "mandible_left"):
        left, right = (
            np.argwhere(case.labels == BY_NAME[n].label)[:, 2].mean()
            for n in (name, name.replace("left", "right"))
        )
        assert left > right + 5, name  # columns grow to the patient's left


def test_a_case_labels_what_its_list_says(tmp_path: Path) -> None:
    write_case(phantom(), tmp_path / "pt_7")
    (tmp_path / "pt_7" / "labelled.json").write_text('["parotid_left", "brainstem"]')

    case = read_case(tmp_path / "pt_7")

    assert case.name == "pt_7"
    assert case.labelled == (BY_NAME["parotid_left"], BY_NAME["brainstem"])


def test_without_a_list_a_case_labels_what_it_shows(tmp_path: Path) -> None:
    one = phantom()
    one.labels.array[one.labels.array == BY_NAME["pituitary"].label] = 0
    write_case(one, tmp_path / "case")
    (tmp_path / "case" / "labelled.json").unlink()

    case = read_case(tmp_path / "case")

    assert case.labelled == tuple(organ for organ in ORGANS if organ.name != "pituitary")


def test_what_the_publisher_cut_away_is_unknown(tmp_path: Path) -> None:
    one = phantom()
    one.ct.array[one.ct.array == -1024] = -1023
    middle = tuple(slice(n // 2 - 4, n // 2 + 4) for n in one.ct.array.shape[:2])
    one.ct.array[(*middle, slice(30, 40))] = -1025  # darker than the filling, and measured
    one.ct.array[:, :, 50:] = -1024  # columns grow to the patient's left
    write_case(one, tmp_path / "case")

    plain = prepare(read_case(tmp_path / "case"), PREPROCESSING)
    case = prepare(read_case(tmp_path / "case", unknown_hu=-1024), PREPROCESSING)

    assert not (plain.labels == UNKNOWN).any()
    np.testing.assert_array_equal(case.image, plain.image)
    unknown_columns = (case.labels == UNKNOWN).all(axis=(0, 1))
    known_columns = (case.labels != UNKNOWN).all(axis=(0, 1))
    assert (unknown_columns | known_columns).all()
    first = int(unknown_columns.argmax())
    assert known_columns[:first].all()
    assert unknown_columns[first:].all()
    known = case.labels != UNKNOWN
    np.testing.assert_array_equal(case.labels[known], plain.labels[known])


def test_cases_for_a_model_that_goes_on_have_its_grid_grey_values_and_organs(
    tmp_path: Path,
) -> None:
    network, card = tiny_model("known", spacing_mm=(7.0, 5.0, 4.5))
    known = replace(card.preprocessing, window_hu=(-200.0, 900.0), mean_hu=40.0, std_hu=90.0)
    save(tmp_path / "model", network, replace(card, preprocessing=known))
    write_case(phantom(), tmp_path / "in" / "pt_1")
    arguments = f"{tmp_path / 'in'} --out {tmp_path / 'out'} --like {tmp_path / 'model'}"

    assert main([*arguments.split(), "--spacing", "1", "1", "1"]) == 1
    assert main(arguments.split()) == 0

    dataset = Dataset.read(tmp_path / "out")
    assert dataset.preprocessing == known
    assert dataset.organs == card.organs


def rewrite(path: Path, change: Any) -> None:
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(change(image), str(path))


def moved(image: Any) -> Any:
    image.SetOrigin([v + 1.0 for v in image.GetOrigin()])
    return image


@pytest.mark.parametrize(
    "change", [moved, lambda image: image[:, :, 1:], lambda image: image[::-1, :, :]]
)
def test_labels_on_another_grid_are_refused(tmp_path: Path, change: Any) -> None:
    write_case(phantom(), tmp_path / "pt_9")
    rewrite(tmp_path / "pt_9" / "label.nii.gz", change)

    with pytest.raises(ValueError, match="pt_9: CT and labels are not on the same grid"):
        read_case(tmp_path / "pt_9")


@pytest.mark.parametrize("label", [23, 255, 257, -1])
def test_a_label_of_no_organ_is_refused(tmp_path: Path, label: int) -> None:
    write_case(phantom(), tmp_path / "pt_9")

    def change(image: Any) -> Any:
        image = sitk.Cast(image, sitk.sitkInt16)
        image[3, 3, 3] = label
        return image

    rewrite(tmp_path / "pt_9" / "label.nii.gz", change)

    with pytest.raises(ValueError, match=f"pt_9: .*{label}.* not in the table of organs"):
        read_case(tmp_path / "pt_9")


def test_grey_values_are_standardised_by_the_body_within_the_window(tmp_path: Path) -> None:
    one = phantom()
    values = np.full(one.ct.array.shape, -1000, np.int16)
    values[:10] = 60
    values[10:20] = 140
    values[20] = 3000
    volume = one.ct.with_array(values)
    write_case(Phantom(volume, one.labels, one.patient, one.recipe), tmp_path / "cases" / "pt_1")

    main(f"{tmp_path / 'cases'} --out {tmp_path / 'out'} --window -300 1200".split())

    found = Dataset.read(tmp_path / "out").preprocessing
    body = np.array([60.0] * 10 + [140.0] * 10 + [1200.0])
    assert found.mean_hu == pytest.approx(body.mean(), abs=0.05)
    assert found.std_hu == pytest.approx(body.std(), abs=0.05)


def test_a_prepared_case_is_read_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    case = Case(
        name="pt_3",
        image=rng.normal(size=(3, 4, 5)).astype(np.float32),
        labels=rng.integers(0, 23, (3, 4, 5), dtype=np.uint8),
        labelled=(BY_NAME["lens_left"], BY_NAME["brainstem"]),
        ct_sha256="0123456789abcdef",
    )

    case.write(tmp_path)
    found = Case.read(tmp_path / "pt_3")

    assert (found.name, found.labelled) == (case.name, case.labelled)
    assert found.ct_sha256 == case.ct_sha256
    np.testing.assert_array_equal(found.image, case.image)
    np.testing.assert_array_equal(found.labels, case.labels)


def test_organs_are_kept_in_the_tables_order() -> None:
    names = {"mandible_left", "brainstem", "lens_right", "lens_left"}

    assert in_table_order(names) == ("brainstem", "lens_left", "lens_right", "mandible_left")


def test_a_cohort_is_prepared_by_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        one = phantom(seed)
        one.ct.array[:, :, 60:] = -1024
        write_case(one, tmp_path / "cases" / f"pt_{seed}")
    (tmp_path / "cases" / "pt_1" / "labelled.json").write_text(json.dumps(["parotid_left"]))
    (tmp_path / "cases" / "pt_2" / "labelled.json").write_text(json.dumps(["brainstem"]))
    (tmp_path / "cases" / "notes").mkdir()

    status = main(
        f"{tmp_path / 'cases'} --out {tmp_path / 'out'} --spacing 8 6 6 --window -200 800 "
        "--unknown-hu -1024".split()
    )

    assert status == 0
    dataset = Dataset.read(tmp_path / "out")
    assert dataset.cases == ("pt_1", "pt_2")
    assert dataset.organs == ("brainstem", "parotid_left")
    assert dataset.preprocessing.spacing_mm == (8.0, 6.0, 6.0)
    assert dataset.preprocessing.window_hu == (-200.0, 800.0)
    expected = prepare(read_case(tmp_path / "cases" / "pt_1", -1024), dataset.preprocessing)
    found = Case.read(tmp_path / "out" / "pt_1")
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert (found.labels == UNKNOWN).any(), "what holds no information"
    assert found.labelled == (BY_NAME["parotid_left"],)
    body = found.image[found.image > found.image.min()]
    assert abs(body.mean()) < 0.5
    assert 0.5 < body.std() < 1.5
    assert "2 cases, 2 organs" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "said"), [("", True), ("--unknown-hu -1024", False)])
def test_a_filling_that_is_not_called_unknown_is_not_prepared_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, said: bool
) -> None:
    one = phantom()
    one.ct.array[one.ct.array < -500] = -1024  # all around the patient
    write_case(one, tmp_path / "cases" / "cropped")
    write_case(phantom(3, noise_hu=12), tmp_path / "cases" / "whole")
    arguments = f"{tmp_path / 'cases'} --out {tmp_path / 'out'} --spacing 8 6 6 {option}"

    assert main(arguments.split()) == 0

    sentence = "training.prepare: most voxels of 1 of 2 CTs are exactly -1024 HU"
    assert (sentence in capsys.readouterr().err) is said


def test_one_ct_under_two_names_is_said_before_anybody_trains_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(tmp_path / "cases", 3)
    for one, other in (("pt_0", "pt_8"), ("pt_2", "pt_9")):
        shutil.copytree(tmp_path / "cases" / one, tmp_path / "cases" / other)

    main([str(tmp_path / "cases"), "--out", str(tmp_path / "out"), "--spacing", "10", "8", "8"])

    assert "pt_0 and pt_8, pt_2 and pt_9 in" in capsys.readouterr().err


def test_a_pair_on_the_wrong_sides_of_a_case_folder_is_not_trained_on(tmp_path: Path) -> None:
    one = phantom()
    left, right = BY_NAME["parotid_left"].label, BY_NAME["parotid_right"].label
    swapped = one.labels.array.copy()
    swapped[one.labels.array == left], swapped[one.labels.array == right] = right, left
    write_case(replace(one, labels=one.labels.with_array(swapped)), tmp_path / "cases" / "pt")

    main(f"{tmp_path / 'cases'} --out {tmp_path / 'out'} --spacing 8 6 6".split())

    found = Case.read(tmp_path / "out" / "pt")
    assert BY_NAME["brainstem"] in found.labelled
    assert not {BY_NAME["parotid_left"], BY_NAME["parotid_right"]} & set(found.labelled)
    assert not np.isin(found.labels, (left, right)).any()


def test_of_a_case_whose_organs_are_all_left_out_the_reasons_are_said(tmp_path: Path) -> None:
    write_case(phantom(), tmp_path / "cases" / "pt")
    path = tmp_path / "cases" / "pt" / "label.nii.gz"
    labels = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.ChangeLabel(labels, {12: 13, 13: 12}), str(path))
    (tmp_path / "cases" / "pt" / "labelled.json").write_text('["parotid_left", "parotid_right"]')

    assert main(f"{tmp_path / 'cases'} --out {tmp_path / 'out'} --spacing 8 6 6".split()) == 1

    said = (tmp_path / "out-private" / "report.md").read_text()
    assert (
        "| pt: no organ is left of those that were drawn: Parotid_L, Parotid_R: it does not lie on "
        "its side of the patient |"
    ) in said


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no case folders with a data.nii.gz under .*\d$"):
        case_folders(tmp_path)


def test_who_names_the_prepared_cases_in_place_of_the_collected_ones_is_told_of_them(
    tmp_path: Path,
) -> None:
    write_case(phantom(), tmp_path / "mine" / "cases" / "0001")
    with pytest.raises(FileNotFoundError, match=f"there are some under {tmp_path / 'mine/cases'}"):
        case_folders(tmp_path / "mine")


def test_a_case_is_a_volume_with_its_place(tmp_path: Path) -> None:
    one = phantom(orientation="feet_first")
    write_case(one, tmp_path / "case")

    ct = read_case(tmp_path / "case").ct

    assert isinstance(ct, hd.Volume)
    voxels = np.argwhere(ct.array == ct.array.max())[:5]
    place_mm = ct.map_indices_to_reference(voxels)
    in_phantom = np.rint(one.ct.map_reference_to_indices(place_mm)).astype(int)
    assert (one.ct.array[tuple(in_phantom.T)] == one.ct.array.max()).all()


@pytest.mark.parametrize("shape", [(12, 12), (2, 12, 12, 12)], ids=["a slice", "a series in time"])
def test_an_image_that_is_no_volume_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = sitk.GetImageFromArray(np.zeros(shape, np.int16), isVector=False)
    sitk.WriteImage(image, str(tmp_path / "data.nii.gz"), useCompression=True)

    with pytest.raises(ValueError, match=r"data\.nii\.gz is not one volume of three dimensions"):
        read_case(tmp_path)
