"""Train a network: `python -m training.train CONFIG`, such as training/configs/hn22-gpu.toml.

Stopped at any moment, `--resume` goes on from the last checkpoint. The weights with the best Dice
on the validation patients are in OUT/model, ready for the plugin. On several GPUs:
`torchrun --nproc-per-node 4 -m training.train CONFIG`, see training/distributed.py.
"""

import copy
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from model.checkpoint import Card, read_card, save
from model.segmenter import NoSuchDevice, in_short, is_of_memory
from model.unet import UNet
from model.unusable import Unusable
from training.asked import begin, check_goes_on
from training.cases import Case, Dataset, ct_hashes, twins
from training.command_line import command, described_by
from training.config import TrainConfig
from training.distributed import Ranks, for_all, join, leave
from training.loss import deep_loss
from training.monitor import Monitor
from training.network import as_known_to, build_network, check_patch, network_config
from training.optimise import (
    autocast,
    build_optimisers,
    build_scaler,
    follow,
    fraction_done,
    precision,
    rate_factor,
    set_rate,
    take_step,
)
from training.patches import Patches, drawn_ahead, organs_in
from training.split import Split, split_of
from training.state import Clock, State
from training.validate import OVERLAP, validation_dice

LAST = "last.pt"

MOST_LOST = 50
"""Steps in a row that move nothing, as their gradients are infinite or NaN. The scale of fp16 is
halved after each, and 20 halvings are enough where any are."""


class Diverged(Unusable):
    """The loss is NaN or infinite, and more steps would not bring it back."""


@dataclass(frozen=True, kw_only=True)
class Patients:
    """Whom a run learns from, and what of them."""

    dataset: Dataset  # its organs are those alone that can be learned
    split: Split
    first: Card | None  # of the model to start from
    training: Sequence[Case]
    validation: Sequence[Case]  # this process's share


def train(config: TrainConfig, *, device: str, resume: bool) -> None:
    """Train to the last step; write OUT/last.pt as it goes and OUT/model when it is better.

    Raises:
        FileExistsError: if OUT holds a run and `resume` is off.
        ValueError: if configuration, cases and weights to start from do not go together, or need
            more memory than the GPU has.
        NoSuchDevice: if the device is not there, cannot be used or fails.
        BadCheckpoint: if the weights to start from cannot be used.
        Diverged: if the loss stays NaN or infinite.
    """
    if (config.out / LAST).exists() and not resume:
        raise FileExistsError(
            f"{config.out} holds a run: go on with --resume, or choose another `out`"
        )
    ranks, device = join(device)
    try:
        _train(config, device, ranks)
    except RuntimeError as error:
        if is_of_memory(error):
            shape = " x ".join(map(str, config.patch))
            raise ValueError(
                f"{config.batch} patches of {shape} voxels do not fit into the memory of {device}: "
                "make the plan again with a smaller --memory-gib, or `batch` or `patch` smaller"
            ) from error
        if isinstance(error, torch.AcceleratorError):
            raise NoSuchDevice(
                f"the GPU failed or cannot be used: {in_short(error)}; --resume goes on from what "
                f"{config.out} holds"
            ) from error
        raise
    finally:
        leave()


