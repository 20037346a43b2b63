"""Every study that a hospital can get wrong ends with a result or a reason, and harms nobody."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless, MRImageStorage, generate_uid
from pynetdicom.ae import ApplicationEntity

from tests.integration.conftest import AET, PLUGINS, Orthanc, wait_until
from tests.phantoms import Phantom, ct_slices, make_phantom

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

PATIENTS = Path(__file__).parents[3] / "shared" / "data" / "dicom"

SURNAME, PATIENT_ID = "ZZSURNAME", "ZZID"
"""What nobody may read in a log or in a reason."""

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

Images = list[Dataset]


@cache
def phantom() -> Phantom:
    return make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(22, 32, 32))


def patient(number: int, *, tilt: float = 0.0) -> Images:
    """The images of one patient, who looks like all the others."""
    images = ct_slices(phantom(), gantry_tilt_degrees=tilt)
    for image in images:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            image[keyword].value = f"{image[keyword].value[:56]}.{number}"
        image.SOPInstanceUID += f".{image.InstanceNumber}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.PatientName = f"{SURNAME}^GIVEN"
        image.PatientID = f"{PATIENT_ID}-{number}"
    return images


def as_file(image: Dataset) -> bytes:
    file = BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def scan(orthanc: Orthanc, images: Images) -> None:
    """Send images by C-STORE as they are, compressed or not."""
    scanner = ApplicationEntity("SCANNER")
    [kind] = {(image.SOPClassUID, image.file_meta.TransferSyntaxUID) for image in images}
    scanner.add_requested_context(*kind)
    association = scanner.associate("127.0.0.1", orthanc.dicom, ae_title=AET)
    assert association.is_established
    assert [association.send_c_store(image).Status for image in images] == [0] * len(images)
    association.release()


def upload(orthanc: Orthanc, images: Images) -> None:
    """Send images as files over REST, for those that no honest scanner can send."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of what is meant to be wrong
        files = [as_file(image) for image in images]
    for file in files:
        status, _, answer = orthanc.request("POST", "/instances", file)
        assert status == 200, answer


# What can be wrong with the images of one series


def nothing(images: Images) -> Images:
    return images


def without_pixels(images: Images) -> Images:
    for image in images:
        del image.PixelData
    return images


def few_pixels(images: Images) -> Images:
    images[9].PixelData = images[9].PixelData[:1000]
    return images


def mr(images: Images) -> Images:
    for image in images:
        image.Modality = "MR"
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = MRImageStorage
    return images


def one_slice(images: Images) -> Images:
    return images[:1]


def gap(images: Images) -> Images:
    return images[:12] + images[13:]


def twice_at_one_place(images: Images) -> Images:
    again = pydicom.dcmread(BytesIO(as_file(images[9])))
    again.SOPInstanceUID = generate_uid(entropy_srcs=["twice"])
    again.file_meta.MediaStorageSOPInstanceUID = again.SOPInstanceUID
    return [*images, again]


def two_frames_of_reference(images: Images) -> Images:
    images[3].FrameOfReferenceUID = "2.25.3"
    return images


def two_orientations(images: Images) -> Images:
    for image in images[11:]:
        image.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
    return images


def with_a_localiser(images: Images) -> Images:
    images[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return images


def without_slope(images: Images) -> Images:
    for image in images:
        del image.RescaleSlope
    return images


def nothing_but_air(images: Images) -> Images:
    for image in images:
        image.PixelData = np.zeros((image.Rows, image.Columns), "<i2").tobytes()
    return images


def jpeg_2000(images: Images) -> Images:
    for image in images:
        image.compress(JPEG2000Lossless)
    return images


def broken_jpeg_2000(images: Images) -> Images:
    jpeg_2000(images)
    start = images[5].PixelData.index(b"\xff\x4f\xff\x51")  # of the code stream
    images[5].PixelData = images[5].PixelData[:start] + bytes(len(images[5].PixelData) - start)
    return images


def without_type_2(images: Images) -> Images:
    for image in images:
        for keyword in TYPE_2:
            delattr(image, keyword)
    return images


def empty_type_2(images: Images) -> Images:
    for image in images:
        for keyword in TYPE_2:
            setattr(image, keyword, None)
    return images


def name_in_wrong_places(images: Images) -> Images:
    """Text where a number belongs, by a hurried hand or by a faulty device."""
    for image in images:
        for keyword in ("SeriesNumber", "AcquisitionNumber", "SliceThickness", "PatientBirthDate"):
            tag, value = Tag(keyword), SURNAME.encode() + b" "
            image[tag] = RawDataElement(tag, image[tag].VR, len(value), value, 0, False, True)
    return images


@dataclass(frozen=True)
class Case:
    """One study, what is wrong with it, and how it must end."""

    name: str
    spoil: Callable[[Images], Images] = nothing
    says: str | None = None  # within the reason; None: there is a result
    tilt: float = 0.0
    send: Callable[[Orthanc, Images], None] = scan


CASES = (
    Case("no pixel data", without_pixels, "22 of 22 images have no pixel data"),
    Case("cut short", few_pixels, "1 of 22 images have fewer bytes of pixel data"),
    Case("one slice", one_slice, "1 slice, expected 20"),
    Case("gap", gap, "1 slice missing: there is a gap between z"),
    Case("duplicate positions", twice_at_one_place, "1 pair of different slices at the same place"),
    Case("frames of reference", two_frames_of_reference, "2 different FrameOfReferenceUID"),
    Case("two orientations", two_orientations, "ImageOrientationPatient differs"),
    Case("localiser", with_a_localiser, "Localisers (scout views) among the images: 1 of 22"),
    Case("no slope", without_slope, "RescaleSlope or RescaleIntercept is missing"),
    Case("air", nothing_but_air, "The images show no patient"),
    Case("gantry tilt", says="slanted by 15.0 degrees (gantry tilt)", tilt=15.0),
    Case("broken JPEG 2000", broken_jpeg_2000, "JPEG 2000 Image Compression (Lossless Only)) of"),
    Case("JPEG 2000", jpeg_2000),
    Case("type 2 missing", without_type_2),
    Case("type 2 empty", empty_type_2),
    Case("a name in wrong places", name_in_wrong_places, send=upload),
    Case("good"),
)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, quick_model: Path) -> Iterator[Orthanc]:
    """One for all: each bad study must leave it fit for the next."""
    if shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")
    one = Orthanc(tmp_path_factory.mktemp("bad"), quick_model)
    one.start()
    yield one
    one.kill()


