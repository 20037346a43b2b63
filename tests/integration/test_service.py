"""What the service promises to a hospital, tried on a real Orthanc over DICOM and REST."""

import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from plugin.jobs.job_table import open_database
from tests.integration.conftest import Orthanc, wait_until
from tests.phantoms import Phantom, ct_slices, make_phantom
from tests.plugin.parts import new_queue

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

NewOrthanc = Callable[..., Orthanc]

SYSTEM_S = 0.2
"""Orthanc's own answers may take this long while a job runs."""


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    return make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64))


@pytest.fixture
def ct(phantom: Phantom) -> list[Dataset]:
    return ct_slices(phantom)


@pytest.fixture
def orthanc(new_orthanc: NewOrthanc, quick_model: Path) -> Orthanc:
    one = new_orthanc(quick_model)
    one.start()
    return one


@pytest.fixture
def patient_orthanc(new_orthanc: NewOrthanc, quick_model: Path) -> Orthanc:
    """One that does nothing unless it is asked."""
    one = new_orthanc(quick_model, Automatic=False)
    one.start()
    return one


@pytest.fixture
def slow_orthanc(new_orthanc: NewOrthanc, slow_model: Path) -> Orthanc:
    one = new_orthanc(slow_model)
    one.start()
    return one


@pytest.fixture(scope="module")
def idle_orthanc(tmp_path_factory, quick_model):
    one = Orthanc(tmp_path_factory.mktemp("idle"), quick_model)
    one.start()
    yield one
    one.kill()


def seg_uids(orthanc: Orthanc) -> set[str]:
    files = (pydicom.dcmread(BytesIO(orthanc.file(seg))) for seg in orthanc.segs())
    return {str(file.SOPInstanceUID) for file in files}


def test_a_ct_pushed_by_c_store_comes_back_with_one_seg_in_its_study(orthanc, ct):
    orthanc.push(ct)

    job = orthanc.wait_for_job("done")
    orthanc.wait_until_quiet()  # our own SEG makes the study stable once more

    assert [one["id"] for one in orthanc.jobs()] == [job["id"]]
    [seg] = orthanc.segs()
    file = pydicom.dcmread(BytesIO(orthanc.file(seg)))
    assert file.StudyInstanceUID == ct[0].StudyInstanceUID
    assert file.PatientID == ct[0].PatientID
    assert job["results"] == [
        {
            "kind": "seg",
            "sop_instance_uid": file.SOPInstanceUID,
            "orthanc_id": seg,
            "sha256": hashlib.sha256(orthanc.file(seg)).hexdigest(),
        }
    ]
    assert job["asked_by"] == "stable study"
    assert job["progress"] == 1
    assert job["volumes_ml"].keys() == {"brainstem"}
    assert {"reading", "segmenting", "writing", "storing"} <= job["seconds"].keys()


def test_the_state_stands_on_the_study_and_in_the_metrics(orthanc, ct):
    orthanc.push(ct)
    orthanc.wait_for_job("done")

    metadata = f"/studies/{orthanc.study()}/metadata/OarState"
    wait_until(lambda: orthanc.text(metadata) == "done", "the study's metadata says done")
    metrics = wait_until(
        lambda: (
            (text := orthanc.text("/tools/metrics-prometheus"))
            and "oar_jobs_done 1" in text
            and text
        ),
        "the metrics say done",
    )
    assert "oar_queue_length 0" in metrics
    assert "oar_seconds_segmenting_last " in metrics


def test_asking_again_does_nothing_and_force_makes_a_second_result(orthanc, ct):
    orthanc.push(ct)
    first = orthanc.wait_for_job("done")
    path = f"/oar/studies/{orthanc.study()}/jobs"

    assert orthanc.post(path)["jobs"] == [first]
    [forced] = orthanc.post(path, {"force": True})["jobs"]
    orthanc.wait_for_job("done", job=forced["id"])
    orthanc.wait_until_quiet()

    assert forced["id"] != first["id"]
    assert len(seg_uids(orthanc)) == 2
    assert len(orthanc.jobs()) == 2


def test_a_result_that_was_deleted_is_made_again_with_the_same_uids_when_asked(orthanc, ct):
    orthanc.push(ct)
    job = orthanc.wait_for_job("done")
    before = seg_uids(orthanc)
    orthanc.request("DELETE", f"/instances/{job['results'][0]['orthanc_id']}")

    [again] = orthanc.post(f"/oar/series/{job['series']}/jobs")["jobs"]

    assert again["id"] == job["id"]
    orthanc.wait_for_job("done")
    assert seg_uids(orthanc) == before


