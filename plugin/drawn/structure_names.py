"""What people call the organs: from the name of a drawn structure to the table of organs.

The names stand in structure_names.toml, which says how they are compared, and in a file of the
user's. A name is known or it is not: nothing is guessed from a part of it.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.explained import explained
from model.organs import BY_NAME, ORGANS, Organ

SHIPPED = Path(__file__).with_name("structure_names.toml")

HALVED = frozenset({"mandible"})
"""Pairs that are one piece and mostly drawn as one; a name without a side is both."""

SEPARATORS = re.compile(r"[\s_\-.,:;()\[\]/'\"]+")

PLAIN = str.maketrans({"ł": "l", "ø": "o", "œ": "oe", "æ": "ae", "đ": "d", "\u0131": "i"})
"""Letters that Unicode does not compose of a plain one and an accent; the last is Turkish."""


class BadNames(ValueError):
    """A file of names cannot be used; the message says why."""


class _Sides(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    left: list[str] = Field(default_factory=list)
    right: list[str] = Field(default_factory=list)


class _Ignored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    names: list[str] = Field(default_factory=list)


class _File(BaseModel):
    """What a TOML file of names holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: dict[str, list[str]] = Field(default_factory=dict)
    sides: _Sides = Field(default_factory=_Sides)
    ignored: _Ignored = Field(default_factory=_Ignored)

    @classmethod
    def read(cls, path: Path) -> "_File":
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise BadNames(f"{path} cannot be read: {error.strerror}.") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadNames(f"{path} is not TOML: {error}.") from error
        except ValidationError as error:
            raise BadNames(f"{path}: {explained(error)}.") from error


class StructureNames:
    """Every known name and the organs that it means."""

    def __init__(self, organs_of: Mapping[str, tuple[Organ, ...]]) -> None:
        self._organs_of = organs_of  # by comparable name

    @classmethod
    def read(cls, own: Path | None = None) -> "StructureNames":
        """The shipped names, and those of a file of the user's, which go before them.

        Raises:
            BadNames: the file is wrong, or one name in it means two organs.
        """
        files = {SHIPPED: _File.read(SHIPPED)}
        if own is not None:
            files[own] = _File.read(own)
        sides = {
            "left": {comparable(word) for f in files.values() for word in f.sides.left},
            "right": {comparable(word) for f in files.values() for word in f.sides.right},
        }
        table: dict[str, tuple[Organ, ...]] = {}
        for path, file in files.items():
            table |= _table(path, file, sides)
        return cls(table)

    def organs(self, name: str) -> tuple[Organ, ...]:
        """The organ of this name; both halves for one that is drawn whole; none if unknown."""
        return self._organs_of.get(comparable(name), ())


def comparable(name: str) -> str:
    """A name without case, accents and separators."""
    decomposed = unicodedata.normalize("NFKD", SEPARATORS.sub("", name).casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c)).translate(PLAIN)


def _table(path: Path, file: _File, sides: dict[str, set[str]]) -> dict[str, tuple[Organ, ...]]:
    table: dict[str, tuple[Organ, ...]] = {}
    for entry, names in file.names.items():
        for name in names:
            for key, organs in _spellings(path, entry, name, sides):
                if table.setdefault(key, organs) != organs:
                    both = " and ".join(organ.name for organ in (*table[key], *organs))
                    raise BadNames(f"{path}: {name!r} means {both}.")
    return table | {comparable(name): () for name in file.ignored.names}


def _spellings(
    path: Path, entry: str, name: str, sides: dict[str, set[str]]
) -> Iterator[tuple[str, tuple[Organ, ...]]]:
    """Every comparable name that one name of an entry stands for."""
    if (organ := BY_NAME.get(entry)) is not None:
        yield comparable(name), (organ,)
        return
    pair = tuple(o for o in ORGANS if o.side is not None and o.name == f"{entry}_{o.side}")
    if not pair:
        known = sorted({organ.name for organ in ORGANS})
        raise BadNames(
            f"{path}: {entry!r} is no organ; the organs are {', '.join(known)}, those of a pair "
            "also without their side."
        )
    if entry in HALVED:
        yield comparable(name), pair
    words = [comparable(word) for word in SEPARATORS.split(name) if word]
    for organ in pair:
        for side in sides[str(organ.side)]:
            for place in range(len(words) + 1):
                yield "".join([*words[:place], side, *words[place:]]), (organ,)
