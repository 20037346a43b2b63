"""What becomes of accepted studies, and how Orthanc answers meanwhile."""

import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset

LISTEN_EVERY_S = 0.05


class Listener:
    """Asks Orthanc for /system again and again, except while it is down on purpose."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._asks = threading.Lock()  # held while an answer is awaited, and while it is down
        self._over = threading.Event()
        self.seconds: list[float] = []  # of every answer; infinite if there was none
        self.is_down = True
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def set_down(self, down: bool) -> None:
        """Say that Orthanc is stopped, or answers again."""
        with self._asks:
            self.is_down = down

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._over.wait(LISTEN_EVERY_S):
            with self._asks:
                if self.is_down:
                    continue
                begun = time.perf_counter()
                try:
                    with urllib.request.urlopen(f"{self._url}/system", timeout=60) as answer:
                        answer.read()
                    self.seconds.append(time.perf_counter() - begun)
                except OSError:
                    self.seconds.append(float("inf"))


@dataclass(eq=False)
class Patient:
    """One accepted study."""

    slices: list[Dataset]
    results: int = 1  # that it should have
    deleted: bool = False  # by a person

    @property
    def study_uid(self) -> str:
        return str(self.slices[0].StudyInstanceUID)


@dataclass
class Tally:
    """What became of all accepted studies of one fault."""

    repeats: int = 0
    accepted: int = 0
    results: int = 0  # studies with just the valid results that they should have
    reasons: int = 0  # studies without, whose jobs say why
    lost: list[str] = field(default_factory=list)  # what is wrong with each of the others
    twice: int = 0  # studies with more results than they should have
    system_s: list[float] = field(default_factory=list)  # of each answer to GET /system
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def worst_s(self) -> float:
        return max(self.system_s, default=float("inf"))

    @property
    def survived(self) -> bool:
        return (
            not self.lost
            and not self.twice
            and self.results + self.reasons == self.accepted > 0
            and self.worst_s < float("inf")
        )


def percentile(seconds: Sequence[float], share: float) -> float:
    return float(np.quantile(seconds, share, method="higher"))