def test_explain_says_for_every_series_whether_it_is_chosen_and_why(patient_orthanc, phantom):
    scout = ct_slices(phantom, series_number=2)[:2]
    mr = ct_slices(phantom, series_number=3)[:1]
    for image in scout:
        image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    mr[0].Modality = "MR"
    patient_orthanc.push([*ct_slices(phantom), *scout, *mr])

    explained = patient_orthanc.get(f"/oar/studies/{patient_orthanc.study()}/explain")["series"]

    reasons = {one["reason"]: one["chosen"] for one in explained}
    assert len(reasons) == 3
    assert [reason for reason, chosen in reasons.items() if chosen] == [
        next(reason for reason in reasons if "30 axial CT slices" in reason)
    ]
    assert any("Localiser" in reason for reason in reasons)
    assert "Modality is MR, expected CT." in reasons


def test_a_job_that_a_power_cut_interrupts_is_done_once_after_the_restart(slow_orthanc, ct):
    slow_orthanc.push(ct)
    slow_orthanc.wait_for_job("running")
    wait_until(lambda: slow_orthanc.jobs()[0]["progress"] > 0.1, "the network is at work")
    slow_orthanc.kill()

    slow_orthanc.start()
    job = slow_orthanc.wait_for_job("done")
    slow_orthanc.wait_until_quiet()

    assert job["attempts"] == 2
    assert len(slow_orthanc.segs()) == 1
    assert len(slow_orthanc.jobs()) == 1


def test_a_stop_gives_the_running_job_back_to_the_queue(slow_orthanc, ct):
    slow_orthanc.push(ct)
    slow_orthanc.wait_for_job("running")
    wait_until(lambda: slow_orthanc.jobs()[0]["progress"] > 0.1, "the network is at work")

    slow_orthanc.stop()

    database = slow_orthanc.folder / "orthanc" / "oar-jobs.db"
    [left] = new_queue(open_database(f"sqlite:///{database}")).find()
    assert left.state == "queued"
    slow_orthanc.start()
    job = slow_orthanc.wait_for_job("done")
    assert job["attempts"] == 1  # the interrupted one does not count
    assert len(slow_orthanc.segs()) == 1


def test_a_study_received_just_before_a_stop_is_found_at_the_next_start(orthanc, ct):
    orthanc.push(ct)
    orthanc.stop()
    orthanc.start()

    job = orthanc.wait_for_job("done")

    assert job["asked_by"] == "start"
    assert len(orthanc.segs()) == 1


def test_health_is_bad_as_long_as_the_queue_cannot_be_written(patient_orthanc, ct):
    orthanc = patient_orthanc
    orthanc.push(ct)
    engine = open_database(f"sqlite:///{orthanc.folder / 'orthanc' / 'oar-jobs.db'}")
    refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END"

    def health() -> int:
        return orthanc.request("GET", "/oar/health")[0]

    with engine.begin() as connection:
        connection.exec_driver_sql(refuse)
    orthanc.post(f"/oar/studies/{orthanc.study()}/jobs")
    wait_until(lambda: health() == 503, "health is bad")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER refuse")
    orthanc.wait_for_job("done")
    engine.dispose()

    assert health() == 200


def test_a_lost_queue_does_not_make_results_twice(orthanc, ct):
    orthanc.push(ct)
    first = orthanc.wait_for_job("done")
    orthanc.stop()
    for file in (orthanc.folder / "orthanc").glob("oar-jobs.db*"):
        file.unlink()
    orthanc.start()

    job = orthanc.wait_for_job("done")

    assert job["results"] == first["results"]
    assert job["volumes_ml"] == pytest.approx(first["volumes_ml"], abs=0.01)
    assert len(orthanc.segs()) == 1


def test_a_bad_study_is_explained_and_does_not_stop_the_next(orthanc, ct):
    bad = ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64), seed=5))
    del bad[12]  # a missing slice
    orthanc.push(bad)
    skipped = orthanc.wait_for_job("skipped")
    orthanc.push(ct)

    done = wait_until(lambda: orthanc.get("/oar/jobs?state=done")["jobs"], "the good one is done")

    assert len(done) == 1
    assert skipped["reason"]
    assert skipped["attempts"] == 1
    assert "PHANTOM" not in skipped["reason"]


def test_no_organ_is_an_outcome_of_its_own(new_orthanc, blind_model, ct):
    orthanc = new_orthanc(blind_model)
    orthanc.start()
    orthanc.push(ct)

    job = orthanc.wait_for_job("skipped")

    assert job["reason"] == "No organ was found in the series."
    assert orthanc.segs() == []


