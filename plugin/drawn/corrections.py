"""The quality loop: an RTSTRUCT or SEG that people drew on a CT, against our results for it."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import highdicom as hd

from model.segmenter import Cancelled
from plugin.archive import Series, UnknownResource
from plugin.catalogue import Catalogue, UnknownModel
from plugin.ct.series_rules import UnsuitableSeries
from plugin.drawn.drawings import Drawings
from plugin.drawn.drawn_organs import DrawnOrgans
from plugin.drawn.quality import ComparedPair, Quality, agree
from plugin.drawn.structure_sets import StructureSet, UnusableStructureSet
from plugin.jobs.job import Job, Outcome
from plugin.jobs.jobs import Jobs
from plugin.orthanc_archive import OrthancArchive
from plugin.plain_text import counted
from plugin.watch import Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """Compares what people drew with what we made. A job of the kind `compare` is one series."""

    archive: OrthancArchive
    jobs: Jobs
    catalogue: Catalogue
    quality: Quality
    drawings: Drawings

    def __call__(self, job: Job, watch: Watch) -> Outcome:
        """Compare every drawing of a series with every result that it was not compared with yet.

        A job with a run of its own is of drawings that came again, and compares them anew.

        Raises:
            Cancelled: the watcher wanted it; what was compared before is kept.
            ArchiveError: the archive did not give what is needed.
        """
        drawn = self.archive.series(job.series)
        results = latest_results(self.jobs.find(study=job.study, state="done"))
        compared, reasons = 0, list[str]()
        for number, instance in enumerate(drawn.instances):
            try:
                count, left_out = self._compare(instance, results, watch, again=bool(job.run))
                compared += count
                reasons += left_out
            except (UnusableStructureSet, UnsuitableSeries) as why:
                reasons.append(str(why))
            watch.report("comparing", (number + 1) / len(drawn.instances))
        if compared:
            log.info("series %s compared with %s", drawn.id, counted(compared, "result"))
            return Outcome(state="done", warnings=tuple(dict.fromkeys(reasons)))
        reason = " ".join(dict.fromkeys(reasons)) or "There is nothing new to compare it with."
        return Outcome(state="skipped", reason=reason)

    def _compare(
        self, instance: str, results: Sequence[Job], watch: Watch, *, again: bool
    ) -> tuple[int, list[str]]:
        """Compare one drawing; with how many results it was compared, and what of it was not.

        Args:
            instance: the drawing.
            results: ours.
            watch: asked whether to stop.
            again: it came again, so that what it was compared as before says nothing of it.
        """
        drawing = self.drawings.read(instance)
        if drawing.ours:
            raise UnusableStructureSet("It is our own result, and nobody has approved it.")
        compared, left_out, refused, fits = 0, list[str](), list[str](), False
        cts = [ct for ct in self._cts(results) if self._is_of(drawing, ct)]
        if not cts:
            raise UnusableStructureSet("It was drawn on a series that has no result of ours.")
        for ct in cts:
            new = [
                result
                for result in results
                if result.series == ct.id
                and (again or not self.quality.has(drawn=instance, job=result.id))
            ]
            if not new:
                fits = True  # it was compared with them before
                continue
            try:
                grid = self.drawings.grid(ct)
                theirs = self.drawings.draw(drawing, grid, watch.cancelled)
            except (UnusableStructureSet, UnsuitableSeries) as why:
                refused.append(str(why))
                continue
            fits = True
            left_out += not_compared(theirs)
            for result in new if theirs.organs else ():
                if watch.cancelled():
                    raise Cancelled
                try:
                    self._keep(instance, drawing, theirs, result, grid)
                    compared += 1
                except UnusableStructureSet as why:
                    left_out.append(str(why))
        if fits and not drawing.series:
            refused = []  # it never said that it was of these CTs
        return compared, left_out + refused

    def _cts(self, results: Sequence[Job]) -> list[Series]:
        """The series of the results, but those that somebody has deleted."""
        found: list[Series] = []
        for one in dict.fromkeys(result.series for result in results):
            with suppress(UnknownResource):
                found.append(self.archive.series(one))
        return found

    def _is_of(self, drawing: StructureSet, ct: Series) -> bool:
        """Whether a drawing may be of a CT: it says so, or does not say of which it is."""
        return not drawing.series or self.archive.series_instance_uid(ct) in drawing.series

    def _keep(
        self,
        instance: str,
        drawing: StructureSet,
        theirs: DrawnOrgans,
        result: Job,
        grid: hd.VolumeGeometry,
    ) -> None:
        """Compare one drawing with one result.

        Raises:
            UnusableStructureSet: there is nothing to compare; with the reason.
        """
        try:
            known = self.catalogue.card(result.model).measured_rows()
        except UnknownModel as gone:
            raise UnusableStructureSet(
                f"The model {result.model} is no longer there, and with it which organs it knows."
            ) from gone
        organs = [organ for organ in theirs.organs if organ in known]
        if not organs:
            raise UnusableStructureSet(f"The model {result.model} knows none of these organs.")
        try:
            ours = self.drawings.result(result, grid)
        except UnknownResource as gone:
            raise UnusableStructureSet(
                f"Our result of the model {result.model} was deleted."
            ) from gone
        found = list(agree(ours, theirs.labels, organs))
        self.quality.keep(
            ComparedPair(
                study=result.study,
                series=result.series,
                job=result.id,
                kind=result.kind,
                model=result.model,
                model_version=result.provenance.model_version if result.provenance else "",
                drawn=instance,
                drawn_as=drawing.modality,
                drawn_at=drawing.drawn_at,
            ),
            found,
        )


def not_compared(drawn: DrawnOrgans) -> list[str]:
    """What people drew and no comparison has: a sentence for each organ, one for all other names.

    Names that we do not know are not quoted: a patient's may be among them.
    """
    sentences = [f"{organ.tg263} was not compared: {why}." for organ, why in drawn.left_out.items()]
    if unknown := len(drawn.unmatched):
        what = counted(unknown, "structure")
        sentences.append(f"Not compared, as no organ is known by its name: {what}.")
    return sentences


def latest_results(jobs: Sequence[Job]) -> list[Job]:
    """Of each CT, model and kind the latest that has made a result.

    Args:
        jobs: done ones, the newest first.
    """
    latest: dict[tuple[str, str, str], Job] = {}
    for job in jobs:
        if job.kind != "compare" and any(result.kind == "seg" for result in job.results):
            latest.setdefault((job.series, job.model, job.kind), job)
    return list(latest.values())
