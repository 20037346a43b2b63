import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from plugin import station as station_module
from plugin.catalogue import Catalogue
from plugin.drawn.quality import Quality
from plugin.jobs.job import Outcome, Parcel
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import Jobs
from plugin.orthanc_archive import OrthancArchive
from plugin.settings import Settings
from plugin.station import Station
from plugin.web.rest import Rest
from plugin.web.router import LARGEST_BODY, Request
from tests.fake_orthanc import FakeOrthanc
from tests.phantoms import ct_slices
from tests.plugin.drawn.test_quality import DRAWING, GOOD
from tests.plugin.jobs.asking import add
from tests.plugin.parts import new_deliveries, new_intake, new_worker

ADDRESSES = [
    "/oar/studies/ID/jobs",
    "/oar/series/ID/jobs",
    "/oar/studies/ID/explain",
    "/oar/jobs",
    "/oar/jobs/ID",
    "/oar/jobs/ID/cancel",
    "/oar/jobs/ID/retry",
    "/oar/jobs/ID/deliver",
    "/oar/models",
    "/oar/health",
    "/oar/openapi.json",
    "/oar/audit",
    "/oar/audit/verify",
    "/oar/quality",
    "/oar/quality/trend",
    "/oar/quality.csv",
    "/oar/queue/pause",
    "/oar/queue/resume",
]


class Client:
    """Asks as a person would, without HTTP."""

    def __init__(self, rest: Rest) -> None:
        self.rest = rest

    def get(self, path: str, **query: str) -> tuple[int, Any]:
        response = self.rest(Request(method="GET", path=path, query=query))
        return response.status, json.loads(response.text())

    def post(self, path: str, body: object = None) -> tuple[int, Any]:
        sent = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        response = self.rest(Request(method="POST", path=path, body=sent))
        return response.status, json.loads(response.text())


@pytest.fixture
def orthanc() -> FakeOrthanc:
    return FakeOrthanc()


@pytest.fixture
def station(
    orthanc: FakeOrthanc, database: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Station]:
    monkeypatch.setattr(station_module, "Catalogue", partial(Catalogue, weights=weights))
    with closing(
        Station(
            Settings(Model="quick", RetryDelaySeconds=0),
            archive=OrthancArchive(orthanc),
            database_url=database,
            owner="here",
            changed=lambda jobs, job: None,
        )
    ) as one:
        yield one


@pytest.fixture
def jobs(station: Station) -> Jobs:
    return station.jobs


@pytest.fixture
def client(station: Station) -> Client:
    intake = new_intake(archive=station.archive, jobs=station.jobs, catalogue=station.catalogue)
    worker = new_worker(station.jobs, lambda job, watch: Outcome(state="skipped"))
    return Client(
        Rest(
            station,
            intake=intake,
            worker=worker,
            queue_answers=lambda: worker.queue_answers,
            viewer=False,
        )
    )


def test_a_study_is_segmented_when_asked(client, orthanc, ct):
    study = orthanc.receive(ct)

    status, answer = client.post(f"/oar/studies/{study}/jobs", {"force": False, "model": None})

    assert status == 202
    [job] = answer["jobs"]
    assert job["state"] == "queued"
    assert job["asked_by"] == "rest"
    assert client.get(f"/oar/jobs/{job['id']}") == (200, job)
    assert client.get("/oar/jobs", study=study, state="queued") == (200, {"jobs": [job]})
    assert client.get("/oar/jobs", state="done") == (200, {"jobs": []})
    assert client.post(f"/oar/series/{job['series']}/jobs") == (202, {"jobs": [job]})


def test_a_job_is_cancelled_and_tried_again_when_asked(client, orthanc, ct):
    _, answer = client.post(f"/oar/studies/{orthanc.receive(ct)}/jobs")
    path = f"/oar/jobs/{answer['jobs'][0]['id']}"

    assert client.post(f"{path}/retry")[0] == 409
    assert client.post(f"{path}/cancel")[1]["state"] == "cancelled"
    assert client.post(f"{path}/cancel") == (
        409,
        {"error": "The job is cancelled: there is nothing left to cancel."},
    )
    assert client.post(f"{path}/retry/")[1]["state"] == "queued"


