"""Train a network: `python -m training.train training/configs/hn6-cpu.toml`.

Stopped at any moment, `--resume` goes on from the last checkpoint. The weights with the best Dice
on the validation patients are in OUT/model, ready for the plugin. On several GPUs:
`torchrun --nproc-per-node 4 -m training.train CONFIG`, see training/distributed.py.
"""

import argparse
import copy
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from model.checkpoint import BadCheckpoint, Card, read_card
from training.cases import Case, Dataset
from training.config import TrainConfig
from training.distributed import Ranks, for_all, join, leave
from training.loss import deep_loss
from training.monitor import Monitor
from training.network import build_network
from training.optimise import (
    LARGEST_GRADIENT,
    autocast,
    build_optimiser,
    build_scaler,
    follow,
    fraction_done,
    learning_rate,
    precision,
)
from training.patches import Patches, drawn_ahead
from training.split import split_of
from training.state import Clock, State, save_model
from training.validate import OVERLAP, validation_dice

LAST = "last.pt"


class Diverged(Exception):
    """The loss is no number any more, and more steps would not bring it back."""


def train(config: TrainConfig, *, device: str, resume: bool) -> None:
    """Train to the last step; write OUT/last.pt as it goes and OUT/model when it is better.

    Raises:
        FileExistsError: if OUT holds a run and `resume` is off.
        ValueError: if configuration, cases and weights to start from do not go together.
        BadCheckpoint: if the weights to start from cannot be used.
        Diverged: if the loss is no number any more.
    """
    if (config.out / LAST).exists() and not resume:
        raise FileExistsError(f"{config.out} holds a run: resume it or choose another folder")
    ranks, device = join(device)
    try:
        _train(config, device, ranks)
    finally:
        leave()


def _train(config: TrainConfig, device: str, ranks: Ranks) -> None:
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    dataset = Dataset.read(config.cases)
    split = split_of(config, dataset.cases)
    training = [Case.read(config.cases / name) for name in split.training]
    mine = split.validation[ranks.rank :: ranks.count]
    validation = [Case.read(config.cases / name) for name in mine]
    patches = Patches(training, dataset, config, ranks)
    network = build_network(config, dataset).to(device)
    average = copy.deepcopy(network)
    optimiser = build_optimiser(network, config)
    dtype = precision(device, config)
    scaler = build_scaler(device, dtype)
    state = State(network=network, average=average, optimiser=optimiser, scaler=scaler)
    if (config.out / LAST).exists():
        state.load(config.out / LAST, device)
    if len(set(ranks.gather(state.step))) > 1:
        raise ValueError(f"not all processes see {config.out}: it must be on shared storage")

    trained = for_all(network, ranks, device).train()
    clock = Clock(state)
    done = fraction_done(state.step, config, state.cpu_hours)
    steps = range(state.step, config.steps)
    batches = drawn_ahead(patches, steps, config.workers, pinned=device.startswith("cuda"))
    with Monitor(config, state.step, ranks) as monitor, closing(batches):
        while done < 1:
            rate = learning_rate(state.step, config, done)
            for group in optimiser.param_groups:
                group["lr"] = rate
            image, target, labelled = (t.to(device, non_blocking=True) for t in next(batches))
            with autocast(device, dtype):
                levels = trained(image)
            loss = deep_loss(levels, target, labelled, config.balance, ranks.mean)
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
            scaler.step(optimiser)
            scaler.update()
            follow(average, network, min(config.ema, (1 + state.step) / (10 + state.step)))

            state.step += 1
            state.hours = clock.hours
            if config.cpu_hours is not None:
                state.cpu_hours = clock.cpu_hours(ranks)
            done = fraction_done(state.step, config, state.cpu_hours)
            value = ranks.mean(loss.detach()).item()
            if not math.isfinite(value) and not scaler.is_enabled():  # which skips such steps
                raise Diverged(f"the loss is {value} at step {state.step}: learn more slowly")
            monitor.step(state.step, loss=value, rate=rate, done=done, hours=state.hours)
            if state.step % config.validate_every == 0 or done >= 1:
                dice = validation_dice(
                    average,
                    validation,
                    dataset,
                    config.patch,
                    device=device,
                    dtype=dtype,
                    ranks=ranks,
                )
                mean = float(np.mean(list(dice.values())))
                monitor.dice(state.step, dice, mean, done=done, hours=clock.hours)
                if mean > state.best:
                    state.best = mean
                    if ranks.first:
                        card = _card(config, dataset, len(training), state, dice)
                        save_model(config.out / "model", average, card)
            if (state.step % config.save_every == 0 or done >= 1) and ranks.first:
                state.hours = clock.hours
                state.save(config.out / LAST)


def _card(
    config: TrainConfig, dataset: Dataset, patients: int, state: State, dice: dict[str, float]
) -> Card:
    """Of the averaged weights as they are now."""
    places = {"name", "version", "description", "cases", "out", "start"}
    settings = {key: value for key, value in asdict(config).items() if key not in places}
    if config.start is not None:
        first = read_card(config.start)
        settings["started_from"] = f"{first.name} {first.version}"
    return Card(
        name=config.name,
        version=config.version,
        description=config.description,
        organs=dataset.organs,
        network=state.average.config,
        preprocessing=dataset.preprocessing,
        tile=config.patch,
        overlap=OVERLAP,
        training=settings
        | {
            "patients": patients,
            "steps_done": state.step,
            "hours": round(state.hours, 2),
            "validation_dice": {name: round(value, 4) for name, value in dice.items()},
        },
        measured={},
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    args = parser.parse_args(argv)
    try:
        train(TrainConfig.read(args.config), device=args.device, resume=args.resume)
    except (ValueError, OSError, BadCheckpoint, Diverged) as error:
        print(f"training.train: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
