"""The split of patients: who trains, who chooses the weights, and who is never seen."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.config import TrainConfig
from training.json_file import write_json

RECORD = "split.json"
"""In a run's folder: dealt again from other settings or more cases, the patients would mix."""

FOLDS = 5
"""Of the cross-validation, as in Lin and Zhang (Advances in Clinical Medicine 16(3), 2026)."""


class Split(NamedTuple):
    """Case names; nobody is in two of the three."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def write(self, out: Path) -> None:
        """Write it to the folder of the run that it is of."""
        write_json(out / RECORD, self._asdict())

    @classmethod
    def read(cls, out: Path) -> "Split | None":
        """The split of the run in a folder; None if there is no such run."""
        try:
            values = json.loads((out / RECORD).read_text())
        except FileNotFoundError:
            return None
        return cls(**{part: tuple(names) for part, names in values.items()})


def split_of(config: TrainConfig, cases: Sequence[str]) -> Split:
    """The split of a training run: one of the folds if it names one, else as many as it says.

    Raises:
        ValueError: if nobody is left to train on.
    """
    if config.fold is not None:
        return split_fold(cases, config.seed, test=config.test_patients, fold=config.fold)
    return split_cases(
        cases, config.seed, test=config.test_patients, validation=config.validation_patients
    )


def split_cases(cases: Sequence[str], seed: int, *, test: int, validation: int) -> Split:
    """Shuffle the patients by `seed` and deal them out.

    Raises:
        ValueError: if nobody is left to train on.
    """
    if test + validation >= len(cases):
        raise ValueError(
            f"test_patients = {test} and validation_patients = {validation} hold out all of "
            f"{len(cases)} patients: nobody is left to train on"
        )
    order = _shuffled(cases, seed)
    held = test + validation
    return Split(tuple(order[held:]), tuple(order[test:held]), tuple(order[:test]))


def split_fold(cases: Sequence[str], seed: int, *, test: int, fold: int) -> Split:
    """The same test patients in every fold; of the rest each validates in exactly one.

    Raises:
        ValueError: if a fold would have nobody, or there is no such fold.
    """
    if len(cases) - test < FOLDS:
        raise ValueError(f"{test} test patients of {len(cases)} leave too few for {FOLDS} folds")
    if not 0 <= fold < FOLDS:
        raise ValueError(f"folds are 0 to {FOLDS - 1}, got {fold}")
    order = _shuffled(cases, seed)
    rest = order[test:]
    validation = rest[fold::FOLDS]
    training = [name for name in rest if name not in validation]
    return Split(tuple(training), tuple(validation), tuple(order[:test]))


def _shuffled(cases: Sequence[str], seed: int) -> list[str]:
    """Whatever order the cases came in, the same order comes out."""
    return [str(name) for name in np.random.default_rng(seed).permutation(sorted(cases))]
