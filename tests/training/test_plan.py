"""The plan: the spacing, patch, depth and batch that suit the data and fit the memory."""

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

from model.organs import ORGANS
from model.unet import UNet
from tests.training.cohort import ORGANS as COHORT
from tests.training.cohort import prepare_cohort, tiny_run, toml, write_cohort
from training.cases import Dataset
from training.config import Plan, TrainConfig
from training.fingerprint import CaseFingerprint, Fingerprint
from training.network import MIN_SIDE, build_network, plan_strides
from training.plan import SMALLEST, STEP, as_toml, main, make_plan

CONFIG = replace(
    tiny_run(Path("a"), Path("b")), widths=(32, 64, 128, 256, 320), encoder_depth=2, batch=99
)

LENS, TEMPORAL_LOBE = 0.2, 90.0  # ml


def data(smallest_ml: float = LENS, cases: int = 50) -> Fingerprint:
    """Planning CTs of about StructSeg's kind, all 22 organs labelled."""
    organs = {organ.name: smallest_ml if "lens" in organ.name else 90.0 for organ in ORGANS}
    case = CaseFingerprint(
        name="pt",
        spacing_mm=(3.0, 1.0, 1.0),
        size=(120, 512, 512),
        body_mm=(360.0, 300.0, 480.0),
        body_voxels=1000,
        body_hu=(30.0, 200.0),
        percentiles_hu=(-200.0, 40.0, 900.0),
        organs_ml=organs,
    )
    return Fingerprint(window_hu=(-300.0, 1200.0), cases=(case,) * cases)


@pytest.fixture(scope="module")
def plans() -> dict[int, Plan]:
    return {gib: make_plan(data(), CONFIG, gib) for gib in (4, 11, 24)}


def test_the_plan_fits_the_memory_and_uses_it(plans: dict[int, Plan]) -> None:
    for gib, plan in plans.items():
        assert 0.85 * gib < plan.estimated_gib <= gib
        assert plan.memory_gib == gib
        assert plan.batch >= 2


def test_more_memory_sees_more_of_the_patient(plans: dict[int, Plan]) -> None:
    sizes = [prod(plan.patch) for plan in plans.values()]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 4 * sizes[0]


def test_the_patch_is_about_a_cube_in_millimetres(plans: dict[int, Plan]) -> None:
    for plan in plans.values():
        sides = np.multiply(plan.patch, plan.spacing_mm)
        assert sides.max() - sides.min() <= 2 * max(np.multiply(STEP, plan.spacing_mm))


def test_thick_slices_are_pooled_in_plane_first(plans: dict[int, Plan]) -> None:
    for plan in plans.values():
        assert plan.strides[0] == (1, 2, 2)
        pooled = np.prod(plan.strides, axis=0) * plan.spacing_mm
        assert pooled.max() / pooled.min() <= 2


def test_voxels_of_thick_slices_are_pooled_in_plane_until_the_voxels_are_about_cubes() -> None:
    strides = plan_strides((3.0, 1.0, 1.0), (48, 160, 160), 5)

    assert strides == [(1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)]


def test_cubic_voxels_are_pooled_alike_from_the_start() -> None:
    assert plan_strides((1.0, 1.0, 1.0), (64, 64, 64), 3) == [(2, 2, 2), (2, 2, 2)]


@pytest.mark.parametrize("patch", [(8, 160, 160), (16, 32, 48), (5, 64, 64), (4, 4, 4), (32, 9, 8)])
def test_no_axis_is_pooled_below_what_a_lens_needs(patch: tuple[int, int, int]) -> None:
    size = list(patch)
    for stride in plan_strides((3.0, 1.0, 1.0), patch, 9):
        assert stride != (1, 1, 1)
        for axis, factor in enumerate(stride):
            assert size[axis] % factor == 0
            size[axis] //= factor
            assert factor == 1 or size[axis] >= MIN_SIDE


def test_small_organs_make_the_network_shallower() -> None:
    lens, lobe = (make_plan(data(ml), CONFIG, 11) for ml in (0.02, TEMPORAL_LOBE))

    assert len(lens.strides) < len(lobe.strides) == 4
    widest_mm = (np.prod(lens.strides, axis=0) * lens.spacing_mm).max()
    assert widest_mm <= 4 * data(0.02).smallest_mm
    assert len(lens.widths) == len(lens.strides) + 1


