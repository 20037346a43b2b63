"""Segment a folder of DICOM files: `python -m plugin.segment FOLDER --out DIR`.

Takes the one suitable CT series of the folder and writes DIR/seg.dcm and DIR/report.json; on demand
also rtstruct.dcm, sr.dcm (the volumes) and review01.dcm, review02.dcm, ... (pages to look at).
With --configuration all is as the section Oar of Orthanc's configuration has it, so that it can be
tried before a server has it, but for Models, as its rules ask where a CT was sent.
What an earlier run left in DIR is removed; nothing that somebody else made is.
Exit status 0: written. 2: nothing could be segmented, or no organ was found; the sentence says why.
Research use only.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from model.checkpoint import NOTICE
from model.segmenter import Segmenter
from model.unusable import Unusable
from model.whole_files import whole_files
from plugin import __version__
from plugin.archive import Series
from plugin.catalogue import Catalogue
from plugin.ct.explain import explain_series
from plugin.dicom_file import UnreadableFile, read_dicom
from plugin.folder_archive import UNREAD, FolderArchive
from plugin.jobs.job import Outcome
from plugin.objects.identity import MANUFACTURER
from plugin.objects.rtstruct import Holes
from plugin.pipeline import segment_series
from plugin.settings import Settings
from plugin.watch import Watch

SEG = "seg.dcm"
REPORT = "report.json"
WRITTEN = (SEG, "rtstruct.dcm", "sr.dcm", "review[0-9][0-9].dcm", REPORT)
"""Patterns of all files that a run may write."""

UNSUITABLE = 2
"""Exit status when the input cannot be segmented; also argparse's for a wrong command line."""


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="searched for DICOM files, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="made if it is not there")
    parser.add_argument("--configuration", type=Path, metavar="FILE", help="Orthanc's")
    parser.add_argument("--model", help="name or folder")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--series", metavar="UID", help="which series, if several are suitable")
    parser.add_argument("--rtstruct", action="store_true", help="also for planning systems")
    parser.add_argument("--holes", choices=get_args(Holes))
    parser.add_argument("--volume-report", action="store_true", help="also the volumes, as SR")
    parser.add_argument("--review-pages", action="store_true", help="also pages for any viewer")
    return parser


def settings_of(args: argparse.Namespace) -> Settings:
    """Those of the configuration, or the defaults, and over them what the command line asks for.

    Raises:
        BadConfiguration: the configuration cannot be used.
    """
    settings = Settings.read(args.configuration) if args.configuration else Settings()
    asked = {
        "model": args.model,
        "device": args.device,
        "rtstruct_holes": args.holes,
        "rtstruct": args.rtstruct,
        "volume_report": args.volume_report,
        "review_pages": args.review_pages,
    }
    given = {setting: value for setting, value in asked.items() if value}
    return settings.model_copy(update=given)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = command_line().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        if not args.folder.is_dir():
            raise Unusable(f"{args.folder} is not a folder.")
        if args.out.resolve().is_relative_to(args.folder.resolve()):
            raise Unusable(f"--out must not be {args.folder} or a folder in it.")
        settings = settings_of(args)
        args.out.mkdir(parents=True, exist_ok=True)
        archive = FolderArchive(args.folder, results=args.out)
        series = choose(archive, settings, uid=args.series)
        catalogue = Catalogue(
            default=settings.model, device=settings.device, compiled=settings.compile
        )
        segmenter = catalogue.get(catalogue.default)
        remove_older(args.out)
        outcome = segment_series(
            series,
            archive=archive,
            segmenter=segmenter,
            settings=settings,
            watch=Watch(report=show_progress),
        )
        print(file=sys.stderr)  # ends the line of the progress
        report = json.dumps(describe(series, segmenter, outcome), indent=2) + "\n"
        with whole_files(args.out / REPORT) as (file,):  # half of one would not be known for ours
            file.write(report.encode())
        if outcome.state == "skipped":
            raise Unusable(outcome.reason)
    except Unusable as why:
        print(why, file=sys.stderr)
        return UNSUITABLE
    except OSError as why:
        # Of a file that is open already, such as one on a full disk, no name is given.
        print(f"{why.filename or args.out}: {why.strerror}", file=sys.stderr)
        return UNSUITABLE
    for name, ml in outcome.volumes_ml.items():
        print(f"{name:24} {ml:9.2f} ml")
    for warning in outcome.warnings:
        print(f"warning: {warning}")
    print(f"{args.out / SEG}: {segmenter.name} {segmenter.version}, research use only")
    return 0


def choose(archive: FolderArchive, settings: Settings, *, uid: str | None) -> Series:
    """The series to segment.

    Raises:
        Unusable: none is suitable, with the reason for each; or several are; or what cannot be read
            may be a part of one.
    """
    if archive.unread:
        names = "\n  ".join(map(str, archive.unread))
        raise Unusable(f"A CT may lack slices, as these are {UNREAD}:\n  {names}")
    candidates = [archive.series(uid)] if uid else archive.all_series()
    if not candidates:
        raise Unusable("The folder holds no DICOM file.")
    judgements = {
        one.id: explain_series(one, archive=archive, rules=settings.series) for one in candidates
    }
    suitable = [one for one in candidates if judgements[one.id].chosen]
    if len(suitable) > 1:
        uids = "\n  ".join(one.id for one in suitable)
        raise Unusable(f"Several series are suitable; choose one with --series:\n  {uids}")
    if not suitable:
        reasons = "\n".join(f"{one.id}: {judgements[one.id].reason}" for one in candidates)
        raise Unusable(reasons)
    return suitable[0]


def remove_older(out: Path) -> None:
    """Remove what an earlier run left: it must not pass for this one's.

    Raises:
        Unusable: a file of such a name is not ours. Nothing is removed then.
    """
    older = [path for pattern in WRITTEN for path in sorted(out.glob(pattern))]
    for path in older:
        if not is_ours(path):
            raise Unusable(f"{path} was not made by {MANUFACTURER}. Choose another --out.")
    for path in older:
        path.unlink()


def is_ours(path: Path) -> bool:
    """Whether a file says that this program made it."""
    if path.name == REPORT:
        return MANUFACTURER.encode() in path.read_bytes()
    try:
        header = read_dicom(path, pixels=False, keywords=["Manufacturer"])
    except UnreadableFile:
        return False
    return bool(header.get("Manufacturer") == MANUFACTURER)


def describe(series: Series, segmenter: Segmenter, outcome: Outcome) -> dict[str, object]:
    """The report, in the words of a job over REST."""
    return {
        "notice": NOTICE,
        "software": f"{MANUFACTURER} {__version__}",
        "study": series.study,
        "series": series.id,
        "model": segmenter.name,
        "model_version": segmenter.version,
        "weights_sha256": segmenter.weights_sha256,
        "device": segmenter.device,
        **outcome.model_dump(mode="json", exclude={"results", "dice", "provenance"}),
        "results": [
            {"kind": result.kind, "sop_instance_uid": result.sop_instance_uid}
            for result in outcome.results
        ],
    }


def show_progress(stage: str, progress: float) -> None:
    """Write the stage over itself on the terminal."""
    print(f"\r{stage:12} {progress:4.0%}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
