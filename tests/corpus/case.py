"""One series that can be wrong, and the ways to make it so."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian

from tests.phantoms import Phantom, ct_slices, make_phantom

SURNAME, PATIENT_ID = "ZZSURNAME", "ZZID"
"""What nobody may read in a log or in a reason."""

RESULT = ""
"""The series is suitable."""

REFUSED = "Orthanc"
"""Orthanc itself does not take all of it."""

READER_ALONE = "not sent"
"""In Orthanc it would be several series or studies, or end Orthanc 1.10 before we are asked."""

Images = list[Dataset]
Files = list[bytes]
Spoil = Callable[[Images], Images | None]  # in place, or what to take instead
Damage = Callable[[Files], Files]


@dataclass(frozen=True)
class Case:
    """One series, what is wrong with it, and how it must end."""

    name: str  # a sentence
    ends: str  # RESULT, or what the reason holds
    spoil: Spoil = lambda images: None
    damage: Damage = lambda files: files  # of the whole files
    tilt: float = 0.0
    in_orthanc: str | None = None  # if it ends otherwise there: see above
    newer_orthanc_refuses: bool = False  # or takes it, as the older one does

    def files(self, number: int = 1) -> Files:
        """As they are sent, of a patient of their own for each number."""
        images = patient(number, tilt=self.tilt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of what is meant to be wrong
            spoilt = self.spoil(images)
            return self.damage([as_file(image) for image in (images if spoilt is None else spoilt)])


@cache
def phantom() -> Phantom:
    """Who is in all the images."""
    return make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(22, 32, 32))


@cache
def _scanned(tilt: float) -> tuple[bytes, ...]:
    return tuple(as_file(image) for image in ct_slices(phantom(), gantry_tilt_degrees=tilt))


def patient(number: int, *, tilt: float = 0.0) -> Images:
    """The 22 images of one patient, who looks like all the others."""
    images: Images = [pydicom.dcmread(BytesIO(file)) for file in _scanned(tilt)]
    for image in images:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            image[keyword].value = f"{image[keyword].value[:56]}.{number}"
        rename(image, f"{image.SOPInstanceUID}.{image.InstanceNumber}")
        image.PatientName = f"{SURNAME}^GIVEN"
        image.PatientID = f"{PATIENT_ID}-{number}"
    return images


def rename(image: Dataset, uid: str) -> None:
    """Give an image another UID."""
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid


def as_file(image: Dataset) -> bytes:
    """What is sent."""
    file = BytesIO()
    syntax = image.file_meta.TransferSyntaxUID
    if syntax.is_private or syntax == ExplicitVRBigEndian:  # pydicom wants to be told
        little = syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(
            file, image, implicit_vr=False, little_endian=little, enforce_file_format=True
        )
    else:
        image.save_as(file, enforce_file_format=True)
    return file.getvalue()


# --- ways to be wrong ----------------------------------------------------------------------------


def in_all(**values: object) -> Spoil:
    """Other values, by keyword."""

    def change(images: Images) -> None:
        for image in images:
            for keyword, value in values.items():
                setattr(image, keyword, value)

    return change


def in_one(**values: object) -> Spoil:
    """Other values in one image of the middle."""
    return lambda images: in_all(**values)(images[5:6])


def without(*keywords: str) -> Spoil:
    """No image has these."""

    def change(images: Images) -> None:
        for image in images:
            for keyword in keywords:
                image.pop(keyword, None)

    return change


def raw(keyword: str, value: bytes, *, vr: str = "", one: bool = False) -> Spoil:
    """Bytes that stand in an element as they are, whatever they may be by rights."""

    def change(images: Images) -> None:
        for image in images[5:6] if one else images:
            write_raw(image, keyword, value, vr)

    return change


def write_raw(image: Dataset, keyword: str, value: bytes, vr: str = "") -> None:
    """The same in one image."""
    tag, value = Tag(keyword), value + b" " * (len(value) % 2)
    vr = vr or dictionary_VR(tag).split()[0]
    image[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def both(*spoils: Spoil) -> Spoil:
    """One after the other, all in place."""

    def change(images: Images) -> None:
        for spoil in spoils:
            spoil(images)

    return change