def _train(config: TrainConfig, device: str, ranks: Ranks) -> None:
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    patients = _patients(config, ranks)
    dataset, validation = patients.dataset, patients.validation
    patches = Patches(patients.training, dataset, config, ranks, patients.first)
    network = build_network(config, dataset).to(device)
    average = copy.deepcopy(network)
    optimisers = build_optimisers(network, config)
    dtype = precision(device, config)
    scaler = build_scaler(device, dtype)
    state = State(network=network, average=average, optimisers=optimisers, scaler=scaler)
    if (config.out / LAST).exists():
        check_goes_on(config)
        state.load(config.out / LAST, device)
    if len(set(ranks.gather(state.step))) > 1:
        raise ValueError(f"not all processes see {config.out}: it must be on shared storage")
    if state.step == 0 and ranks.first:  # only now is it begun: nothing stands against it
        config.out.mkdir(parents=True, exist_ok=True)
        patients.split.write(config.out)
        begin(config)

    done = fraction_done(state.step, config, state.cpu_hours)
    if ranks.first:
        print(_in_words(config, patients, network, device, dtype))
        if done >= 1:
            print(f"finished before, at step {state.step}: more `steps` or `cpu_hours` go on")
    trained = for_all(network, ranks, device).train()
    lost = 0  # steps in a row that moved nothing
    clock = Clock(state)
    steps = range(state.step, config.steps)
    batches = drawn_ahead(patches, steps, config.workers, pinned=device.startswith("cuda"))
    with Monitor(config, state.step, ranks) as monitor, closing(batches):
        while done < 1:
            factor = rate_factor(state.step, config, done)
            set_rate(optimisers, factor)
            rate = factor * config.learning_rate
            image, target, labelled = (t.to(device, non_blocking=True) for t in next(batches))
            with autocast(device, dtype):
                levels = trained(image)
            loss = deep_loss(levels, target, labelled, config.balance, ranks.mean)
            network.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            lost = 0 if take_step(network, optimisers, scaler) else lost + 1
            follow(average, network, min(config.ema, (1 + state.step) / (10 + state.step)))

            state.step += 1
            state.hours = clock.hours
            if config.cpu_hours is not None:
                state.cpu_hours = clock.cpu_hours(ranks)
            done = fraction_done(state.step, config, state.cpu_hours)
            value = ranks.mean(loss.detach()).item()
            if lost > MOST_LOST or not (math.isfinite(value) or scaler.is_enabled()):
                raise Diverged(
                    f"the loss is {value} at step {state.step}, and its gradient infinite or NaN: "
                    "train in another `out` with a lower learning_rate, from nothing or from the "
                    "best weights in OUT/model"
                )
            monitor.step(state.step, loss=value, rate=rate, done=done, hours=state.hours)
            if state.step % config.validate_every == 0 or done >= 1:
                if not all(values.isfinite().all() for values in average.state_dict().values()):
                    raise Diverged(
                        f"weights are NaN or infinite at step {state.step}: train in another `out` "
                        "with mixed_precision = false"
                    )
                dice = validation_dice(
                    average, validation, dataset, config.patch, device=device, ranks=ranks
                )
                if config.cpu_hours is not None:
                    state.cpu_hours = clock.cpu_hours(ranks)
                mean = float(np.mean(list(dice.values())))
                monitor.dice(state.step, dice, mean, done=done, hours=clock.hours)
                if mean > state.best:
                    state.best = mean
                    if ranks.first:
                        card = _card(config, patients, state, dice)
                        save(config.out / "model", average, card)
            if (state.step % config.save_every == 0 or done >= 1) and ranks.first:
                state.hours = clock.hours
                state.save(config.out / LAST)


def _patients(config: TrainConfig, ranks: Ranks) -> Patients:
    """Those that train and those that choose the weights, as the split and the first weights say.

    Raises:
        ValueError: if configuration, cases and weights to start from do not go together.
        BadCheckpoint: if the weights to start from cannot be used.
    """
    dataset = Dataset.read(config.cases)
    first = None  # the card of the model to start from
    if config.start is not None:
        first = read_card(config.start)
        dataset = as_known_to(first, config.start, dataset)
    check_patch(config.patch, first.network if first else network_config(config, dataset))
    split = _split(config, dataset, first)
    training = [Case.read(config.cases / name) for name in split.training]
    if first is None:
        dataset = _drawn_in(training, dataset, ranks)
    mine = split.validation[ranks.rank :: ranks.count]
    validation = [Case.read(config.cases / name) for name in mine]
    if not any(ranks.gather(any(organs_in(case, dataset) for case in validation))):
        raise ValueError(
            "no validation patient has a voxel of any organ, so that no weights could be chosen: "
            "validation_patients must be more"
        )
    return Patients(
        dataset=dataset, split=split, first=first, training=training, validation=validation
    )


