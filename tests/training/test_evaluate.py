"""Evaluation: what is printed about a model is what was measured on patients it had not seen."""

import csv
import shutil
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from model.checkpoint import NOTICE, read_card
from model.organs import ORGANS
from model.postprocess import OutOfOrder
from model.segmenter import Segmenter
from tests.tiny_model import ORGAN
from tests.training.cohort import cohort_with_models
from training.evaluate import main
from training.labelled import LabelledCt, read_case
from training.labelled import write_case as write_labelled
from training.measure import Measured, measure, measure_once
from training.measured_report import table
from training.plots import View
from training.published import NETWORKS, SECOND_READER, TABLE_1
from training.scores import Row

sitk: Any = SimpleITK  # half typed

COLUMNS = ["case", "organ", "dice", "surface_dice", "hd95_mm", "volume_ml", "reference_ml"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cohort_with_models(tmp_path_factory.mktemp("cohort"), 3)


def row(organ: str, dice: float, *, hd95_mm: float = 3.0, case: str = "pt_1") -> Row:
    return Row(
        case=case,
        organ=organ,
        dice=dice,
        surface_dice=0.75,
        hd95_mm=hd95_mm,
        volume_ml=20.0,
        reference_ml=25.0,
    )


def measured_with(segmenter: Segmenter, case: LabelledCt) -> list[Row]:
    measured = Measured(tolerance_mm=2.0)
    organs = [organ for organ in segmenter.organs if organ in case.labelled]
    measure(measured, case, segmenter(case.ct).labels, organs)
    return measured.rows


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_model_is_measured_from_end_to_end(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"--model {cohort / 'model'} --cases {cohort / 'cases'} --out {tmp_path / 'out'}"
    before = tmp_path / "out" / "worst" / "lens_left.png"
    before.parent.mkdir(parents=True)
    before.write_bytes(b"of a model that knew lenses")

    assert main([*arguments.split(), "--device", "cpu"]) == 0

    rows = read_metrics(tmp_path / "out")
    assert list(rows[0]) == COLUMNS
    organs = ("brainstem", "parotid_left", "parotid_right")
    assert [(r["case"], r["organ"]) for r in rows] == [
        (case, organ) for case in ("pt_0", "pt_1", "pt_2") for organ in organs
    ]
    written = (tmp_path / "out" / "table.md").read_text()
    assert NOTICE in written
    printed = capsys.readouterr().out.rstrip("\n")
    assert printed in written
    lines = {line.split("|")[1].strip(): line for line in printed.splitlines()}
    assert "88.7 ± 1.5" in lines["Brainstem"]
    assert "80.7 ± 5.2" in lines["Parotid_L"]
    assert "81.9 ± 5.5" in lines["Parotid_R"]
    assert len({line.count("|") for line in printed.splitlines()}) == 1
    pictures = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.png")}
    assert pictures == {"dice.png", *(f"worst/{organ}.png" for organ in organs)}
    assert read_card(cohort / "model").measured[ORGAN] == {"dice_mean": 0.5}  # nobody asked for it


def test_volumes_and_dice_are_those_of_the_masks(cohort: Path) -> None:
    """A model that calls every voxel brainstem is as wrong as one can compute by hand."""
    case = read_case(cohort / "cases" / "pt_1")
    segmenter = Segmenter.load(cohort / "everywhere", device="cpu")
    predicted = segmenter(case.ct).labels.array == 1

    (found,) = measured_with(segmenter, case)

    truth = case.labels.array == 1
    voxel_ml = 10 * 8 * 8 / 1000
    assert (found.case, found.organ) == ("pt_1", ORGAN)
    assert found.volume_ml == pytest.approx(predicted.sum() * voxel_ml)
    assert found.reference_ml == pytest.approx(truth.sum() * voxel_ml)
    assert found.volume_ml > 50 * found.reference_ml
    expected = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    assert found.dice == pytest.approx(expected)
    assert 0 < found.dice < 0.1


def test_unknown_voxels_are_not_held_against_the_model(cohort: Path) -> None:
    segmenter = Segmenter.load(cohort / "everywhere", device="cpu")
    case = read_case(cohort / "cases" / "pt_1")
    hidden = case.ct.array.copy()
    hidden[case.labels.array == 0] = -1024
    cut = replace(case, unknown=case.ct.with_array((hidden == -1024).astype(np.uint8)))

    (found,) = measured_with(segmenter, cut)

    predicted = segmenter(case.ct).labels.array == 1
    inside = predicted & (case.labels.array > 0)
    assert found.volume_ml == pytest.approx(inside.sum() * 10 * 8 * 8 / 1000)
    assert found.dice > 5 * measured_with(segmenter, case)[0].dice


@pytest.mark.parametrize(
    ("option", "said"),
    [("", "is not given"), ("--unknown-hu -1000", "is -1000"), ("--unknown-hu -1024", "")],
)
def test_a_filling_that_is_not_called_unknown_is_not_measured_in_silence(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    case = read_case(cohort / "cases" / "pt_0")
    case.ct.array[case.ct.array < -500] = -1024  # all around the patient
    write_labelled(case, tmp_path / "cases")
    arguments = f"--model {cohort / 'model'} --cases {tmp_path / 'cases'} --out {tmp_path / 'out'}"

    assert main([*arguments.split(), *option.split()]) == 0

    sentence = (
        f"most voxels of 1 of 1 CTs are exactly -1024 HU, and --unknown-hu {said}: if they say "
        "nothing of the patient, it must be -1024\n"
    )
    assert capsys.readouterr().err == (f"training.evaluate: {sentence}" if said else "")
    assert (sentence in (tmp_path / "out" / "table.md").read_text()) is bool(said)


def test_the_picture_of_an_organ_is_of_its_worst_patient(cohort: Path) -> None:
    segmenter = Segmenter.load(cohort / "everywhere", device="cpu")
    measured = Measured(tolerance_mm=2.0)
    for name in ("pt_1", "pt_0", "pt_2"):
        case = read_case(cohort / "cases" / name)
        measure(measured, case, segmenter(case.ct).labels, segmenter.organs)

    dice = sorted(each.dice for each in measured.rows)
    assert dice[0] < dice[-1]
    assert measured.worst[ORGAN].row.dice == dice[0]


def test_an_organ_without_a_label_is_not_measured(cohort: Path) -> None:
    case = read_case(cohort / "cases" / "pt_1")
    segmenter = Segmenter.load(cohort / "model", device="cpu", unmeasured=True)
    fewer = replace(case, labelled=case.labelled[1:])

    assert [r.organ for r in measured_with(segmenter, fewer)] == ["parotid_left", "parotid_right"]


def test_a_reference_that_cannot_be_right_is_held_against_nobody(
    cohort: Path, tmp_path: Path
) -> None:
    """Left and right were drawn the wrong way round; the one who got them right gets no zero."""
    shutil.copytree(cohort / "cases" / "pt_1", tmp_path / "cases" / "pt_1")
    path = tmp_path / "cases" / "pt_1" / "label.nii.gz"
    labels = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.ChangeLabel(labels, {12: 13, 13: 12}), str(path))
    arguments = f"--cases {tmp_path / 'cases'} --predictions {tmp_path / 'right'}"
    (tmp_path / "right").mkdir()
    sitk.WriteImage(labels, str(tmp_path / "right" / "pt_1.nii.gz"))

    main([*arguments.split(), "--out", str(tmp_path / "out")])

    assert [(r["organ"], r["dice"]) for r in read_metrics(tmp_path / "out")] == [(ORGAN, "1.0")]
    said = (tmp_path / "out" / "table.md").read_text()
    assert "Parotid_L of pt_1: it does not lie on its side of the patient" in said


def test_patients_whose_organs_lie_as_in_no_patient_are_counted_as_not_found_and_named(
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else a network that has not learned enough has Dice 0 everywhere, and nobody knows why."""
    whole = Segmenter.__call__

    def refused(self: Segmenter, ct: Any) -> Any:
        if not seen:
            seen.append(ct)
            raise OutOfOrder("Brainstem was not found above SpinalCord.")
        return whole(self, ct)

    seen: list[Any] = []
    monkeypatch.setattr(Segmenter, "__call__", refused)
    drawn: list[dict[str, str]] = []

    def draw(view: View, path: Path, *, refused: str) -> None:
        drawn.append({view.row.case: refused})

    monkeypatch.setattr("training.measured_report.draw_view", draw)
    arguments = f"--model {cohort / 'model'} --cases {cohort / 'cases'} --out {tmp_path / 'out'}"

    assert main([*arguments.split(), "--device", "cpu"]) == 0

    first = [r for r in read_metrics(tmp_path / "out") if r["case"] == "pt_0"]
    assert [(r["volume_ml"], r["dice"]) for r in first] == [("0.0", "0.0")] * 3
    said = (tmp_path / "out" / "table.md").read_text()
    assert "- pt_0: Brainstem was not found above SpinalCord." in said
    assert "of 1 of 3 patients nothing counts" in capsys.readouterr().err
    assert {kept.get("pt_0") for kept in drawn} == {"Brainstem was not found above SpinalCord."}


def test_what_was_measured_is_measured_again_only_on_others(cohort: Path, tmp_path: Path) -> None:
    loads: list[Segmenter] = []

    def load() -> Segmenter:
        loads.append(Segmenter.load(cohort / "everywhere", device="cpu"))
        return loads[-1]

    def cases(names: list[str], unknown_hu: float | None = None) -> list[str]:
        folders = [cohort / "cases" / name for name in names]
        return [
            row.case
            for row in measure_once(tmp_path, folders, load, unknown_hu=unknown_hu, unseen=True)[0]
        ]

    assert cases(["pt_0"]) == cases(["pt_0"]) == ["pt_0"]
    assert len(loads) == 1
    assert cases(["pt_0", "pt_1"]) == ["pt_0", "pt_1"]
    assert cases(["pt_0", "pt_1"], unknown_hu=-1024.0) == ["pt_0", "pt_1"]
    assert len(loads) == 3


@pytest.mark.parametrize(
    "option", ["--unknown-hu nan", "--unknown-hu inf", "--tolerance-mm nan", "--tolerance-mm 0"]
)
def test_a_number_that_would_pass_unnoticed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    folders = f"--model {tmp_path} --cases {tmp_path} --out {tmp_path}"
    with pytest.raises(SystemExit):
        main(f"{folders} {option}".split())

    assert f"argument {option.split()[0]}: expected a number" in capsys.readouterr().err


def test_an_evaluation_stopped_by_hand_says_so_and_leaves_card_and_results_as_they_were(
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.measure.measure", stopped)
    card = (cohort / "model" / "card.json").read_bytes()
    arguments = f"--model {cohort / 'model'} --cases {cohort / 'cases'} --out {tmp_path / 'out'}"

    assert main(arguments.split()) == 130

    said = capsys.readouterr().err
    assert said == "training.evaluate: stopped; the same command begins anew\n"
    assert not (tmp_path / "out").exists()
    assert (cohort / "model" / "card.json").read_bytes() == card


def test_nothing_to_measure_is_said_and_not_averaged(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(cohort / "cases" / "pt_0", tmp_path / "cases" / "pt_0")
    (tmp_path / "cases" / "pt_0" / "labelled.json").write_text('["lens_left"]')
    arguments = f"--model {cohort / 'model'} --cases {tmp_path / 'cases'} --out {tmp_path / 'out'}"

    assert main(arguments.split()) == 1

    assert "no case labels an organ that is predicted" in capsys.readouterr().err


def test_the_table_says_how_often_an_organ_was_not_found() -> None:
    rows = [
        row("brainstem", 0.8),
        row("brainstem", 0.0, hd95_mm=inf),
        row("tmj_left", 0.0, hd95_mm=inf),
    ]

    lines = table(rows, 2.0, pixel_mm=3.9).splitlines()

    assert lines[2] == (
        "| Brainstem | 2 | 40.0 ± 40.0 | 0.0 | 75.0 | 3.0 (1 not found) | 88.7 ± 1.5 | 89.5 |"
    )
    assert lines[3].split(" | ")[2:6] == ["0.0 ± 0.0", "0.0", "75.0", "- (1 not found)"]
    assert lines[-1].startswith("| mean over organs | | 20.0 |")


def test_the_second_reader_saw_pixels_like_ours() -> None:
    rows = [row("lens_left", 0.5)]

    fine, coarse = (table(rows, 2.0, pixel_mm=mm) for mm in (1.0, 3.9))

    assert "second reader at 1 mm" in fine
    assert fine.splitlines()[2].endswith("| 86.4 |")
    assert "second reader at about 4 mm" in coarse
    assert coarse.splitlines()[2].endswith("| 60.9 |")


def test_the_published_numbers_are_those_of_the_paper() -> None:
    assert list(TABLE_1) == [organ.name for organ in ORGANS]
    means = {
        network: np.mean([numbers[i].mean for numbers in TABLE_1.values()])
        for i, network in enumerate(NETWORKS)
    }
    printed = {"U-Net": 75.8, "Attention U-Net": 72.3, "SE U-Net": 72.6}
    for network, mean in printed.items():
        assert means[network] == pytest.approx(mean, abs=0.1), network
    assert means["nnSAM-UNet"] == pytest.approx(80.5, abs=0.06)  # the paper prints 87.2
    assert TABLE_1.keys() >= SECOND_READER.keys()