def test_the_grid_of_prepared_cases_is_kept() -> None:
    assert make_plan(data(), CONFIG, 11).spacing_mm == (3.0, 1.0, 1.0)
    assert make_plan(data(), CONFIG, 11, (3.0, 3.0, 3.0)).spacing_mm == (3.0, 3.0, 3.0)


def test_with_memory_to_spare_the_whole_patient_fits_and_the_batch_grows() -> None:
    coarse = (6.0, 6.0, 6.0)

    few, many = (make_plan(data(cases=n), CONFIG, 24, coarse) for n in (40, 400))

    assert few.patch == many.patch == (64, 64, 80)  # 360 x 300 x 480 mm
    assert few.batch == 2  # a twentieth of 40 patients
    assert many.batch > 8
    assert many.estimated_gib <= 24


def test_too_little_memory_is_refused_with_what_it_would_take() -> None:
    with pytest.raises(ValueError, match=r"takes 1\.\d GiB with the smallest patch.*1 GiB are too"):
        make_plan(data(), CONFIG, 1)


def test_a_network_of_the_plan_takes_its_patch(plans: dict[int, Plan], tmp_path: Path) -> None:
    small = replace(plans[4], patch=SMALLEST)
    text = as_toml(small, data())
    assert "# Of one GPU: for several under torchrun, times their number.\nbatch = " in text
    (tmp_path / "plan.toml").write_text(text)
    (tmp_path / "run.toml").write_text(
        'name = "a"\nversion = "1"\ndescription = ""\ncases = "c"\nout = "o"\nencoder_depth = 1\n'
        f'encoder_width = 12\nplan = "{tmp_path / "plan.toml"}"\n'
    )
    config = TrainConfig.read(tmp_path / "run.toml")
    assert config.plan == small

    dataset = Dataset.read(prepare_cohort(tmp_path, 1))
    grid = replace(dataset.preprocessing, spacing_mm=(3.0, 1.0, 1.0))
    network = build_network(config, replace(dataset, preprocessing=grid))

    assert isinstance(network, UNet)
    assert network.config.strides == small.strides
    assert all(n % m == 0 for n, m in zip(config.patch, network.config.multiple, strict=True))
    with pytest.raises(ValueError, match=r"the plan is for \(3.0, 1.0, 1.0\) mm .* \(10.0, 8.0"):
        build_network(config, dataset)


@pytest.mark.slow
def test_the_command_plans_from_prepared_cases_and_from_their_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(tmp_path / "cases", 2)
    prepared = prepare_cohort(tmp_path, 2)
    (tmp_path / "run.toml").write_text(toml(tiny_run(prepared, tmp_path / "out")))
    capsys.readouterr()
    printed = []
    for folder in (prepared, tmp_path / "cases"):
        out = tmp_path / "plans" / f"{folder.name}.toml"
        arguments = [str(folder), "--memory-gib", "2", "--out", str(out)]
        assert main([*arguments, "--config", str(tmp_path / "run.toml")]) == 0
        printed.append(capsys.readouterr().out)
        assert out.read_text() == printed[-1]

    assert printed[0] == printed[1]
    assert f"from 2 cases with {len(COHORT)} organs" in printed[0]
    plan = Plan.read(tmp_path / "plans" / "prepared.toml")
    assert plan.spacing_mm == (10.0, 8.0, 8.0)
    assert plan.estimated_gib < 2


@pytest.mark.parametrize("gib", ["nan", "inf", "0", "-11", "much"])
def test_memory_that_no_gpu_has_is_refused_before_any_case_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gib: str
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--memory-gib", gib])

    assert "argument --memory-gib: " in capsys.readouterr().err


def test_a_plan_stopped_by_hand_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.plan.measure_folder", stopped)
    out = tmp_path / "plan.toml"

    assert main([str(tmp_path), "--memory-gib", "8", "--out", str(out)]) == 130

    assert capsys.readouterr().err == "training.plan: stopped; there is no plan\n"
    assert not out.exists()


def test_a_folder_without_cases_ends_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--memory-gib", "8"]) == 1

    assert capsys.readouterr().err.startswith("training.plan: no case folders")
