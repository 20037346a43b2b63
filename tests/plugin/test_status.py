"""What is shown of jobs on their study and to Prometheus."""

import pytest

from plugin import status
from plugin.jobs.job import Outcome
from plugin.jobs.jobs import Jobs
from plugin.orthanc_archive import OrthancArchive
from plugin.status import Status
from tests.fake_orthanc import FakeOrthanc
from tests.plugin.jobs.asking import add


@pytest.fixture
def shown(orthanc: FakeOrthanc) -> Status:
    return Status(archive=OrthancArchive(orthanc), orthanc=orthanc, labels=True)


@pytest.fixture
def study(orthanc: FakeOrthanc) -> str:
    [study] = orthanc.last_update
    return study


def test_a_study_shows_its_latest_job_of_a_series_and_not_an_earlier_one(
    orthanc: FakeOrthanc, jobs: Jobs, shown: Status, study: str
):
    add(jobs, study=study)
    jobs.finish(jobs.claim().id, Outcome(state="skipped", reason="It is tilted."))
    again = add(jobs, study=study, force=True)

    shown.changed(jobs, again)

    assert orthanc.metadata[study, "OarState"] == "queued"
    assert orthanc.labels[study] == {"oar-queued"}


def test_a_comparison_that_waits_hides_no_result_of_its_study(
    orthanc: FakeOrthanc, jobs: Jobs, shown: Status, study: str
):
    add(jobs, study=study)
    done = jobs.claim()
    jobs.finish(done.id, Outcome(state="done"))
    compare = add(jobs, study=study, series="drawn", identity="compare", kind="compare")

    shown.changed(jobs, compare)

    assert orthanc.metadata[study, "OarState"] == "done"


def test_the_length_of_the_queue_counts_what_waits_and_what_runs(
    orthanc: FakeOrthanc, jobs: Jobs, shown: Status
):
    for series in ("a", "b"):
        add(jobs, series=series)
    jobs.claim()

    shown.show_counts(jobs)

    assert orthanc.metrics["oar_queue_length"] == 2


def test_jobs_that_worker_nodes_do_are_counted_too_but_not_all_the_time(
    orthanc: FakeOrthanc, jobs: Jobs, shown: Status, monkeypatch: pytest.MonkeyPatch
):
    shown.show_counts(jobs)
    add(jobs)  # by another process, which tells only the database

    shown.refresh_counts(jobs)
    assert orthanc.metrics["oar_jobs_queued"] == 0
    monkeypatch.setattr(status, "REFRESH_S", 0.0)
    shown.refresh_counts(jobs)
    assert orthanc.metrics["oar_jobs_queued"] == 1


def test_stages_have_names_that_prometheus_takes(
    orthanc: FakeOrthanc, jobs: Jobs, shown: Status, study: str
):
    add(jobs, study=study)
    job = jobs.claim()
    jobs.finish(job.id, Outcome(state="done", seconds={"segmenting.the network": 2.0}))

    shown.changed(jobs, jobs.get(job.id))

    assert orthanc.metrics["oar_seconds_segmenting_the_network_last"] == 2.0
