"""One command from an archive to a measured model."""

from pathlib import Path

import pytest
import torch

from model.checkpoint import read_card
from tests.model.networks import save_tiny
from tests.training.cohort import tiny_run, toml, write_cohort
from training import whole_way
from training.config import TrainConfig
from training.plan import main as plan_main
from training.prepare import main as prepare_main
from training.whole_way import as_toml, main, recipe

SECONDS = ("--cpu-hours", "0.001")
COARSE = ["--spacing", "10", "8", "8", "--window", "-1000", "1500"]


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five patients, and recipes that are over in seconds."""
    write_cohort(tmp_path / "cases", 5)
    tiny = tmp_path / "tiny.toml"
    tiny.write_text(toml(tiny_run(Path("of-the-recipe"), Path("of-the-recipe"))))
    monkeypatch.setattr(whole_way, "RECIPES", {"cpu": tiny, "cuda": tiny})
    return tmp_path / "cases"


def asked(cases: Path, *more: str) -> list[str]:
    out = str(cases.parent / "mine")
    return [str(cases), "--out", out, "--name", "ours", *COARSE, *(more or SECONDS)]


@pytest.mark.slow
def test_a_department_types_one_command_and_has_a_measured_model_and_its_report(cases, capsys):
    assert main(asked(cases)) == 0

    run = cases.parent / "mine-model"
    card = read_card(run / "model")
    assert (card.name, card.training["cpu_hours"], card.training["learning_rate"]) == (
        "ours",
        0.001,
        whole_way.FROM_NOTHING,
    )
    assert len(card.seen) == 4
    assert {one["patients"] for one in card.measured.values()} <= {1}
    assert card.measured
    said = capsys.readouterr().out
    assert [said.count(f"{step} of 4") for step in (1, 2, 3, 4)] == [1, 1, 1, 1]
    for name in (cases.parent / "mine-private" / "report.md", run / "report" / "table.md"):
        assert str(name) in said
        assert name.is_file()


@pytest.mark.slow
def test_a_command_that_was_stopped_goes_on_and_what_was_changed_by_hand_holds(
    cases, capsys, monkeypatch
):
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(whole_way, "train", stopped)
        assert main(asked(cases)) == 130
    assert "the same command goes on" in capsys.readouterr().err
    config = cases.parent / "mine" / "train.toml"
    config.write_text(config.read_text().replace("steps = 1000000", "steps = 3"))

    assert main(asked(cases)) == 0

    assert read_card(cases.parent / "mine-model" / "model").training["steps_done"] == 3


def test_a_gpu_gets_the_plan_of_the_data_and_not_the_patch_of_our_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    write_cohort(tmp_path / "cases", 5)
    args = whole_way.arguments(asked(tmp_path / "cases", "--memory-gib", "8"))
    prepare_main(args.prepare)
    plan_main([str(args.out), "--memory-gib", "8", "--out", str(args.out / "plan.toml")])
    config = tmp_path / "train.toml"

    config.write_text(as_toml(recipe(args, unknown=False)))

    read = TrainConfig.read(config)
    assert read.plan is not None
    assert read.not_planned == []
    assert (read.cases, read.out) == (args.out, tmp_path / "mine-model")
    assert (read.test_patients, read.validation_patients) == (1, 1)
    assert read.augment.invent == 0.0


@pytest.mark.slow
def test_a_model_that_is_there_is_trained_further_on_its_own_grid(cases):
    assert main(asked(cases)) == 0
    model = cases.parent / "mine-model" / "model"
    first = read_card(model)
    command = [str(cases), "--out", str(cases.parent / "next"), "--name", "ours", *SECONDS]

    assert main([*command, "--like", str(model)]) == 0

    card = read_card(cases.parent / "next-model" / "model")
    assert card.training["started_from"] == f"{first.name} {first.version}"
    assert (card.preprocessing, card.organs) == (first.preprocessing, first.organs)


@pytest.mark.parametrize(("unknown", "invents"), [(False, 0.0), (True, 0.6)])
def test_only_where_voxels_say_nothing_something_is_invented_in_their_place(
    tmp_path, unknown, invents
):
    write_cohort(tmp_path / "cases", 2)
    args = whole_way.arguments(asked(tmp_path / "cases"))
    prepare_main(args.prepare)
    config = tmp_path / "train.toml"

    config.write_text(as_toml(recipe(args, unknown=unknown)))

    assert TrainConfig.read(config).augment.invent == invents
    assert TrainConfig.read(config).start is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--memory-gib", "11"), "PyTorch sees no GPU"),
        (("--cpu-hours", "1", "--version", "0 1"), "the version of a model has 1 to 48 letters"),
        (("--cpu-hours", "1", "--spacing", "3"), "--spacing: expected 3 arguments"),
        (("--memory-gib", "11", "--cpu-hours", "1"), "not allowed with argument"),
    ],
)
def test_what_would_be_refused_after_hours_is_refused_at_once(tmp_path, capsys, words, says):
    with pytest.raises(SystemExit):
        main(["cases", "--out", str(tmp_path / "mine"), "--name", "ours", *words])

    assert says in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_model_that_may_have_seen_everybody_is_not_trained_further(tmp_path, capsys):
    save_tiny(tmp_path / "unknown")

    with pytest.raises(SystemExit):
        main(asked(tmp_path / "cases", *SECONDS, "--like", str(tmp_path / "unknown")))

    assert "does not say whom its weights have seen" in capsys.readouterr().err


def test_an_archive_without_a_case_ends_where_it_is_said(tmp_path, capsys):
    (tmp_path / "empty").mkdir()

    assert main(asked(tmp_path / "empty")) == 1

    assert "training.prepare: " in capsys.readouterr().err