@pytest.fixture(scope="module")
def jobs(orthanc: Orthanc) -> dict[str, dict[str, Any]]:
    """How the study of each case ended, by its name; all are sent before the first is awaited."""
    studies = {}
    for number, case in enumerate(CASES, start=1):
        images = case.spoil(patient(number, tilt=case.tilt))
        case.send(orthanc, images)
        studies[case.name] = study_of(orthanc, images)
    return {name: job_of(orthanc, study) for name, study in studies.items()}


def study_of(orthanc: Orthanc, images: Images) -> str:
    """Orthanc's identifier of the study of these images."""
    _, _, found = orthanc.request("POST", "/tools/lookup", images[0].StudyInstanceUID.encode())
    return next(one["ID"] for one in found if one["Type"] == "Study")


def job_of(orthanc: Orthanc, study: str) -> dict[str, Any]:
    """The only job of a study, once it has ended."""

    def ended() -> dict[str, Any] | None:
        jobs = orthanc.get(f"/oar/jobs?study={study}")["jobs"]
        assert len(jobs) <= 1
        return jobs[0] if jobs and jobs[0]["state"] not in ("queued", "running") else None

    return wait_until(ended, "the job has ended")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_study_has_a_result_or_a_sentence_that_says_why_not(jobs, case):
    job = jobs[case.name]

    assert job["attempts"] == 1, job["reason"]  # nobody's own fault, so never tried again
    if case.says is None:
        assert (job["state"], job["reason"]) == ("done", "")
        assert len(job["results"]) == 1
    else:
        assert case.says in job["reason"]
        assert job["reason"].endswith(".")
        assert (job["state"], job["results"]) == ("skipped", [])


def test_compressed_slices_give_the_result_of_the_same_slices_uncompressed(orthanc, jobs):
    one, other = (
        hd.seg.segread(BytesIO(orthanc.file(jobs[name]["results"][0]["orthanc_id"])))
        for name in ("JPEG 2000", "good")
    )

    assert one.pixel_array.any()
    np.testing.assert_array_equal(one.pixel_array, other.pixel_array)


def test_an_mr_is_no_job_and_explain_says_why(orthanc):
    images = mr(patient(100))
    scan(orthanc, images)
    study = study_of(orthanc, images)

    [series] = orthanc.get(f"/oar/studies/{study}/explain")["series"]

    assert (series["chosen"], series["job"]) == (False, None)
    assert series["reason"] == "Modality is MR, expected CT."


@pytest.mark.parametrize("length", [0, 100, 140, 400, -500], ids="cut at {}".format)
def test_orthanc_itself_refuses_a_file_that_is_cut_short(orthanc, length):
    file = as_file(patient(101)[0])

    status, _, answer = orthanc.request("POST", "/instances", file[:length])

    assert status == 400
    assert answer["OrthancError"]


@pytest.mark.parametrize(
    ("folder", "outcome"),
    [
        ("head_neck_planning_ct", "done: "),
        ("head_ct_gantry_tilt", "skipped: The stack is slanted by 18."),
        ("body_ct_jpeg2000", "Orthanc: "),  # its files do not say which instances they are
    ],
)
def test_a_real_series_has_a_result_or_a_reason(orthanc, folder, outcome):
    files = sorted((PATIENTS / folder).glob("*.dcm"))
    if not files:
        pytest.skip(f"needs ../shared/data/dicom/{folder}, which is not part of the repository")
    answers = [orthanc.request("POST", "/instances", file.read_bytes()) for file in files]

    if all(status == 400 for status, _, _ in answers):
        ended = f"Orthanc: {answers[0][2]['OrthancError']}"
    else:
        [study] = {answer["ParentStudy"] for _, _, answer in answers}
        job = job_of(orthanc, study)
        ended = f"{job['state']}: {job['reason']}"

    assert ended.startswith(outcome)
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    for secret in filter(None, [str(header.get("PatientName")), header.get("PatientID")]):
        assert secret not in ended
        assert secret not in orthanc.log()


def test_after_all_of_them_orthanc_is_well_and_its_log_names_nobody(orthanc, jobs):
    images = patient(199)
    scan(orthanc, images)

    job = job_of(orthanc, study_of(orthanc, images))

    [result] = job["results"]
    seg = pydicom.dcmread(BytesIO(orthanc.file(result["orthanc_id"])))
    assert seg.PatientID == f"{PATIENT_ID}-199"
    assert orthanc.get("/system")["Version"]
    assert orthanc.get("/oar/health")["status"] == "ok"
    log = orthanc.log()
    assert jobs["gap"]["series"] in log  # ours speak there
    assert "Traceback" not in log
    # Orthanc 1.12 itself quotes what has no place in an attribute.
    log = "\n".join(line for line in log.splitlines() if "DicomWebJsonVisitor" not in line)
    assert SURNAME not in log + str(orthanc.jobs())
    assert PATIENT_ID not in log + str(orthanc.jobs())
