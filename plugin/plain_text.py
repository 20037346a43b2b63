"""Text for people: what a stranger wrote, as one line that looks like what it says; numbers."""

import re
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 1000
"""Characters kept: an exception of a numerical library, or a header's value, can be pages long."""

DISGUISED = re.compile(
    r"[\x00-\x1f\x7f-\x9f"  # a line's end, or what a terminal obeys
    r"\u2028\u2029"  # also line ends
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # show what follows in another order
    r"\ufeff\ud800-\udfff]"  # no text at all; halves of characters fit into no file
)
"""Characters that make a text look like another, or like several."""


def plain(text: str) -> str:
    r"""The text with such characters written out, as \x1b, and its end cut off if it is long."""
    return DISGUISED.sub(lambda found: ascii(found[0])[1:-1], text)[:LONGEST]


PlainText = Annotated[str, AfterValidator(plain)]
"""Of a field that people read, and that may quote a header or an address."""


def counted(number: int, noun: str) -> str:
    """Such as "1 slice" or "20 slices"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
