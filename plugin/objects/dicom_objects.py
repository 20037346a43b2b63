"""What every DICOM object that we write has in common: whose it is, who made it, when, and of what.

Each kind of object (SEG, RTSTRUCT, SR, review pages) is a module with a function
``build_KIND(finding, origin, ...)`` that begins with ``new_object``, or with one of highdicom's
classes given ``without_patient`` slices, takes its UIDs from ``origin.uid``, and ends with
``sign``. The same arguments give the same bytes.
"""

from collections.abc import Sequence
from copy import deepcopy

import highdicom as hd
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VM
from pydicom.dataelem import RawDataElement
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, DT, TM, PersonName

from model.organs import Organ
from plugin import __version__
from plugin.dicom_file import LOSSY, keep_readable, number_in
from plugin.objects.identity import MANUFACTURER, RESEARCH_USE_ONLY, Origin

SERIES_NUMBER_OFFSET = {"SEG": 9000, "RTSTRUCT": 10000, "SR": 11000, "OT": 12000}
"""Added by modality to the CT's series number, so that results stand behind the images."""

WHAT = {
    "SEG": "Organs at risk",
    "RTSTRUCT": "Contours of organs at risk",
    "SR": "Volumes of organs at risk",
    "OT": "Pages of organs at risk",
}
"""By modality, how the description of a series begins: in many lists it is all that is seen."""

HIGHEST_SERIES_NUMBER = 2**31 - 1
"""Limit of the value representation IS."""

LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
"""SOP class; pydicom 3.0 does not know it yet."""

ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")

SOFTWARE = f"{MANUFACTURER} {__version__}"
"""What wrote the object: masks and outlines depend on it too, and not on the weights alone."""

LATERALITY = {"left": codes.SCT.Left, "right": codes.SCT.Right}

TYPE_2_OF_PATIENT_AND_STUDY = (
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
"""What every object has, if only empty."""

NAMES = ("PatientName", "ReferringPhysicianName")
"""Those of patient and study."""

NEEDED_OF_A_SLICE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "StationName",
    "InstitutionName",
)
"""What highdicom is shown of a slice."""


def reference_to(header: Dataset) -> Dataset:
    """An item that names the image whose header this is."""
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def organ_code(organ: Organ) -> CodedConcept:
    """The organ's concept, its side not said."""
    return CodedConcept(organ.snomed_ct, "SCT", organ.meaning)


def side_code(organ: Organ) -> CodedConcept | None:
    """The modifier that says the side, None for an organ on the midline."""
    return CodedConcept.from_code(LATERALITY[organ.side]) if organ.side else None


def tracking_uid(organ: Organ, origin: Origin) -> str:
    """By which a segment of the SEG and its measurements in the SR are known to be one thing."""
    return origin.uid(f"tracking {organ.name}")


def software_versions(origin: Origin) -> str:
    """The model's version, and enough of its weights' hash to tell them from all others."""
    return f"{origin.model.version} {origin.model.weights_sha256[:12]}"


def device_serial_number(origin: Origin) -> str:
    """Of a device that is software: what its weights are."""
    return origin.model.weights_sha256[:16]


def series_description(origin: Origin, modality: str) -> str:
    """The name of the series in every list of series."""
    what = WHAT[modality]
    if origin.model.synthetic:
        what = "SYNTHETIC, not for patients"
    if origin.shadow:
        what = "SHADOW, not for use"
    return f"{what}, {RESEARCH_USE_ONLY.lower()}, {origin.model.name}"[:64]


def series_number(header: Dataset, modality: str) -> int:
    """The CT's own, moved behind all images; the offset alone if it has none that is usable."""
    offset = SERIES_NUMBER_OFFSET[modality]
    number = number_in(header, "SeriesNumber") or 0.0
    return offset + int(number) if 0 < number <= HIGHEST_SERIES_NUMBER - offset else offset


