"""How a study becomes jobs: one for each of its CT series, whoever asks."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from plugin.archive import ArchiveError, Series, UnknownResource
from plugin.by_itself import ByItself
from plugin.catalogue import Catalogue
from plugin.drawn.structure_sets import MODALITIES
from plugin.jobs.job import AskedBy, Job
from plugin.jobs.jobs import Jobs, source_of
from plugin.model_rules import ModelRules
from plugin.objects.identity import Model
from plugin.orthanc_archive import OrthancArchive
from plugin.slice_files import SliceFiles

log = logging.getLogger(__name__)

PAGE = 50
"""Studies asked of Orthanc at a time: a long answer would hold every Python thread."""


class Intake:
    """Turns studies and series into jobs of the queue."""

    def __init__(
        self,
        *,
        archive: OrthancArchive,
        jobs: Jobs,
        catalogue: Catalogue,
        rules: ModelRules,
        by_itself: ByItself,
        corrections: bool,
        result: str,
    ) -> None:
        """
        Args:
            archive: holds the studies.
            jobs: the queue.
            catalogue: the models that can be asked for.
            rules: which of them a series gets.
            by_itself: which series of a stable study get a job though nobody asks.
            corrections: whether what people drew is compared by itself.
            result: all that a result consists of, in words.
        """
        self._archive = archive
        self._jobs = jobs
        self._catalogue = catalogue
        self._by_itself = by_itself
        self._corrections = corrections
        self._rules = rules
        self._result = result
        self._put_off: set[str] = set()  # identifiers of studies

    def take(self, study: str, *, asked_by: AskedBy) -> list[Job]:
        """The new jobs of a study that is complete, as far as the settings want any by themselves.

        Our own result makes its study stable again, and then there is nothing new here.
        """
        return [
            *self.take_study(study, asked_by=asked_by),
            *(self.take_corrections(study, asked_by=asked_by) if self._corrections else ()),
        ]

    def take_study(self, study: str, *, asked_by: AskedBy) -> list[Job]:
        """A job for each CT series that nobody has to ask for, if it never had one or came again.

        What has been done or tried stays as it is otherwise: a new model does not begin to redo old
        studies, and a result that a person removed stays away.
        """
        made = []
        for series in self._archive.series_of_study(study):
            if series.modality != "CT" or not self._is_wanted(series):
                continue
            before = self._before(series)
            newest = _newest(before)
            if before and not _came_again(series, newest or before[0]):
                continue
            run = self._run_of(series, newest)
            if newest and run == newest.run and not self._result_is_gone(newest):
                # The same files once more: they need not be read again.
                self._jobs.came_again(newest.id, received=series.received)
                continue
            job = self._add(series, run=run, asked_by=asked_by)
            if all(job.id != one.id for one in before):
                made.append(job)
            elif job.state != "done" or self._result_is_gone(job):
                # It is again as it was for an earlier job, or was deleted with its result.
                made.append(self._jobs.redo(job.id))
        return made

    def take_corrections(self, study: str, *, asked_by: AskedBy) -> list[Job]:
        """A job for each RTSTRUCT or SEG of other people, to compare it with all our results.

        A result that comes later makes the study stable again, and then a job for it as well. Which
        results are ours is known when no job of the study is under way: see `take_put_off`.
        """
        jobs = self._jobs.find(study=study)
        if any(map(_is_under_way, jobs)):
            self._put_off.add(study)
            return []
        ours = {result.orthanc_id for job in jobs if job.state == "done" for result in job.results}
        if not ours:
            return []
        return [
            self._jobs.add(
                kind="compare",
                study=study,
                series=series.id,
                instances=series.instances,
                model="",
                identity=" ".join(["compare", *sorted(ours)]),
                asked_by=asked_by,
                received=series.received,
                run=self._run_of_drawing(series),
            )
            for series in self._archive.series_of_study(study)
            if series.modality in MODALITIES and not ours.issuperset(series.instances)
        ]

    def take_put_off(self) -> None:
        """Take the corrections that could not be taken while a job of their study was under way."""
        for study in self._put_off.copy():
            self._put_off.remove(study)
            try:
                self.take_corrections(study, asked_by="stable study")
            except UnknownResource:
                log.info("study %s was deleted meanwhile", study)
            except (ArchiveError, SQLAlchemyError):
                self._put_off.add(study)
                raise

    def request(
        self, series: Series, *, force: bool = False, model: str | None = None, user: str = ""
    ) -> Job:
        """The job that a person asks for: a new one, or an old one tried again if it has no result.

        Raises:
            UnknownModel: there is no such model.
            ArchiveError: the archive did not say whether it holds the result.
        """
        run = "" if force else self._run_of(series, _newest(self._before(series)))
        job = self._add(series, run=run, asked_by="rest", force=force, model=model, user=user)
        if job.state in ("failed", "cancelled", "skipped") or self._result_is_gone(job):
            return self._jobs.redo(job.id, user=user)
        return job

    def catch_up(self, days: int) -> None:
        """Take the studies of the last days that became stable while nobody looked.

        Call when Orthanc has run for its "StableAge": a study that a stop interrupted is then
        either complete, or growing again and not stable.
        """
        since = datetime.now(UTC) - timedelta(days=days)
        first = 0
        while page := self._archive.studies(first, PAGE):
            first += len(page)
            for study in page:
                if study.stable and study.last_update >= since.strftime("%Y%m%dT%H%M%S"):
                    self._take_missed(study.id)

    def _take_missed(self, study: str) -> None:
        try:
            for job in self.take(study, asked_by="start"):
                log.info("series %s was missed and is queued now", job.series)
        except UnknownResource:
            log.info("study %s was deleted meanwhile", study)

    def _add(
        self,
        series: Series,
        *,
        run: str,
        asked_by: AskedBy,
        force: bool = False,
        model: str | None = None,
        user: str = "",
    ) -> Job:
        if model is None:
            choice = self._rules.choose(lambda: self._archive.facts(series))
            name, shadow_model = choice.model, choice.shadow_model
        else:
            name, shadow_model = self._catalogue.name(model), ""
        return self._jobs.add(
            study=series.study,
            series=series.id,
            instances=series.instances,
            model=name,
            identity=f"{Model.of(self._catalogue.card(name))} {self._result}",
            asked_by=asked_by,
            user=user,
            shadow_model=shadow_model,
            received=series.received,
            run=run,
            force=force,
        )

    def _is_wanted(self, series: Series) -> bool:
        """Whether a series is segmented though nobody asks."""
        wanted, _ = self._by_itself.judge(lambda: self._archive.facts(series))
        return wanted

    def _before(self, series: Series) -> list[Job]:
        """The jobs that there are for these slices, the newest first."""
        return self._jobs.find(source=source_of(series.id, series.instances), kind="segment")

    def _run_of(self, series: Series, newest: Job | None) -> str:
        """Empty, or a hash of the slices' files, if they came again as others than before.

        A corrected CT may have the UIDs of the wrong one, whose result must not pass for its own.
        """
        if newest is None:
            return ""
        if not _came_again(series, newest):
            return newest.run
        files = SliceFiles(series, self._archive).blake3_now()
        made_of = newest.provenance.files_blake3 if newest.provenance else ""
        return newest.run if files == made_of else files

    def _run_of_drawing(self, series: Series) -> str:
        """Empty, or when a drawing came again: a planning system may keep the UIDs of what it
        corrects.
        """
        before = self._jobs.find(source=source_of(series.id, series.instances), kind="compare")
        if not before:
            return ""
        return series.received if _came_again(series, before[0]) else before[0].run

    def _result_is_gone(self, job: Job) -> bool:
        return job.state == "done" and any(
            self._archive.find_instance(result.sop_instance_uid, study=job.study, ours=False)
            is None
            for result in job.results
        )


def _newest(before: Sequence[Job]) -> Job | None:
    """Of the jobs for some slices the newest that nobody forced."""
    return next((one for one in before if one.run != one.id), None)


def _is_under_way(job: Job) -> bool:
    """Whether a job that has not ended may have stored its result."""
    return job.kind != "compare" and job.state in ("queued", "running") and job.attempts > 0


def _came_again(series: Series, job: Job) -> bool:
    """Whether a slice was received after the job was made, which may not have seen it."""
    return job.state != "queued" and job.received not in ("", series.received)
