"""The split of patients: who trains, who chooses the weights, and who is never seen."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Case names; nobody is in two of the three."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split_cases(cases: Sequence[str], seed: int, *, test: int, validation: int) -> Split:
    """Shuffle the patients by `seed` and deal them out.

    Raises:
        ValueError: if nobody is left to train on.
    """
    if test + validation >= len(cases):
        raise ValueError(f"{test} + {validation} patients held out of {len(cases)} leaves none")
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(cases))]
    held = test + validation
    return Split(tuple(order[held:]), tuple(order[test:held]), tuple(order[:test]))
