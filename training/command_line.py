"""What the command lines of training have in common: how they end, and what is a number."""

import argparse
import sys
from collections.abc import Callable
from functools import wraps
from math import inf, isfinite
from typing import ParamSpec

from model.unusable import Unusable

P = ParamSpec("P")


def command(name: str, *, stopped: str) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """A `main` that ends with a sentence, and not with a traceback, where no code is to blame.

    Its exit status is 1 then, and 130, as shells have it, if somebody has stopped it.

    Args:
        name: of the command, which begins each sentence.
        stopped: what to know when it was stopped.
    """

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @wraps(main)
        def ended(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except (Unusable, ValueError, OSError) as why:
                print(f"{name}: {why}", file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                print(f"{name}: stopped; {stopped}", file=sys.stderr)
                return 130

        return ended

    return decorate


def described_by(docstring: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring, line by line as it stands there."""
    return argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )


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
