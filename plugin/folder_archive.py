"""A folder of DICOM files as an archive, for the command line."""

import os
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.uid import SecondaryCaptureImageStorage

from model.whole_files import whole_files
from plugin.archive import ArchiveError, Series, UnknownResource
from plugin.dicom_file import UnreadableFile, read_dicom

PREAMBLE, MAGIC = 128, b"DICM"
"""Bytes before the four that tell a DICOM file, and those."""

GROUPS = (b"\x02\0", b"\x08\0")
"""With which a file begins that has neither: what says how it is written, or what it is of."""

UNREAD = "unreadable, cut short, damaged, without the preamble of a DICOM file or without its UIDs"
"""What a file is that may be one and cannot be read."""

HEADER_TAGS = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality"]


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
                self.unread.append(path)
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
            self.unread.append(Path(error.filename))

        files, seen = [], set()
        # A link may lead to the other half of a CT, or back to where we are.
        for parent, folders, names in os.walk(folder, onerror=note, followlinks=True):
            if (place := os.path.realpath(parent)) in seen:
                folders.clear()
                continue
            seen.add(place)
            paths = (Path(parent, name) for name in names)
            # Who reads a pipe waits for whoever writes into it.
            files += [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]
        return sorted(files)

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
        content = BytesIO()  # pydicom's word of a full disk does not say that it is one
        dataset.save_as(content, enforce_file_format=True)
        with whole_files(path) as (file,):  # half a SEG would be read, and lack organs
            file.write(content.getbuffer())
        return str(path)

    def store_once(self, dataset: pydicom.Dataset) -> str:
        return self.store(dataset)  # what an earlier run has left is not looked at

    def remove(self, instance: str) -> None:
        Path(instance).unlink(missing_ok=True)


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
    bare = start[:2] in GROUPS and start[3:4] == b"\0"  # of old programs; not guessed at
    return not start or start[PREAMBLE:] == MAGIC or bare


def _start(path: Path) -> bytes:
    """As much of a file as tells DICOM; empty if there is nothing or it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))
    except OSError:
        return b""
