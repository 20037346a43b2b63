"""What we need of a PACS, as one small protocol."""

from dataclasses import dataclass
from typing import Protocol

import pydicom

from model.unusable import Unusable


class ArchiveError(Unusable):
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
