"""What the worker does with one job, by its kind: segment, segment in the shadow, or compare."""

import hashlib

from model.organs import Organ
from plugin import __version__
from plugin.archive import Series, UnknownResource
from plugin.catalogue import Catalogue
from plugin.conditions import SeriesFacts
from plugin.drawn.corrections import Corrections
from plugin.drawn.drawings import Drawings
from plugin.drawn.quality import Quality, agree
from plugin.drawn.structure_sets import UnusableStructureSet
from plugin.jobs.job import Job, Outcome, Provenance, Result
from plugin.jobs.jobs import Jobs
from plugin.late_slices import remove_wrong, replace_older
from plugin.orthanc_archive import OrthancArchive
from plugin.pipeline import segment_series
from plugin.sending.routing import parcels
from plugin.settings import Settings, settings_digest
from plugin.slice_files import slices_sha256
from plugin.watch import Watch


class Work:
    """Does jobs. Raises what `segment_series` raises."""

    def __init__(
        self,
        *,
        archive: OrthancArchive,
        jobs: Jobs,
        catalogue: Catalogue,
        quality: Quality,
        settings: Settings,
    ) -> None:
        self._archive = archive
        self._jobs = jobs
        self._catalogue = catalogue
        self._settings = settings
        self._drawings = Drawings(archive, settings.series)
        self._corrections = Corrections(
            archive=archive,
            jobs=jobs,
            catalogue=catalogue,
            quality=quality,
            drawings=self._drawings,
        )

    def __call__(self, job: Job, watch: Watch) -> Outcome:
        """Do one job and say how it ended."""
        if job.kind == "compare":
            return self._corrections(job, watch)
        series = self._archive.series(job.series)
        return (self._shadow if job.kind == "shadow" else self._segment)(job, series, watch)

    def _segment(self, job: Job, series: Series, watch: Watch) -> Outcome:
        routes = self._settings.routes
        # Asked first: an archive that does not answer then costs no result.
        facts = self._archive.facts(series) if routes else SeriesFacts()
        outcome = self._run(job, series, watch)
        outcome = remove_wrong(job, outcome, archive=self._archive, jobs=self._jobs)
        if self._settings.late_slices == "replace":
            outcome = replace_older(job, outcome, archive=self._archive, jobs=self._jobs)
        sent = parcels(routes, facts, model=job.model, results=outcome.results)
        return outcome.model_copy(update={"parcels": sent})

    def _shadow(self, job: Job, series: Series, watch: Watch) -> Outcome:
        first = self._jobs.get(job.of)
        outcome = self._run(job, series, watch)
        if outcome.state != "done":
            return outcome
        organs = [organ for organ in self._organs(first) if organ in self._organs(job)]
        grid = self._drawings.grid(series)
        try:
            trial = self._drawings.result(job.model_copy(update={"results": outcome.results}), grid)
            ours = self._drawings.result(first, grid)
        except (UnknownResource, UnusableStructureSet) as why:
            gone = "The first result is no longer in the archive: nothing to compare with."
            reason = gone if isinstance(why, UnknownResource) else str(why)
            return outcome.model_copy(update={"warnings": (*outcome.warnings, reason)})
        dice = {one.organ: one.dice for one in agree(trial, ours, organs)}
        return outcome.model_copy(update={"dice": dice})

    def _run(self, job: Job, series: Series, watch: Watch) -> Outcome:
        segmenter = self._catalogue.get(job.model)
        slices = self._archive.sop_instance_uids(series)
        outcome = segment_series(
            series,
            archive=self._archive,
            segmenter=segmenter,
            settings=self._settings,
            run=job.run,
            shadow=job.kind == "shadow",
            watch=watch,
        )
        provenance = Provenance(
            instances=len(slices),
            instances_sha256=slices_sha256(slices),
            files_blake3=outcome.files_blake3,
            model_version=segmenter.version,
            weights_sha256=segmenter.weights_sha256,
            settings_sha256=settings_digest(self._settings),
            software=f"orthanc-oar {__version__}",
        )
        results = tuple(self._hashed(result) for result in outcome.results)
        return outcome.model_copy(update={"provenance": provenance, "results": results})

    def _hashed(self, result: Result) -> Result:
        # As the archive gives it back: it may store files in another encoding than ours.
        file = self._archive.file(result.orthanc_id)
        return result.model_copy(update={"sha256": hashlib.sha256(file).hexdigest()})

    def _organs(self, job: Job) -> tuple[Organ, ...]:
        return self._catalogue.card(job.model).measured_rows()
