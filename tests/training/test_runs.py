"""Runs of a study: what is finished is not done again, and never taken for something else."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from model.checkpoint import read_card
from tests.training.cohort import prepare_cohort, tiny_run
from training.cases import Dataset
from training.runs import finish, seconds_per_step


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_cohort(tmp_path_factory.mktemp("cohort"), 2)


@pytest.mark.slow
def test_a_finished_run_is_not_done_again(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tiny_run(prepared, tmp_path / "run"), steps=3)
    run = finish(config, device="cpu")

    monkeypatch.setattr("training.runs.train", lambda *_, **__: pytest.fail("it was finished"))

    assert finish(config, device="cpu") == run
    assert run.steps == 3
    assert run.hours > 0
    assert run.seconds_per_step > 0
    assert read_card(run.model).training["steps_done"] == 3


@pytest.mark.slow
def test_settings_or_patients_that_changed_are_not_taken_for_the_same(
    prepared: Path, tmp_path: Path
) -> None:
    config = replace(tiny_run(prepared, tmp_path / "run"), steps=1)
    finish(config, device="cpu")

    with pytest.raises(ValueError, match=r"run holds a run with another learning_rate, steps$"):
        finish(replace(config, steps=2, learning_rate=0.5), device="cpu")

    dataset = Dataset.read(prepared)
    other = tmp_path / "other"
    other.mkdir()
    replace(dataset, cases=dataset.cases[:1]).write(other)
    shutil.copytree(prepared / dataset.cases[0], other / dataset.cases[0])
    with pytest.raises(ValueError, match=r"another ct_sha256, patients$"):
        finish(replace(config, cases=other), device="cpu")


def test_a_run_that_was_interrupted_goes_on(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(prepared, tmp_path / "run")
    asked = []

    def power_cut(*_: object, **options: object) -> None:
        asked.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("training.runs.train", power_cut)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            finish(config, device="cpu")

    assert asked == [{"device": "cpu", "resume": True}] * 2
    assert not (config.out / "run.json").exists()


def test_pauses_and_validation_do_not_make_a_step_slower(tmp_path: Path) -> None:
    log = SummaryWriter(str(tmp_path))
    for step, time in enumerate([10.0, 10.5, 11.0, 500.0, 500.5, 501.0, 501.6]):
        log.add_scalar("loss", 1.0, step, walltime=time)
    log.close()

    assert seconds_per_step(tmp_path) == pytest.approx(0.5)


def test_a_log_of_every_tenth_step_says_the_same(tmp_path: Path) -> None:
    log = SummaryWriter(str(tmp_path))
    for step in range(0, 50, 10):
        log.add_scalar("loss", 1.0, step, walltime=100 + step / 4)
    log.close()

    assert seconds_per_step(tmp_path) == pytest.approx(0.25)