def test_what_is_not_ct_is_refused_with_the_reason(client, orthanc, small_phantom):
    mr = ct_slices(small_phantom)
    for image in mr:
        image.Modality = "MR"
    study = orthanc.receive(mr)
    [series] = orthanc.series_ids(study)

    assert client.post(f"/oar/studies/{study}/jobs") == (
        422,
        {"error": "The study has no series of modality CT."},
    )
    assert client.post(f"/oar/series/{series}/jobs") == (
        422,
        {"error": "The modality of the series is MR, expected CT."},
    )


def test_explain_gives_each_series_its_reason_and_its_latest_job(
    client, orthanc, ct, small_phantom
):
    few = ct_slices(small_phantom, series_number=2)[:3]
    study = orthanc.receive([*ct, *few])
    _, posted = client.post(f"/oar/studies/{study}/jobs")

    status, answer = client.get(f"/oar/studies/{study}/explain")

    assert status == 200
    by_choice = {one["chosen"]: one for one in answer["series"]}
    assert "22 axial CT slices" in by_choice[True]["reason"]
    assert by_choice[True]["by_itself_reason"] == "Automatic is true."
    assert not by_choice[False]["by_itself"]
    assert "3 slices" in by_choice[False]["reason"]
    assert {one["job"]["id"] for one in answer["series"]} == {one["id"] for one in posted["jobs"]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 60_000, "more than 100 brackets"),
        (b'{"model":' * 101, "more than 100 brackets"),
        (("[" * 101).encode("utf-16"), "more than 100 brackets"),  # which JSON may be, too
        (b"[]", "a valid dictionary"),
        ({"forse": True}, "forse"),
        ({"force": "yes"}, "force"),
        ({"model": 7}, "model"),
        (b" " * LARGEST_BODY + b"{}", "more than"),
    ],
)
def test_a_body_that_is_wrong_is_refused_and_nothing_is_queued(
    client, orthanc, ct, jobs, body, says
):
    status, answer = client.post(f"/oar/studies/{orthanc.receive(ct)}/jobs", body)

    assert status == 400
    assert says in answer["error"]
    assert jobs.find() == []


@pytest.mark.parametrize(
    "query", [{"state": "finished"}, {"limit": "0"}, {"limit": "x"}, {"stat": "done"}]
)
def test_a_query_that_is_wrong_is_refused(client, query):
    status, answer = client.get("/oar/jobs", **query)

    assert status == 400
    assert next(iter(query)) in answer["error"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/oar/audit", {"after": str(2**63)}),
        ("/oar/audit", {"job": "x\0"}),
        ("/oar/audit/verify", {"number": "9" * 40}),
        ("/oar/jobs", {"study": "\0"}),
        ("/oar/quality", {"model": "\0"}),
        ("/oar/quality.csv", {"organ": "\r\nX: 1"}),
        ("/oar/quality/trend", {"study": "../../system"}),
    ],
)
def test_what_no_database_takes_is_refused_before_it(client, path, query):
    status, answer = client.get(path, **query)

    assert status == 400
    assert next(iter(query)) in answer["error"]


@pytest.mark.parametrize("evil", ["\x1b[2J", "\r\n", "\u2028", "\u202e", "\ud800", "\0"])
def test_no_sentence_holds_a_character_that_disguises_it(client, orthanc, ct, evil):
    study = orthanc.receive(ct)
    sentences = [
        client.post(f"/oar/studies/{study}/jobs", {f"force{evil}": True})[1]["error"],
        client.post(f"/oar/studies/{study}/jobs", {"model": evil})[1]["error"],
        client.get(f"/oar/{evil}")[1]["error"],
    ]

    assert [one for one in sentences if not one.isprintable()] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/oar"),
        ("GET", "/oar/"),
        ("GET", "/oar/job"),
        ("GET", "/oar/jobs/nobody"),
        ("POST", "/oar/jobs/nobody/cancel"),
        ("POST", "/oar/studies/nobody/jobs"),
        ("GET", "/oar/studies/nobody/explain"),
        ("GET", "/oar/studies/..%2Fsystem/explain"),
        ("GET", "/oar/studies/a?expand/explain"),
        ("GET", "/oar/qualityXcsv"),
        ("GET", "/oar/openapi-json"),
    ],
)
def test_what_is_not_there_is_404_with_a_sentence(client, method, path):
    response = client.rest(Request(method=method, path=path))

    assert response.status == 404
    assert response.content["error"].endswith((".", "openapi.json."))


