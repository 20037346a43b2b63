"""What we need of a PACS, as one small protocol, and the two that keep it: Orthanc and a folder."""

import json
import logging
import os
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pydicom
from pydicom.uid import SecondaryCaptureImageStorage

from plugin.conditions import SeriesFacts
from plugin.dicom_file import UnreadableFile, read_dicom
from plugin.orthanc_api import keeps_labels, keeps_metadata

log = logging.getLogger(__name__)

ALREADY_STORED = "AlreadyStored"
"""What Orthanc says of an instance whose UID it holds."""

WITHIN = ("Plugins", "RestApi")
"""Origins of an instance, as Orthanc notes them, that only users of it have."""

MARGIN = 2**20
"""Bytes that must be left on the disk beside a result: for folders, and for Orthanc's index."""

UNKNOWN_RESOURCE = 17
"""Orthanc's error code for an identifier that it does not hold."""


class ArchiveError(Exception):
    """The archive did not do what we asked. Asking again later may help."""


class UnknownResource(ArchiveError):
    """The archive does not hold this study, series or instance, or holds it no longer."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series as the archive lists it. Nothing here identifies the patient to a person."""

    id: str  # the archive's own identifier
    study: str  # the archive's own identifier of the study
    modality: str  # as DICOM writes it: CT, MR, SEG; "" when the file does not say
    instances: tuple[str, ...]  # the archive's own identifiers, sorted
    received: str = ""  # when the last of them came, if the archive says; another: they came again


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study as the archive lists it."""

    id: str
    last_update: str  # UTC as YYYYMMDDTHHMMSS, which sorts as time does
    stable: bool  # no instance has arrived for a while


class Archive(Protocol):
    """Where CT series come from and results go."""

    def series_of_study(self, study: str) -> list[Series]:
        """Every series of a study; UnknownResource if there is no such study."""

    def series(self, series: str) -> Series:
        """One series; UnknownResource if there is none."""

    def sop_instance_uids(self, series: Series) -> list[str]:
        """DICOM's own UIDs of the instances of a series as it was listed, in their order.

        Raises:
            UnknownResource: one of them is gone. One that has come since is not looked at.
        """

    def file(self, instance: str) -> bytes:
        """One instance as a DICOM file."""

    def find_instance(self, sop_instance_uid: str, *, study: str, ours: bool = True) -> str | None:
        """The archive's identifier of the result with this UID in this study, if there is one.

        A study that was filed under another patient, and kept, holds copies with the same UIDs.

        Args:
            sop_instance_uid: of the result.
            study: the archive's identifier.
            ours: whether to pass over what came by DICOM, from whoever reaches that port: others
                could have reckoned the UID.
        """

    def store(self, dataset: pydicom.Dataset) -> str:
        """Keep a result, in place of one of the same UID, and return the archive's identifier."""

    def store_once(self, dataset: pydicom.Dataset) -> str:
        """Keep a result unless there is one of the same UID, and return the identifier of that."""

    def remove(self, instance: str) -> None:
        """Give a result up; nothing happens if it is not there."""


