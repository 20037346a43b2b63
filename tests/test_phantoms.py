import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from model.organs import BY_NAME, ORGANS
from tests.phantoms import (
    COSINES,
    Orientation,
    Phantom,
    ct_slices,
    grid_affine,
    main,
    make_phantom,
    write_case,
    write_series,
)

PLAUSIBLE_ML = {
    "brainstem": (18, 45),
    "eye": (5, 12),
    "lens": (0.1, 0.5),
    "optic_nerve": (0.4, 1.6),
    "optic_chiasm": (0.3, 1.6),
    "temporal_lobe": (30, 110),
    "pituitary": (0.2, 1.3),
    "parotid": (10, 50),
    "inner_ear": (0.4, 2.5),
    "middle_ear": (0.5, 3.5),
    "tmj": (0.8, 4.5),
    "spinal_cord": (3, 25),
    "mandible": (15, 50),
}
"""Loose ranges of adult volumes as contoured for radiotherapy (OpenKBP and StructSeg sized)."""


@cache
def head(orientation: Orientation = "axial") -> Phantom:
    return make_phantom(orientation=orientation, seed=3)


@cache
def small() -> Phantom:
    return make_phantom(shape=(12, 40, 48), spacing_mm=(12.0, 6.5, 6.0), seed=1, padding_hu=-3024)


@pytest.mark.parametrize("seed", [3, 17, 20])
def test_every_organ_is_there_once_and_of_a_plausible_size(seed: int) -> None:
    phantom = make_phantom(seed=seed, noise_hu=0)
    voxel_ml = np.prod(phantom.labels.spacing) / 1000
    for organ in ORGANS:
        mask = phantom.labels.array == organ.label
        _, pieces = ndimage.label(mask, np.ones((3, 3, 3)))
        assert pieces == 1, f"{organ.name} is in {pieces} pieces"
        low, high = PLAUSIBLE_ML[organ.name.removesuffix("_left").removesuffix("_right")]
        assert low < mask.sum() * voxel_ml < high, organ.name


@pytest.mark.parametrize("orientation", COSINES)
def test_left_organs_lie_to_the_patients_left(orientation: Orientation) -> None:
    labels = head(orientation).labels

    def x_of(organ: str) -> float:
        voxels = np.argwhere(labels.array == BY_NAME[organ].label)
        return float(labels.map_indices_to_reference(voxels)[:, 0].mean())

    for organ in ORGANS:
        if organ.side == "left":
            assert x_of(organ.name) > x_of(organ.name.replace("left", "right")) + 10


@pytest.mark.parametrize("orientation", COSINES)
def test_the_same_point_of_the_patient_has_the_same_label_in_every_orientation(
    orientation: Orientation,
) -> None:
    turned = head(orientation)
    voxels = np.argwhere(turned.labels.array)
    voxels = voxels[np.random.default_rng(0).choice(len(voxels), 5000)]
    points = turned.labels.map_indices_to_reference(voxels)

    truth = head("axial").labels_at(points)

    np.testing.assert_array_equal(truth, turned.labels.array[tuple(voxels.T)])


def test_organs_differ_from_patient_to_patient_and_the_average_one_is_the_same() -> None:
    grid = {"shape": (20, 48, 48), "spacing_mm": (10.0, 5.0, 5.0)}
    one, other = (make_phantom(seed=seed, **grid) for seed in (1, 2))  # type: ignore[arg-type]
    means = [make_phantom(seed=seed, variation=0, **grid) for seed in (1, 2)]  # type: ignore[arg-type]

    assert (one.labels.array != other.labels.array).any()
    np.testing.assert_array_equal(means[0].labels.array, means[1].labels.array)


def test_soft_tissue_bone_and_air_have_their_hounsfield_units() -> None:
    phantom = head()

    def median_hu(organ: str) -> float:
        return float(np.median(phantom.ct.array[phantom.labels.array == BY_NAME[organ].label]))

    assert median_hu("mandible_left") > 200
    assert median_hu("inner_ear_right") > 700
    assert median_hu("middle_ear_left") < -200
    assert 20 < median_hu("brainstem") < 45
    assert -60 < median_hu("parotid_left") < 30 < median_hu("lens_left")
    assert np.median(phantom.ct.array[:, :5]) == pytest.approx(-1000, abs=15)