def test_orthanc_answers_at_once_while_a_job_runs(slow_orthanc, ct):
    slow_orthanc.push(ct)
    slow_orthanc.wait_for_job("running")
    slowest = 0.0
    while slow_orthanc.jobs()[0]["state"] == "running":
        begun = time.perf_counter()
        slow_orthanc.get("/system")
        slowest = max(slowest, time.perf_counter() - begun)

    assert slow_orthanc.jobs()[0]["state"] == "done"
    assert slowest < SYSTEM_S


def test_a_running_job_can_be_cancelled_and_tried_again(slow_orthanc, ct):
    slow_orthanc.push(ct)
    job = slow_orthanc.wait_for_job("running")
    path = f"/oar/jobs/{job['id']}"

    slow_orthanc.post(f"{path}/cancel")
    slow_orthanc.wait_for_job("cancelled")
    status, _, problem = slow_orthanc.request("POST", f"{path}/cancel", b"")
    assert (status, problem) == (
        409,
        {"error": "The job is cancelled: there is nothing left to cancel."},
    )
    assert slow_orthanc.segs() == []

    assert slow_orthanc.post(f"{path}/retry")["state"] == "queued"
    slow_orthanc.wait_for_job("done")
    assert len(slow_orthanc.segs()) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/oar/jobs/nobody", None, 404, "There is no job nobody"),
        ("GET", "/oar/nothing/", None, 404, "/oar/nothing"),
        ("GET", "/oar/studies/0-0/explain", None, 404, "Orthanc holds no study 0-0"),
        ("POST", "/oar/series/0-0/jobs", b"", 404, "Orthanc holds no series 0-0"),
        ("POST", "/oar/series/0-0/jobs", b"{", 400, "not JSON"),
        ("POST", "/oar/series/0-0/jobs", b'{"forse": true}', 400, "forse"),
        ("GET", "/oar/jobs?limit=none", None, 400, "limit"),
    ],
)
def test_a_mistake_is_a_sentence_with_its_status(idle_orthanc, method, path, body, status, says):
    answered, headers, content = idle_orthanc.request(method, path, body)

    assert answered == status
    assert content.keys() == {"error"}
    assert says in content["error"]
    assert headers["Content-Type"] in ("application/json", "text/plain")  # the latter since 1.12.2


def test_the_wrong_method_is_told_the_right_one(idle_orthanc):
    wrong = urllib.request.Request(f"{idle_orthanc.url}/oar/jobs", method="DELETE")

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(wrong)

    with refused.value as answer:
        assert answer.code == 405
        assert answer.headers["Allow"] == "GET"


def test_the_service_describes_itself(idle_orthanc):
    health = idle_orthanc.get("/oar/health")
    assert health["status"] == "ok"
    assert health["model"] == "quick"
    assert health["research_use_only"] is True
    [default] = [one for one in idle_orthanc.get("/oar/models/")["models"] if one["default"]]
    assert default["loaded"]
    assert default["card"]["organs"] == ["brainstem"]
    assert "/oar/jobs/{job}/retry" in idle_orthanc.get("/oar/openapi.json")["paths"]


def test_a_mistake_in_the_configuration_stops_orthanc_with_the_sentence(new_orthanc, quick_model):
    orthanc = new_orthanc(quick_model, Automatik=True)

    with pytest.raises(AssertionError, match="Orthanc has ended"):
        orthanc.start()

    assert "Oar.Automatik" in orthanc.log()


def test_a_second_orthanc_with_the_queue_of_the_first_does_not_start(new_orthanc, quick_model):
    first = new_orthanc(quick_model)
    queue = first.folder / "orthanc" / "oar-jobs.db"
    second = new_orthanc(quick_model, Database=f"sqlite:///{queue}")
    first.start()

    with pytest.raises(AssertionError, match="Orthanc has ended"):
        second.start()
    assert f"The queue {queue} is in use: a file is for one Orthanc alone." in second.log()
    first.stop()
    with pytest.raises(AssertionError, match="Orthanc has ended"):
        second.start()
    assert "The queue belongs to the archive" in second.log()

    first.start()  # and still has it


def test_a_queue_that_cannot_be_written_stops_orthanc_with_the_sentence(new_orthanc, quick_model):
    orthanc = new_orthanc(quick_model, Database="sqlite:////proc/oar-jobs.db")  # root cannot either

    with pytest.raises(AssertionError, match="Orthanc has ended"):
        orthanc.start()

    assert "The queue's file /proc/oar-jobs.db cannot be written" in orthanc.log()
