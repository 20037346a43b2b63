"""The whole story of one job: a CT series becomes a DICOM SEG, and what is wanted with it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import get_args

from pydicom import Dataset

from model.organs import ORGANS
from model.plausibility import find_doubts
from model.postprocess import OutOfOrder
from model.preprocess import NoBody
from model.segmenter import Cancelled, Segmenter
from model.volumes import volumes_ml
from plugin.archive import Archive, ArchiveError, Series, UnknownResource
from plugin.ct.series import CtSeries, read_series
from plugin.ct.series_rules import UnsuitableSeries
from plugin.ct.stack import from_axial_deg
from plugin.jobs.job import Outcome, Result, ResultKind
from plugin.objects.finding import Finding, NoOrganFound
from plugin.objects.identity import Model, Origin
from plugin.objects.results import build_results, find_results, seg_first, wanted_kinds
from plugin.objects.seg import read_files_blake3, read_seg, read_warnings
from plugin.settings import Settings
from plugin.slice_files import SliceFiles
from plugin.watch import Watch

log = logging.getLogger(__name__)

OBLIQUE_DEG = 0.5
"""From axial: within a contour 20 cm wide, z then differs by 2 mm."""


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

    What is there already is not made again. If the SEG is, what is missing beside it is made of it.
    A SEG of the same slices as they were before they came again, changed, is removed first.

    Args:
        series: as the archive lists it now.
        archive: holds the slices and takes the result.
        segmenter: the loaded model.
        settings: which series are suitable, and what the result consists of.
        run: empty, or what tells a forced result from the others of the same slices.
        shadow: the model is on trial: its result has UIDs of its own and says that it is not to be
            used, and nothing but the SEG is made.
        watch: who watches; asked now and then whether to stop.

    Raises:
        Cancelled: the watcher wanted it. There is no SEG.
        UnknownResource: the series was deleted. No result is left.
        ArchiveError: the archive did not give or take.
    """
    origin = Origin(
        model=Model.of(segmenter.card),
        series=series.id,
        slices=tuple(archive.sop_instance_uids(series)),
        run=run,
        shadow=shadow,
        created=datetime.now().replace(microsecond=0),
    )
    files = SliceFiles(series, archive, cancelled=watch.cancelled)
    kinds = ("seg",) if shadow else wanted_kinds(settings)
    there, seg = _still_right(kinds, origin, settings, archive, series, files)
    missing = [kind for kind in kinds if kind not in {one.kind for one in there}]
    if seg is not None and not missing:
        log.info("series %s has its result already", series.id)
        return Outcome(
            state="done",
            results=seg_first(there),
            volumes_ml=volumes_ml(read_seg(seg), ORGANS),
            warnings=read_warnings(seg),
            files_blake3=files.blake3(),
        )
    warnings: tuple[str, ...] = ()
    try:
        with watch.stage("reading") as progress:
            ct = read_series(files.read(progress), settings.series)
        with watch.stage("segmenting") as progress:
            finding = _find(ct, seg, kinds, segmenter, watch, progress)
            warnings = tuple(finding.warnings)
        with watch.stage("writing"):
            origin = replace(origin, files_blake3=files.blake3())
            made = build_results(missing, finding, origin, settings)
        with watch.stage("storing"):
            stored = _store(made, archive, watch)
            _still_wanted(series, archive, stored)
    except (UnsuitableSeries, NoBody, NoOrganFound, OutOfOrder) as why:
        log.info("series %s skipped: %s", series.id, why)
        return Outcome(
            state="skipped",
            reason=str(why),
            seconds=watch.seconds,
            warnings=warnings,
            files_blake3=files.blake3(),
        )
    what = "segmented" if seg is None else "completed"
    log.info("series %s %s in %.0f s", series.id, what, watch.total_s)
    return Outcome(
        state="done",
        results=seg_first([*stored, *there]),
        volumes_ml=volumes_ml(finding.labels, segmenter.organs),
        seconds=watch.seconds,
        warnings=warnings,
        files_blake3=files.blake3(),
    )


