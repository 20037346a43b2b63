"""The whole story of one job: a CT series becomes a DICOM SEG in the same study."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from model.organs import ORGANS
from model.preprocess import NoBody
from model.segmenter import Cancelled, Segmenter
from model.volumes import volumes_ml
from plugin.archive import Archive, Series
from plugin.dicom_objects import NoOrganFound
from plugin.identity import Model, Origin
from plugin.job import Outcome, Result
from plugin.seg import build_seg, read_seg, seg_uid
from plugin.series import UnsuitableSeries, read_series
from plugin.settings import Settings

log = logging.getLogger(__name__)

PROGRESS_AT_END = {"reading": 0.05, "segmenting": 0.95, "writing": 0.98, "storing": 1.0}
"""How much of the whole job is done at the end of each stage; a network takes nearly all."""


@dataclass(kw_only=True)
class Watch:
    """The line between a job and whoever watches it: progress out, the wish to stop in."""

    report: Callable[[str, float], None] = lambda stage, progress: None  # progress of all, 0 to 1
    cancelled: Callable[[], bool] = lambda: False
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, filled as the job runs

    @property
    def total_s(self) -> float:
        """Seconds of the stages so far."""
        return sum(self.seconds.get(stage, 0.0) for stage in PROGRESS_AT_END)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time one stage and give its own progress, 0 to 1, its share of the whole."""
        if self.cancelled():
            raise Cancelled
        first = max((v for v in PROGRESS_AT_END.values() if v < PROGRESS_AT_END[name]), default=0.0)
        share = PROGRESS_AT_END[name] - first
        self.report(name, first)
        begun = time.perf_counter()
        try:
            yield lambda progress: self.report(name, first + share * progress)
        finally:
            self.seconds[name] = round(time.perf_counter() - begun, 3)


def segment_series(
    series: Series,
    *,
    archive: Archive,
    segmenter: Segmenter,
    settings: Settings,
    run: str = "",
    shadow: bool = False,
    watch: Watch,
) -> Outcome:
    """Segment one CT series and store the result in its study.

    Args:
        series: as the archive lists it now.
        archive: holds the slices and takes the result.
        segmenter: the loaded model.
        settings: which series are suitable, and what the result looks like.
        run: empty, or what tells a forced result from the others of the same slices.
        shadow: the model is on trial: its result has UIDs of its own and says that it is not to be
            used, and nothing but the SEG is made.
        watch: who watches; asked now and then whether to stop.

    Raises:
        Cancelled: the watcher wanted it. Nothing was stored.
        ArchiveError: the archive did not give or take.
    """
    origin = Origin(
        model=Model.of(segmenter.card),
        slices=tuple(archive.sop_instance_uids(series)),
        run=run,
        shadow=shadow,
        created=datetime.now().replace(microsecond=0),
    )
    kind = settings.segmentation_type
    uid = seg_uid(origin, kind)
    if (existing := archive.find_instance(uid)) is not None:
        log.info("series %s has its result already", series.id)
        result = Result(kind="seg", sop_instance_uid=uid, orthanc_id=existing)
        volumes = volumes_ml(read_seg(archive.file(existing)), ORGANS)
        return Outcome(state="done", results=(result,), volumes_ml=volumes)
    try:
        with watch.stage("reading") as progress:
            ct = read_series(_files(series, archive, watch, progress), settings.series)
        with watch.stage("segmenting") as progress:
            found = segmenter(ct.volume, progress=progress, cancelled=watch.cancelled)
        watch.seconds |= {f"segmenting.{name}": round(s, 3) for name, s in found.seconds.items()}
        with watch.stage("writing"):
            seg = build_seg(
                found.labels,
                ct.slices,
                organs=segmenter.organs,
                origin=origin,
                segmentation_type=kind,
            )
        with watch.stage("storing"):
            stored = archive.store(seg)
    except (UnsuitableSeries, NoBody) as why:
        log.info("series %s skipped: %s", series.id, why)
        return Outcome(state="skipped", reason=str(why), seconds=watch.seconds)
    except NoOrganFound as why:
        log.info("series %s skipped: no organ found", series.id)
        return Outcome(
            state="skipped", reason=str(why), seconds=watch.seconds, warnings=found.warnings
        )
    log.info("series %s segmented in %.0f s", series.id, watch.total_s)
    return Outcome(
        state="done",
        results=(Result(kind="seg", sop_instance_uid=seg.SOPInstanceUID, orthanc_id=stored),),
        volumes_ml=volumes_ml(found.labels, segmenter.organs),
        seconds=watch.seconds,
        warnings=found.warnings,
    )


def _files(
    series: Series, archive: Archive, watch: Watch, progress: Callable[[float], None]
) -> Iterator[bytes]:
    for number, instance in enumerate(series.instances):
        if watch.cancelled():
            raise Cancelled
        yield archive.file(instance)
        progress((number + 1) / len(series.instances))
