"""What a rule may ask of a CT series: where it was sent, and what its headers call it."""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from plugin.configuration import Section


@dataclass(frozen=True, kw_only=True)
class SeriesFacts:
    """A series as rules see it; each value is empty where the archive does not know it.

    Descriptions are typed by hand and may say anything: they are compared, never kept or logged.
    """

    called_aet: str = ""  # which of our AE titles the sender asked for
    sender_aet: str = ""  # of whoever sent it by C-STORE
    sender_ip: str = ""
    study_description: str = ""
    series_description: str = ""
    body_part: str = ""


def _is_an_expression(expression: str) -> str:
    try:
        re.compile(expression)
    except re.error as fault:
        raise ValueError(f"{expression!r} is not a regular expression: {fault}") from fault
    return expression


Expression = Annotated[str, AfterValidator(_is_an_expression)]
"""A Python regular expression, found anywhere in the value and blind to case; empty: no rule."""


class Condition(Section):
    """Holds if every expression that is given is found in its value."""

    called_aet: Expression = ""
    """The AE title of ours that the sender asked for."""

    sender_aet: Expression = ""
    """The sender's own AE title."""

    study_description: Expression = ""
    """StudyDescription."""

    series_description: Expression = ""
    """SeriesDescription."""

    body_part: Expression = ""
    """BodyPartExamined."""

    def holds(self, facts: SeriesFacts) -> bool:
        """Whether a series fits. Without any expression every series does."""
        return all(
            re.search(expression, getattr(facts, name), re.IGNORECASE)
            for name in Condition.model_fields
            if (expression := getattr(self, name))
        )

    def asks_for(self) -> str:
        """The keys of the expressions that are given, for a sentence; never their values."""
        keys = [
            str(field.alias)
            for name, field in Condition.model_fields.items()
            if getattr(self, name)
        ]
        return " and ".join(keys) or "every series"
