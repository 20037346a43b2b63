"""Masks of another program are scored as those of a model are, and only if they fit the CT."""

import re
import shutil
from math import inf
from pathlib import Path
from typing import Any

import pytest
import SimpleITK

from tests.training.cohort import prepare_cohort
from training.evaluate import main
from training.scores import read_rows

sitk: Any = SimpleITK  # half typed


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    prepare_cohort(folder, 3)
    return folder


@pytest.fixture
def predictions(cohort: Path, tmp_path: Path) -> Path:
    """What another program found: everything, but of pt_1 nothing but the brainstem."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for case in ("pt_0", "pt_1", "pt_2"):
        shutil.copy(cohort / "cases" / case / "label.nii.gz", folder / f"{case}.nii.gz")
    labels = sitk.ReadImage(str(folder / "pt_1.nii.gz"))
    sitk.WriteImage(sitk.Cast(labels == 1, sitk.sitkFloat32), str(folder / "pt_1.nii.gz"))
    return folder


def test_masks_of_another_program_are_scored_in_the_same_way(
    cohort: Path, tmp_path: Path, predictions: Path
) -> None:
    arguments = f"--predictions {predictions} --cases {cohort / 'cases'} --out {tmp_path / 'out'}"

    assert main(arguments.split()) == 0

    rows = {(r.case, r.organ): r for r in read_rows(tmp_path / "out" / "metrics.csv")}
    assert len(rows) == 9
    for (case, organ), found in rows.items():
        missed = case == "pt_1" and organ != "brainstem"
        assert found.dice == found.surface_dice == (0.0 if missed else 1.0)
        assert found.hd95_mm == (inf if missed else 0.0)
        assert found.reference_ml > 0
        if not missed:
            assert found.volume_ml == found.reference_ml


def moved(image: Any) -> Any:
    image.SetOrigin([value + 1.0 for value in image.GetOrigin()])
    return image


def turned(image: Any) -> Any:
    return sitk.Flip(image, [True, False, False])


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (moved, "pt_2.nii.gz is not on the grid of the CT of pt_2"),
        (turned, "pt_2.nii.gz is not on the grid of the CT of pt_2"),
        (lambda image: image[:, :, 1:], "pt_2.nii.gz is not on the grid of the CT of pt_2"),
        (lambda image: image + 22, "pt_2.nii.gz: labels {.*} are not in the table of organs"),
        (lambda image: None, "there is no prediction for pt_2"),
    ],
    ids=["moved", "left and right turned", "a slice missing", "strange labels", "absent"],
)
def test_a_prediction_that_does_not_fit_its_ct_is_refused(
    cohort: Path,
    tmp_path: Path,
    predictions: Path,
    capsys: pytest.CaptureFixture[str],
    wrong: Any,
    complaint: str,
) -> None:
    path = predictions / "pt_2.nii.gz"
    image = wrong(sitk.ReadImage(str(path)))
    path.unlink()
    if image is not None:
        sitk.WriteImage(image, str(path))
    arguments = f"--predictions {predictions} --cases {cohort / 'cases'} --out {tmp_path / 'out'}"

    assert main(arguments.split()) == 1

    assert re.search(complaint, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.01, 0.6, 0.99])
def test_a_prediction_that_was_cut_short_is_not_scored(
    cohort: Path,
    tmp_path: Path,
    predictions: Path,
    capsys: pytest.CaptureFixture[str],
    share: float,
) -> None:
    whole = (predictions / "pt_2.nii.gz").read_bytes()
    (predictions / "pt_2.nii.gz").write_bytes(whole[: int(share * len(whole))])
    arguments = f"--predictions {predictions} --cases {cohort / 'cases'} --out {tmp_path / 'out'}"

    assert main(arguments.split()) == 1

    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("pt_2.nii.gz is missing, cut short or not compressed")


def test_predictions_have_no_card_to_write_to(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(f"--predictions {tmp_path} --cases {cohort} --out {tmp_path} --write-card".split())
