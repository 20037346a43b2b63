"""Every study that a hospital can get wrong ends with a result or a reason, and harms nobody."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, generate_uid

from tests.integration.conftest import Orthanc, wait_until
from tests.phantoms import ct_slices, make_phantom

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

PATIENTS = Path(__file__).parents[3] / "shared" / "data" / "dicom"

TYPE_2 = ("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, quick_model: Path) -> Iterator[Orthanc]:
    """One for all: each bad study must leave it fit for the next."""
    one = Orthanc(tmp_path_factory.mktemp("bad"), quick_model)
    one.start()
    yield one
    one.kill()


def patient(seed: int) -> list[Dataset]:
    return ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64), seed=seed))


def without_pixels(images: list[Dataset]) -> list[Dataset]:
    for image in images:
        del image.PixelData
    return images


def cut_short(images: list[Dataset]) -> list[Dataset]:
    images[9].PixelData = images[9].PixelData[:1000]
    return images


def one_slice(images: list[Dataset]) -> list[Dataset]:
    return images[:1]


def gap(images: list[Dataset]) -> list[Dataset]:
    return images[:12] + images[13:]


def twice_at_one_place(images: list[Dataset]) -> list[Dataset]:
    again = pydicom.dcmread(as_file(images[9]))
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid(
        entropy_srcs=["twice"]
    )
    return [*images, again]


def two_frames_of_reference(images: list[Dataset]) -> list[Dataset]:
    images[3].FrameOfReferenceUID = "2.25.3"
    return images


def jpeg_2000(images: list[Dataset]) -> list[Dataset]:
    for image in images:
        image.compress(JPEG2000Lossless)
    return images


def without_type_2(images: list[Dataset]) -> list[Dataset]:
    for image in images:
        for keyword in TYPE_2:
            delattr(image, keyword)
    return images


def as_file(image: Dataset) -> BytesIO:
    file = BytesIO()
    image.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("seed", "spoil", "state", "says"),
    [
        (1, without_pixels, "skipped", "pixel"),
        (2, cut_short, "skipped", "pixel"),
        (3, one_slice, "skipped", "1 slice"),
        (4, gap, "skipped", "slice"),
        (5, twice_at_one_place, "skipped", "same place"),
        (6, two_frames_of_reference, "skipped", "FrameOfReferenceUID"),
        (7, jpeg_2000, "done", ""),
        (8, without_type_2, "done", ""),
    ],
)
def test_a_bad_study_has_a_result_or_a_reason(orthanc, seed, spoil, state, says):
    images = spoil(patient(seed))
    for image in images:
        status, _, answer = orthanc.request("POST", "/instances", as_file(image).read())
        assert status == 200, answer

    job = wait_for_job_of(orthanc, answer["ParentStudy"])

    assert (job["state"], job["attempts"]) == (state, 1), job["reason"]
    assert says in job["reason"]
    assert "PHANTOM" not in job["reason"]
    assert len(job["results"]) == (state == "done")


@pytest.mark.parametrize(
    ("folder", "outcome"),
    [
        ("head_neck_planning_ct", "done"),
        ("head_ct_gantry_tilt", "gantry tilt"),
        ("body_ct_jpeg2000", "refused by Orthanc"),
    ],
)
def test_real_series_have_a_result_or_a_reason(orthanc, folder, outcome):
    if not (PATIENTS / folder).is_dir():
        pytest.skip(f"needs the patients of {folder}, which are not part of the repository")
    studies = set()
    for path in sorted((PATIENTS / folder).glob("*.dcm")):
        _, _, answer = orthanc.request("POST", "/instances", path.read_bytes())
        studies.add(answer.get("ParentStudy", "refused by Orthanc"))

    [study] = studies

    if study == outcome:  # the files say of no instance which one it is
        return
    job = wait_for_job_of(orthanc, study)
    assert outcome in f"{job['state']}: {job['reason']}"


def test_the_next_good_study_is_unharmed(orthanc):
    images = patient(99)
    orthanc.push(images)
    study = wait_until(
        lambda: orthanc.post(
            "/tools/find",
            {"Level": "Study", "Query": {"StudyInstanceUID": images[0].StudyInstanceUID}},
        ),
        "the study has arrived",
    )

    assert wait_for_job_of(orthanc, *study)["state"] == "done"


def wait_for_job_of(orthanc: Orthanc, study: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        jobs = orthanc.get(f"/oar/jobs?study={study}")["jobs"]
        return jobs[0] if jobs and jobs[0]["state"] not in ("queued", "running") else None

    return wait_until(ended, "the job has ended")
