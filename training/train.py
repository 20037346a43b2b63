"""Train a network: `python -m training.train training/configs/hn6-cpu.toml`.

Stopped at any moment, `--resume` goes on from the last checkpoint. The weights with the best Dice
on the validation patients are in OUT/model, ready for the plugin.
"""

import argparse
import copy
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from model.checkpoint import Card, save
from model.segmenter import runs_faster_in_bf16
from model.sliding_window import predict_tiled
from model.tiny_vit import LiteMedSamEncoder
from model.unet import UNet, UNetConfig, channels_last, plan_strides
from training.augment import AugmentConfig, sample_patch
from training.cases import UNKNOWN, Case, Dataset
from training.loss import deep_loss
from training.split import split_cases


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; a TOML file with these keys."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # in [augment] too

    name: str  # of the model, its folder under model/weights
    version: str
    description: str
    cases: Path  # folder written by `python -m training.prepare`
    out: Path  # checkpoints and log; must not hold another run
    attention: Literal["plain", "gate", "scse", "sam"] = "sam"
    widths: tuple[int, ...] = (32, 64, 128, 256, 320)
    norm: Literal["batch", "instance"] = "batch"
    image_encoder: Literal["vit", "litemedsam"] = "vit"  # "litemedsam" starts pre-trained
    encoder_width: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    attention_width: int = 256
    patch: tuple[int, int, int] = (48, 160, 160)  # voxels (z, y, x)
    batch: int = 2
    steps: int = 250_000  # optimiser steps, not epochs
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3  # peak
    decay: Literal["cosine", "polynomial", "exponential"] = "cosine"
    warmup: int = 100  # steps up to the peak
    weight_decay: float = 1e-2
    ema: float = 0.998  # decay of the averaged weights; they are what is saved
    foreground: float = 0.75  # fraction of patches centred on an organ, every organ equally often
    validate_every: int = 500  # steps
    save_every: int = 100  # steps
    test_patients: int = 30  # held out, seen by `training.evaluate` only
    validation_patients: int = 12  # choose the best weights
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"foreground is a fraction, got {self.foreground}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is a decay in [0, 1), got {self.ema}")

    @classmethod
    def read(cls, path: Path) -> "TrainConfig":
        """Read a TOML file; relative folders in it are relative to where the command runs.

        Raises:
            ValueError: for unknown keys or values out of range.
        """
        values = tomllib.loads(path.read_text())
        if unknown := sorted(values.keys() - {f.name for f in fields(cls)}):
            raise ValueError(f"{path}: unknown {unknown}")
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ValueError(f"{path}: {error}") from error


class Patches:
    """Draws training batches; the same step always draws the same batch, so resuming is exact."""

    def __init__(self, cases: Sequence[Case], dataset: Dataset, config: TrainConfig) -> None:
        self.config = config
        self.spacing_mm = dataset.preprocessing.spacing_mm
        self.images = [torch.from_numpy(case.image) for case in cases]
        self.labels = [torch.from_numpy(classes(case, dataset)) for case in cases]
        self.labelled = [labelled_classes(case, dataset) for case in cases]
        self.places = [
            [np.argwhere(y.numpy() == k) for k in range(1, len(dataset.organs) + 1)]
            for y in self.labels
        ]
        self.holders = [  # per organ, the cases that have a voxel of it
            [i for i, places in enumerate(self.places) if len(places[k])]
            for k in range(len(dataset.organs))
        ]

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, 1, *patch)`` images, ``(B, *patch)`` classes, ``(B, K)`` labelled classes."""
        rng = np.random.default_rng((self.config.seed, step))
        images, targets, labelled = [], [], []
        for _ in range(self.config.batch):
            case, centre = self._place(rng)
            image, target = sample_patch(
                self.images[case],
                self.labels[case],
                centre,
                self.config.patch,
                self.spacing_mm,
                self.config.augment,
                rng,
            )
            images.append(image[None])
            targets.append(target)
            labelled.append(self.labelled[case])
        return torch.stack(images), torch.stack(targets), torch.stack(labelled)

    def _place(self, rng: np.random.Generator) -> tuple[int, tuple[float, float, float]]:
        if rng.random() < self.config.foreground:
            organ = int(rng.choice([k for k, having in enumerate(self.holders) if having]))
            case = int(rng.choice(self.holders[organ]))
            centre = rng.choice(self.places[case][organ]).astype(float)
            centre += rng.uniform(-0.2, 0.2, 3) * self.config.patch
        else:
            case = int(rng.integers(len(self.images)))
            centre = rng.uniform(0, 1, 3) * self.images[case].shape
        z, y, x = centre
        return case, (z, y, x)


def classes(case: Case, dataset: Dataset) -> np.ndarray:
    """Labels of the table of organs to this data set's classes 1..K-1; `UNKNOWN` stays."""
    table = np.zeros(256, np.uint8)
    table[UNKNOWN] = UNKNOWN
    labelled = {organ.name: organ.label for organ in case.labelled}
    for k, name in enumerate(dataset.organs, start=1):
        if name in labelled:
            table[labelled[name]] = k
    return table[case.labels]


