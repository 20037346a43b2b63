"""How well our results agree with what people drew, organ by organ, and what is kept of it.

An organ that people drew and our result lacks has Dice 0, no Hausdorff distance and its whole
outline left to draw. An organ that people did not draw says nothing: they may not have needed it.
"""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Annotated

import highdicom as hd
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from model.metrics import TOLERANCE_MM, added_path_length_mm, agreement
from model.organs import BY_NAME, Organ
from model.volumes import MM3_PER_ML
from plugin.jobs.job import Kind
from plugin.jobs.job_changes import digest
from plugin.jobs.job_table import Row, Utc, asked_for, make_tables


class QualityRow(Row):
    """One organ of one comparison as it is stored."""

    __tablename__ = "quality"

    id: Mapped[str] = mapped_column(primary_key=True)  # the same drawing, job and organ: the same
    study: Mapped[str] = mapped_column(index=True)
    series: Mapped[str]
    job: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    model: Mapped[str]
    model_version: Mapped[str]
    drawn: Mapped[str] = mapped_column(index=True)
    drawn_as: Mapped[str]
    drawn_at: Mapped[str]
    organ: Mapped[str]
    dice: Mapped[float]
    surface_dice: Mapped[float]
    hd95_mm: Mapped[float | None]
    added_path_length_mm: Mapped[float]
    volume_ml: Mapped[float]
    drawn_ml: Mapped[float]
    compared: Mapped[datetime] = mapped_column(Utc)


class OrganAgreement(BaseModel):
    """Of one organ in our result with the same organ as people drew it."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    organ: str
    dice: float
    surface_dice: Annotated[float, Field(description=f"at {TOLERANCE_MM:g} mm")]
    hd95_mm: Annotated[float | None, Field(description="null if our result lacks the organ")]
    added_path_length_mm: Annotated[float, Field(description="outline left to draw, all slices")]
    volume_ml: Annotated[float, Field(description="in our result")]
    drawn_ml: Annotated[float, Field(description="as people drew it")]


class ComparedPair(BaseModel):
    """What was compared with what."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    study: str
    series: Annotated[str, Field(description="Orthanc's identifier of the CT series")]
    job: Annotated[str, Field(description="that made our result")]
    kind: Kind
    model: str
    model_version: str
    drawn: Annotated[str, Field(description="Orthanc's identifier of what people drew")]
    drawn_as: Annotated[str, Field(description="RTSTRUCT or SEG")]
    drawn_at: Annotated[str, Field(description="YYYYMMDDHHMMSS, as the file says; or empty")]


class Comparison(ComparedPair, OrganAgreement):
    """One organ of one drawing."""

    compared: datetime


class Trend(BaseModel):
    """One organ of one model over time; of several drawings on one CT the latest counts."""

    model_config = ConfigDict(frozen=True)

    model: str
    model_version: str
    kind: Kind
    organ: str
    cases: int
    dice_median: float
    surface_dice_median: float
    hd95_mm_median: float | None
    added_path_length_mm_median: float
    points: Annotated[tuple[Comparison, ...], Field(description="the newest, oldest of them first")]


def agree(ours: hd.Volume, theirs: hd.Volume, organs: Iterable[Organ]) -> Iterator[OrganAgreement]:
    """Compare two label volumes on the grid of one CT, slices along the first axis.

    Args:
        ours: organ labels.
        theirs: organ labels, the reference.
        organs: those to compare; those that are in neither are passed over.
    """
    ml = theirs.voxel_volume / MM3_PER_ML
    for organ in organs:
        a, b = ours.array == organ.label, theirs.array == organ.label
        box = next(iter(ndimage.find_objects((a | b).astype(np.uint8))), None)
        if box is None:
            continue
        found = agreement(a[box], b[box], theirs.spacing)
        yield OrganAgreement(
            organ=organ.name,
            dice=round(found.dice, 4),
            surface_dice=round(found.surface_dice, 4),
            hd95_mm=round(found.hd95_mm, 2) if math.isfinite(found.hd95_mm) else None,
            added_path_length_mm=round(added_path_length_mm(a[box], b[box], theirs.spacing), 1),
            volume_ml=round(int(a[box].sum()) * ml, 3),
            drawn_ml=round(int(b[box].sum()) * ml, 3),
        )


class Quality:
    """All comparisons. Every method is one transaction and may be called from any thread."""

    def __init__(
        self, engine: Engine, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        make_tables(engine, QualityRow)
        self._engine = engine
        self._now = now

    def keep(self, drawing: ComparedPair, organs: Sequence[OrganAgreement]) -> None:
        """Keep a comparison; the same one made again replaces the first, whatever its organs."""
        first = delete(QualityRow).where(
            QualityRow.drawn == drawing.drawn, QualityRow.job == drawing.job
        )
        with Session(self._engine) as session, session.begin():
            session.execute(first)
            session.add_all(
                QualityRow(
                    id=digest(drawing.drawn, drawing.job, one.organ)[:32],
                    compared=self._now(),
                    **drawing.model_dump(),
                    **one.model_dump(),
                )
                for one in organs
            )

    def has(self, *, drawn: str, job: str) -> bool:
        """Whether this drawing was compared with the result of this job."""
        wanted = select(QualityRow.id).where(QualityRow.drawn == drawn, QualityRow.job == job)
        with Session(self._engine) as session:
            return session.scalar(wanted.limit(1)) is not None

    def find(
        self,
        *,
        study: str | None = None,
        model: str | None = None,
        organ: str | None = None,
        limit: int | None = None,
    ) -> list[Comparison]:
        """Comparisons, the newest first."""
        wanted = (
            select(QualityRow)
            .filter_by(**asked_for(study=study, model=model, organ=organ))
            .order_by(QualityRow.compared.desc(), QualityRow.id)
            .limit(limit)
        )
        with Session(self._engine) as session:
            rows = session.scalars(wanted).all()
        return [Comparison.model_validate(row) for row in rows]


def trends(comparisons: Iterable[Comparison], *, last: int = 100) -> list[Trend]:
    """By model and organ, in the order of the table, with so many of the newest points."""
    latest: dict[tuple[str, str, Kind, str], dict[str, Comparison]] = defaultdict(dict)
    for one in sorted(comparisons, key=lambda one: (one.drawn_at, one.compared)):
        latest[one.model, one.model_version, one.kind, one.organ][one.series] = one
    found = []
    order = sorted(
        latest, key=lambda one: (one[2], one[0], _numbers(one[1]), BY_NAME[one[3]].label)
    )
    for model, version, kind, organ in order:
        by_series = latest[model, version, kind, organ]
        points = sorted(by_series.values(), key=lambda one: one.compared)
        distances_mm = [one.hd95_mm for one in points if one.hd95_mm is not None]
        found.append(
            Trend(
                model=model,
                model_version=version,
                kind=kind,
                organ=organ,
                cases=len(points),
                dice_median=median(one.dice for one in points),
                surface_dice_median=median(one.surface_dice for one in points),
                hd95_mm_median=median(distances_mm) if distances_mm else None,
                added_path_length_mm_median=median(one.added_path_length_mm for one in points),
                points=tuple(points[-last:]),
            )
        )
    return found


def _numbers(version: str) -> list[str | int]:
    """A version to sort by: 0.9.0 is before 0.10.0."""
    parts = re.split(r"([0-9]+)", version)  # texts and numbers take turns
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def as_csv(comparisons: Iterable[Comparison]) -> str:
    """A line for each organ of each comparison, under a line of names."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(Comparison.model_fields))
    writer.writeheader()
    writer.writerows(one.model_dump(mode="json") for one in comparisons)
    return table.getvalue()
