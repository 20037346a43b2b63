"""Where a run begins and goes on: from which weights, with whom held out, with which settings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import load_network, read_card
from tests.training.cohort import last_of, prepare_cohort, same, tiny_run
from training.cases import Case, Dataset, ct_hashes
from training.config import Plan
from training.network import build_network
from training.split import split_of
from training.train import train


@pytest.mark.slow
def test_who_has_trained_the_weights_to_start_from_is_not_held_out(tmp_path: Path) -> None:
    first = replace(tiny_run(prepare_cohort(tmp_path, 3), tmp_path / "first"), steps=1)
    train(first, device="cpu", resume=False)
    second = replace(first, out=tmp_path / "second", start=first.out / "model", test_patients=1)

    with pytest.raises(ValueError, match="trained on patients who are to be held out now"):
        train(second, device="cpu", resume=False)


@pytest.mark.slow
def test_who_has_trained_is_known_by_his_ct_whatever_he_is_called_now(tmp_path: Path) -> None:
    cases = prepare_cohort(tmp_path, 4)
    first = replace(tiny_run(cases, tmp_path / "first"), steps=1, test_patients=1)
    train(first, device="cpu", resume=False)
    shutil.copytree(first.out / "model", tmp_path / "kept")  # away from its run
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    dataset = Dataset.read(cases)
    for name in dataset.cases[:3]:
        shutil.copytree(cases / name, fewer / f"other_{name}")
    names = tuple(f"other_{name}" for name in dataset.cases[:3])
    replace(dataset, cases=names).write(fewer)
    second = replace(first, cases=fewer, out=tmp_path / "second", start=tmp_path / "kept")

    refused = 0
    for seed in range(6):  # of three at least two have trained or chosen the weights
        held = split_of(replace(second, seed=seed), names).test
        if ct_hashes(fewer, held) <= set(read_card(tmp_path / "kept").seen):
            with pytest.raises(ValueError, match="trained on patients who are to be held out now"):
                train(replace(second, seed=seed), device="cpu", resume=False)
            refused += 1
    assert refused
    train(replace(second, test_patients=0), device="cpu", resume=False)
    everybody = {*ct_hashes(fewer, names), *read_card(tmp_path / "kept").seen}
    assert set(read_card(second.out / "model").seen) == everybody, "those of the first run as well"


@pytest.mark.slow
def test_a_model_that_does_not_say_whom_it_has_seen_lets_nobody_be_held_out(tmp_path: Path) -> None:
    cases = prepare_cohort(tmp_path, 3)
    first = replace(tiny_run(cases, tmp_path / "first"), steps=1)
    train(first, device="cpu", resume=False)
    path = first.out / "model" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seen": []}))
    second = replace(first, out=tmp_path / "second", start=first.out / "model", test_patients=1)

    with pytest.raises(ValueError, match="does not say whom its weights have seen"):
        train(second, device="cpu", resume=False)

    train(replace(second, test_patients=0), device="cpu", resume=False)
    assert read_card(second.out / "model").seen == (), "not those of the second run alone"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["organs", "preprocessing"])
def test_a_start_that_knows_other_organs_or_grey_values_is_refused(
    prepared: Path, tmp_path: Path, what: str
) -> None:
    first = replace(tiny_run(prepared, tmp_path / "first"), steps=1)
    train(first, device="cpu", resume=False)
    path = first.out / "model" / "card.json"
    card = json.loads(path.read_text())
    if what == "organs":
        card["organs"] = ["eye_left", "eye_right", "spinal_cord"]
    else:
        card["preprocessing"]["spacing_mm"] = [3.0, 1.0, 1.0]
    path.write_text(json.dumps(card))
    second = replace(first, out=tmp_path / "second", start=first.out / "model")

    with pytest.raises(ValueError, match="prepare them with --like"):
        train(second, device="cpu", resume=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"weight_decay": 0.5}, {"optimiser": "sgd"}, {"widths": (4, 16)}, {"patch": (8, 48, 32)}],
    ids=lambda change: next(iter(change)),
)
def test_a_run_goes_on_with_the_settings_that_it_was_begun_with(
    prepared: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    config = replace(tiny_run(prepared, tmp_path / "run"), steps=1)
    train(config, device="cpu", resume=False)

    with pytest.raises(ValueError, match=f"holds a run with another {next(iter(change))}"):
        train(replace(config, steps=2, **change), device="cpu", resume=True)

    train(replace(config, steps=2, save_every=1), device="cpu", resume=True)
    assert last_of(config)["step"] == 2


def test_a_start_that_was_refused_leaves_nothing_that_stands_against_the_next(
    prepared: Path, tmp_path: Path
) -> None:
    config = replace(tiny_run(prepared, tmp_path / "run", validation_patients=0), steps=1)
    with pytest.raises(ValueError, match="validation_patients must be more"):
        train(config, device="cpu", resume=False)

    train(replace(config, validation_patients=1), device="cpu", resume=False)

    assert last_of(config)["step"] == 1


@pytest.mark.slow
def test_a_run_starts_from_a_finished_model_and_says_which(prepared: Path, tmp_path: Path) -> None:
    first = replace(tiny_run(prepared, tmp_path / "first"), steps=2, version="0.3.1")
    train(first, device="cpu", resume=False)
    config = replace(tiny_run(prepared, tmp_path / "run"), start=first.out / "model", steps=1)
    trained, _ = load_network(first.out / "model")

    begun = build_network(config, Dataset.read(prepared)).state_dict()
    train(config, device="cpu", resume=False)

    assert same(dict(begun), dict(trained.state_dict()))
    card = read_card(config.out / "model")
    assert card.training["started_from"] == "tiny 0.3.1"
    assert str(tmp_path) not in str(card.to_json())
    weights, other = last_of(config)["network"], build_network(first, Dataset.read(prepared))
    key = "encoder.1.body.0.0.weight"
    far = (weights[key] - other.state_dict()[key]).abs().max()
    assert (weights[key] - begun[key]).abs().max() < far


@pytest.mark.slow
def test_a_run_from_a_model_has_its_network_and_its_organs_whatever_its_own_cases_show(
    tmp_path: Path,
) -> None:
    """A clinic that never drew an organ can still go on from a model that knows it."""
    first = replace(tiny_run(prepare_cohort(tmp_path, 4), tmp_path / "first"), steps=1)
    train(first, device="cpu", resume=False)
    shutil.copytree(first.cases, tmp_path / "clinic")
    dataset = Dataset.read(first.cases)
    replace(dataset, organs=dataset.organs[:1]).write(tmp_path / "clinic")
    second = replace(
        first,
        cases=tmp_path / "clinic",
        out=tmp_path / "second",
        start=first.out / "model",
        widths=(4, 16),
    )

    train(second, device="cpu", resume=False)

    card = read_card(second.out / "model")
    assert card.organs == dataset.organs
    assert card.network == read_card(first.out / "model").network
    assert "widths" not in card.training


@pytest.mark.slow
def test_organs_that_the_model_does_not_know_are_refused(prepared: Path, tmp_path: Path) -> None:
    cases = tmp_path / "fewer"
    shutil.copytree(prepared, cases)
    dataset = Dataset.read(prepared)
    replace(dataset, organs=dataset.organs[:1]).write(cases)
    first = replace(tiny_run(cases, tmp_path / "first"), steps=1)
    train(first, device="cpu", resume=False)

    with pytest.raises(ValueError, match=r"parotid_right, which .* does not know: prepare them"):
        train(
            replace(first, cases=prepared, out=tmp_path / "run", start=first.out / "model"),
            device="cpu",
            resume=False,
        )


@pytest.mark.parametrize("patch", [(8, 33, 32), (6, 32, 32)])
def test_a_patch_that_does_not_suit_the_network_is_refused_before_any_case_is_read(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patch: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(Case, "read", lambda folder: pytest.fail(f"{folder} was read"))

    with pytest.raises(ValueError, match=r"sides of patch .* must be multiples of \(4, 16, 16\)"):
        train(
            replace(tiny_run(prepared, tmp_path / "run"), patch=patch), device="cpu", resume=False
        )


def test_what_stands_against_the_plan_is_said_when_the_run_begins(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny_run(prepared, tmp_path / "run"), attention="plain", steps=1)
    plan = Plan(
        spacing_mm=Dataset.read(prepared).preprocessing.spacing_mm,
        patch=(16, 64, 64),
        batch=2,
        strides=((1, 2, 2),),
        widths=(4, 8),
        memory_gib=11,
        estimated_gib=9,
    )

    train(replace(config, plan=plan, strides=((2, 2, 2),)), device="cpu", resume=False)

    assert "million weights; not the plan's: patch, strides\n" in capsys.readouterr().out


def test_one_ct_under_two_names_trains_nothing(tmp_path: Path) -> None:
    cases = prepare_cohort(tmp_path, 3)
    shutil.copytree(cases / "pt_0", cases / "pt_9")
    dataset = Dataset.read(cases)
    replace(dataset, cases=(*dataset.cases, "pt_9")).write(cases)

    with pytest.raises(ValueError, match=r"pt_0 and pt_9 in .* are the same CT"):
        train(tiny_run(cases, tmp_path / "run"), device="cpu", resume=False)


@pytest.mark.slow
def test_a_run_goes_on_though_its_cases_were_moved(tmp_path: Path) -> None:
    cases = prepare_cohort(tmp_path, 3)
    config = replace(tiny_run(cases, tmp_path / "run"), steps=1)
    train(config, device="cpu", resume=False)
    cases.rename(tmp_path / "moved")

    train(replace(config, cases=tmp_path / "moved", steps=2), device="cpu", resume=True)

    assert last_of(config)["step"] == 2
