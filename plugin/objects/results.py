"""The DICOM objects that a result consists of: which are wanted, which are there, and how to build.

The SEG is the result; the others are made of the same labels, and which of them are wanted is a
setting. They are stored before the SEG, so that where a SEG is, all is that was wanted with it.
"""

from collections.abc import Iterator, Sequence

from pydicom import Dataset

from plugin.archive import Archive
from plugin.jobs.job import Result, ResultKind
from plugin.objects.finding import Finding
from plugin.objects.identity import Origin
from plugin.objects.measurements import build_volume_report, volume_report_uid
from plugin.objects.review import build_review, review_uid
from plugin.objects.rtstruct import build_rtstruct, rtstruct_uid
from plugin.objects.seg import build_seg, seg_uid
from plugin.settings import MADE_BY, Settings


def wanted_kinds(settings: Settings) -> tuple[ResultKind, ...]:
    """What a result consists of, in the order of storing."""
    return (*(kind for kind, setting in MADE_BY.items() if getattr(settings, setting)), "seg")


def description(settings: Settings) -> str:
    """What a result consists of, in words: the same words, the same objects."""
    words = {"rtstruct": f"rtstruct {settings.rtstruct_holes}"}
    extra = [words.get(kind, kind) for kind in wanted_kinds(settings) if kind != "seg"]
    return " ".join([settings.segmentation_type, *extra])


def find_results(
    kinds: Sequence[ResultKind], origin: Origin, settings: Settings, archive: Archive, study: str
) -> tuple[Result, ...]:
    """Those of the wanted objects that the archive holds in the study. Where the first page is, all
    are.
    """
    return tuple(found for kind in kinds for found in _find(kind, origin, settings, archive, study))


def _find(
    kind: ResultKind, origin: Origin, settings: Settings, archive: Archive, study: str
) -> Iterator[Result]:
    for uid in _uids(kind, origin, settings):
        existing = archive.find_instance(uid, study=study)
        if existing is None:
            return
        yield Result(kind=kind, sop_instance_uid=uid, orthanc_id=existing)


def _uids(kind: ResultKind, origin: Origin, settings: Settings) -> Iterator[str]:
    """Of the instances of a kind, in their order."""
    match kind:
        case "seg":
            yield seg_uid(origin, settings.segmentation_type)
        case "rtstruct":
            yield rtstruct_uid(origin, settings.rtstruct_holes)
        case "sr":
            yield volume_report_uid(origin, settings.segmentation_type)
        case "review":
            page = 1
            while True:
                yield review_uid(origin, page)
                page += 1


def seg_first(results: Sequence[Result]) -> tuple[Result, ...]:
    """The results as people are told of them: the SEG, and what was made with it."""
    return tuple(sorted(results, key=lambda one: one.kind != "seg"))


def build_results(
    kinds: Sequence[ResultKind], finding: Finding, origin: Origin, settings: Settings
) -> list[tuple[ResultKind, Dataset]]:
    """The instances of these kinds, in the order of storing.

    Raises:
        NoOrganFound: no voxel is labelled.
    """
    return [(kind, made) for kind in kinds for made in _build(kind, finding, origin, settings)]


def _build(
    kind: ResultKind, finding: Finding, origin: Origin, settings: Settings
) -> Sequence[Dataset]:
    match kind:
        case "seg":
            return [build_seg(finding, origin, settings.segmentation_type)]
        case "rtstruct":
            return [build_rtstruct(finding, origin, settings.rtstruct_holes)]
        case "sr":
            return [build_volume_report(finding, origin, settings.segmentation_type)]
        case "review":
            return build_review(finding, origin)[::-1]  # where the first page is, all are
