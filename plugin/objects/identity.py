"""Who made a result and of what; from it come the UIDs that this result always gets."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from model.checkpoint import Card

MANUFACTURER = "orthanc-oar"

RESEARCH_USE_ONLY = "Research use only"
"""Stands in every object that we write."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The weights that made a result."""

    name: str
    version: str
    weights_sha256: str  # hex digest
    synthetic: bool = False  # learned from no patient

    @classmethod
    def of(cls, card: Card) -> "Model":
        """The model that a card describes."""
        return cls(
            name=card.name,
            version=card.version,
            weights_sha256=card.weights_sha256,
            synthetic=card.synthetic,
        )

    def __str__(self) -> str:
        """What tells it from others, for hashing."""
        return f"{self.name} {self.version} {self.weights_sha256}"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Of one run over one CT: every object that comes of it shares it."""

    model: Model
    series: str  # the archive's identifier of the CT
    slices: tuple[str, ...]  # SOP Instance UIDs of the CT, in any order
    run: str = ""  # empty, or what tells a forced run from the others of the same slices
    shadow: bool = False  # of a model on trial: kept apart from all other results, and never used
    files_blake3: str = ""  # of the CT's files, as `Provenance` has it; UIDs do not depend on it
    created: datetime  # local time, for content and creation dates

    def uid(self, kind: str) -> str:
        """The UID of what `kind` names, as `result_uid`."""
        run = f"shadow {self.run}" if self.shadow else self.run
        return result_uid(self.slices, series=self.series, model=self.model, kind=kind, run=run)


def result_uid(
    slices: Sequence[str], *, series: str, model: Model, kind: str, run: str = ""
) -> str:
    """The UID that this model's result for exactly these slices always gets.

    Running twice is then harmless, and asking the archive for the UID tells whether the work is
    already done. A late slice changes it, as it should.

    Args:
        slices: SOP Instance UIDs of the source, in any order.
        series: the archive's identifier of it, which in Orthanc follows from the patient too: the
            same images under a corrected patient's ID are another patient's.
        model: that made it.
        kind: what the UID is for: "SEG BINARY instance", "RTSTRUCT series".
        run: set by a forced run, which is a new result.
    """
    name = "\n".join([MANUFACTURER, series, str(model), kind, run, *sorted(set(map(str, slices)))])
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"
