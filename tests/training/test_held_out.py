"""Who was held out of a run is measured, and nobody else in his name."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import read_card
from model.checkpoint import save as save_model
from tests.phantoms import make_phantom, write_case
from tests.tiny_model import ORGAN, tiny_model
from tests.training.cohort import cohort_with_models, tiny_run, toml
from training.asked import begin
from training.cases import ct_hashes
from training.evaluate import main
from training.scores import read_rows
from training.split import Split, split_cases


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cohort_with_models(tmp_path_factory.mktemp("cohort"), 3)


@pytest.mark.parametrize("missing", [(), ("pt_0",)])
def test_only_patients_held_out_from_a_run_are_measured(
    cohort: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    missing: tuple[str, ...],
) -> None:
    """The split is the run's own, though the folder to measure on may hold fewer patients."""
    run = tiny_run(cohort / "prepared", tmp_path / "run")
    values = {"test_patients": 1, "validation_patients": 1, "seed": 0}
    held_out = split_cases(["pt_0", "pt_1", "pt_2"], 0, test=1, validation=1).test
    assert held_out == ("pt_2",)
    config = tmp_path / "run.toml"
    text = {"cases": str(run.cases), "out": str(run.out), "name": "x", "version": "1"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (text | values).items()]
    config.write_text("\n".join([*lines, 'description = ""']))
    cases = tmp_path / "cases"
    cases.mkdir()
    for folder in (cohort / "cases").iterdir():
        if folder.name not in missing:
            (cases / folder.name).symlink_to(folder)
    arguments = f"--model {cohort / 'everywhere'} --cases {cases} --out {tmp_path / 'out'}"

    main([*arguments.split(), "--test-of", str(config)])

    assert {r.case for r in read_rows(tmp_path / "out" / "metrics.csv")} == {"pt_2"}
    (cases / "pt_2").unlink()
    assert main([*arguments.split(), "--test-of", str(config)]) == 1
    assert "none of the test patients of x is there" in capsys.readouterr().err