def _still_right(
    kinds: Sequence[ResultKind],
    origin: Origin,
    settings: Settings,
    archive: Archive,
    series: Series,
    files: SliceFiles,
) -> tuple[tuple[Result, ...], bytes | None]:
    """Those results that need not be made again, and their SEG.

    Without a SEG there are none: what lies there was left by a job that did not come to its end.
    A SEG of other files, which a queue that was begun anew does not know of, is removed, and all
    that was made with it.
    """
    there = find_results(kinds, origin, settings, archive, series.study)
    seg = next((archive.file(one.orthanc_id) for one in there if one.kind == "seg"), None)
    if seg is None:
        return (), None
    if read_files_blake3(seg) == files.blake3_now():
        return there, seg
    log.info("series %s came again, changed: its result goes", series.id)
    for one in find_results(get_args(ResultKind), origin, settings, archive, series.study):
        archive.remove(one.orthanc_id)
    return (), None


def _find(
    ct: CtSeries,
    seg: bytes | None,
    kinds: Sequence[ResultKind],
    segmenter: Segmenter,
    watch: Watch,
    progress: Callable[[float], None],
) -> Finding:
    """What the network finds, or what the SEG says that is there; each warning once."""
    if seg is None:
        found = segmenter(ct.volume, progress=progress, cancelled=watch.cancelled)
        labels, said = found.labels, found.warnings
        watch.seconds |= {f"segmenting.{name}": round(s, 3) for name, s in found.seconds.items()}
    else:
        labels, said = read_seg(seg, on=ct.volume), read_warnings(seg)
    doubts = find_doubts(labels, segmenter.organs)
    doubted = [doubt.sentence for doubt in doubts]
    warnings = dict.fromkeys([*_synthetic(segmenter), *said, *doubted, *_oblique(ct, kinds)])
    organs = segmenter.organs
    return Finding(ct=ct, labels=labels, organs=organs, warnings=tuple(warnings), doubts=doubts)


def _synthetic(segmenter: Segmenter) -> Iterator[str]:
    """What to say first of contours by a model that has seen no patient."""
    if segmenter.card.synthetic:
        yield f"{segmenter.name} learned from synthetic patients: of no use on a real one"


def _oblique(ct: CtSeries, kinds: Sequence[ResultKind]) -> Iterator[str]:
    """What to say of contours whose points have not one z."""
    angle_deg = from_axial_deg(ct.volume.unit_vectors()[0])
    if "rtstruct" in kinds and angle_deg > OBLIQUE_DEG:
        yield (
            f"The slices are {angle_deg:.1f} degrees from axial, and so are the contours: planning "
            "systems that want axial ones may refuse or misplace them"
        )


def _store(
    made: Sequence[tuple[ResultKind, Dataset]], archive: Archive, watch: Watch
) -> list[Result]:
    """Store all, or nothing if the job is cancelled or fails: no contours without their SEG."""
    stored: list[Result] = []
    try:
        for kind, one in made:
            if watch.cancelled():
                raise Cancelled
            # An attempt that did not come to its end leaves no SEG, which is the last to be stored.
            # One that is there now has been made by another worker meanwhile, and stays.
            store = archive.store_once if kind == "seg" else archive.store
            result = Result(kind=kind, sop_instance_uid=one.SOPInstanceUID, orthanc_id=store(one))
            stored.append(result)
    except BaseException:
        if watch.ours():  # another worker's would have the same UIDs
            for result in stored:
                with suppress(ArchiveError):  # which is then the smaller trouble
                    archive.remove(result.orthanc_id)
        raise
    return stored


def _still_wanted(series: Series, archive: Archive, stored: Sequence[Result]) -> None:
    """Take results back that would make a study anew that a person has deleted meanwhile."""
    try:
        archive.series(series.id)
    except UnknownResource:
        for one in stored:
            archive.remove(one.orthanc_id)
        raise
