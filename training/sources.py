"""Where labelled CTs come from: folders of cases, folders of DICOM, an Orthanc."""

import logging
from argparse import Namespace
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Self

from model.checkpoint import read_card
from model.preprocess import WINDOW_HU, Preprocessing
from plugin.archive import ArchiveError
from plugin.ct.series_rules import SeriesRules
from plugin.drawn.structure_names import SHIPPED
from plugin.folder_archive import UNREAD, FolderArchive
from plugin.rest_archive import RestArchive, login_for
from plugin.settings import Settings
from training.labelled import CT, case_folders
from training.report import Refusal

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """All that a preparation depends on; a run that goes on must have the same."""

    source: str  # folder, or address without user and password
    query: dict[str, str]
    spacing_mm: tuple[float, float, float] | None  # (z, y, x); None: what the data ask for
    window_hu: tuple[float, float]
    unknown_hu: float | None
    names: str  # hash of the tables of names
    series: SeriesRules  # which CTs are suitable
    like: Preprocessing | None = None  # of a model to go on from; None: from the data
    organs: tuple[str, ...] | None = None  # that this model knows; None: all that are labelled

    @classmethod
    def asked(cls, args: Namespace, source: str) -> Self:
        """What the command line of `training.prepare` says.

        Raises:
            BadCheckpoint, ValueError: it cannot be meant.
        """
        like = None if args.like is None else read_card(args.like)
        if like is not None and (args.spacing, args.window) != (None, None):
            raise ValueError("--like takes spacing and window from the model: leave them out.")
        if args.spacing is not None and not all(0 < mm < inf for mm in args.spacing):
            given = " ".join(f"{mm:g}" for mm in args.spacing)
            raise ValueError(f"--spacing takes millimetres above 0, got {given}.")
        low, high = args.window or (WINDOW_HU if like is None else like.preprocessing.window_hu)
        if not low < high:
            raise ValueError(f"--window takes the lower end first, got {low:g} {high:g}.")
        return cls(
            source=source,
            query=dict(args.query),
            spacing_mm=None if args.spacing is None else tuple(args.spacing),
            window_hu=(low, high),
            unknown_hu=args.unknown_hu,
            names=hash_of(args.names),
            series=series_rules(args.configuration),
            like=None if like is None else like.preprocessing,
            organs=None if like is None else like.organs,
        )


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the command line names."""

    name: str  # folder, or address without user and password
    archive: RestArchive | FolderArchive | None  # None: folders of cases, which need none

    def content(self, query: dict[str, str]) -> list[str]:
        """The archive's identifiers of its studies, or the names of the folders; sorted."""
        if isinstance(self.archive, RestArchive):
            return self.archive.find_studies(query)
        if isinstance(self.archive, FolderArchive):
            return sorted({one.study for one in self.archive.all_series()})
        return [folder.name for folder in case_folders(Path(self.name))]

    def passed_over(self) -> list[Refusal]:
        """What may have been meant as data and cannot be taken as such."""
        if isinstance(self.archive, RestArchive):
            return []
        if isinstance(self.archive, FolderArchive):
            return [
                Refusal(what=str(path), reason=f"It may be of a CT or be drawn, but is {UNREAD}.")
                for path in self.archive.unread
            ]
        return [
            Refusal(what=folder.name, reason=f"The folder has no {CT}.")
            for folder in sorted(Path(self.name).glob("[!.]*/"))
            if not (folder / CT).exists()
        ]


def open_source(text: str, *, password_file: Path | None, ca_file: Path | None) -> Source:
    """Find out what kind of source is named; ask an Orthanc whether it lets us in.

    Raises:
        ArchiveError: the Orthanc does not, or there is none.
        ValueError: it is no source.
    """
    if "://" in text:
        url, login = login_for(text, password_file)
        archive = RestArchive(url, login=login, ca_file=ca_file)
        try:
            archive.check()
        except ArchiveError:
            archive.close()
            raise
        return Source(name=url, archive=archive)
    folder = Path(text).resolve()
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder, and no address of an Orthanc either.")
    if any(folder.glob(f"[!.]*/{CT}")):
        return Source(name=str(folder), archive=None)
    files = FolderArchive(folder, results=folder)
    for path in files.unread:
        log.warning("%s cannot be read", path)
    return Source(name=str(folder), archive=files)


def hash_of(own_names: Path | None) -> str:
    """Of the shipped table of names and the user's."""
    files = [SHIPPED] if own_names is None else [SHIPPED, own_names]
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def series_rules(configuration: Path | None) -> SeriesRules:
    """Which CTs are suitable: as an Orthanc's configuration has it, else by default.

    Raises:
        BadConfiguration: it cannot be used.
    """
    return (Settings.read(configuration) if configuration else Settings()).series