def labelled_classes(case: Case, dataset: Dataset) -> Tensor:
    """``(K,)`` bool: background and the organs that the case labels."""
    names = {organ.name for organ in case.labelled}
    return torch.tensor([True, *(name in names for name in dataset.organs)])


def build_network(config: TrainConfig, dataset: Dataset) -> UNet:
    """The network of a configuration, for the organs and the grid of a data set."""
    strides = plan_strides(dataset.preprocessing.spacing_mm, config.patch, len(config.widths))
    z, y, x = config.patch
    torch.manual_seed(config.seed)
    network = UNet(
        UNetConfig(
            num_classes=len(dataset.organs) + 1,
            widths=config.widths[: len(strides) + 1],
            strides=tuple(strides),
            attention=config.attention,
            norm=config.norm,
            image_encoder=config.image_encoder,
            encoder_mean_hu=dataset.preprocessing.mean_hu,
            encoder_std_hu=dataset.preprocessing.std_hu,
            encoder_width=config.encoder_width,
            encoder_depth=config.encoder_depth,
            encoder_heads=config.encoder_heads,
            encoder_grid=(z // 4, y // 16, x // 16),
            attention_width=config.attention_width,
        )
    )
    if isinstance(network.image_encoder, LiteMedSamEncoder):
        network.image_encoder.load_pretrained()
    return channels_last(network)


@torch.inference_mode()
def validation_dice(
    network: UNet, cases: Sequence[Case], dataset: Dataset, config: TrainConfig, device: str
) -> dict[str, float]:
    """Mean Dice by organ over cases, on the network's grid, unknown voxels left out."""
    network.eval()
    found: dict[str, list[float]] = {name: [] for name in dataset.organs}
    for case in cases:
        with autocast(device):
            p = predict_tiled(
                network,
                torch.from_numpy(case.image).to(device),
                config.patch,
                len(dataset.organs) + 1,
                overlap=0.25,
            )
        predicted = p.argmax(0).cpu().numpy()
        truth = classes(case, dataset)
        predicted[truth == UNKNOWN] = 0
        for k, name in enumerate(dataset.organs, start=1):
            size = (truth == k).sum()
            if size:
                both = ((predicted == k) & (truth == k)).sum()
                found[name].append(2 * both / (size + (predicted == k).sum()))
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def autocast(device: str) -> torch.autocast:
    """bf16 where the device is faster with it."""
    return torch.autocast(device, torch.bfloat16, enabled=runs_faster_in_bf16(device))


def learning_rate(step: int, config: TrainConfig) -> float:
    """Of a step: linear warm-up, then the configured decay."""
    t = step / config.steps
    shape = {
        "cosine": 0.5 * (1 + np.cos(np.pi * t)),
        "polynomial": (1 - t) ** 0.9,
        "exponential": 0.01**t,
    }[config.decay]
    return float(config.learning_rate * shape * min(1.0, (step + 1) / max(config.warmup, 1)))


def build_optimiser(network: UNet, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, or the paper's SGD (with Nesterov momentum as in nnU-Net)."""
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            config.learning_rate,
            momentum=0.99,
            nesterov=True,
            weight_decay=config.weight_decay,
        )
    return torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )


