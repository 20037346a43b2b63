"""The fingerprint: what the data are, and the grid that they ask for."""

from dataclasses import replace
from math import pi
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from model.organs import BY_NAME
from tests.training.cohort import write_cohort
from training.cases import Dataset
from training.fingerprint import CaseFingerprint, Fingerprint, fingerprint_of
from training.prepare import main as prepare

ONE = CaseFingerprint(
    name="pt_1",
    spacing_mm=(3.0, 1.1, 1.1),
    size=(120, 512, 512),
    body_mm=(360.0, 300.0, 480.0),
    body_voxels=1000,
    body_hu=(30.0, 200.0),
    percentiles_hu=(-200.0, 40.0, 900.0),
    organs_ml={"brainstem": 25.0, "lens_left": 0.4},
)


def of(*cases: CaseFingerprint) -> Fingerprint:
    return Fingerprint(window_hu=(-300.0, 1200.0), cases=cases)


def patient() -> tuple[hd.Volume, hd.Volume]:
    """A block of water, 20 x 30 x 50 voxels, in air; rows from front to back, slices upwards."""
    affine = np.diag([2.0, 1.5, 4.0, 1.0])[:, [2, 1, 0, 3]]  # (z, y, x) of a feet-first stack
    ct = np.full((40, 60, 80), -1000.0, np.float32)
    ct[10:30, 20:50, 10:60] = 0.0
    ct[10, 20, 10] = 3000.0  # a screw
    labels = np.zeros(ct.shape, np.uint8)
    labels[12:14, 22:25, 30:35] = BY_NAME["brainstem"].label
    volume = hd.Volume(ct, affine, "PATIENT")
    return volume, volume.with_array(labels)


def test_a_case_is_measured_in_millimetres_and_millilitres() -> None:
    ct, labels = patient()
    organs = (BY_NAME["brainstem"], BY_NAME["parotid_left"])

    found = fingerprint_of("pt_1", ct, labels, organs, (-300.0, 1200.0))

    assert found.spacing_mm == (4.0, 1.5, 2.0)
    assert found.size == (40, 60, 80)
    margin = 10.0  # around the body, rounded up to voxels
    sides = [20 * 4 + 2 * 12, 30 * 1.5 + 2 * 10.5, 50 * 2 + 2 * margin]
    assert found.body_mm == pytest.approx(tuple(sides))
    assert found.body_voxels == 20 * 30 * 50
    assert found.body_hu == pytest.approx((1200 / 30_000, 1200 / 30_000**0.5), rel=1e-3)
    assert found.percentiles_hu == (0.0, 0.0, 0.0)
    assert found.organs_ml == pytest.approx({"brainstem": 30 * 12 / 1000, "parotid_left": 0.0})


def test_grey_values_of_all_patients_are_taken_together() -> None:
    whole = np.array([0.0, 10.0, 20.0, 100.0, 140.0])
    parts = [
        replace(ONE, body_voxels=len(part), body_hu=(float(part.mean()), float(part.std())))
        for part in (whole[:3], whole[3:])
    ]

    assert of(*parts).body_hu == pytest.approx((whole.mean(), whole.std()))


def test_volumes_are_of_those_who_have_the_organ() -> None:
    cases = [replace(ONE, organs_ml={"lens_left": ml, "brainstem": 20.0}) for ml in (0.1, 0.3, 0)]

    fingerprint = of(*cases, replace(ONE, organs_ml={}))

    assert fingerprint.organs_ml == pytest.approx({"brainstem": 20.0, "lens_left": 0.2})
    assert list(fingerprint.organs_ml) == ["brainstem", "lens_left"]
    assert pi / 6 * fingerprint.smallest_mm**3 == pytest.approx(200)


def test_the_grid_is_the_median_of_the_data() -> None:
    spacings = [(2.5, 0.9, 0.9), (3.0, 1.1, 1.1), (3.0, 1.2, 1.2)]

    fingerprint = of(*(replace(ONE, spacing_mm=mm) for mm in spacings))

    assert fingerprint.spacing_mm() == (3.0, 1.1, 1.1)


def test_a_small_organ_asks_for_a_finer_grid_but_none_finer_than_the_scans() -> None:
    lens = {"lens_left": 0.1}  # ml: 28 voxels of the median grid
    half = [replace(ONE, spacing_mm=mm, organs_ml=lens) for mm in [(3.0, 1.1, 1.1)] * 8]
    fine = [replace(ONE, spacing_mm=(1.0, 0.5, 0.5), organs_ml=lens)] * 4

    z, y, x = of(*half, *fine).spacing_mm()

    assert z * y * x == pytest.approx(100 / 64, rel=0.02)  # mm3, so that the lens has 64 voxels
    assert z / x == pytest.approx(3 / 1.1, rel=0.02)
    assert of(*half).spacing_mm() == (3.0, 1.1, 1.1)


def test_thick_slices_take_the_spacing_of_the_thinner_ones() -> None:
    thick = [replace(ONE, spacing_mm=(mm, 1.0, 1.0)) for mm in (2.0, 2.5, 5.0, 5.0, 5.0)]

    assert of(*thick).spacing_mm() == (2.2, 1.0, 1.0)  # their tenth percentile


def test_without_organs_there_is_nothing_to_plan_for() -> None:
    with pytest.raises(ValueError, match="no case has a voxel of any organ"):
        of(replace(ONE, organs_ml={"brainstem": 0.0})).spacing_mm()


@pytest.mark.slow
def test_preparation_writes_it_and_takes_its_grid_unless_told_another(tmp_path: Path) -> None:
    write_cohort(tmp_path / "cases", 2)
    for name, told in (("asked", ()), ("told", ("--spacing", "9", "9", "9"))):
        assert prepare([str(tmp_path / "cases"), "--out", str(tmp_path / name), *told]) == 0

    fingerprint = Fingerprint.read(tmp_path / "asked")

    assert [case.name for case in fingerprint.cases] == ["pt_0", "pt_1"]
    assert fingerprint.spacing_mm() == (10.0, 8.0, 8.0)
    assert fingerprint == Fingerprint.read(tmp_path / "told")
    asked, told = (Dataset.read(tmp_path / name).preprocessing for name in ("asked", "told"))
    assert (asked.spacing_mm, told.spacing_mm) == ((10.0, 8.0, 8.0), (9.0, 9.0, 9.0))
    assert asked.mean_hu == pytest.approx(fingerprint.body_hu[0], abs=0.06)
