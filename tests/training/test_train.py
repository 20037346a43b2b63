"""Training: what was stopped goes on as if nothing had happened, and the result can be used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoint import read_card
from model.organs import BY_NAME
from model.preprocess import Preprocessing
from model.segmenter import Segmenter
from tests.phantoms import make_phantom
from tests.training.cohort import ORGANS, prepare_cohort, tiny_run
from training.cases import UNKNOWN, Case, Dataset
from training.config import TrainConfig
from training.loss import deep_loss
from training.patches import Patches, classes, labelled_classes
from training.train import (
    build_network,
    build_optimiser,
    follow,
    learning_rate,
    main,
    train,
)

CONFIGS = Path(__file__).parents[2] / "training" / "configs"

RUNS = sorted(path for path in CONFIGS.glob("*.toml") if not path.stem.startswith("compare"))

TOML = """
name = "tiny"
version = "1.0.0"
description = "For tests."
cases = "a"
out = "b"
"""


class Killed(BaseException):
    """The power went."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_cohort(tmp_path_factory.mktemp("cohort"), 2)


def weights_after(config: TrainConfig) -> dict[str, Any]:
    return torch.load(config.out / "last.pt", weights_only=True)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.slow
def test_a_run_killed_and_resumed_ends_as_if_never_killed(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = (tiny_run(prepared, tmp_path / name) for name in ("whole", "broken"))
    train(whole, device="cpu", resume=False)
    draw = Patches.batch

    def power_cut(self: Patches, step: int) -> tuple[Tensor, Tensor, Tensor]:
        if step == 3:
            raise Killed
        return draw(self, step)

    monkeypatch.setattr(Patches, "batch", power_cut)
    with pytest.raises(Killed):
        train(broken, device="cpu", resume=False)
    monkeypatch.setattr(Patches, "batch", draw)
    assert weights_after(broken)["step"] == 2
    train(broken, device="cpu", resume=True)

    ours, theirs = weights_after(broken), weights_after(whole)
    assert ours["step"] == theirs["step"] == 6
    for part in ("network", "average", "optimiser", "best"):
        assert same(ours[part], theirs[part]), part
    assert not same(ours["network"], ours["average"])
    digests = [read_card(c.out / "model").weights_sha256 for c in (whole, broken)]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_what_was_trained_segments_a_ct(prepared: Path, tmp_path: Path) -> None:
    config = tiny_run(prepared, tmp_path / "run")
    train(config, device="cpu", resume=False)

    segmenter = Segmenter.load(tmp_path / "run" / "model", device="cpu")

    ct = make_phantom(shape=(24, 30, 30), spacing_mm=(10, 8, 8), seed=9).ct.astype(np.float32)
    assert segmenter(ct).labels.geometry_equal(ct)
    assert tuple(organ.name for organ in segmenter.organs) == ORGANS
    card = segmenter.card
    assert card.preprocessing == Dataset.read(prepared).preprocessing
    assert card.tile == config.patch
    assert card.measured == {}
    assert card.training["patients"] == 1
    assert set(card.training["validation_dice"]) <= set(ORGANS)
    assert str(tmp_path) not in str(card.to_json())


@pytest.mark.slow
def test_a_finished_run_is_never_overwritten(prepared: Path, tmp_path: Path) -> None:
    config = replace(tiny_run(prepared, tmp_path / "run"), steps=1)
    train(config, device="cpu", resume=False)
    before = (config.out / "last.pt").read_bytes()

    with pytest.raises(FileExistsError, match="holds a run: resume it or choose another"):
        train(config, device="cpu", resume=False)

    train(config, device="cpu", resume=True)  # nothing is left to do
    assert (config.out / "last.pt").read_bytes() == before


@pytest.mark.slow
def test_training_finds_more_than_chance(prepared: Path, tmp_path: Path) -> None:
    config = replace(
        tiny_run(prepared, tmp_path / "run"), attention="plain", steps=40, validate_every=40
    )
    dataset = Dataset.read(prepared)
    patches = Patches([Case.read(prepared / "pt_0")], dataset, config)
    network = build_network(config, dataset)
    optimiser = build_optimiser(network, config)
    losses = []
    for step in range(config.steps):
        image, target, labelled = patches.batch(step)
        loss = deep_loss(network.forward_deep(image), target, labelled)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_step_always_draws_the_same_patches(prepared: Path) -> None:
    dataset = Dataset.read(prepared)
    config = tiny_run(prepared, Path("unused"))
    cases = [Case.read(prepared / name) for name in dataset.cases]
    first, again = (Patches(cases, dataset, config) for _ in range(2))
    first.batch(0)

    image, target, labelled = first.batch(7)

    for one, other in zip((image, target, labelled), again.batch(7), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(image, first.batch(8)[0])
    assert image.shape == (2, 1, 8, 32, 32)
    assert target.shape == (2, 8, 32, 32)
    assert labelled.shape == (2, 4)


def test_most_patches_show_an_organ(prepared: Path) -> None:
    dataset = Dataset.read(prepared)
    cases = [Case.read(prepared / name) for name in dataset.cases]
    config = replace(tiny_run(prepared, Path("unused")), foreground=1.0, patch=(8, 16, 16))
    patches = Patches(cases, dataset, config)

    seen = [target for step in range(15) for target in patches.batch(step)[1]]

    assert sum(bool(((y > 0) & (y != UNKNOWN)).any()) for y in seen) >= 28
    every = torch.stack(seen)
    assert all((every == k).any() for k in (1, 2, 3))


def test_an_unlabelled_organ_is_not_a_class_of_the_case() -> None:
    dataset = Dataset(
        preprocessing=Preprocessing(),
        organs=("brainstem", "parotid_left", "mandible_left"),
        cases=("pt_1",),
    )
    case = Case(
        name="pt_1",
        image=np.zeros((1, 1, 5), np.float32),
        labels=np.array([[[0, 1, 12, 21, UNKNOWN]]], np.uint8),
        labelled=(BY_NAME["mandible_left"], BY_NAME["brainstem"]),
    )

    assert classes(case, dataset).tolist() == [[[0, 1, 0, 3, UNKNOWN]]]
    assert labelled_classes(case, dataset).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("decay", "half", "last"),
    [("cosine", 0.5, 0.0), ("polynomial", 0.5**0.9, 0.0), ("exponential", 0.1, 0.01)],
)
def test_the_learning_rate_warms_up_and_decays(decay: str, half: float, last: float) -> None:
    values: dict[str, Any] = {"decay": decay, "learning_rate": 0.01, "steps": 10_000}
    config = replace(tiny_run(Path("a"), Path("b")), warmup=100, **values)

    assert learning_rate(0, config) == pytest.approx(0.01 / 100)
    assert learning_rate(49, config) == pytest.approx(0.005, rel=0.03)
    assert learning_rate(99, config) == pytest.approx(0.01, rel=0.05)
    assert learning_rate(5000, config) == pytest.approx(0.01 * half)
    assert learning_rate(9999, config) == pytest.approx(0.01 * last, abs=1e-5)
    rates = [learning_rate(step, config) for step in range(99, 10_000, 100)]
    assert rates == sorted(rates, reverse=True)


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert learning_rate(0, replace(tiny_run(Path("a"), Path("b")), warmup=0)) == 2e-3


def test_the_papers_optimiser_is_sgd(prepared: Path) -> None:
    config = replace(tiny_run(prepared, Path("b")), optimiser="sgd", learning_rate=0.01)
    network = build_network(config, Dataset.read(prepared))

    optimiser = build_optimiser(network, config)

    assert isinstance(optimiser, torch.optim.SGD)
    assert optimiser.param_groups[0]["lr"] == 0.01
    assert len(optimiser.param_groups[0]["params"]) == len(list(network.parameters()))


def test_the_average_follows_the_network(prepared: Path) -> None:
    config, dataset = tiny_run(prepared, Path("b")), Dataset.read(prepared)
    network = build_network(config, dataset)
    average = build_network(replace(config, seed=6), dataset)
    before = average.state_dict()["heads.0.weight"].clone()

    follow(average, network, 0.75)

    expected = 0.75 * before + 0.25 * network.state_dict()["heads.0.weight"]
    torch.testing.assert_close(average.state_dict()["heads.0.weight"], expected)


@pytest.mark.parametrize("config", RUNS, ids=lambda path: path.stem)
def test_every_shipped_configuration_can_be_read(config: Path) -> None:
    assert TrainConfig.read(config).name == config.stem or config.stem.startswith("hn6")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("dropout = 0.5", "unknown.*dropout"),
        ("[augment]\nmirror = true", r"augment\.mirror"),
        ("foreground = 1.5", "foreground is a fraction, got 1.5"),
        ("ema = 1.0", r"ema is a decay in \[0, 1\), got 1.0"),
        ('attention = "magic"', "attention"),
        ("patch = [1, 2]", "patch"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(
    tmp_path: Path, line: str, complaint: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TOML + line)

    with pytest.raises(ValueError, match=rf"(?s)run\.toml.*{complaint}"):
        TrainConfig.read(path)


def test_the_command_reads_its_configuration_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TOML + "steps = 7\n[augment]\nnoise = 0.5")
    asked: list[tuple[TrainConfig, dict[str, Any]]] = []

    def record(config: TrainConfig, **options: Any) -> None:
        asked.append((config, options))

    monkeypatch.setattr("training.train.train", record)

    assert main([str(path), "--device", "cpu", "--resume"]) == 0

    ((config, options),) = asked
    assert (config.steps, config.augment.noise, config.cases) == (7, 0.5, Path("a"))
    assert options == {"device": "cpu", "resume": True}