def _in_words(
    config: TrainConfig, patients: Patients, network: UNet, device: str, dtype: torch.dtype
) -> str:
    """What is about to be done, for whoever would have wanted something else."""
    split, organs = patients.split, patients.dataset.organs
    shape = " x ".join(map(str, config.patch))
    millions = sum(weight.numel() for weight in network.parameters()) / 1e6
    otherwise = f"; not the plan's: {', '.join(config.not_planned)}" if config.not_planned else ""
    return (
        f"{config.name}: {device} in {str(dtype).removeprefix('torch.')}; {len(split.training)} "
        f"patients train, {len(split.validation)} choose the weights, {len(split.test)} are held "
        f"out; {len(organs)} organs; {config.batch} patches of {shape} voxels a step; "
        f"{millions:.1f} million weights{otherwise}"
    )


def _split(config: TrainConfig, dataset: Dataset, first: Card | None) -> Split:
    """Who trains, validates and is held out; from the first weights that are kept it stays so.

    Raises:
        ValueError: if it would not, or if the weights to start from have seen who is held out.
    """
    split = split_of(config, dataset.cases)
    has_learned = (config.out / LAST).exists() or (config.out / "model").exists()
    if has_learned and Split.read(config.out) not in (None, split):
        raise ValueError(
            f"{config.out} was begun with other patients to train on or to hold out: seed, fold, "
            f"numbers of patients and the cases in {config.cases} must be as they were"
        )
    if same := twins(config.cases, dataset.cases):
        raise ValueError(same)
    if first is not None and split.test:
        if not first.seen:
            raise ValueError(
                f"the card of {config.start} does not say whom its weights have seen, so that "
                "nobody can be held out: test_patients must be 0"
            )
        if not ct_hashes(config.cases, split.test).isdisjoint(first.seen):
            raise ValueError(
                f"{config.start} was trained on patients who are to be held out now: seed, "
                "test_patients and cases must be those of its run"
            )
    return split


def _drawn_in(training: Sequence[Case], dataset: Dataset, ranks: Ranks) -> Dataset:
    """The data set with the organs alone of which a training patient has a voxel.

    Of another one the network would learn nothing, and find it anywhere.
    """
    drawn = set().union(*(organs_in(case, dataset) for case in training))
    missing = [name for name in dataset.organs if name not in drawn]
    if missing and ranks.first:
        print(f"no training patient has {', '.join(missing)}: not learned", file=sys.stderr)
    return replace(dataset, organs=tuple(name for name in dataset.organs if name in drawn))


def _card(config: TrainConfig, patients: Patients, state: State, dice: dict[str, float]) -> Card:
    """Of the averaged weights as they are now."""
    dataset, split, first = patients.dataset, patients.split, patients.first
    seen = ct_hashes(config.cases, (*split.training, *split.validation))
    elsewhere = {"name", "version", "description", "synthetic", "cases", "out", "start"}
    if first is not None:
        elsewhere |= vars(state.average.config).keys()  # the network is the first model's
    settings = {key: value for key, value in asdict(config).items() if key not in elsewhere}
    if first is not None:
        settings["started_from"] = f"{first.name} {first.version}"
        seen = seen | set(first.seen) if first.seen else set()  # all of them, or unknown
    return Card(
        name=config.name,
        version=config.version,
        description=config.description,
        synthetic=config.synthetic,
        organs=dataset.organs,
        network=state.average.config,
        preprocessing=dataset.preprocessing,
        tile=config.patch,
        overlap=OVERLAP,
        training=settings
        | {
            "patients": len(split.training),
            "steps_done": state.step,
            "hours": round(state.hours, 2),
            "validation_dice": {name: round(value, 4) for name, value in dice.items()},
        },
        seen=tuple(sorted(seen)),
        measured={},
    )


@command("training.train", stopped="the same command with --resume goes on")
def main(argv: Sequence[str] | None = None) -> int:
    parser = described_by(__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    args = parser.parse_args(argv)
    train(TrainConfig.read(args.config), device=args.device, resume=args.resume)
    return 0


if __name__ == "__main__":
    sys.exit(main())
