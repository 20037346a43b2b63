"""Numbers of command lines that no reckoning would refuse by itself."""

import argparse
from math import inf, isfinite


def finite(text: str) -> float:
    """A number that is one: nothing equals NaN, and nobody would notice."""
    if not isfinite(number := float(text)):
        raise argparse.ArgumentTypeError(f"expected a number, got {text}")
    return number


def above_zero(text: str) -> float:
    """An amount."""
    if not 0 < (number := float(text)) < inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number
