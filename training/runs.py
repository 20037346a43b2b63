"""Training runs that belong to a study: begun, gone on with or left alone, whichever is due."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.asked import RECORD as ASKED
from training.asked import check_goes_on
from training.config import TrainConfig
from training.json_file import write_json
from training.train import train

RECORD = "run.json"
"""In the folder of a run that is finished: how it went."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    model: Path  # ready for the segmenter
    steps: int
    hours: float  # of wall time, validation included
    seconds_per_step: float  # median


def finish(config: TrainConfig, *, device: str) -> Run:
    """Train to the end, from wherever an earlier call was stopped.

    Raises:
        ValueError: if the folder holds a run of other settings or of other patients.
    """
    if (config.out / ASKED).exists():
        check_goes_on(config, free=frozenset())
    record = config.out / RECORD
    if record.exists():
        return Run(model=config.out / "model", **json.loads(record.read_text()))
    train(config, device=device, resume=True)
    last = torch.load(config.out / "last.pt", weights_only=True, map_location="cpu")
    went = {
        "steps": last["step"],
        "hours": last["hours"],
        "seconds_per_step": seconds_per_step(config.out / "log"),
    }
    write_json(record, went)
    return Run(model=config.out / "model", **went)


def seconds_per_step(log: Path) -> float:
    """Median wall time of a training step, from the times of the loss in TensorBoard's log.

    Validation and pauses fall between two steps as well, but are few; NaN with a single step.
    """
    events = EventAccumulator(str(log), size_guidance={"scalars": 0})
    events.Reload()
    losses = events.Scalars("loss")
    took = [
        (after.wall_time - before.wall_time) / (after.step - before.step)
        for before, after in pairwise(losses)
        if after.step > before.step
    ]
    return float(np.median(took)) if took else float("nan")
