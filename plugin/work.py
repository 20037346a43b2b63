"""What the worker does with one job, by its kind: a result, or a second model in its shadow."""

import hashlib

import highdicom as hd
import numpy as np

from model.organs import Organ
from plugin import __version__
from plugin.archive import OrthancArchive, Series
from plugin.audit import settings_digest
from plugin.catalogue import Catalogue
from plugin.conditions import SeriesFacts
from plugin.job import Job, Outcome, Provenance, Result
from plugin.jobs import Jobs
from plugin.pipeline import Watch, segment_series
from plugin.routing import parcels
from plugin.seg import read_seg
from plugin.settings import Settings


class Work:
    """Does jobs. Raises what `segment_series` raises."""

    def __init__(
        self, *, archive: OrthancArchive, jobs: Jobs, catalogue: Catalogue, settings: Settings
    ) -> None:
        self._archive = archive
        self._jobs = jobs
        self._catalogue = catalogue
        self._settings = settings

    def __call__(self, job: Job, watch: Watch) -> Outcome:
        """Do one job and say how it ended."""
        series = self._archive.series(job.series)
        return (self._shadow if job.kind == "shadow" else self._segment)(job, series, watch)

    def _segment(self, job: Job, series: Series, watch: Watch) -> Outcome:
        routes = self._settings.routes
        # Asked first: an archive that does not answer then costs no result.
        facts = self._archive.facts(series) if routes else SeriesFacts()
        outcome = self._run(job, series, watch)
        sent = parcels(routes, facts, model=job.model, results=outcome.results)
        return outcome.model_copy(update={"parcels": sent})

    def _shadow(self, job: Job, series: Series, watch: Watch) -> Outcome:
        first = self._jobs.get(job.of)
        outcome = self._run(job, series, watch)
        if outcome.state != "done":
            return outcome
        both = set(self._organs(first)) & set(self._organs(job))
        dice = dice_of_labels(
            self._labels(first.results),
            self._labels(outcome.results),
            sorted(both, key=lambda organ: organ.label),
        )
        return outcome.model_copy(update={"dice": dice})

    def _run(self, job: Job, series: Series, watch: Watch) -> Outcome:
        segmenter = self._catalogue.get(job.model)
        outcome = segment_series(
            series,
            archive=self._archive,
            segmenter=segmenter,
            settings=self._settings,
            run=job.run,
            shadow=job.kind == "shadow",
            watch=watch,
        )
        slices = sorted(self._archive.sop_instance_uids(series))
        provenance = Provenance(
            instances=len(slices),
            instances_sha256=hashlib.sha256("\n".join(slices).encode()).hexdigest(),
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
        return self._catalogue.card(job.model).organ_rows()

    def _labels(self, results: tuple[Result, ...]) -> hd.Volume:
        [seg] = [result for result in results if result.kind == "seg"]
        return read_seg(self._archive.file(seg.orthanc_id))


def dice_of_labels(a: hd.Volume, b: hd.Volume, organs: list[Organ]) -> dict[str, float]:
    """Dice of each organ that is in either, by name.

    Args:
        a: organ labels on any part of a grid.
        b: organ labels on any part of the same grid.
        organs: those to compare.

    Raises:
        ValueError: the two are not parts of one grid.
    """
    [offset] = a.map_reference_to_indices(np.array([b.position]))
    if not np.allclose(a.affine[:3, :3], b.affine[:3, :3], atol=1e-3) or not np.allclose(
        offset, np.round(offset), atol=1e-2
    ):
        raise ValueError("the two results do not lie on one grid")
    # Volume.match_geometry does not crop where it pads on the other side (highdicom 0.28).
    shared_a, shared_b = [], []
    for begin, size_a, size_b in zip(
        np.round(offset).astype(int), a.spatial_shape, b.spatial_shape, strict=True
    ):
        first, end = max(0, begin), max(0, begin, min(size_a, begin + size_b))
        shared_a.append(slice(first, end))
        shared_b.append(slice(first - begin, end - begin))
    part_a, part_b = a.array[tuple(shared_a)], b.array[tuple(shared_b)]
    dice: dict[str, float] = {}
    for organ in organs:
        sizes = sum(int(np.count_nonzero(one.array == organ.label)) for one in (a, b))
        if sizes:
            overlap = np.count_nonzero((part_a == organ.label) & (part_b == organ.label))
            dice[organ.name] = round(2 * int(overlap) / sizes, 4)
    return dice
