"""The routes of /oar/quality: how our results agreed with what people drew."""

from typing import Annotated

from pydantic import Field, RootModel

from plugin.drawn.quality import Comparison, Quality, Trend, as_csv, trends
from plugin.web.router import Identifier, Message, Name, Route

MOST = 50_000
"""Comparisons that count for the trends, the newest ones: some two thousand CTs of 22 organs."""


class WhichQuery(Message):
    """Which comparisons count."""

    study: Identifier | None = None
    model: Name | None = None
    organ: Name | None = None


class QualityQuery(WhichQuery):
    """Which comparisons to list."""

    limit: Annotated[int, Field(ge=1, le=10_000, description="The newest ones.")] = 1000


class TrendQuery(WhichQuery):
    """Which comparisons count, and how many are shown."""

    last: Annotated[int, Field(ge=1, le=1000, description="Points of each trend.")] = 100


class ComparisonList(Message):
    """One entry for each organ of each drawing, the newest first."""

    comparisons: tuple[Comparison, ...]


class TrendList(Message):
    """One entry for each organ of each model."""

    trends: tuple[Trend, ...]


class Csv(RootModel[str]):
    """A table with a line of names."""


class QualityRoutes:
    """Answers for the comparisons."""

    def __init__(self, quality: Quality) -> None:
        self._quality = quality
        self.routes = (
            Route(
                "GET",
                "/oar/quality",
                "List how results agreed with what people drew",
                self.comparisons,
            ),
            Route(
                "GET", "/oar/quality/trend", "The same by model and organ, over time", self.trend
            ),
            Route(
                "GET",
                "/oar/quality.csv",
                "All of it as a table",
                self.table,
                content_type="text/csv",
            ),
        )

    def comparisons(self, query: QualityQuery) -> ComparisonList:
        return ComparisonList(comparisons=tuple(self._quality.find(**query.model_dump())))

    def trend(self, query: TrendQuery) -> TrendList:
        which = query.model_dump(exclude={"last"})
        found = self._quality.find(**which, limit=MOST)
        return TrendList(trends=tuple(trends(found, last=query.last)))

    def table(self, query: WhichQuery) -> Csv:
        return Csv(as_csv(self._quality.find(**query.model_dump())))