@pytest.mark.parametrize("orientation", COSINES)
def test_slices_read_back_as_the_same_volume(orientation: Orientation) -> None:
    phantom = make_phantom(
        orientation=orientation, shape=(12, 40, 48), spacing_mm=(9.5, 5.25, 6.0), padding_hu=-3024
    )

    read = hd.get_volume_from_series(ct_slices(phantom, shuffle_seed=1), dtype=np.float32)

    np.testing.assert_array_equal(read.array, phantom.ct.array)
    np.testing.assert_allclose(read.affine, phantom.ct.affine, atol=1e-8)
    assert read.frame_of_reference_uid == phantom.ct.frame_of_reference_uid


def test_a_tilted_gantry_shows_the_same_patient_on_a_sheared_grid() -> None:
    upright = make_phantom(shape=(70, 64, 64), spacing_mm=(4.0, 4.0, 4.0), noise_hu=0, seed=3)
    slices = ct_slices(upright, gantry_tilt_degrees=18.0)

    normal = np.cross(
        slices[0].ImageOrientationPatient[:3], slices[0].ImageOrientationPatient[3:]
    ).astype(float)
    step = np.subtract(slices[1].ImagePositionPatient, slices[0].ImagePositionPatient)
    angle = np.degrees(np.arccos(abs(normal @ step) / np.linalg.norm(step)))
    assert angle == pytest.approx(18.0, abs=1e-3)
    with pytest.raises(ValueError, match="not a regularly-spaced volume"):
        hd.get_volume_from_series(slices)

    affine = grid_affine(upright.recipe, gantry_tilt_degrees=18.0)
    stored = np.stack([image.pixel_array for image in slices]) - 1024
    lung_or_bone = np.argwhere(stored > 600)
    where = lung_or_bone @ affine[:3, :3].T + affine[:3, 3]
    on_upright = np.rint(upright.ct.map_reference_to_indices(where)).astype(int)
    inside = ((on_upright >= 0) & (on_upright < upright.ct.shape)).all(axis=1)
    found = upright.ct.array[tuple(on_upright[inside].T)]
    assert np.median(found) > 500  # bone is where bone was; a wrong shear finds soft tissue


def test_the_same_recipe_gives_the_same_identifiers_and_another_gives_others() -> None:
    again = make_phantom(shape=(12, 40, 48), spacing_mm=(12.0, 6.5, 6.0), seed=1, padding_hu=-3024)
    second = ct_slices(small(), series_number=2)
    first = ct_slices(small())

    assert [s.SOPInstanceUID for s in first] == [s.SOPInstanceUID for s in ct_slices(again)]
    assert first[0].StudyInstanceUID == second[0].StudyInstanceUID
    assert first[0].SeriesInstanceUID != second[0].SeriesInstanceUID
    assert len({s.SOPInstanceUID for s in first + second}) == 24


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools is not installed")
@pytest.mark.parametrize("tilt", [0.0, 12.5])
def test_slices_are_valid_ct_images(tilt: float, tmp_path: Path) -> None:
    for path in write_series(small(), tmp_path, gantry_tilt_degrees=tilt)[:2]:
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Error" not in said.stderr + said.stdout


def test_a_case_holds_the_same_patient_with_slices_growing_towards_the_head(tmp_path: Path) -> None:
    phantom = small()

    write_case(phantom, tmp_path)

    ct: Any = sitk.ReadImage(str(tmp_path / "data.nii.gz"))  # SimpleITK is half typed
    labels: Any = sitk.ReadImage(str(tmp_path / "label.nii.gz"))
    assert ct.GetPixelID() == sitk.sitkInt16
    assert labels.GetPixelID() == sitk.sitkUInt8
    assert ct.TransformIndexToPhysicalPoint((0, 0, 1))[2] > ct.GetOrigin()[2]
    for voxel in ((1, 20, 24), (6, 11, 30), (11, 39, 0)):
        point = phantom.ct.map_indices_to_reference(np.array([voxel]))[0]
        index = ct.TransformPhysicalPointToIndex(point.tolist())
        assert ct[index] == phantom.ct.array[voxel]
        assert labels[index] == phantom.labels.array[voxel]
    named = json.loads((tmp_path / "labelled.json").read_text())
    assert {BY_NAME[name].label for name in named} == set(np.unique(phantom.labels.array)) - {0}


def test_the_command_line_writes_a_cohort(tmp_path: Path) -> None:
    small_grid = ["--spacing", "12", "6", "6", "--shape", "8", "32", "32"]

    assert main([str(tmp_path), "--cases", "2", "--seed", "5", "--dicom", *small_grid]) == 0

    assert sorted(p.name for p in tmp_path.iterdir()) == ["phantom_0005", "phantom_0006"]
    assert len(list((tmp_path / "phantom_0006" / "dicom").glob("*.dcm"))) == 8
