"""What stands in a header that should not, or does not and should."""

from pydicom.dataset import Dataset
from pydicom.uid import UID, EnhancedCTImageStorage, MRImageStorage

from tests.corpus.case import (
    READER_ALONE,
    REFUSED,
    RESULT,
    SURNAME,
    Case,
    Images,
    Spoil,
    both,
    in_all,
    in_one,
    patient,
    raw,
    rename,
    without,
)

TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)

TERMINAL = "\x1b[2J\r\noar: job 1 done\u202e"
"""Clears a screen, forges a line of a log and turns round what follows."""


def stored_as(sop_class: str) -> Spoil:
    """A change of the class of all images."""

    def change(images: Images) -> None:
        for image in images:
            image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = UID(sop_class)

    return change


def text_in_numbers(images: Images) -> None:
    """By a hurried hand, or by a faulty device."""
    for keyword in ("SeriesNumber", "AcquisitionNumber", "SliceThickness", "PatientBirthDate"):
        raw(keyword, SURNAME.encode())(images)


def private_tags(images: Images) -> None:
    for image in images:
        block = image.private_block(0x0019, "SOMEBODY 1.0", create=True)
        block.add_new(0x01, "LO", SURNAME)
        block.add_new(0x02, "UN", bytes(range(256)))
        block.add_new(0x03, "SQ", [Dataset()])
        image.add_new(0x00290010, "LO", "NOBODY")  # reserved, and nothing there
        image.add_new(0x00310099, "UN", b"nobody reserved this")


def deep_sequence(levels: int) -> Dataset:
    inner = Dataset()
    for _ in range(levels):
        outer = Dataset()
        outer.ContentSequence = [inner]
        inner = outer
    return inner


def one_uid_for_two(images: Images) -> None:
    rename(images[-1], images[-2].SOPInstanceUID)


def one_twice(images: Images) -> Images:
    return [*images, images[7]]


def another_patient_among_them(images: Images) -> None:
    other = patient(999)[3]
    images[3].PatientID, images[3].PatientName = other.PatientID, other.PatientName
    images[3].StudyInstanceUID = other.StudyInstanceUID


