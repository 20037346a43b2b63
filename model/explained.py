"""What pydantic found wrong with a file or a request, as people read it."""

from pydantic import ValidationError

PLAINER = dict.fromkeys(("extra_forbidden", "unexpected_keyword_argument"), "there is no such key")
"""Sentences of pydantic's that are not for people, by their type."""


def explained(error: ValidationError, *within: str, quoted: bool = False) -> str:
    """What is wrong with which value, in one line.

    Args:
        error: of pydantic.
        within: names that lead to what was validated.
        quoted: say what was given; not where that may be a password or a patient's name.
    """
    faults = []
    for each in error.errors():
        place = ".".join([*within, *map(str, each["loc"])])
        # Without a place it is a rule about several values, whose sentence says which.
        said = PLAINER.get(each["type"], each["msg"])
        fault = f"{place}: {said}" if place else said
        faults.append(f"{fault}, got {each['input']!r}" if quoted and each["loc"] else fault)
    return "; ".join(faults)
