import base64
import importlib
import json
import queue
import runpy
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from model.organs import BY_NAME
from plugin.belonging import NotOurs
from plugin.catalogue import UnknownModel
from plugin.configuration import BadConfiguration
from plugin.jobs.intake import Intake
from plugin.jobs.job import Job, Outcome, Result
from plugin.jobs.job_table import UnusableDatabase
from plugin.status import summary
from tests.demo import free_port
from tests.fake_orthanc import FakeOrthanc
from tests.plugin.test_worker import SOON_S
from tests.structure_sets import seg

ROOT = Path(__file__).parents[2]


class Output:
    """What Orthanc gives a route to answer with."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.answer: tuple[Any, ...] = ()
        self.allowed = ""

    def SetHttpHeader(self, name: str, value: str) -> None:
        self.headers[name] = value

    def SendHttpStatus(self, status: int, body: str) -> None:
        self.answer = (status, body)

    def SendMethodNotAllowed(self, allowed: str) -> None:
        self.allowed = allowed

    def AnswerBuffer(self, content: bytes, content_type: str) -> None:
        self.answer = (content, content_type)

    def Redirect(self, address: str) -> None:
        self.answer = (address,)


@pytest.fixture
def orthanc(monkeypatch, tmp_path, weights) -> FakeOrthanc:
    configuration = json.loads((ROOT / "orthanc.json").read_text())
    configuration |= {"StorageDirectory": str(tmp_path / "storage"), "StableAge": 1000}
    configuration["Oar"] |= {"Model": str(weights / "quick"), "Threads": 1}
    fake = FakeOrthanc(configuration, str(tmp_path / "orthanc.json"))
    monkeypatch.setitem(sys.modules, "orthanc", fake)
    return fake


def load() -> dict[str, Any]:
    """Run the script as Orthanc does."""
    return runpy.run_path(str(ROOT / "plugin" / "main.py"))


def change(orthanc: FakeOrthanc, kind: int, resource: str = "") -> None:
    for callback in orthanc.change_callbacks:
        callback(kind, 1, resource)


def test_a_stable_study_comes_back_with_a_seg_and_says_so(orthanc, ct):
    script = load()
    study = orthanc.receive(ct)
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)
    assert orthanc.metadata[study, "OarState"] == "queued"
    assert orthanc.labels[study] == {"oar-queued"}
    assert orthanc.metrics["oar_queue_length"] == 1

    change(orthanc, orthanc.ChangeType.ORTHANC_STARTED)
    jobs, worker = script["jobs"], script["worker"]
    orthanc.wait_for_metric("oar_jobs_done", 1, SOON_S)
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)  # our own SEG made it stable again
    change(orthanc, orthanc.ChangeType.ORTHANC_STOPPED)

    assert len(orthanc.segs()) == 1
    assert len(jobs.find()) == 1
    assert orthanc.metadata[study, "OarState"] == "done"
    assert orthanc.labels[study] == {"oar-done"}
    assert orthanc.metrics["oar_jobs_done"] == 1
    assert orthanc.metrics["oar_seconds_segmenting_last"] > 0
    assert orthanc.metrics["oar_seconds_segmenting_total"] > 0
    assert not worker.alive


def test_the_seconds_of_a_job_count_once_though_its_result_is_replaced_later(orthanc, ct):
    jobs = load()["jobs"]
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, orthanc.receive(ct))
    job = jobs.claim()
    jobs.finish(job.id, Outcome(state="done", seconds={"reading": 2.0}))

    jobs.replaced(job.id, "Replaced by the result of another job.")

    assert orthanc.metrics["oar_seconds_reading_total"] == 2.0


def test_a_container_that_was_made_anew_goes_on_at_once_with_what_the_former_one_was_at(
    orthanc, ct, monkeypatch
):
    monkeypatch.setattr("socket.gethostname", lambda: "0f3c")
    jobs = load()["jobs"]
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, orthanc.receive(ct))
    job = jobs.claim()

    monkeypatch.setattr("socket.gethostname", lambda: "77ab")
    jobs = load()["jobs"]
    jobs.recover()

    assert jobs.get(job.id).state == "queued"


def test_a_study_that_could_not_be_queued_at_once_is_queued_soon(orthanc, ct):
    script = load()
    change(orthanc, orthanc.ChangeType.ORTHANC_STARTED)
    study = orthanc.receive(ct)
    orthanc.broken = True
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)
    orthanc.broken = False

    orthanc.wait_for_metric("oar_jobs_done", 1, SOON_S)
    change(orthanc, orthanc.ChangeType.ORTHANC_STOPPED)

    [job] = script["jobs"].find()
    assert (job.study, job.asked_by) == (study, "start")


def test_who_does_not_look_back_at_the_start_still_looks_for_what_could_not_be_queued(
    orthanc, ct, monkeypatch
):
    looked: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(Intake, "catch_up", lambda self, days: looked.put(days))
    orthanc.configuration["Oar"]["CatchUpDays"] = 0
    load()
    change(orthanc, orthanc.ChangeType.ORTHANC_STARTED)
    study = orthanc.receive(ct)
    orthanc.broken = True
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)
    orthanc.broken = False

    assert looked.get(timeout=SOON_S) == 1
    change(orthanc, orthanc.ChangeType.ORTHANC_STOPPED)


def test_what_was_drawn_is_not_compared_where_nobody_wants_that(orthanc, ct, small_phantom):
    orthanc.configuration["Oar"]["CompareCorrections"] = False
    script = load()
    study = orthanc.receive([*ct, seg(ct, small_phantom.labels, [BY_NAME["brainstem"]])])
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)
    change(orthanc, orthanc.ChangeType.ORTHANC_STARTED)
    orthanc.wait_for_metric("oar_jobs_done", 1, SOON_S)
    change(orthanc, orthanc.ChangeType.ORTHANC_STOPPED)

    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)

    assert [job.kind for job in script["jobs"].find()] == ["segment"]


def test_a_queue_in_a_file_is_held_as_long_as_orthanc_runs(orthanc):
    url = load()["database_url"]

    hold = f"from plugin.belonging import hold; hold({url!r})"
    other = subprocess.run(
        [sys.executable, "-c", hold], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "is in use: a file is for one Orthanc alone" in other.stderr


def test_what_was_drawn_is_compared_as_soon_as_the_job_that_was_under_way_has_ended(
    orthanc, ct, small_phantom
):
    script = load()
    study = orthanc.receive([*ct, seg(ct, small_phantom.labels, [BY_NAME["brainstem"]])])
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)
    script["jobs"].claim()
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)

    change(orthanc, orthanc.ChangeType.ORTHANC_STARTED)  # takes up again what was claimed before
    orthanc.wait_for_metric("oar_jobs_done", 2, SOON_S)
    change(orthanc, orthanc.ChangeType.ORTHANC_STOPPED)

    assert [job.kind for job in script["jobs"].find(state="done")] == ["compare", "segment"]


def test_a_study_that_was_deleted_at_once_is_no_fault(orthanc):
    load()
    orthanc.log.clear()

    change(orthanc, orthanc.ChangeType.STABLE_STUDY, "deleted")

    assert [message for level, message in orthanc.log if level != "info"] == []


def test_other_changes_and_a_service_that_is_not_automatic_queue_nothing(orthanc, ct):
    orthanc.configuration["Oar"]["Automatic"] = False
    script = load()
    study = orthanc.receive(ct)

    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)
    change(orthanc, 4, study)

    assert script["jobs"].find() == []


def test_a_request_is_answered_with_its_status(orthanc):
    load()
    [(pattern, callback)] = orthanc.rest_callbacks.items()
    output = Output()

    callback(output, "/oar/jobs/nobody", method="GET", get={}, headers={}, groups=())

    assert pattern == "/oar(/[\x01-\x7f]*)?"
    assert output.headers == {"X-Content-Type-Options": "nosniff"}
    status, text = output.answer
    assert status == 404
    assert json.loads(text) == {"error": "There is no job nobody."}


def test_no_file_is_read_on_a_thread_of_orthancs_whose_stack_is_small(orthanc, ct, monkeypatch):
    load()
    [callback] = orthanc.rest_callbacks.values()
    path, threads = f"/oar/studies/{orthanc.receive(ct)}/explain", set()
    read = orthanc.GetDicomForInstance

    def noted(instance: str) -> bytes:
        threads.add(threading.current_thread())
        return read(instance)

    monkeypatch.setattr(orthanc, "GetDicomForInstance", noted)
    callback(Output(), path, method="GET", get={}, headers={}, groups=())

    assert threads
    assert threading.current_thread() not in threads


def test_a_wrong_method_is_told_the_right_one_in_orthancs_way(orthanc):
    load()
    [callback] = orthanc.rest_callbacks.values()
    output = Output()

    callback(output, "/oar/jobs", method="DELETE", headers={}, groups=())

    assert output.allowed == "GET"


def test_a_page_is_sent_with_its_type_and_its_policy(orthanc):
    load()
    [callback] = orthanc.rest_callbacks.values()
    page, start = Output(), Output()

    callback(page, "/oar/page.js", method="GET", get={}, headers={}, groups=())
    callback(start, "/oar", method="GET", get={}, headers={}, groups=())

    content, content_type = page.answer
    assert b"The page of the queue" in content
    assert content_type == "text/javascript; charset=utf-8"
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert start.answer == ("../oar/index.html",)


def test_orthanc_explorer_is_extended_once_because_only_the_last_script_is_served(orthanc):
    load()

    assert orthanc.explorer_scripts == ['import("../oar/explorer.js");']


def test_a_mistake_in_the_configuration_stops_the_start(orthanc):
    orthanc.configuration["Oar"]["Automatik"] = True

    with pytest.raises(BadConfiguration, match=r"Oar\.Automatik"):
        load()


@pytest.mark.parametrize("key", ["oar", "OAR"])
def test_a_section_that_is_spelled_otherwise_stops_the_start_and_is_not_ignored(orthanc, key):
    orthanc.configuration[key] = orthanc.configuration.pop("Oar")

    with pytest.raises(BadConfiguration, match=f"write Oar instead of {key}"):
        load()


def test_who_has_no_section_is_told_that_all_is_at_its_default(orthanc):
    del orthanc.configuration["Oar"]

    load()

    said = "oar: the configuration has no section Oar: every setting is at its default"
    assert ("warning", said) in orthanc.log


def test_the_queue_of_another_orthanc_stops_the_start_and_its_jobs_are_left_to_it(
    orthanc, ct, tmp_path
):
    queue = f"sqlite:///{tmp_path / 'shared.db'}"
    orthanc.configuration["Oar"]["Database"] = queue
    script = load()
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, orthanc.receive(ct))
    orthanc.configuration["StorageDirectory"] = str(tmp_path / "storage of another")

    with pytest.raises(NotOurs, match="names another Orthanc's queue, name one of its own"):
        load()

    assert script["jobs"].counts()["queued"] == 1


def test_a_database_that_is_away_stops_the_start_with_its_name_and_without_its_password(orthanc):
    orthanc.configuration["Oar"]["Database"] = f"postgresql://oar:geheim@127.0.0.1:{free_port()}/q"

    with pytest.raises(
        UnusableDatabase, match=r"The database q at 127\.0\.0\.1 cannot be"
    ) as refusal:
        load()

    assert "refused. If that will pass, start again then;" in str(refusal.value)
    assert "geheim" not in str(refusal.value)


def test_weights_that_are_not_there_stop_the_start(orthanc):
    orthanc.configuration["Oar"]["Model"] = "nobody"

    with pytest.raises(UnknownModel, match="There is no model 'nobody'"):
        load()


def test_a_route_of_a_model_that_is_not_there_stops_the_start(orthanc):
    orthanc.configuration["Oar"]["Routes"] = [{"To": ["sender"], "Models": ["nobody"]}]

    with pytest.raises(UnknownModel, match="There is no model 'nobody'"):
        load()


def test_routes_need_an_orthanc_that_remembers_its_jobs(orthanc):
    orthanc.configuration["JobsHistorySize"] = 0
    load()
    orthanc.configuration["Oar"]["Routes"] = [{"To": ["sender"]}]

    with pytest.raises(BadConfiguration, match="JobsHistorySize"):
        load()


@pytest.mark.parametrize(("kept", "hint"), [(1000, False), (10, True)])
def test_who_has_routes_is_told_that_orthanc_may_forget_its_jobs(orthanc, kept, hint):
    orthanc.configuration["Oar"]["Routes"] = [{"To": ["sender"]}]
    orthanc.configuration["JobsHistorySize"] = kept
    load()

    change(orthanc, orthanc.ChangeType.ORTHANC_STARTED)
    change(orthanc, orthanc.ChangeType.ORTHANC_STOPPED)

    assert any("JobsHistorySize" in message for _, message in orthanc.log) is hint


@pytest.mark.parametrize(("authenticates", "user"), [(True, "alice"), (False, "")])
def test_who_asks_is_believed_only_if_orthanc_authenticates(orthanc, ct, authenticates, user):
    orthanc.configuration["AuthenticationEnabled"] = authenticates
    script = load()
    [callback] = orthanc.rest_callbacks.values()
    headers = {"authorization": "Basic " + base64.b64encode(b"alice:secret").decode()}
    path = f"/oar/studies/{orthanc.receive(ct)}/jobs"

    callback(Output(), path, method="POST", body=b"", headers=headers, groups=())

    [job] = script["jobs"].find()
    assert job.user == user


def test_our_log_is_orthancs_log(orthanc):
    load()

    assert ("info", "oar: model quick is ready; research use only") in orthanc.log


def test_a_study_that_orthanc_cannot_mark_is_segmented_all_the_same(orthanc, ct, monkeypatch):
    script = load()
    study = orthanc.receive(ct)

    def refuse(uri: str, body: str) -> bytes:
        raise orthanc.OrthancException(-1, "Internal error")

    monkeypatch.setattr(orthanc, "RestApiPut", refuse)
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)

    assert script["jobs"].counts()["queued"] == 1
    assert any("could not be noted" in message for level, message in orthanc.log)


def test_a_study_is_labelled_though_its_metadata_has_no_name_here(orthanc, ct, monkeypatch):
    load()
    study = orthanc.receive(ct)
    put = orthanc.RestApiPut

    def refuse(uri: str, body: str) -> bytes:
        if "/metadata/" in uri:
            raise orthanc.OrthancException(-1, "Accessing an inexistent item")
        return put(uri, body)

    monkeypatch.setattr(orthanc, "RestApiPut", refuse)
    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)

    assert orthanc.labels[study] == {"oar-queued"}


@pytest.mark.parametrize(
    ("system", "labels"),
    [({"Version": "1.12.7", "HasLabels": True}, {"oar-done"}), ({"Version": "1.10.1"}, None)],
)
def test_an_orthanc_that_checks_revisions_is_told_once_and_shows_no_outdated_state(
    orthanc, ct, system, labels
):
    orthanc.configuration["CheckRevisions"] = True
    orthanc.system = system | {"CheckRevisions": True}
    load()
    change(orthanc, orthanc.ChangeType.ORTHANC_STARTED)
    study = orthanc.receive(ct)

    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)
    orthanc.wait_for_metric("oar_jobs_done", 1, SOON_S)
    change(orthanc, orthanc.ChangeType.ORTHANC_STOPPED)

    assert orthanc.metadata == {}
    assert orthanc.labels.get(study) == labels
    [told] = [message for _, message in orthanc.log if "OarState" in message]
    assert told.endswith("/oar/ shows the state, and labels do where Orthanc has them")


@pytest.mark.parametrize(
    ("settings", "system"),
    [({"Labels": False}, {"HasLabels": True}), ({}, {"Version": "1.10.1"})],
)
def test_a_study_has_no_labels_where_they_are_unwanted_or_unknown(orthanc, ct, settings, system):
    orthanc.configuration["Oar"] |= settings
    orthanc.system = system
    load()
    study = orthanc.receive(ct)

    change(orthanc, orthanc.ChangeType.STABLE_STUDY, study)

    assert orthanc.metadata[study, "OarState"] == "queued"
    assert orthanc.labels == {}
    assert not any("could not be noted" in message for level, message in orthanc.log)


@pytest.mark.parametrize(("allows", "hint"), [(True, False), (False, True)])
def test_whoever_makes_python_wait_for_orthanc_is_told(orthanc, allows, hint):
    orthanc.configuration["Python"] = {"AllowThreads": allows}
    load()

    change(orthanc, orthanc.ChangeType.ORTHANC_STARTED)
    change(orthanc, orthanc.ChangeType.ORTHANC_STOPPED)

    assert any("AllowThreads" in message for level, message in orthanc.log) is hint


def test_several_series_are_summed_up():
    def job(state: str) -> Job:
        done = (Result(kind="seg", sop_instance_uid="2.25.1", orthanc_id="a"),)
        values = dict.fromkeys(("id", "study", "series", "stage", "reason", "model", "run"), "")
        return Job.model_construct(**values, state=state, results=done)

    assert summary([job("skipped")]) == "skipped"
    assert summary([job("skipped"), job("done"), job("done")]) == "2 done, 1 skipped"


def test_the_version_is_that_of_the_project():
    version = importlib.import_module("plugin").__version__

    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("settings", "looks"),
    [
        ({}, True),
        ({"CatchUpDays": 0}, False),
        ({"Automatic": False}, True),  # for corrections
        ({"Automatic": False, "CompareCorrections": False}, False),
    ],
)
def test_missed_studies_are_looked_for_at_start_unless_nobody_wants_that(
    orthanc, ct, monkeypatch, settings, looks
):
    looked: list[float] = []
    monkeypatch.setattr(Intake, "catch_up", lambda self, days: looked.append(days))
    orthanc.configuration["StableAge"] = 0
    orthanc.configuration["Oar"] |= settings
    script = load()
    study = orthanc.receive(ct)
    change(orthanc, orthanc.ChangeType.ORTHANC_STARTED)
    [series] = script["archive"].series_of_study(study)
    script["intake"].request(series)
    orthanc.wait_for_metric("oar_jobs_done", 1, SOON_S)  # it would have looked before
    change(orthanc, orthanc.ChangeType.ORTHANC_STOPPED)

    assert looked == ([7] if looks else [])
