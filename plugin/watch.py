"""The line between a job and whoever watches it: progress out, the wish to stop in."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from model.segmenter import Cancelled

PROGRESS_AT_END = {"reading": 0.05, "segmenting": 0.95, "writing": 0.98, "storing": 1.0}
"""How much of the whole job is done at the end of each stage; a network takes nearly all."""


@dataclass(kw_only=True)
class Watch:
    """What a job tells, and whom it asks."""

    report: Callable[[str, float], None] = lambda stage, progress: None  # progress of all, 0 to 1
    cancelled: Callable[[], bool] = lambda: False
    ours: Callable[[], bool] = lambda: True  # False if the job is, or may be, another worker's
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, filled as the job runs

    @property
    def total_s(self) -> float:
        """Seconds of the stages so far."""
        return sum(self.seconds.get(stage, 0.0) for stage in PROGRESS_AT_END)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time one stage and give its own progress, 0 to 1, its share of the whole."""
        if self.cancelled():
            raise Cancelled
        first = max((v for v in PROGRESS_AT_END.values() if v < PROGRESS_AT_END[name]), default=0.0)
        share = PROGRESS_AT_END[name] - first
        self.report(name, first)
        begun = time.perf_counter()
        try:
            yield lambda progress: self.report(name, first + share * progress)
        finally:
            self.seconds[name] = round(time.perf_counter() - begun, 3)