def test_an_unknown_model_is_404_and_names_those_there_are(client, orthanc, ct):
    study = orthanc.receive(ct)

    assert client.post(f"/oar/studies/{study}/jobs", {"model": "best"}) == (
        404,
        {"error": "There is no model 'best'; there are: blind, quick."},
    )


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_address_says_which_methods_it_takes(client, address):
    response = client.rest(Request(method="DELETE", path=address))

    assert response.status == 405
    assert response.headers["Allow"] in ("GET", "POST")
    assert response.headers["Allow"] in response.content["error"]


def test_an_orthanc_that_does_not_answer_is_503(client, orthanc):
    orthanc.broken = True

    status, answer = client.post("/oar/studies/some/jobs")

    assert status == 503
    assert "Internal error" in answer["error"]


def test_a_model_that_was_removed_from_the_disk_since_the_start_is_503_with_its_place(
    client, orthanc, ct, jobs, station, tmp_path
):
    station.catalogue._folders["removed"] = tmp_path / "removed"

    status, answer = client.post(f"/oar/studies/{orthanc.receive(ct)}/jobs", {"model": "removed"})

    assert status == 503
    assert f"no model at {tmp_path / 'removed'}: card.json: No such file" in answer["error"]
    assert jobs.find() == []


def test_a_queue_that_does_not_answer_is_503(client, jobs, monkeypatch):
    def locked() -> None:
        raise OperationalError("SELECT", {}, Exception("database is locked"))

    monkeypatch.setattr(jobs, "counts", locked)

    status, answer = client.get("/oar/health")

    assert status == 503
    assert answer == {"error": "The queue of jobs does not answer; Orthanc's log says why."}


def test_health_says_when_no_job_is_taken(client, orthanc, ct):
    client.post(f"/oar/studies/{orthanc.receive(ct)}/jobs")

    status, health = client.get("/oar/health")

    assert status == 200
    assert health["status"] == "stopped"  # the worker of this test was never started
    assert health["queue_length"] == 1
    assert health["at_work"] == 0
    assert 0 <= health["waiting_seconds"] < 60
    assert health["model"] == "quick"
    assert health["device"] in ("cpu", "cuda")


def test_the_models_are_listed_with_their_cards(client):
    _, answer = client.get("/oar/models")

    assert [one["name"] for one in answer["models"]] == ["blind", "quick"]
    assert [one["default"] for one in answer["models"]] == [False, True]
    assert answer["models"][0]["card"]["notice"].startswith("Research use only")


def test_of_a_model_it_is_said_which_organs_patients_get(client, station, monkeypatch):
    quick = station.catalogue.card("quick")
    never_found = {"brainstem": {"dice_mean": 0.0, "dice_sd": 0.0, "patients": 3}}
    cards = {"quick": quick, "bad": replace(quick, measured=never_found)}
    monkeypatch.setattr(station.catalogue, "cards", lambda: cards)

    _, answer = client.get("/oar/models")

    assert {one["name"]: one["written"] for one in answer["models"]} == {
        "quick": ["brainstem"],
        "bad": [],
    }


