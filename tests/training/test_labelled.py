"""A case that is written is read as it was: every grey value, every label, at the same place."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from model.organs import BY_NAME
from tests.phantoms import COSINES, Orientation, make_phantom
from training.labelled import AFFINE, CT, LabelledCt, case_folders, read_case, write_case

ORGANS = (BY_NAME["brainstem"], BY_NAME["lens_left"])


def labelled_ct(orientation: Orientation = "axial") -> LabelledCt:
    one = make_phantom(shape=(22, 30, 31), spacing_mm=(7.3, 7.1, 6.9), orientation=orientation)
    return LabelledCt(name="0007", ct=one.ct.astype(np.float32), labels=one.labels, labelled=ORGANS)


@pytest.mark.parametrize("orientation", COSINES)
def test_a_case_comes_back_at_the_same_place_to_the_last_digit(
    tmp_path: Path, orientation: Orientation
) -> None:
    case = labelled_ct(orientation)

    folder = write_case(case, tmp_path)
    found = read_case(folder)

    assert (found.name, found.labelled) == ("0007", ORGANS)
    back = found.ct.permute_spatial_axes((2, 1, 0))
    np.testing.assert_array_equal(back.affine, case.ct.affine)
    np.testing.assert_array_equal(back.array, case.ct.array)
    np.testing.assert_array_equal(
        found.labels.permute_spatial_axes((2, 1, 0)).array, case.labels.array
    )
    # Other programs know nothing of affine.json, and find the same places but for NIfTI's rounding.
    image = sitk.ReadImage(str(folder / CT))
    place = image.TransformContinuousIndexToPhysicalPoint((5.0, 6.0, 7.0))
    np.testing.assert_allclose(
        place, case.ct.map_indices_to_reference(np.array([[7, 6, 5]]))[0], atol=1e-4
    )


def test_who_has_trained_a_model_is_known_by_his_ct_whichever_way_it_is_stored() -> None:
    case = labelled_ct()
    otherwise = case.ct.permute_spatial_axes((2, 0, 1)).flip_spatial([0, 2])
    assert replace(case, ct=otherwise).ct_sha256 == case.ct_sha256


@pytest.mark.parametrize("hu", [40.25, 40_000])
def test_grey_values_between_whole_ones_and_of_metal_are_kept(tmp_path: Path, hu: float) -> None:
    case = labelled_ct()
    case.ct.array[3, 4, 5] = hu
    found = read_case(write_case(case, tmp_path))
    assert found.ct.array[5, 4, 3] == hu


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    for name in (".0007.part", "0007"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CT).write_text("half")
    write_case(labelled_ct(), tmp_path)
    assert read_case(tmp_path / "0007").labelled == ORGANS
    assert [path.name for path in tmp_path.iterdir()] == ["0007"]


def test_a_grid_that_is_not_the_images_is_refused(tmp_path: Path) -> None:
    folder = write_case(labelled_ct(), tmp_path)
    text = (folder / AFFINE).read_text()
    (folder / AFFINE).write_text(text.replace("-6.9", "6.9").replace("[6.9", "[7.9"))
    with pytest.raises(ValueError, match=r"0007: affine\.json and data\.nii\.gz are not of"):
        read_case(folder)


def test_what_a_killed_run_left_half_written_is_no_case(tmp_path: Path) -> None:
    folder = write_case(labelled_ct(), tmp_path)
    shutil.copytree(folder, tmp_path / ".0008.part")

    assert case_folders(tmp_path) == [folder]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_voxel_that_is_no_number_is_not_taken_for_water(
    tmp_path: Path, value: float, dtype: type
) -> None:
    ct = labelled_ct().ct
    array = ct.array.astype(dtype)
    array[3, 4, 5] = value
    image = ct.with_array(array).to_simpleitk()
    folder = write_case(labelled_ct(), tmp_path)
    (folder / AFFINE).unlink()
    sitk.WriteImage(image, str(folder / CT), useCompression=True)

    with pytest.raises(ValueError, match=r"0007: data\.nii\.gz has voxels that are infinite or no"):
        read_case(folder)


def test_grey_values_that_were_never_rescaled_are_no_hounsfield_units(tmp_path: Path) -> None:
    case = labelled_ct()
    raised = case.ct.with_array(case.ct.array + 1024)
    folder = write_case(replace(case, ct=raised), tmp_path)

    with pytest.raises(ValueError, match="0007: The images show no air"):
        read_case(folder)
