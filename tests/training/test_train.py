"""Training: what was stopped goes on as if nothing had happened, and the result can be used."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoint import load_network, read_card
from model.organs import BY_NAME
from model.segmenter import Segmenter
from tests.phantoms import make_phantom
from tests.training.cohort import ORGANS, last_of, prepare_cohort, same, tiny_run, toml
from training.cases import Case, Dataset
from training.config import TrainConfig
from training.loss import deep_loss
from training.network import build_network
from training.optimise import build_optimisers
from training.patches import Patches
from training.split import Split, split_of
from training.train import Diverged, main, train

ROOT = Path(__file__).parents[2]

CONFIGS = ROOT / "training" / "configs"

TOML = """
name = "tiny"
version = "1.0.0"
description = "For tests."
cases = "a"
out = "b"
"""

CUT = """
import io, os, signal, sys
import torch
from training.train import main

whole = torch.save

def power_cut(values, file):
    if values["step"] == 12:
        written = io.BytesIO()
        whole(values, written)
        file.write(written.getvalue()[: len(written.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    whole(values, file)

torch.save = power_cut
main(sys.argv[1:])
"""
"""Trains until the process is killed half-way through writing last.pt."""


def started(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Another Python, with one thread as here, so that sums come out equal."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment)


def long_run(cases: Path, out: Path) -> TrainConfig:
    return replace(tiny_run(cases, out), steps=40, validate_every=20, optimiser="muon")


def assert_same_end(ours: TrainConfig, theirs: TrainConfig) -> None:
    a, b = last_of(ours), last_of(theirs)
    assert a["step"] == b["step"] == ours.steps
    for part in ("network", "average", "optimiser", "best"):
        assert same(a[part], b[part]), part
    assert not same(a["network"], a["average"])
    digests = [read_card(config.out / "model").weights_sha256 for config in (ours, theirs)]
    assert digests[0] == digests[1]
    assert not list(ours.out.glob("*.new"))


@pytest.fixture(scope="module")
def never_killed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = long_run(prepared, tmp_path_factory.mktemp("whole") / "run")
    train(config, device="cpu", resume=False)
    return config


@pytest.mark.slow
def test_a_run_killed_at_any_moment_and_resumed_ends_as_if_never_killed(
    prepared: Path, tmp_path: Path, never_killed: TrainConfig
) -> None:
    config = long_run(prepared, tmp_path / "run")
    path = tmp_path / "run.toml"
    path.write_text(toml(config))
    for killed in range(2):
        step = last_of(config)["step"] if killed else 0
        process = started(["-m", "training.train", str(path), "--device", "cpu", "--resume"])
        while not (config.out / "last.pt").exists() or last_of(config)["step"] == step:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.15))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert step < last_of(config)["step"] < config.steps

    train(config, device="cpu", resume=True)

    assert_same_end(config, never_killed)


@pytest.mark.slow
def test_a_run_killed_while_it_writes_its_state_loses_nothing(
    prepared: Path, tmp_path: Path, never_killed: TrainConfig
) -> None:
    config = long_run(prepared, tmp_path / "run")
    path = tmp_path / "run.toml"
    path.write_text(toml(config))
    process = started(["-c", CUT, str(path), "--device", "cpu"])
    assert process.wait() == -signal.SIGKILL
    assert last_of(config)["step"] == 10
    half = (config.out / "last.pt.new").stat().st_size
    assert 0 < half < (config.out / "last.pt").stat().st_size

    train(config, device="cpu", resume=True)

    assert_same_end(config, never_killed)


@pytest.mark.slow
def test_what_was_trained_segments_a_ct(prepared: Path, tmp_path: Path) -> None:
    config = tiny_run(prepared, tmp_path / "run")
    train(config, device="cpu", resume=False)

    segmenter = Segmenter.load(tmp_path / "run" / "model", device="cpu", unmeasured=True)

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

    with pytest.raises(
        FileExistsError, match="holds a run: go on with --resume, or choose another"
    ):
        train(config, device="cpu", resume=False)

    train(config, device="cpu", resume=True)  # nothing is left to do
    assert (config.out / "last.pt").read_bytes() == before


@pytest.mark.slow
def test_a_run_goes_on_with_the_patients_that_it_began_with(tmp_path: Path) -> None:
    config = replace(tiny_run(prepare_cohort(tmp_path, 3), tmp_path / "run"), steps=1)
    train(config, device="cpu", resume=False)

    with pytest.raises(ValueError, match="was begun with other patients to train on"):
        train(replace(config, steps=2, test_patients=1), device="cpu", resume=True)

    assert last_of(config)["step"] == 1
    (config.out / "last.pt").unlink()  # the weights alone were kept before it was killed
    with pytest.raises(ValueError, match="was begun with other patients to train on"):
        train(replace(config, test_patients=1), device="cpu", resume=False)


def test_a_run_stopped_before_it_kept_anything_may_begin_with_other_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first line says how many are held out, and whoever meant others presses Ctrl-C."""

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    config = replace(tiny_run(prepare_cohort(tmp_path, 3), tmp_path / "run"), steps=1)
    monkeypatch.setattr("training.train.deep_loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(config, device="cpu", resume=False)
    monkeypatch.undo()

    train(replace(config, test_patients=1), device="cpu", resume=False)

    split = Split.read(config.out)
    assert split is not None
    assert len(split.test) == 1


@pytest.mark.slow
def test_an_organ_that_no_training_patient_has_is_not_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = prepare_cohort(tmp_path, 2)
    config = replace(tiny_run(cases, tmp_path / "run"), steps=1)
    [trains] = split_of(config, ("pt_0", "pt_1")).training
    labels = np.load(cases / trains / "labels.npy")
    np.save(cases / trains / "labels.npy", np.where(labels == BY_NAME[ORGANS[1]].label, 0, labels))

    train(config, device="cpu", resume=False)

    assert read_card(config.out / "model").organs == (ORGANS[0], ORGANS[2])
    assert f"no training patient has {ORGANS[1]}: not learned" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_could_choose_no_weights_is_not_begun(tmp_path: Path) -> None:
    cases = prepare_cohort(tmp_path, 2)
    config = tiny_run(cases, tmp_path / "run")
    [validates] = split_of(config, ("pt_0", "pt_1")).validation
    np.save(cases / validates / "labels.npy", 0 * np.load(cases / validates / "labels.npy"))

    with pytest.raises(ValueError, match="no validation patient has a voxel of any organ"):
        train(config, device="cpu", resume=False)


@pytest.mark.slow
def test_training_finds_more_than_chance(prepared: Path, tmp_path: Path) -> None:
    config = replace(
        tiny_run(prepared, tmp_path / "run"), attention="plain", steps=40, validate_every=40
    )
    dataset = Dataset.read(prepared)
    patches = Patches([Case.read(prepared / "pt_0")], dataset, config)
    network = build_network(config, dataset)
    [optimiser] = build_optimisers(network, config)
    losses = []
    for step in range(config.steps):
        image, target, labelled = patches.batch(step)
        loss = deep_loss(network.forward_deep(image), target, labelled)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.slow
def test_a_run_may_go_on_with_another_patch(prepared: Path, tmp_path: Path) -> None:
    first = replace(tiny_run(prepared, tmp_path / "first"), steps=1)
    train(first, device="cpu", resume=False)
    config = replace(
        tiny_run(prepared, tmp_path / "run"), start=first.out / "model", patch=(8, 48, 32), steps=1
    )

    train(config, device="cpu", resume=False)

    trained, card = load_network(config.out / "model")
    assert card.tile == (8, 48, 32)
    assert trained.config == load_network(first.out / "model")[0].config


@pytest.mark.slow
def test_a_run_ends_with_its_cpu_time_and_its_weights_are_kept(
    prepared: Path, tmp_path: Path
) -> None:
    config = replace(tiny_run(prepared, tmp_path / "run"), steps=100_000, cpu_hours=0.4 / 3600)

    train(config, device="cpu", resume=False)

    last = last_of(config)
    assert 1 <= last["step"] < 1000
    assert 0.4 <= 3600 * last["cpu_hours"] < 10
    assert read_card(config.out / "model").training["steps_done"] <= last["step"]
    assert last["optimiser"][0]["param_groups"][0]["lr"] < config.learning_rate
    train(config, device="cpu", resume=True)  # its time is over
    assert last_of(config)["step"] == last["step"]


@pytest.mark.slow
def test_half_precision_with_a_scaled_loss_trains_and_resumes(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.train.precision", lambda device, config: torch.float16)
    config = replace(tiny_run(prepared, tmp_path / "run"), attention="plain", steps=2)
    train(config, device="cpu", resume=False)
    scale = last_of(config)["scaler"]["scale"]

    train(replace(config, steps=4), device="cpu", resume=True)

    last = last_of(config)
    assert scale > 1
    assert last["step"] == 4
    assert all(value.isfinite().all() for value in last["network"].values())


def spoil(monkeypatch: pytest.MonkeyPatch, wanted: Callable[[int], bool]) -> None:
    """Let the images of some steps be no numbers."""
    draw = Patches.batch

    def spoilt(self: Patches, step: int) -> tuple[Tensor, Tensor, Tensor]:
        image, target, labelled = draw(self, step)
        return image * float("nan") if wanted(step) else image, target, labelled

    monkeypatch.setattr(Patches, "batch", spoilt)


@pytest.mark.slow
def test_a_run_whose_loss_is_no_number_stops_and_says_so(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda step: step == 4)
    config = tiny_run(prepared, tmp_path / "run")

    with pytest.raises(Diverged, match="the loss is nan at step 5"):
        train(config, device="cpu", resume=False)

    assert last_of(config)["step"] == 4


@pytest.mark.slow
def test_in_fp16_a_run_stops_when_no_scale_makes_the_loss_a_number(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.train.build_scaler", lambda *_: torch.amp.GradScaler("cpu"))
    monkeypatch.setattr("training.train.MOST_LOST", 2)
    spoil(monkeypatch, lambda step: step > 0)
    config = replace(tiny_run(prepared, tmp_path / "run"), norm="instance", validate_every=1000)

    with pytest.raises(Diverged, match="the loss is nan at step 4"):
        train(config, device="cpu", resume=False)


@pytest.mark.slow
def test_statistics_that_are_no_numbers_are_never_saved(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A skipped step of fp16 leaves weights as they were, but not what batches had in common."""
    monkeypatch.setattr("training.train.build_scaler", lambda *_: torch.amp.GradScaler("cpu"))
    spoil(monkeypatch, lambda step: step == 1)
    config = tiny_run(prepared, tmp_path / "run")

    with pytest.raises(Diverged, match="weights are NaN or infinite at step 3"):
        train(config, device="cpu", resume=False)

    assert not (config.out / "model").exists()


@pytest.mark.slow
def test_the_papers_configuration_trains(tmp_path: Path) -> None:
    paper = TrainConfig.read(CONFIGS / "paper.toml")
    config = replace(
        paper,
        cases=prepare_cohort(tmp_path, 7),
        out=tmp_path / "run",
        test_patients=1,
        steps=2,
        patch=(8, 32, 32),
        widths=(4, 8, 8, 16, 16),
        encoder_width=24,
        encoder_depth=2,
        attention_width=32,
        workers=1,
    )

    train(config, device="cpu", resume=False)

    card = read_card(config.out / "model")
    assert last_of(config)["step"] == 2
    assert card.training["batch"] == 13
    assert card.training["patients"] == 4  # 7, one for the test, a fifth of six validates
    assert all(value.isfinite().all() for value in last_of(config)["network"].values())


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


def test_a_configuration_that_is_not_there_ends_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.toml"), "--device", "cpu"]) == 1

    assert capsys.readouterr().err.startswith("training.train: ")


def test_a_run_stopped_by_hand_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "run.toml").write_text(TOML)
    monkeypatch.setattr("training.train.train", stopped)

    assert main([str(tmp_path / "run.toml"), "--device", "cpu"]) == 130

    assert capsys.readouterr().err == (
        "training.train: stopped; the same command with --resume goes on\n"
    )


def test_a_run_that_was_finished_before_says_so(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_run(prepared, tmp_path / "run")
    train(config, device="cpu", resume=False)
    capsys.readouterr()

    train(config, device="cpu", resume=True)

    assert (
        "finished before, at step 6: more `steps` or `cpu_hours` go on" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("out of memory"), "do not fit into the memory of cpu: make"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "do not fit into the memory of"),
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure\nSearch for"),
            "failed or cannot be used: CUDA error: unspecified launch failure; --resume goes on",
        ),
    ],
)
def test_a_gpu_that_is_too_small_or_fails_ends_a_run_with_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: RuntimeError,
    says: str,
) -> None:
    def fails(*_: object) -> None:
        raise error

    (tmp_path / "run.toml").write_text(TOML)
    monkeypatch.setattr("training.train._train", fails)

    assert main([str(tmp_path / "run.toml"), "--device", "cpu"]) == 1

    assert says in capsys.readouterr().err


def test_cases_that_are_not_prepared_are_no_cases_to_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(toml(tiny_run(tmp_path / "dicom", tmp_path / "run")))

    assert main([str(path), "--device", "cpu"]) == 1

    assert "dicom is no folder that training.prepare has written" in capsys.readouterr().err