@torch.no_grad()
def follow(average: UNet, network: UNet, decay: float) -> None:
    """Move the averaged weights a little towards the network's."""
    state = network.state_dict()
    for key, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(state[key], 1 - decay)
        else:
            value.copy_(state[key])


def train(config: TrainConfig, *, device: str, resume: bool) -> None:
    """Train to the last step; write OUT/last.pt as it goes and OUT/model when it is better.

    Raises:
        FileExistsError: if OUT holds a run and `resume` is off.
    """
    last = config.out / "last.pt"
    if last.exists() and not resume:
        raise FileExistsError(f"{config.out} holds a run: resume it or choose another folder")
    dataset = Dataset.read(config.cases)
    split = split_cases(
        dataset.cases, config.seed, test=config.test_patients, validation=config.validation_patients
    )
    training = [Case.read(config.cases / name) for name in split.training]
    validation = [Case.read(config.cases / name) for name in split.validation]
    patches = Patches(training, dataset, config)
    network = build_network(config, dataset).to(device)
    average = copy.deepcopy(network)
    optimiser = build_optimiser(network, config)
    start, best, hours = 0, -1.0, 0.0  # the first Dice is the best, though it be 0
    if last.exists():
        saved = torch.load(last, weights_only=True, map_location=device)
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        start, best, hours = saved["step"], saved["best"], saved["hours"]
    log = SummaryWriter(str(config.out / "log"), purge_step=start)
    began = time.monotonic() - 3600 * hours
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(config.name, total=config.steps, completed=start)
        for step in range(start, config.steps):
            rate = learning_rate(step, config)
            for group in optimiser.param_groups:
                group["lr"] = rate
            image, target, labelled = (t.to(device) for t in patches.batch(step))
            network.train()
            with autocast(device):
                levels = network.forward_deep(image)
            loss = deep_loss(levels, target, labelled)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
            optimiser.step()
            follow(average, network, min(config.ema, (1 + step) / (10 + step)))
            log.add_scalar("loss", loss.item(), step)
            bar.update(task, completed=step + 1, description=f"loss {loss.item():.3f}")
            done = step + 1
            hours = (time.monotonic() - began) / 3600
            if done % config.validate_every == 0 or done == config.steps:
                dice = validation_dice(average, validation, dataset, config, device)
                mean = float(np.mean(list(dice.values())))
                for name, value in dice.items():
                    log.add_scalar(f"dice/{name}", value, done)
                log.add_scalar("dice/mean", mean, done)
                numbers = " ".join(f"{name} {value:.3f}" for name, value in dice.items())
                bar.console.print(f"step {done}: {hours:.2f} h, Dice {mean:.4f}: {numbers}")
                if mean > best:
                    best = mean
                    card = _card(config, dataset, average, split.training, done, hours, dice)
                    save(config.out / "model", average, card)
            if done % config.save_every == 0 or done == config.steps:
                values = {
                    "network": network.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": done,
                    "best": best,
                    "hours": hours,
                }
                torch.save(values, last.with_suffix(".new"))
                last.with_suffix(".new").replace(last)
    log.close()


def _card(
    config: TrainConfig,
    dataset: Dataset,
    network: UNet,
    patients: Sequence[str],
    step: int,
    hours: float,
    dice: dict[str, float],
) -> Card:
    settings = {
        k: v
        for k, v in asdict(config).items()
        if k not in {"name", "version", "description", "cases", "out"}
    }
    return Card(
        name=config.name,
        version=config.version,
        description=config.description,
        organs=dataset.organs,
        network=network.config,
        preprocessing=dataset.preprocessing,
        tile=config.patch,
        training=settings
        | {
            "patients": len(patients),
            "steps_done": step,
            "hours": round(hours, 2),
            "validation_dice": {name: round(value, 4) for name, value in dice.items()},
        },
        measured={},
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    args = parser.parse_args(argv)
    train(TrainConfig.read(args.config), device=args.device, resume=args.resume)
    return 0


if __name__ == "__main__":
    sys.exit(main())
