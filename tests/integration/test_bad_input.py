"""Every study that a hospital can get wrong ends with a result or a reason, and harms nobody."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pynetdicom.ae import ApplicationEntity

from tests.corpus import CASES
from tests.corpus.case import PATIENT_ID, READER_ALONE, REFUSED, SURNAME, Case, Images, patient
from tests.corpus.headers import deep_sequence
from tests.corpus.syntaxes import LOSSLESS, have_programs, needs_programs
from tests.integration.conftest import AET, PLUGINS, Orthanc, wait_until

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning"),  # pydicom's, of what is meant to be wrong
]

NO_ENCODERS = "needs dcmcjpeg and ojph_compress: apt-get install dcmtk openjph-tools"

PATIENTS = Path(__file__).parents[3] / "shared" / "data" / "dicom"


@dataclass(frozen=True)
class Ending:
    """What became of one series."""

    job: dict[str, Any] | None  # None: it was refused before it came to that
    reason: str  # Orthanc's, or ours


class Patient(Orthanc):
    """Waits for the last slice even on a busy machine."""

    def configure(self, oar: dict[str, Any]) -> None:
        super().configure(oar)
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"StableAge": 5}))


def scan(orthanc: Orthanc, images: Images) -> None:
    """Send images by C-STORE as they are."""
    scanner = ApplicationEntity("SCANNER")
    [kind] = {(image.SOPClassUID, image.file_meta.TransferSyntaxUID) for image in images}
    scanner.add_requested_context(*kind)
    association = scanner.associate("127.0.0.1", orthanc.dicom, ae_title=AET)
    assert association.is_established
    assert [association.send_c_store(image).Status for image in images] == [0] * len(images)
    association.release()


def upload(orthanc: Orthanc, files: list[bytes]) -> tuple[str, str]:
    """Send files over REST; the identifier of their only series, or why Orthanc takes them not."""
    answers = [orthanc.request("POST", "/instances", file) for file in files]
    if refused := [answer["OrthancError"] for status, _, answer in answers if status != 200]:
        return "", f"{REFUSED}: {refused[0]}"
    [series] = {answer["ParentSeries"] for _, _, answer in answers}
    return series, ""


def in_orthanc(case: Case) -> str:
    """How it must end there."""
    return case.ends if case.in_orthanc is None else case.in_orthanc


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, quick_model: Path) -> Iterator[Orthanc]:
    """One for all: each bad study must leave it fit for the next."""
    if shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")
    one = Patient(tmp_path_factory.mktemp("bad"), quick_model)
    one.start()
    yield one
    one.kill()


@pytest.fixture(scope="module")
def endings(orthanc: Orthanc) -> dict[str, Ending]:
    """How each case ended, by its name; all are sent before the first is awaited."""
    sent = {}
    for number, case in enumerate(CASES, start=1):
        if in_orthanc(case) != READER_ALONE and (have_programs() or not needs_programs(case)):
            sent[case.name] = upload(orthanc, case.files(number))
    return {
        name: ending_of(orthanc, series) if series else Ending(None, refused)
        for name, (series, refused) in sent.items()
    }


def ending_of(orthanc: Orthanc, series: str) -> Ending:
    """Of a series: its job has ended, or there is none because it is no CT."""
    listed = orthanc.get(f"/series/{series}")
    if listed["MainDicomTags"].get("Modality") == "CT":
        job = job_of(orthanc, listed["ParentStudy"])
        return Ending(job, job["reason"])
    explained = orthanc.get(f"/oar/studies/{listed['ParentStudy']}/explain")["series"]
    assert [(one["series"], one["job"]) for one in explained] == [(series, None)]
    return Ending(None, explained[0]["reason"])


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


@pytest.mark.parametrize(
    "case", [case for case in CASES if in_orthanc(case) != READER_ALONE], ids=lambda case: case.name
)
def test_a_study_has_a_result_or_a_sentence_that_says_why_not(endings, case):
    if case.name not in endings:
        pytest.skip(NO_ENCODERS)
    ending, expected = endings[case.name], in_orthanc(case)

    assert ending.reason.isprintable()
    if ending.job is None:
        refused = case.newer_orthanc_refuses and ending.reason.startswith(REFUSED)
        assert refused or expected in ending.reason
        return
    assert ending.job["attempts"] == 1, ending.reason  # nobody's own fault, so never tried again
    if not expected:
        assert (ending.job["state"], ending.reason) == ("done", "")
        assert len(ending.job["results"]) == 1
    else:
        assert expected in ending.reason
        assert ending.reason.endswith(".")
        assert (ending.job["state"], ending.job["results"]) == ("skipped", [])


@pytest.mark.parametrize("name", [f"written as {syntax.name}" for syntax in LOSSLESS])
def test_slices_in_any_lossless_encoding_give_the_same_result(orthanc, endings, name):
    if name not in endings:
        pytest.skip(NO_ENCODERS)
    plain = "a series with nothing wrong with it"
    one, other = (
        hd.seg.segread(BytesIO(orthanc.file(endings[case].job["results"][0]["orthanc_id"])))
        for case in (name, plain)
    )

    assert one.pixel_array.any()
    np.testing.assert_array_equal(one.pixel_array, other.pixel_array)


def test_the_same_images_under_a_corrected_name_have_a_result_of_their_own(orthanc):
    results = []
    for identifier in (f"{PATIENT_ID}-WRONG", f"{PATIENT_ID}-RIGHT"):
        images = patient(102)
        for image in images:
            image.PatientID = identifier
        scan(orthanc, images)
        [study] = orthanc.post(
            "/tools/find", {"Level": "Study", "Query": {"PatientID": identifier}}
        )
        [result] = job_of(orthanc, study)["results"]
        seg = pydicom.dcmread(BytesIO(orthanc.file(result["orthanc_id"])))
        assert seg.PatientID == identifier
        results.append(result["sop_instance_uid"])

    assert results[0] != results[1]


def test_sequences_within_sequences_are_explained_and_do_not_end_orthanc(orthanc):
    images = patient(198)
    images[0].RequestAttributesSequence = [deep_sequence(100)]
    scan(orthanc, images)
    study = study_of(orthanc, images)

    [explained] = orthanc.get(f"/oar/studies/{study}/explain")["series"]

    assert explained["chosen"], explained["reason"]
    assert job_of(orthanc, study)["state"] == "done"


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


def test_after_all_of_them_orthanc_is_well_and_its_log_names_nobody(orthanc, endings):
    images = patient(199)
    scan(orthanc, images)

    job = job_of(orthanc, study_of(orthanc, images))

    [result] = job["results"]
    seg = pydicom.dcmread(BytesIO(orthanc.file(result["orthanc_id"])))
    assert seg.PatientID == f"{PATIENT_ID}-199"
    assert orthanc.get("/system")["Version"]
    assert orthanc.get("/oar/health")["status"] == "ok"
    assert "traceback" not in orthanc.log().lower()
    # Orthanc's own lines name whom it refuses.
    ours = "\n".join(line for line in orthanc.log().splitlines() if "oar: " in line)
    assert endings["a slice is missing"].job["series"] in ours
    assert SURNAME not in ours + str(orthanc.jobs())
    assert PATIENT_ID not in ours + str(orthanc.jobs())
