"""Train a network: `python -m training.train training/configs/hn6-cpu.toml`.

Stopped at any moment, `--resume` goes on from the last checkpoint. The weights with the best Dice
on the validation patients are in OUT/model, ready for the plugin.
"""

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from model import metrics
from model.checkpoint import Card, load_network, read_card, save
from model.segmenter import runs_faster_in_bf16
from model.sliding_window import predict_tiled
from model.tiny_vit import LiteMedSamEncoder
from model.unet import UNet, UNetConfig, channels_last, plan_strides
from training.cases import UNKNOWN, Case, Dataset
from training.config import TrainConfig
from training.loss import deep_loss
from training.patches import Patches, classes
from training.split import split_cases


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


def starting_weights(folder: Path, network: UNet) -> dict[str, Tensor]:
    """Weights of a finished model, for `network` to go on from.

    Raises:
        BadCheckpoint: if they cannot be used.
        ValueError: if they are of another network.
    """
    trained, _ = load_network(folder)
    if trained.config != network.config:
        raise ValueError(f"{folder} is {trained.config}, the run is {network.config}")
    return trained.state_dict()


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
            if (truth == k).any():
                found[name].append(metrics.dice(predicted == k, truth == k))
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
    if config.start is not None:
        network.load_state_dict(starting_weights(config.start, network))
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
            loss = deep_loss(levels, target, labelled, config.balance)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
            optimiser.step()
            follow(average, network, min(config.ema, (1 + step) / (10 + step)))
            done, value = step + 1, loss.item()
            log.add_scalar("loss", value, step)
            bar.update(task, completed=done, description=f"loss {value:.3f}")
            hours = (time.monotonic() - began) / 3600
            if done % config.validate_every == 0 or done == config.steps:
                dice = validation_dice(average, validation, dataset, config, device)
                mean = float(np.mean(list(dice.values())))
                for name, organ_dice in dice.items():
                    log.add_scalar(f"dice/{name}", organ_dice, done)
                log.add_scalar("dice/mean", mean, done)
                numbers = " ".join(f"{name} {each:.3f}" for name, each in dice.items())
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
        if k not in {"name", "version", "description", "cases", "out", "start"}
    }
    if config.start is not None:
        first = read_card(config.start)
        settings["started_from"] = f"{first.name} {first.version}"
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
