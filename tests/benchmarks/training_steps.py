"""Seconds of a training step, drawing and augmenting included: ours against nnU-Net v2's trainer.

The same network, patch, batch, patients and cores; each with its own augmentation, loss, optimiser
and loader. nnU-Net computes in float32 on a CPU, we in bf16 where the processor is quicker with it.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from model.checkpoint import read_card
from model.unet import UNet, UNetConfig, channels_last
from tests.benchmarks import nnunet_training as nnunet
from tests.benchmarks.contest import OURS, Options, Row, against, cpu_seconds, in_turns
from tests.phantoms import make_phantom, write_case
from training.cases import Dataset
from training.config import TrainConfig
from training.prepare import main as prepare
from training.split import Split
from training.train import train

NNUNET = "nnU-Net v2's trainer"
PATIENTS = 4
STEPS = 6
"""Timed in each repeat, from the end of the one before them."""


def rows(options: Options) -> list[Row]:
    """Seconds a step."""
    cases, prepared = options.folder / "cases", options.folder / "prepared"
    for seed in range(PATIENTS):
        patient = make_phantom(spacing_mm=(3, 3, 3), shape=(80, 100, 100), seed=seed)
        write_case(patient, cases / f"pt_{seed}")
    prepare([str(cases), "--out", str(prepared), "--spacing", "3", "3", "3"])
    dataset = Dataset.read(prepared)
    card = read_card(options.model)
    network = replace(card.network, num_classes=len(dataset.organs) + 1)
    config = our_run(network, card.tile, prepared, options.folder / "run")
    split = Split(training=dataset.cases[1:], validation=dataset.cases[:1], test=())
    trainer = nnunet_trainer(network, card.tile, cases, split, dataset, options.folder / "nnunet")

    now = time.perf_counter if options.clock == "wall" else cpu_seconds

    def ours() -> float:
        out = config.out / f"{time.monotonic_ns()}"  # that no run has used
        with step_ends(now) as ends:
            train(replace(config, out=out), device="cpu", resume=False)
        return (ends[-1] - ends[0]) / STEPS

    def theirs() -> float:
        with step_ends(now) as ends:
            for _ in range(1 + STEPS):
                trainer.train_step(next(trainer.dataloader_train))
        return (ends[-1] - ends[0]) / STEPS

    try:
        figures = in_turns({OURS: ours, NNUNET: theirs}, options.repeats)
    finally:
        trainer.dataloader_train._finish()
        trainer.dataloader_val._finish()
    return against(
        figures,
        {NNUNET: 1.5},
        what="a training step",
        note=f"2 patches of {card.tile}, {options.model.name}'s network",
    )


def our_run(
    network: UNetConfig, patch: tuple[int, int, int], cases: Path, out: Path
) -> TrainConfig:
    """Our training of this network."""
    return TrainConfig(
        name="benchmark",
        version="0.0.0",
        description="A few steps.",
        cases=cases,
        out=out,
        attention=network.attention,
        widths=network.widths,
        strides=network.strides,
        norm=network.norm,
        encoder_width=network.encoder_width,
        encoder_depth=network.encoder_depth,
        encoder_heads=network.encoder_heads,
        attention_width=network.attention_width,
        patch=patch,
        batch=2,
        steps=1 + STEPS,
        test_patients=0,
        validation_patients=1,
    )


@contextmanager
def step_ends(now: Callable[[], float]) -> Iterator[list[float]]:
    """When each step of any optimiser ended, in seconds."""
    ends: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *unused: ends.append(now()))
    try:
        yield ends
    finally:
        hook.remove()


class DeeplySupervised(nn.Module):
    """Our network as nnU-Net's trainer wants one: all levels come out, finest first."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network
        self.decoder = nn.Module()  # on which the trainer sets that it wants them

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.network.forward_deep(x)


def nnunet_trainer(
    network: UNetConfig,
    patch: tuple[int, int, int],
    cases: Path,
    split: Split,
    dataset: Dataset,
    out: Path,
) -> Any:
    """nnU-Net's trainer with its loaders started, our network and patch in its plan."""
    for place in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{place}"] = str(out / place)
    nnunet.write_raw(out / "raw" / nnunet.DATASET, cases, split, dataset.organs, float("nan"))
    nnunet.plan_and_preprocess(gpu_memory_gb=1.0)
    file = out / "preprocessed" / nnunet.DATASET / f"{nnunet.PLANS}.json"
    plans = json.loads(file.read_text())
    plan = plans["configurations"][nnunet.CONFIGURATION]
    plan |= {"patch_size": list(patch), "batch_size": 2}
    plan["architecture"]["arch_kwargs"]["strides"] = [[1, 1, 1], *map(list, network.strides)]
    file.write_text(json.dumps(plans))
    trainer = nnunet.new_trainer(out, again=False)

    def build(plans_manager: Any, *unused: Any) -> nn.Module:
        return DeeplySupervised(channels_last(UNet(network)))

    trainer.build_network_architecture = build
    torch.manual_seed(0)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer
