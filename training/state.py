"""The state of a run: all that it needs to go on as if it had never been stopped."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.unet import UNet
from model.whole_files import whole_files
from training.distributed import Ranks


@dataclass(kw_only=True)
class State:
    """What last.pt holds; network and optimisers are the ones that work."""

    network: UNet
    average: UNet
    optimisers: Sequence[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    step: int = 0
    best: float = -1.0  # the first Dice is the best, though it be 0
    hours: float = 0.0  # on the wall
    cpu_hours: float = 0.0  # of all processes

    def load(self, path: Path, device: str) -> None:
        """Go on from what `save` wrote."""
        saved = torch.load(path, weights_only=True, map_location=device)
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        for optimiser, values in zip(self.optimisers, saved["optimiser"], strict=True):
            optimiser.load_state_dict(values)
        if saved["scaler"]:  # empty unless fp16
            self.scaler.load_state_dict(saved["scaler"])
        self.step, self.best, self.hours = saved["step"], saved["best"], saved["hours"]
        self.cpu_hours = saved["cpu_hours"]

    def save(self, path: Path) -> None:
        """Write the state; a power cut at any moment leaves the old one or the new one, whole.

        Raises:
            OSError: it could not be written.
        """
        values: dict[str, Any] = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": [optimiser.state_dict() for optimiser in self.optimisers],
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best": self.best,
            "hours": self.hours,
            "cpu_hours": self.cpu_hours,
        }
        try:
            with whole_files(path) as (file,):
                torch.save(values, file)
        except RuntimeError as error:  # PyTorch's, when a write falls short
            raise OSError(f"{path} could not be written to its end: is the disk full?") from error


class Clock:
    """The hours of a run, over all its starts."""

    def __init__(self, state: State) -> None:
        self._hours, self._began = state.hours, time.monotonic()
        self._cpu_hours, self._cpu_began = state.cpu_hours, time.process_time()

    @property
    def hours(self) -> float:
        """On the wall."""
        return self._hours + (time.monotonic() - self._began) / 3600

    def cpu_hours(self, ranks: Ranks) -> float:
        """Of the processor, all processes and their threads together."""
        used = ranks.gather(time.process_time() - self._cpu_began)
        return self._cpu_hours + sum(used) / 3600