HEADERS = (
    Case("a series with nothing wrong with it", RESULT),
    Case("an MR", "The images are MR Image Storage (22 of 22)", stored_as(MRImageStorage)),
    Case(
        "an enhanced CT by its class",
        "Enhanced CT (multi-frame)",
        stored_as(EnhancedCTImageStorage),
    ),
    Case(
        "a class that is not a UID",
        "SOPClassUID is missing or not one value in 22 of 22",
        stored_as("CT"),
    ),
    Case("a modality that is not CT", "Modality is PT, expected CT", in_all(Modality="PT")),
    Case(
        "a modality that clears the terminal of who reads of it",
        "Modality is",
        raw("Modality", TERMINAL.encode()),
    ),
    Case("no modality", "Modality is missing", without("Modality")),
    Case("two modalities in one element", "Modality is", in_all(Modality=["CT", "MR"])),
    Case(
        "an animal",
        "declared a quadruped",
        in_all(AnatomicalOrientationType="QUADRUPED"),
    ),
    Case(
        "a localiser among the slices",
        "Localisers (scout views) among the images: 1 of 22",
        lambda images: in_all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])(images[:1]),
    ),
    Case(
        "reformatted images",
        "ImageType is DERIVED\\SECONDARY\\REFORMATTED",
        in_all(ImageType=["DERIVED", "SECONDARY", "REFORMATTED"]),
    ),
    Case("no image type", "ImageType is missing", without("ImageType")),
    Case(
        "a body part far from the head",
        "BodyPartExamined is one that ExcludeBodyPart leaves out",
        in_all(BodyPartExamined="PELVIS"),
    ),
    Case(
        "a body part of bytes that are no text",
        RESULT,
        raw("BodyPartExamined", b"\xff\xfe\x80"),
    ),
    Case("none of the attributes of type 2", RESULT, without(*TYPE_2)),
    Case("all attributes of type 2 empty", RESULT, in_all(**dict.fromkeys(TYPE_2))),
    Case("text where numbers belong", RESULT, text_in_numbers),
    Case(
        "a name in Arabic and Hebrew, from right to left",
        RESULT,
        in_all(SpecificCharacterSet="ISO_IR 192", PatientName="محمد^علي=דוד^כהן"),
    ),
    Case(
        "a name that turns the rest of a line round",
        RESULT,
        in_all(SpecificCharacterSet="ISO_IR 192", PatientName="ZZ\u202eEMAN\u202c"),
    ),
    Case(
        "a name with line ends, bells and escapes",
        RESULT,
        raw("PatientName", b"ZZ\r\n\x07\x1b[31m\x00^X"),
    ),
    Case(
        "a description that is a script of a page",
        RESULT,
        in_all(SeriesDescription="<script>alert(1)</script>", StudyDescription="'; DROP TABLE"),
    ),
    Case(
        "a character set that nobody has",
        RESULT,
        in_all(SpecificCharacterSet="ISO_IR 999"),
    ),
    Case(
        "a character set in a language that the name is not in",
        RESULT,
        both(raw("SpecificCharacterSet", b"\\ISO 2022 IR 87"), raw("PatientName", b"Z\x1b$B\xff")),
    ),
    Case("a sex that nobody has", RESULT, raw("PatientSex", b"UNKNOWN TO US")),
    Case("a birthday that no calendar has", RESULT, raw("PatientBirthDate", b"20239999")),
    Case("private tags, reserved and not", RESULT, private_tags),
    Case(
        "private tags with another length than they say",
        RESULT,
        lambda images: [image.add_new(0x00190001, "UN", b"\x00" * 3) for image in images] and None,
    ),
    Case(
        "sequences within sequences, twenty deep",
        RESULT,
        lambda images: in_all(RequestAttributesSequence=[deep_sequence(20)])(images),
    ),
    Case(
        "sequences within sequences, fifty deep",
        RESULT,
        lambda images: in_all(RequestAttributesSequence=[deep_sequence(50)])(images),
        in_orthanc=READER_ALONE,  # it ends there
    ),
    Case(
        "a patient's comments of a megabyte",
        RESULT,
        in_all(PatientComments="x" * 2**20),
    ),
    Case(
        "an equipment's maker of ten thousand letters",
        RESULT,
        raw("Manufacturer", b"x" * 10_000),
    ),
    Case(
        "two images with one UID",
        "Two different images have the same SOPInstanceUID",
        one_uid_for_two,
        in_orthanc=RESULT,  # Orthanc keeps the first: 21 slices without a gap
    ),
    Case("one image sent twice", RESULT, one_twice),
    Case(
        "another patient's image among them",
        "2 different StudyInstanceUID",
        another_patient_among_them,
        in_orthanc=READER_ALONE,
    ),
    Case(
        "two series in one",
        "2 different SeriesInstanceUID",
        in_one(SeriesInstanceUID="1.2.3"),
        in_orthanc=READER_ALONE,
    ),
    Case(
        "two studies in one",
        "2 different StudyInstanceUID",
        in_one(StudyInstanceUID="1.2.3"),
        in_orthanc=READER_ALONE,
    ),
    Case(
        "no study UID",
        "StudyInstanceUID is missing or not one value in 22 of 22",
        without("StudyInstanceUID"),
        in_orthanc=REFUSED,
    ),
    Case(
        "an image without a UID",
        "SOPInstanceUID is missing or not one value in 1 of 22",
        lambda images: images[5].pop("SOPInstanceUID") and None,
        in_orthanc=REFUSED,
    ),
    Case(
        "a series UID with a path in it",
        "SeriesInstanceUID is missing or not one value",
        raw("SeriesInstanceUID", b"../../etc/passwd"),
    ),
    Case(
        "a frame of reference that is no UID",
        "FrameOfReferenceUID is missing or not one value in 22 of 22",
        raw("FrameOfReferenceUID", b"here<b>"),
    ),
    Case(
        "a frame of reference with a zero too many",
        RESULT,
        raw("FrameOfReferenceUID", b"1.2.03.4"),
    ),
    Case(
        "an instance UID of three hundred digits",
        "SOPInstanceUID is missing or not one value in 1 of 22",
        raw("SOPInstanceUID", b"1" * 300, one=True),
        in_orthanc=REFUSED,
    ),
)