class OrthancArchive:
    """The Orthanc that this process runs in.

    A call into Orthanc stops every other Python thread for as long as it lasts, unless plugin and
    configuration allow threads, so each one here is short: one instance, one series, one page of
    studies.
    """

    def __init__(self, orthanc: Any, *, storage: Path | None = None) -> None:
        """
        Args:
            orthanc: the module, which exists only inside Orthanc, or what stands in for it.
            storage: where Orthanc keeps its files, if they are files of this machine.
        """
        self._orthanc = orthanc
        self._storage = storage

    def series_of_study(self, study: str) -> list[Series]:
        return [_listed(one) for one in self._get(f"/studies/{study}/series", f"study {study}")]

    def series(self, series: str) -> Series:
        return _listed(self._get(f"/series/{series}", f"series {series}"))

    def sop_instance_uids(self, series: Series) -> list[str]:
        listed = self._get(f"/series/{series.id}/instances", f"series {series.id}")
        uids = {one["ID"]: str(one["MainDicomTags"]["SOPInstanceUID"]) for one in listed}
        try:
            return [uids[instance] for instance in series.instances]
        except KeyError as gone:
            raise UnknownResource(f"Orthanc holds no instance {gone}.") from None

    def file(self, instance: str) -> bytes:
        return self._call(f"instance {instance}", self._orthanc.GetDicomForInstance, instance)

    def find_instance(self, sop_instance_uid: str, *, study: str, ours: bool = True) -> str | None:
        for instance in self._with_uid(sop_instance_uid):
            with suppress(UnknownResource):  # deleted meanwhile
                parent = self._get(f"/instances/{instance}/study", "an instance")["ID"]
                if parent == study and (not ours or self._came_from_within(instance)):
                    return instance
        return None

    def _came_from_within(self, instance: str) -> bool:
        """Whether a plugin stored it or a user of the REST API, such as a worker node."""
        noted = self._get(f"/instances/{instance}/metadata?expand", "an instance")
        return noted.get("Origin") in WITHIN

    def _with_uid(self, sop_instance_uid: str) -> list[str]:
        answer = self._call(
            "an instance", self._orthanc.RestApiPost, "/tools/lookup", sop_instance_uid
        )
        return [one["ID"] for one in parsed(answer, "an instance") if one["Type"] == "Instance"]

    def store(self, dataset: pydicom.Dataset) -> str:
        stored = self._upload(dataset)
        if stored["Status"] == ALREADY_STORED:  # and, by Orthanc's default, the older one kept
            self.remove(stored["ID"])
            stored = self._upload(dataset)
        return str(stored["ID"])

    def store_once(self, dataset: pydicom.Dataset) -> str:
        stored = self._upload(dataset)
        if stored["Status"] == ALREADY_STORED and not self._came_from_within(stored["ID"]):
            return self.store(dataset)
        return str(stored["ID"])

    def remove(self, instance: str) -> None:
        with suppress(UnknownResource):
            self._call("a result", self._orthanc.RestApiDelete, f"/instances/{instance}")

    def studies(self, first: int, limit: int) -> list[Study]:
        """One page of all studies, the oldest first."""
        return [
            Study(
                id=one["ID"],
                last_update=one.get("LastUpdate", ""),
                stable=one.get("IsStable", True),
            )
            for one in self._get(f"/studies?since={first}&limit={limit}&expand", "studies")
        ]

    def set_study_metadata(self, study: str, name: str, value: str) -> None:
        """Note a value on the study, where Orthanc's pages and REST show it; nothing if none can be
        kept up to date.
        """
        if not keeps_metadata(self._system):
            return
        uri = f"/studies/{study}/metadata/{name}"
        self._call(f"study {study}", self._orthanc.RestApiPut, uri, value)

    def set_study_labels(self, study: str, wanted: Set[str], *, among: Set[str]) -> None:
        """Give a study these labels and take the others of `among` from it; nothing if none can be.

        Labels that are not among them are other people's and stay.
        """
        if not keeps_labels(self._system):
            return
        what, uri = f"study {study}", f"/studies/{study}/labels"
        there = among & set(self._get(uri, what))
        for label in sorted(there - wanted):
            self._call(what, self._orthanc.RestApiDelete, f"{uri}/{label}")
        for label in sorted(wanted - there):
            self._call(what, self._orthanc.RestApiPut, f"{uri}/{label}", "")

    @cached_property
    def _system(self) -> Any:
        return self._get("/system", "its version")

    def series_instance_uid(self, series: Series) -> str:
        """DICOM's own UID of a series."""
        tags = self._get(f"/series/{series.id}", f"series {series.id}")["MainDicomTags"]
        return str(tags["SeriesInstanceUID"])

    def facts(self, series: Series) -> SeriesFacts:
        """What rules may ask about a series. Its first instance speaks for all."""
        what = f"series {series.id}"
        tags = self._get(f"/series/{series.id}", what)["MainDicomTags"]
        study = self._get(f"/studies/{series.study}", f"study {series.study}")["MainDicomTags"]
        received = self._get(f"/instances/{series.instances[0]}/metadata?expand", what)
        return SeriesFacts(
            called_aet=received.get("CalledAET", ""),
            sender_aet=received.get("RemoteAET", ""),
            sender_ip=received.get("RemoteIP", ""),
            study_description=study.get("StudyDescription", ""),
            series_description=tags.get("SeriesDescription", ""),
            body_part=tags.get("BodyPartExamined", ""),
        )

    def _upload(self, dataset: pydicom.Dataset) -> dict[str, Any]:
        file = _encoded(dataset)
        if self._storage is not None and self._storage.is_dir():
            _find_room(self._storage, len(file))
        what = "a place for a result"
        stored: dict[str, Any] = parsed(
            self._call(what, self._orthanc.RestApiPost, "/instances", file), what
        )
        if stored["Status"] not in ("Success", ALREADY_STORED):
            raise ArchiveError(
                f"Orthanc does not keep a result, but says {stored['Status']}: a "
                "ReceivedInstanceFilter in a script of its configuration must let "
                f"{dataset.Modality} pass."
            )
        if stored["ID"] not in self._with_uid(dataset.SOPInstanceUID):
            self.remove(stored["ID"])
            raise ArchiveError(
                f"Orthanc keeps a {dataset.Modality} under another UID than its own, and so "
                "changed: IngestTranscoding must be without loss."
            )
        return stored

    def _get(self, uri: str, what: str) -> Any:
        return parsed(self._call(what, self._orthanc.RestApiGet, uri), what)

    def _call(self, what: str, function: Callable[..., bytes], *arguments: str | bytes) -> bytes:
        try:
            return function(*arguments)
        except self._orthanc.OrthancException as error:
            code, message = error.args
            if code == UNKNOWN_RESOURCE:
                raise UnknownResource(f"Orthanc holds no {what}.") from error
            raise ArchiveError(f"Orthanc, asked for {what}, says: {message}.") from error


def parsed(answer: bytes, what: str) -> Any:
    try:
        return json.loads(answer)
    except ValueError as error:  # a page of whoever stands between us and Orthanc
        raise ArchiveError(f"Orthanc, asked for {what}, gives no JSON.") from error