def test_the_test_patients_are_those_of_the_beginning_whatever_the_settings_say_now(
    cohort: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(toml(tiny_run(cohort / "prepared", tmp_path)))  # it holds out nobody
    Split(training=("pt_2",), validation=("pt_0",), test=("pt_1",)).write(tmp_path)
    arguments = f"--model {cohort / 'everywhere'} --cases {cohort / 'cases'} --out {tmp_path / 'o'}"

    main([*arguments.split(), "--test-of", str(config)])

    assert {r.case for r in read_rows(tmp_path / "o" / "metrics.csv")} == {"pt_1"}
    assert "1 patients held out of the training of tiny" in (tmp_path / "o/table.md").read_text()


def test_the_result_goes_into_the_card_when_asked_and_what_the_plugin_does_then_is_said(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, card = tiny_model("all", spacing_mm=(12.0, 10.0, 10.0))
    save_model(tmp_path / "model", network, replace(card, seen=("0123456789abcdef",)))
    before = read_card(tmp_path / "model")
    config = tmp_path / "run.toml"
    config.write_text(toml(tiny_run(cohort / "prepared", tmp_path)))
    Split(training=(), validation=(), test=("pt_0", "pt_1", "pt_2")).write(tmp_path)
    arguments = f"--model {tmp_path / 'model'} --cases {cohort / 'cases'} --out {tmp_path / 'out'}"

    main([*arguments.split(), "--write-card", "--test-of", str(config)])

    said = capsys.readouterr().err
    path = tmp_path / "model" / "card.json"
    assert f"{path}: the plugin gives patients Brainstem; not found" in said
    dice = [r.dice for r in read_rows(tmp_path / "out" / "metrics.csv")]
    assert f"HARDLY FOUND, and given all the same: Brainstem ({100 * np.mean(dice):.0f} %)" in said
    after = read_card(tmp_path / "model")
    assert after.measured == {
        ORGAN: {
            "dice_mean": pytest.approx(np.mean(dice), abs=1e-4),
            "dice_sd": pytest.approx(np.std(dice), abs=1e-4),
            "patients": 3,
        }
    }
    assert after.weights_sha256 == before.weights_sha256
    Split(training=(), validation=(), test=("pt_0", "pt_7")).write(tmp_path)
    assert main([*arguments.split(), "--write-card", "--test-of", str(config)]) == 1
    assert read_card(tmp_path / "model") == after, "not of a part of the patients"


@pytest.mark.parametrize(
    ("seen", "complaint"),
    [(True, "pt_1 has trained the network or chosen its weights"), (False, "does not say whom")],
)
def test_a_card_never_tells_of_patients_whom_another_run_held_out(
    cohort: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    seen: bool,
    complaint: str,
) -> None:
    network, card = tiny_model("all", spacing_mm=(12.0, 10.0, 10.0))
    known = tuple(ct_hashes(cohort / "prepared", ["pt_1"])) if seen else ()
    save_model(tmp_path / "model", network, replace(card, seen=known))
    (tmp_path / "run.toml").write_text(toml(tiny_run(cohort / "prepared", tmp_path)))
    Split(training=(), validation=(), test=("pt_0", "pt_1", "pt_2")).write(tmp_path)
    arguments = f"--model {tmp_path / 'model'} --cases {cohort / 'cases'} --out {tmp_path / 'out'}"

    stopped = main([*arguments.split(), "--write-card", "--test-of", str(tmp_path / "run.toml")])

    assert stopped == 1
    assert complaint in capsys.readouterr().err
    assert read_card(tmp_path / "model").measured == card.measured


def test_who_has_trained_a_model_does_not_measure_it_under_another_name(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, card = tiny_model("all", spacing_mm=(12.0, 10.0, 10.0))
    seen = tuple(ct_hashes(cohort / "prepared", ["pt_1"]))
    save_model(tmp_path / "model", network, replace(card, seen=seen))
    (tmp_path / "run.toml").write_text(toml(tiny_run(cohort / "prepared", tmp_path)))
    Split(training=(), validation=(), test=("new",)).write(tmp_path)
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "new").symlink_to(cohort / "cases" / "pt_1")
    folders = f"--cases {tmp_path / 'cases'} --out {tmp_path / 'out'}"
    arguments = f"--model {tmp_path / 'model'} {folders}"

    assert main([*arguments.split(), "--test-of", str(tmp_path / "run.toml")]) == 1

    assert "new has trained the network or chosen its weights" in capsys.readouterr().err


def test_a_table_says_of_how_many_of_the_patients_held_out_it_is(
    cohort: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(toml(tiny_run(cohort / "prepared", tmp_path)))
    Split(training=(), validation=(), test=("pt_0", "pt_7", "pt_8")).write(tmp_path)
    arguments = f"--model {cohort / 'model'} --cases {cohort / 'cases'} --out {tmp_path / 'out'}"

    assert main([*arguments.split(), "--test-of", str(tmp_path / "run.toml")]) == 0

    said = (tmp_path / "out" / "table.md").read_text()
    assert "1 patients held out of the training of tiny, of 3: not there are pt_7 pt_8." in said


@pytest.mark.parametrize("begun", [True, False])
def test_patients_of_another_archive_under_the_same_numbers_are_not_taken_for_the_held_out(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], begun: bool
) -> None:
    """Every preparation from DICOM calls its first patient 0001."""
    run = tiny_run(cohort / "prepared", tmp_path / "run")
    run = replace(run, test_patients=1)
    (tmp_path / "run.toml").write_text(toml(run))
    if begun:
        run.out.mkdir()
        begin(run)
    [held_out] = split_cases(["pt_0", "pt_1", "pt_2"], run.seed, test=1, validation=1).test
    write_case(make_phantom(shape=(24, 30, 30), spacing_mm=(10, 8, 8), seed=9), tmp_path / held_out)
    arguments = f"--model {cohort / 'everywhere'} --cases {tmp_path} --out {tmp_path / 'out'}"

    assert main([*arguments.split(), "--test-of", str(tmp_path / "run.toml")]) == 1

    assert f"{held_out} in {tmp_path} has another CT" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_card_never_tells_of_patients_who_may_have_trained_the_network(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"--model {cohort / 'everywhere'} --cases {cohort / 'cases'} --out {tmp_path}"

    with pytest.raises(SystemExit):
        main([*arguments.split(), "--write-card"])

    assert "--write-card needs --test-of" in capsys.readouterr().err
