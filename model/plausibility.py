"""What a person should look at first: organs that are unlike what organs usually are."""

from dataclasses import dataclass

from model.organs import Organ


@dataclass(frozen=True)
class Doubt:
    """Something about one organ that may be right, but seldom is."""

    organ: Organ
    sentence: str