def _encoded(dataset: pydicom.Dataset) -> bytes:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _find_room(storage: Path, size: int) -> None:
    """See whether a file of this size can be written.

    Orthanc 1.10 ends as a whole if it cannot make a folder for what a plugin stores, as on a disk
    that is full or has become read-only: the exception is none of its own, and nobody catches it.
    """
    try:
        with TemporaryDirectory(prefix="oar-", dir=storage) as folder:
            descriptor = os.open(Path(folder) / "room", os.O_WRONLY | os.O_CREAT)
            try:
                os.posix_fallocate(descriptor, 0, size + MARGIN)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise ArchiveError(f"Orthanc's storage takes no result: {error.strerror}.") from error


def _listed(one: dict[str, Any]) -> Series:
    """A series from Orthanc's own JSON."""
    return Series(
        id=one["ID"],
        study=one["ParentStudy"],
        modality=one["MainDicomTags"].get("Modality", ""),
        instances=tuple(sorted(one["Instances"])),
        received=one.get("LastUpdate", ""),
    )


class FolderArchive:
    """A folder of DICOM files, for the command line. Results go to another folder.

    Identifiers are DICOM's own UIDs for studies and series, and paths for instances.
    """

    def __init__(self, folder: Path, *, results: Path) -> None:
        """Look once at every file under `folder`; files that are not DICOM are left alone."""
        self._results = results
        self.unread: list[Path] = []  # folders, and files that may be slices: a CT may lack them
        self._uids: dict[str, str] = {}  # path to SOPInstanceUID
        found: dict[str, list[tuple[str, pydicom.Dataset]]] = {}
        for path in self._files(folder):
            if (header := _header(path)) is not None:
                self._uids[str(path)] = str(header.SOPInstanceUID)
                found.setdefault(str(header.SeriesInstanceUID), []).append((str(path), header))
            elif _looks_like_dicom(path):
                self._note_unread(path)
        self._series = {
            uid: Series(
                id=uid,
                study=str(files[0][1].get("StudyInstanceUID", "")),
                modality=str(files[0][1].get("Modality", "")),
                instances=tuple(path for path, _ in files),
            )
            for uid, files in found.items()
        }

    def _files(self, folder: Path) -> list[Path]:
        def note(error: OSError) -> None:
            self._note_unread(Path(error.filename))

        walk = os.walk(folder, onerror=note)
        return sorted(Path(parent, name) for parent, _, names in walk for name in names)

    def _note_unread(self, path: Path) -> None:
        log.warning("%s cannot be read", path)
        self.unread.append(path)

    def all_series(self) -> list[Series]:
        """Every series of the folder, whatever its study."""
        return list(self._series.values())

    def series_of_study(self, study: str) -> list[Series]:
        series = [one for one in self._series.values() if one.study == study]
        if not series:
            raise UnknownResource(f"The folder holds no study {study}.")
        return series

    def series(self, series: str) -> Series:
        try:
            return self._series[series]
        except KeyError:
            raise UnknownResource(f"The folder holds no series {series}.") from None

    def sop_instance_uids(self, series: Series) -> list[str]:
        return [self._uids[path] for path in series.instances]

    def file(self, instance: str) -> bytes:
        try:
            return Path(instance).read_bytes()
        except OSError as error:
            raise ArchiveError(f"cannot read {instance}: {error.strerror}") from error

    def find_instance(self, sop_instance_uid: str, *, study: str, ours: bool = True) -> str | None:
        """None: a person who runs the command line wants the result made."""
        return None

    def store(self, dataset: pydicom.Dataset) -> str:
        name = dataset.Modality.lower()
        if dataset.SOPClassUID == SecondaryCaptureImageStorage:  # one page of several
            name = f"review{dataset.InstanceNumber:02d}"
        path = self._results / f"{name}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return str(path)

    def store_once(self, dataset: pydicom.Dataset) -> str:
        return self.store(dataset)  # what an earlier run has left is not looked at

    def remove(self, instance: str) -> None:
        Path(instance).unlink(missing_ok=True)


PREAMBLE, MAGIC = 128, b"DICM"
"""Bytes before the four that tell a DICOM file, and those."""

HEADER_TAGS = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality"]


def _header(path: Path) -> pydicom.Dataset | None:
    """What tells where a slice belongs; None if the file does not say it."""
    if _start(path)[PREAMBLE:] != MAGIC:
        return None  # whatever it is, it may be large, and is not read
    try:
        header = read_dicom(path, pixels=False, keywords=HEADER_TAGS)
    except (UnreadableFile, OSError):
        return None
    # One that ends within its header is read as far as it goes.
    return header if header.get("SOPInstanceUID") and header.get("SeriesInstanceUID") else None


def _looks_like_dicom(path: Path) -> bool:
    """Whether a file without a header may have been a slice."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False  # of the file system, or of a disc as a whole
    if path.suffix.lower() == ".dcm":
        return True
    start = _start(path)
    return not start or start[PREAMBLE:] == MAGIC


def _start(path: Path) -> bytes:
    """As much of a file as tells DICOM; empty if there is nothing or it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))
    except OSError:
        return b""
