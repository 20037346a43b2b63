"""The whole story of one job: a CT series becomes a DICOM SEG in the same study."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO

import highdicom as hd
import numpy as np

from model.organs import ORGANS
from model.preprocess import NoBody
from model.segmenter import Cancelled, Segmenter
from plugin.archive import Archive, Series
from plugin.job import Outcome, Result
from plugin.seg import NoOrganFound, build_seg, model_id, seg_uid
from plugin.series import UnsuitableSeries, read_series
from plugin.settings import Settings

log = logging.getLogger(__name__)

PROGRESS_AT_END = {"reading": 0.05, "segmenting": 0.95, "writing": 0.98, "storing": 1.0}
"""How much of the whole job is done at the end of each stage; a network takes nearly all."""

MM3_PER_ML = 1000.0


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
    watch: Watch,
) -> Outcome:
    """Segment one CT series and store the result in its study.

    Args:
        series: as the archive lists it now.
        archive: holds the slices and takes the result.
        segmenter: the loaded model.
        settings: which series are suitable, and what the result looks like.
        run: empty, or what tells a forced result from the others of the same slices.
        watch: who watches; asked now and then whether to stop.

    Raises:
        Cancelled: the watcher wanted it. Nothing was stored.
        ArchiveError: the archive did not give or take.
    """
    model = model_id(segmenter.name, segmenter.version, segmenter.weights_sha256)
    slices = archive.sop_instance_uids(series)
    kind = settings.segmentation_type
    uid = seg_uid(slices, model=model, segmentation_type=kind, run=run)
    if (existing := archive.find_instance(uid)) is not None:
        log.info("series %s has its result already", series.id)
        result = Result(kind="seg", sop_instance_uid=uid, orthanc_id=existing)
        volumes = volumes_of_seg(archive.file(existing))
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
                model_name=segmenter.name,
                model_version=segmenter.version,
                weights_sha256=segmenter.weights_sha256,
                segmentation_type=kind,
                run=run,
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
        volumes_ml=volumes_ml(
            found.labels, {organ.label: organ.name for organ in segmenter.organs}
        ),
        seconds=watch.seconds,
        warnings=found.warnings,
    )


def volumes_ml(labels: hd.Volume, names: Mapping[int, str]) -> dict[str, float]:
    """Millilitres of each label that occurs, by its name."""
    # Slice by slice: numpy makes an eight-byte integer of each label that it counts.
    voxels = np.sum([np.bincount(plane.ravel(), minlength=256) for plane in labels.array], axis=0)
    ml = labels.voxel_volume / MM3_PER_ML
    return {name: round(voxels[label] * ml, 3) for label, name in names.items() if voxels[label]}


def volumes_of_seg(file: bytes) -> dict[str, float]:
    """Millilitres of each organ of a SEG that we stored earlier."""
    seg = hd.seg.segread(BytesIO(file))
    organ_of = {organ.tg263: organ.name for organ in ORGANS}
    names = {n: organ_of[seg.get_segment_description(n).segment_label] for n in seg.segment_numbers}
    return volumes_ml(seg.get_volume(combine_segments=True), names)


def _files(
    series: Series, archive: Archive, watch: Watch, progress: Callable[[float], None]
) -> Iterator[bytes]:
    for number, instance in enumerate(series.instances):
        if watch.cancelled():
            raise Cancelled
        yield archive.file(instance)
        progress((number + 1) / len(series.instances))
