"""The Orthanc that this process runs in, as an archive."""

import json
import os
from collections.abc import Callable, Set
from contextlib import suppress
from functools import cached_property
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pydicom

from plugin.archive import ArchiveError, Series, Study, UnknownResource
from plugin.conditions import SeriesFacts
from plugin.orthanc_api import keeps_labels, keeps_metadata

ALREADY_STORED = "AlreadyStored"
"""What Orthanc says of an instance whose UID it holds."""

WITHIN = ("Plugins", "RestApi")
"""Origins of an instance, as Orthanc notes them, that only users of it have."""

MARGIN = 2**20
"""Bytes that must be left on the disk beside a result: for folders, and for Orthanc's index."""

UNKNOWN_RESOURCE = 17
"""Orthanc's error code for an identifier that it does not hold."""


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