def new_object(
    header: Dataset,
    origin: Origin,
    *,
    sop_class_uid: str,
    modality: str,
    kind: str,
    instance_number: int = 1,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
) -> hd.SOPClass:
    """An object of a class that highdicom has no constructor for, with nothing of its own yet.

    Args:
        header: of any slice of the CT.
        origin: of the result.
        sop_class_uid: what it is.
        modality: one of SERIES_NUMBER_OFFSET.
        kind: with " series" and " instance 1" behind it, what its two UIDs are for.
        instance_number: within its series.
        transfer_syntax_uid: how it will be written.
    """
    return hd.SOPClass(
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=origin.uid(f"{kind} series"),
        series_number=series_number(header, modality),
        sop_instance_uid=origin.uid(f"{kind} instance {instance_number}"),
        sop_class_uid=sop_class_uid,
        instance_number=instance_number,
        modality=modality,
        transfer_syntax_uid=transfer_syntax_uid,
    )


def without_patient(header: Dataset) -> Dataset:
    """What highdicom needs of the first slice, with patient and study left blank.

    It refuses headers without type 2 attributes or with a sex outside the standard, and logs names
    that it finds odd: so it never sees the patient, whom `sign` adds.
    """
    shown = Dataset()
    for keyword in NEEDED_OF_A_SLICE:
        # Several values where DICOM allows one would be copied into every result.
        if keyword in header and (header[keyword].VM <= 1 or dictionary_VM(keyword) != "1"):
            shown.add(header[keyword])
    for keyword in TYPE_2_OF_PATIENT_AND_STUDY:
        setattr(shown, keyword, None)
    return shown


def say_what_was_lost(result: Dataset, slices: Sequence[Dataset]) -> None:
    """Copy what the first slice with lossy compression says of it.

    DICOM wants it in all that is made of an image.
    """
    for header in slices:
        if header.get("LossyImageCompression") == "01":
            for keyword in LOSSY:
                if keyword in header:
                    result.add(header[keyword])
            return


def sign(result: hd.SOPClass, header: Dataset, origin: Origin) -> None:
    """Say whose an object is, who made it and when; nothing is left to chance or to the clock.

    Patient and study are as the scanner wrote them, in its own character set; names to the byte,
    even where they are not of that set, for by them other systems match.

    Args:
        result: complete but for this.
        header: of any slice of the CT.
        origin: of the result.
    """
    written = header
    header = deepcopy(header)
    keep_readable(header)
    if "SpecificCharacterSet" in header:
        result.add(header["SpecificCharacterSet"])
    result.copy_patient_and_study_information(header)
    for keyword in TYPE_2_OF_PATIENT_AND_STUDY:
        if keyword not in result:
            setattr(result, keyword, None)
    for keyword in NAMES:
        raw = written.get_item(keyword) if keyword in written else None
        is_name = keyword in header and header[keyword].VR == "PN"  # and not, in a file, another
        if is_name and isinstance(raw, RawDataElement) and raw.value:
            encodings = convert_encodings(header.get("SpecificCharacterSet"))
            setattr(result, keyword, PersonName(raw.value, encodings))
    if "BodyPartExamined" in header and header["BodyPartExamined"].VM == 1:
        result.add(header["BodyPartExamined"])
    created = origin.created
    result.SeriesDate = result.InstanceCreationDate = DA(created.date())
    result.SeriesTime = result.InstanceCreationTime = TM(created.time())
    result.SeriesDescription = series_description(origin, result.Modality)
    result.ContentQualification = "RESEARCH"
    result.Manufacturer = MANUFACTURER
    result.ManufacturerModelName = origin.model.name
    result.add_new("SoftwareVersions", "LO", [software_versions(origin), SOFTWARE])
    result.DeviceSerialNumber = device_serial_number(origin)
    equipment = [*result.get("ContributingEquipmentSequence", []), _equipment(origin)]
    for item in equipment:  # highdicom has added itself, with the clock's time
        if "ContributionDateTime" in item:
            item.ContributionDateTime = DT(created)
    result.ContributingEquipmentSequence = equipment


def _equipment(origin: Origin) -> hd.ContributingEquipment:
    return hd.ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=origin.model.name,
        software_versions=(origin.model.version, SOFTWARE),
        device_serial_number=device_serial_number(origin),
        contribution_datetime=origin.created,
        contribution_description=f"Automatic segmentation of organs at risk. {RESEARCH_USE_ONLY}.",
    )