def test_the_description_names_every_address_and_every_reference_leads_somewhere(client):
    _, document = client.get("/oar/openapi.json")

    described = {re.sub(r"\{\w+\}", "ID", path) for path in document["paths"]}
    assert described == set(ADDRESSES)
    schemas = document["components"]["schemas"]
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))
    assert set(references) <= schemas.keys()
    assert schemas["Job"]["properties"].keys() == {
        *("id", "kind", "of", "user", "dice", "provenance", "deliveries"),
        *("study", "series", "state", "stage", "progress", "attempts", "reason", "model"),
        *("asked_by", "run", "received", "results", "volumes_ml", "seconds", "warnings"),
        *("created", "started", "finished"),
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
            assert any(status.startswith("2") for status in operation["responses"])


def test_who_asks_is_kept_with_the_job(client, orthanc, ct):
    path = f"/oar/studies/{orthanc.receive(ct)}/jobs"
    [asked] = client.rest(Request(method="POST", path=path, user="alice")).content["jobs"]
    job = f"/oar/jobs/{asked['id']}"
    client.rest(Request(method="POST", path=f"{job}/cancel", user="bob"))

    assert asked["user"] == "alice"
    assert client.get(job)[1]["user"] == "bob"


def test_who_paused_the_queue_and_since_when_is_told_and_in_the_record(client):
    client.rest(Request(method="POST", path="/oar/queue/pause", user="max"))
    health = client.get("/oar/health")[1]
    client.rest(Request(method="POST", path="/oar/queue/resume", user="mia"))

    assert (health["paused"], health["paused_by"]) == (True, "max")
    assert health["paused_since"]
    after = client.get("/oar/health")[1]
    assert (after["paused"], after["paused_by"], after["paused_since"]) == (False, "", None)
    lines = [line["record"] for line in client.get("/oar/audit")[1]["lines"]]
    assert [(one["event"], one["user"]) for one in lines] == [("pause", "max"), ("resume", "mia")]


def test_deliveries_that_failed_are_tried_again_when_asked(client, orthanc, ct, jobs, database):
    _, answer = client.post(f"/oar/studies/{orthanc.receive(ct)}/jobs")
    job = jobs.claim()
    deliveries = new_deliveries(open_database(database))
    with Session(open_database(database)) as session, session.begin():
        deliveries.add(session, job, Parcel(kind="sender", target="CT1@10.0.0.1"), {})
    deliveries.refused(deliveries.claim(("sender",)), "No modality has this title.")
    path = f"/oar/jobs/{job.id}"

    [refused] = client.get(path)[1]["deliveries"]
    status, answer = client.post(f"{path}/deliver")

    assert (refused["state"], refused["reason"]) == ("refused", "No modality has this title.")
    assert (status, answer["deliveries"][0]["state"]) == (200, "waiting")
    assert client.post(f"{path}/deliver")[0] == 409
    assert client.post("/oar/jobs/nobody/deliver")[0] == 404


def test_a_job_of_which_nothing_was_to_be_sent_says_so(client, jobs):
    job = add(jobs)

    status, answer = client.post(f"/oar/jobs/{job.id}/deliver")

    assert status == 409
    assert answer["error"].startswith("Nothing of this job was to be sent on when it ended")


@pytest.mark.parametrize(
    "path",
    [
        "/oar/jobs?state=&study=&limit=",
        "/oar/audit?job=&after=&limit=",
        "/oar/audit/verify?number=&hash=",
        "/oar/quality?study=&model=&organ=&limit=",
        "/oar/quality/trend?last=",
    ],
)
def test_the_empty_fields_of_a_form_ask_for_nothing(client, jobs, path):
    add(jobs)
    path, _, query = path.partition("?")

    assert client.get(path, **dict(parse_qsl(query, keep_blank_values=True))) == client.get(path)
    assert client.get(path, unknown="")[0] == 400


def test_the_record_is_read_and_checked(client, jobs):
    job = add(jobs)

    [line] = client.get("/oar/audit", job=job.id)[1]["lines"]
    assert line["record"]["state"] == "queued"
    assert client.get("/oar/audit", after="1")[1] == {"lines": []}
    assert client.get("/oar/audit/verify", number="1", hash=line["hash"])[1]["intact"]
    assert client.get("/oar/audit/verify", number="1", hash="0" * 64)[1]["intact"] is False
    assert client.get("/oar/audit/verify", number="0", hash="0" * 64)[1]["intact"]
    assert client.get("/oar/audit/verify", hash=line["hash"])[1]["intact"]
    assert client.get("/oar/audit/verify", hash="1" * 64)[1]["intact"] is False
    assert client.get("/oar/audit/verify", number="5000")[1]["intact"] is False
    assert client.get("/oar/audit", after="-1")[0] == 400


def test_the_quality_is_listed_summed_up_and_given_as_a_table(client, database):
    Quality(open_database(database)).keep(DRAWING, [GOOD])

    [one] = client.get("/oar/quality", organ="brainstem")[1]["comparisons"]
    assert (one["model"], one["dice"]) == ("quick", 0.9)
    assert client.get("/oar/quality", organ="spinal_cord")[1] == {"comparisons": []}
    [trend] = client.get("/oar/quality/trend")[1]["trends"]
    assert (trend["cases"], trend["dice_median"]) == (1, 0.9)
    table = client.rest(Request(method="GET", path="/oar/quality.csv"))
    assert table.content_type == "text/csv"
    assert table.text().splitlines()[0].startswith("organ,dice,surface_dice,hd95_mm")
    assert len(table.text().splitlines()) == 2
    assert client.get("/oar/quality", limit="0")[0] == 400
