"""A contest: ours and its peers do the same work in turns, and the ratio of each turn is kept."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from tests.phantoms import Phantom, make_phantom

OURS = "ours"

HELD = 2**30
"""Bytes that are touched before each turn."""

Clock = Literal["wall", "cpu"]
"""Seconds by the clock, or of all cores' work, which other programs on the machine disturb less."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all benchmarks have in common."""

    repeats: int
    clock: Clock  # where both can be taken
    slices: int
    size: int  # rows and columns
    model: Path  # folder
    folder: Path  # for files, emptied by whoever made it

    def phantom(self, *, in_plane_mm: float = 1.0) -> Phantom:
        """A patient that no weights were trained on, slices 3 mm apart."""
        return make_phantom(
            spacing_mm=(3.0, in_plane_mm, in_plane_mm),
            shape=(self.slices, self.size, self.size),
            seed=7,
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; the less of the unit the better."""

    what: str
    unit: str  # "s", "GiB" or "%"
    ours: Sequence[float]  # a figure a repeat
    peer: str = ""  # empty: `target` is how much of the unit it may be
    theirs: Sequence[float] = ()
    target: float | None = None  # with a peer: how many times better
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """What | against | ours | theirs | times better | to reach | reached."""
        if not self.peer:
            median = float(np.median(self.ours))
            reach = "" if self.target is None else f"< {self.target:g} {self.unit}"
            reached = "" if self.target is None else yes(median < self.target)
            return (self.what, "", spread(self.ours, self.unit), "", "", reach, reached)
        ratios = np.divide(self.theirs, self.ours)
        return (
            self.what,
            self.peer,
            spread(self.ours, self.unit),
            spread(self.theirs, self.unit),
            spread(ratios, "x"),
            "" if self.target is None else f"{self.target:g} x",
            "" if self.target is None else yes(float(np.median(ratios)) >= self.target),
        )


def yes(reached: bool) -> str:
    """A missed target is to be seen."""
    return "yes" if reached else "**no**"


def spread(values: Sequence[float] | np.ndarray, unit: str) -> str:
    """Median, lowest and highest."""
    figures = [f"{value:.3g}" for value in (np.median(values), np.min(values), np.max(values))]
    return f"{figures[0]} {unit} ({figures[1]} to {figures[2]})"


def markdown(rows: Sequence[Row]) -> str:
    """The table, and under it what has to be said of its lines."""
    head = ("what", "against", "ours", "theirs", "times better", "to reach", "reached")
    lines = [" | ".join(cells) for cells in (head, ("---",) * len(head), *map(Row.cells, rows))]
    notes = dict.fromkeys(f"- {row.what}: {row.note}" for row in rows if row.note)
    return "\n".join([*(f"| {line} |" for line in lines), "", *notes])


def cpu_seconds() -> float:
    """Of this process and of its children, dead or alive."""
    me = psutil.Process()
    return sum(sum(each.cpu_times()[:4]) for each in (me, *me.children(recursive=True)))


def touch_memory() -> None:
    """Have the system hold memory for whoever works next.

    A virtual machine may hand what is freed back to its host, and the first touch of 157 MB then
    takes 0.4 s where it otherwise takes 0.02: it would be the host that is measured.
    """
    np.empty(HELD, np.uint8).fill(0)


def in_turns(
    contestants: Mapping[str, Callable[[], float | None]], repeats: int, clock: Clock = "wall"
) -> dict[str, list[float]]:
    """Figures of each contestant; they take turns, so that what disturbs one disturbs all.

    Args:
        contestants: each does the work once; returns its figure, or None to have its seconds taken.
        repeats: turns that count. One before them does not: it loads what is loaded once.
        clock: what seconds are taken.
    """
    now = time.perf_counter if clock == "wall" else cpu_seconds
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, work in contestants.items():
            touch_memory()
            begun = now()
            figure = work()
            seconds = now() - begun
            if turn > 0:
                figures[name].append(seconds if figure is None else figure)
    return figures


def against(
    figures: Mapping[str, Sequence[float]],
    targets: Mapping[str, float | None],
    *,
    what: str,
    unit: str = "s",
    note: str = "",
) -> list[Row]:
    """A row for each peer."""
    return [
        Row(
            what=what,
            unit=unit,
            ours=figures[OURS],
            peer=peer,
            theirs=figures[peer],
            target=target,
            note=note,
        )
        for peer, target in targets.items()
    ]
