"""What pydantic found wrong with a file or a request, as people read it."""

from pydantic import ValidationError

PLAINER = {
    **dict.fromkeys(("extra_forbidden", "unexpected_keyword_argument"), "there is no such key"),
    **dict.fromkeys(("model_type", "dataclass_type"), "Input should be a valid dictionary"),
    "tuple_type": "Input should be a valid list",  # as JSON and TOML have it
}
"""Sentences of pydantic's that are not for people, by their type."""

OUR_OWN = "Value error, "
"""What pydantic writes before sentences of ours, which need no introduction."""

MISSING = frozenset(("missing", "missing_argument", "missing_keyword_only_argument"))
"""Types of what was not given."""


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
        said = PLAINER.get(each["type"], each["msg"].removeprefix(OUR_OWN))
        fault = f"{place}: {said}" if place else said
        # What is missing was not given: pydantic's input is then all that stands around it.
        given = quoted and each["loc"] and each["type"] not in MISSING
        faults.append(f"{fault}, got {each['input']!r}" if given else fault)
    return "; ".join(faults)
