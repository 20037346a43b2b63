"""Several processes: the same training as one alone, shared."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.checkpoint import read_card
from model.segmenter import NoSuchDevice
from tests.training.cohort import prepare_cohort, tiny_run, toml
from training.cases import Dataset
from training.config import TrainConfig
from training.distributed import Deep, Ranks, for_all, join
from training.network import build_network
from training.train import train

ROOT = Path(__file__).parents[2]


def config_of(cases: Path, out: Path) -> TrainConfig:
    """Exact but for the order of sums: no bf16, no statistics over the batch, no division by
    the size of a gradient that is nothing but rounding, as in AdamW."""
    return replace(
        tiny_run(cases, out, validation_patients=2),
        norm="instance",
        mixed_precision=False,
        optimiser="sgd",
        learning_rate=0.01,
        batch=4,
        steps=5,
        validate_every=2,
    )


def torchrun(
    processes: int, config: TrainConfig, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """As on a machine with so many GPUs."""
    path = config.out.with_suffix(".toml")
    path.write_text(toml(config))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    training = ["-m", "training.train", str(path), "--device", "cpu"]
    return subprocess.run(
        [sys.executable, *command, *training],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def scalars(config: TrainConfig, name: str) -> list[float]:
    log = EventAccumulator(str(config.out / "log"), size_guidance={"scalars": 0})
    log.Reload()
    return [event.value for event in log.Scalars(name)]


def last_of(config: TrainConfig) -> dict[str, Any]:
    return torch.load(config.out / "last.pt", weights_only=True)


@pytest.mark.slow
def test_two_processes_learn_what_one_alone_learns(tmp_path: Path) -> None:
    cases = prepare_cohort(tmp_path, 4)
    one, two = (config_of(cases, tmp_path / name) for name in ("one", "two"))
    train(one, device="cpu", resume=False)

    run = torchrun(2, two)

    assert run.returncode == 0, run.stderr
    assert scalars(two, "loss") == pytest.approx(scalars(one, "loss"), rel=1e-4)
    assert len(scalars(two, "loss")) == 5
    assert scalars(two, "dice/mean") == pytest.approx(scalars(one, "dice/mean"), abs=1e-3)
    ours, theirs = last_of(two), last_of(one)
    assert ours["step"] == theirs["step"] == 5
    for part in ("network", "average"):
        for key, value in theirs[part].items():
            torch.testing.assert_close(ours[part][key], value, rtol=1e-3, atol=1e-5, msg=key)
    begun = build_network(one, Dataset.read(cases)).state_dict()["heads.0.weight"]
    assert (theirs["network"]["heads.0.weight"] - begun).abs().max() > 1e-3
    assert read_card(two.out / "model").training["batch"] == 4
    assert run.stdout.count("step 4:") == 1  # only one of them speaks

    for config in (one, two):  # what two have begun, one can end
        train(replace(config, steps=6), device="cpu", resume=True)
    for key, value in last_of(one)["network"].items():
        torch.testing.assert_close(last_of(two)["network"][key], value, rtol=1e-3, atol=1e-5)


def test_without_torchrun_a_process_is_alone(prepared: Path) -> None:
    ranks, device = join("cpu")
    network = build_network(tiny_run(prepared, Path("b")), Dataset.read(prepared))

    trained = for_all(network, ranks, device)

    assert (ranks, device) == (Ranks(0, 1), "cpu")
    assert isinstance(trained, Deep)
    assert ranks.first
    assert ranks.gather("this") == ["this"]
    assert ranks.mean(torch.tensor(3.0)) == 3
    assert list(ranks.share(range(4))) == [0, 1, 2, 3]
    image = torch.randn(2, 1, 8, 32, 32)
    network.eval()
    assert all(map(torch.equal, trained(image), network.forward_deep(image)))


@pytest.mark.parametrize(
    ("device", "says"),
    [("gpu", "gpu is no device: say cpu, cuda"), ("cuda:7", "the device is cuda:7, but PyTorch")],
)
def test_a_device_that_is_not_there_is_said_in_a_sentence(device: str, says: str) -> None:
    with pytest.raises(NoSuchDevice, match=says):
        join(device)
