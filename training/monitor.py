"""What a person sees of a run while it trains: the progress, the time left, TensorBoard's log."""

import math
import sys
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch.utils.tensorboard import SummaryWriter

from training.config import TrainConfig
from training.distributed import Ranks


class Monitor:
    """Of the process that writes; that of any other process is silent."""

    def __init__(self, config: TrainConfig, step: int, ranks: Ranks) -> None:
        self._steps = config.steps
        # The printed lines are for a log file too: neither wrapped nor coloured in one.
        console = Console(quiet=not ranks.first, soft_wrap=True, highlight=False)
        self._bar = Progress(
            TextColumn(f"{config.name}: {{task.description}}"),
            BarColumn(),
            TextColumn("{task.percentage:.1f} %, {task.fields[left]}"),
            console=console,
            disable=not (ranks.first and sys.stdout.isatty()),
        )
        self._task = self._bar.add_task("", total=1.0, left="")
        self._log = SummaryWriter(str(config.out / "log"), purge_step=step) if ranks.first else None
        self._first: tuple[float, float] | None = None  # done and hours at the first step

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._log is not None:
            self._log.close()

    def step(self, step: int, *, loss: float, rate: float, done: float, hours: float) -> None:
        """A step is over, with which a fraction of the run is done."""
        if self._log is not None:
            self._log.add_scalar("loss", loss, step - 1)
            self._log.add_scalar("learning_rate", rate, step - 1)
        left = self._left(done, hours)
        description = f"step {step} of {self._steps}, loss {loss:.3f}"
        self._bar.update(self._task, completed=done, description=description, left=left)

    def dice(
        self, step: int, dice: dict[str, float], mean: float, *, done: float, hours: float
    ) -> None:
        """The validation patients were segmented."""
        if self._log is not None:
            for name, value in dice.items():
                self._log.add_scalar(f"dice/{name}", value, step - 1)
            self._log.add_scalar("dice/mean", mean, step - 1)
        numbers = " ".join(f"{name} {value:.3f}" for name, value in dice.items())
        self._bar.console.print(
            f"step {step}: {hours:.2f} h, {self._left(done, hours)}, Dice {mean:.4f}: {numbers}"
        )

    def _left(self, done: float, hours: float) -> str:
        """How long it will take, if the rest goes as fast as since this process began."""
        if self._first is None:
            self._first = done, hours
        was_done, was_hours = self._first
        if done >= 1:
            return "finished"
        if done <= was_done:
            return "time left unknown"
        minutes = math.ceil(60 * (hours - was_hours) / (done - was_done) * (1 - done))
        return f"{minutes // 60} h {minutes % 60:02d} min left"
