"""Why each series of a study is segmented or not, and by which model, for a person who asks."""

from functools import cache, partial
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from plugin.by_itself import ByItself
from plugin.ct.explain import explain_series
from plugin.ct.series_rules import SeriesRules
from plugin.jobs.job import Job
from plugin.jobs.jobs import Jobs
from plugin.model_rules import ModelRules
from plugin.orthanc_archive import OrthancArchive
from plugin.plain_text import PlainText


class SeriesExplanation(BaseModel):
    """One series, the rules' judgement of it, and what became of it."""

    model_config = ConfigDict(frozen=True)

    series: str
    modality: PlainText
    chosen: bool
    reason: PlainText
    by_itself: Annotated[bool, Field(description="segmented though nobody asks, if it is chosen")]
    by_itself_reason: Annotated[str, Field(description="why; or empty, if it is not chosen")]
    model: Annotated[str, Field(description="that would be taken, or empty if none would")]
    shadow_model: Annotated[str, Field(description="that would run after it; or empty")]
    model_reason: Annotated[str, Field(description="why this model; or empty")]
    job: Job | None  # the latest


class StudyExplanation(BaseModel):
    """Every series of a study."""

    model_config = ConfigDict(frozen=True)

    study: str
    series: tuple[SeriesExplanation, ...]


def explain_study(
    study: str,
    *,
    archive: OrthancArchive,
    jobs: Jobs,
    rules: SeriesRules,
    by_itself: ByItself,
    model_rules: ModelRules,
) -> StudyExplanation:
    """Judge every series of a study by its headers, now."""
    explained = []
    for series in archive.series_of_study(study):
        judgement = explain_series(series, archive=archive, rules=rules)
        choice, wanted, why = None, False, ""
        if judgement.chosen:
            facts = cache(partial(archive.facts, series))
            choice = model_rules.choose(facts)
            wanted, why = by_itself.judge(facts)
        explained.append(
            SeriesExplanation(
                series=series.id,
                modality=series.modality,
                chosen=judgement.chosen,
                reason=judgement.reason,
                by_itself=wanted,
                by_itself_reason=why,
                model=choice.model if choice else "",
                shadow_model=choice.shadow_model if choice else "",
                model_reason=choice.reason if choice else "",
                job=next(iter(jobs.find(series=series.id, kind="segment", limit=1)), None),
            )
        )
    return StudyExplanation(study=study, series=tuple(explained))
