"""The queue: what becomes of a job, whoever asks, and what outlives the process."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import create_engine, text

from plugin.jobs.job import Job, Outcome
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import UnknownJob, WrongState
from plugin.plain_text import LONGEST
from tests.plugin.jobs.asking import RESULT, add
from tests.plugin.parts import new_queue


def test_the_same_slices_and_model_are_one_job_in_whatever_order_they_come(jobs):
    first = add(jobs)

    assert add(jobs, instances=["a", "b"], asked_by="rest") == first
    assert jobs.find() == [first]


@pytest.mark.parametrize(
    "change",
    [
        {"series": "other"},
        {"instances": ["a", "b", "late"]},
        {"identity": "quick 1.0.1 def"},
        {"force": True},
    ],
    ids=["series", "late slice", "weights", "force"],
)
def test_another_series_slice_or_model_or_a_forced_one_is_another_job(jobs, change):
    assert add(jobs).id != add(jobs, **change).id


def test_a_forced_job_has_a_run_of_its_own_and_keeps_it_when_tried_again(jobs):
    job = add(jobs, force=True)
    jobs.cancel(job.id)

    assert job.run == job.id
    assert jobs.retry(job.id).run == job.run
    assert add(jobs, force=True).run != job.run
    assert add(jobs).run == ""


def test_jobs_are_taken_in_the_order_of_asking(jobs):
    asked = [add(jobs, series=str(number)).id for number in range(5)]

    taken = [job.id for _ in asked if (job := jobs.claim())]

    assert taken == asked
    assert jobs.claim() is None


def test_a_clock_that_is_set_back_holds_no_job_that_was_never_begun(database):
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    jobs = new_queue(open_database(database), now=lambda: clock[0])
    job = add(jobs)
    clock[0] -= timedelta(hours=2)

    taken = jobs.claim()

    assert taken is not None
    jobs.fail(job.id, "boom")
    assert jobs.claim() is None  # its back-off counts


def test_a_job_that_failed_while_the_clock_was_a_year_ahead_does_not_wait_for_a_year(database):
    clock = [datetime(2027, 1, 1, tzinfo=UTC)]
    jobs = new_queue(open_database(database), retry_delay_seconds=30, now=lambda: clock[0])
    job = add(jobs)
    for attempt in (1, 2):
        assert jobs.claim() is not None
        jobs.fail(job.id, "boom")
        clock[0] += timedelta(seconds=29 * attempt)
        assert jobs.claim() is None
        clock[0] += timedelta(seconds=1 * attempt)

    clock[0] -= timedelta(days=365)

    assert jobs.claim() is not None


def test_a_job_is_taken_once_however_many_take_at_the_same_time(jobs, database):
    asked = {add(jobs, series=str(number)).id for number in range(40)}
    taken: list[str] = []

    def take() -> None:
        mine = new_queue(open_database(database))  # its own connections, as another process has
        while (job := mine.claim()) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(taken) == sorted(asked)


def test_two_that_ask_at_the_same_time_get_the_same_job(database):
    together = threading.Barrier(4)
    found: list[str] = []

    def ask() -> None:
        mine = new_queue(open_database(database))
        together.wait()
        found.append(add(mine).id)

    open_database(database)
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert len(set(found)) == 1


@pytest.mark.parametrize("state", ["queued", "running", "done", "failed"])
def test_a_job_survives_the_end_of_the_process_in_any_state(database, state):
    before = new_queue(open_database(database), max_attempts=1 if state == "failed" else 3)
    job = add(before)
    if state != "queued":
        before.claim()
    if state == "done":
        before.finish(job.id, Outcome(state="done", results=(RESULT,)))
    if state == "failed":
        before.fail(job.id, "RuntimeError: no more memory")

    after = new_queue(open_database(database))  # the old one is simply gone
    after.recover()

    assert after.get(job.id).state == ("queued" if state == "running" else state)
    claimed = after.claim()
    assert (claimed is not None) == (state in ("queued", "running"))


def test_a_job_that_ends_orthanc_each_time_is_given_up(database):
    for _ in range(3):
        jobs = new_queue(open_database(database), max_attempts=3)
        job = add(jobs)
        jobs.recover()
        assert jobs.claim() is not None
    jobs.recover()

    job = jobs.get(job.id)
    assert job.state == "failed"
    assert job.reason == "Its worker ended 3 times while this job ran."


def test_our_own_fault_is_retried_after_longer_and_longer_pauses_then_parked(database):
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    jobs = new_queue(
        open_database(database), max_attempts=3, retry_delay_seconds=30, now=lambda: clock[0]
    )
    job = add(jobs)
    for pause in (30, 60):
        assert jobs.claim() is not None
        jobs.fail(job.id, "RuntimeError: no more memory")
        assert jobs.get(job.id).state == "queued"
        clock[0] += timedelta(seconds=pause - 1)
        assert jobs.claim() is None  # not yet
        clock[0] += timedelta(seconds=1)
    assert jobs.claim() is not None
    jobs.fail(job.id, "RuntimeError: no more memory")

    parked = jobs.get(job.id)
    assert parked.state == "failed"
    assert parked.attempts == 3
    assert parked.reason == "RuntimeError: no more memory"
    assert parked.finished == clock[0]


def test_the_end_of_a_pause_ends_the_wait(database):
    jobs = new_queue(open_database(database), retry_delay_seconds=0.2)
    job = add(jobs)
    jobs.claim()
    jobs.fail(job.id, "RuntimeError: no more memory")
    begun = time.monotonic()
    jobs.wait(60)  # this one ends at once: the event of `add` was still set
    jobs.wait(60)

    assert time.monotonic() - begun < 30
    assert jobs.claim() is not None


def test_a_parked_job_can_be_started_again_with_all_its_attempts(database):
    jobs = new_queue(open_database(database), max_attempts=1)
    job = add(jobs)
    jobs.claim()
    jobs.fail(job.id, "RuntimeError: no more memory")

    again = jobs.retry(job.id)

    assert (again.state, again.attempts, again.reason) == ("queued", 0, "")
    assert jobs.claim() is not None


def test_an_outcome_is_kept_whole(jobs):
    job = add(jobs)
    jobs.claim()
    jobs.finish(
        job.id,
        Outcome(
            state="done",
            results=(RESULT,),
            volumes_ml={"brainstem": 25.1},
            seconds={"reading": 0.5},
            warnings=("The left lens was not found.",),
        ),
    )

    done = jobs.get(job.id)

    assert done.results == (RESULT,)
    assert done.volumes_ml == {"brainstem": 25.1}
    assert done.seconds == {"reading": 0.5}
    assert done.warnings == ("The left lens was not found.",)
    assert done.progress == 1
    assert done.created <= done.started <= done.finished <= datetime.now(UTC)


def test_a_study_s_fault_is_not_tried_again(jobs):
    job = add(jobs)
    jobs.claim()
    jobs.finish(job.id, Outcome(state="skipped", reason="x" * 2 * LONGEST))

    assert jobs.get(job.id).state == "skipped"
    assert len(jobs.get(job.id).reason) == LONGEST
    assert jobs.claim() is None


def test_a_queued_job_is_cancelled_at_once(jobs):
    job = add(jobs)

    assert jobs.cancel(job.id).state == "cancelled"
    assert jobs.claim() is None


def test_a_running_job_is_asked_to_stop(jobs):
    job = add(jobs)
    jobs.claim()
    assert not jobs.cancel_wanted(job.id)

    assert jobs.cancel(job.id).state == "running"

    assert jobs.cancel_wanted(job.id)
    jobs.stopped(job.id)
    assert jobs.get(job.id).state == "cancelled"


def test_a_wish_to_cancel_does_not_outlive_the_attempt(jobs):
    job = add(jobs)
    jobs.claim()
    jobs.cancel(job.id)
    jobs.stopped(job.id)
    jobs.retry(job.id)
    jobs.claim()

    assert not jobs.cancel_wanted(job.id)


def test_a_wish_that_comes_while_the_job_is_given_back_is_heard_at_its_next_attempt(jobs, database):
    job = add(jobs)
    jobs.claim()
    jobs.cancel(job.id)
    with create_engine(database).begin() as connection:  # by whoever had not seen it yet
        connection.execute(text("UPDATE jobs SET state = 'queued'"))

    jobs.claim()

    assert jobs.cancel_wanted(job.id)


@pytest.mark.parametrize(
    "end", [lambda jobs, one: jobs.put_back(one), lambda jobs, one: jobs.fail(one, "no answer")]
)
def test_what_a_person_cancelled_is_not_queued_again(jobs, end):
    """Orthanc stopped, or the attempt failed, before the worker saw the wish."""
    job = add(jobs)
    jobs.claim()
    jobs.cancel(job.id)

    end(jobs, job.id)

    assert jobs.get(job.id).state == "cancelled"
    assert jobs.get(job.id).reason == "Cancelled by a person."


def test_what_makes_no_sense_is_refused_with_a_sentence(jobs):
    job = add(jobs)
    with pytest.raises(WrongState, match="The job is queued: only a failed"):
        jobs.retry(job.id)
    jobs.claim()
    jobs.finish(job.id, Outcome(state="done", results=(RESULT,)))
    with pytest.raises(WrongState, match="The job is done: there is nothing left to cancel"):
        jobs.cancel(job.id)
    for ask in (jobs.cancel, jobs.retry, jobs.get):
        with pytest.raises(UnknownJob, match="There is no job nobody"):
            ask("nobody")


def test_a_job_given_back_at_a_stop_has_not_used_an_attempt(jobs):
    job = add(jobs)
    jobs.claim()
    jobs.put_back(job.id)

    again = jobs.claim()

    assert again is not None
    assert again.attempts == 1


def test_late_news_of_a_job_that_has_ended_changes_nothing(jobs):
    job = add(jobs)
    jobs.cancel(job.id)

    jobs.report(job.id, "segmenting", 0.5)
    jobs.finish(job.id, Outcome(state="done", results=(RESULT,)))
    jobs.put_back(job.id)

    assert jobs.get(job.id).state == "cancelled"
    assert jobs.get(job.id).progress == 0


def test_who_watches_is_told_of_every_change_of_state(database):
    seen: list[str] = []
    jobs = new_queue(open_database(database), changed=lambda job: seen.append(job.state))
    job = add(jobs)
    add(jobs)  # the same
    jobs.tell(jobs.claim())
    jobs.report(job.id, "segmenting", 0.5)
    jobs.finish(job.id, Outcome(state="done", results=(RESULT,)))

    assert seen == ["queued", "running", "done"]


def test_a_new_job_ends_the_wait(jobs):
    waited = threading.Event()

    def wait() -> None:
        jobs.wait(60)
        waited.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    add(jobs)

    assert waited.wait(10)


def test_jobs_are_found_by_state_and_study_the_newest_first(jobs):
    first = add(jobs, study="one", series="1")
    second = add(jobs, study="two", series="2")
    third = add(jobs, study="two", series="3")
    jobs.cancel(third.id)

    assert [job.id for job in jobs.find()] == [third.id, second.id, first.id]
    assert [job.id for job in jobs.find(study="two", state="queued")] == [second.id]
    assert [job.id for job in jobs.find(limit=1)] == [third.id]
    assert [job.id for job in jobs.find(series="1")] == [first.id]
    assert jobs.counts()["queued"] == 2
    assert jobs.counts()["done"] == 0


def test_a_committed_job_is_on_the_disk_and_readers_do_not_wait(jobs, database):
    add(jobs)
    with open_database(database).connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL


def test_a_database_in_a_folder_that_is_not_there_yet_is_made(tmp_path):
    file = tmp_path / "storage" / "index" / "jobs.db"

    add(new_queue(open_database(f"sqlite:///{file}")))

    assert file.exists()
    engine = create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar() == 1
    engine.dispose()


def test_a_queue_of_an_earlier_version_keeps_its_jobs_and_gets_what_is_new(database):
    engine = open_database(database)
    old = add(new_queue(engine))
    with engine.begin() as connection:
        for column in ("shadow_model", "dice", "provenance", "user"):
            connection.execute(text(f'ALTER TABLE jobs DROP COLUMN "{column}"'))
        connection.execute(text("DROP INDEX ix_jobs_to_take"))

    upgraded = new_queue(open_database(database))

    assert upgraded.find() == [old]
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_jobs_to_take"))  # it was made again
    upgraded.claim()
    upgraded.finish(old.id, Outcome(state="done", dice={"brainstem": 0.5}))
    assert upgraded.get(old.id).dice == {"brainstem": 0.5}


def test_notes_are_written_with_the_change_or_not_at_all(database):
    noted: list[tuple[str, str]] = []
    jobs = new_queue(
        open_database(database),
        notes=[lambda session, job, outcome: noted.append((job.state, job.user))],
    )
    job = add(jobs, user="alice")
    jobs.cancel(job.id, user="bob")
    jobs.retry(job.id, user="carol")
    jobs.claim()
    jobs.finish(job.id, Outcome(state="done"))
    with pytest.raises(WrongState):
        jobs.retry(job.id)

    assert noted == [
        ("queued", "alice"),
        ("cancelled", "bob"),
        ("queued", "carol"),
        ("running", "carol"),
        ("done", "carol"),
    ]


def test_a_job_that_stops_as_soon_as_it_is_told_is_no_mistake_of_who_told_it(jobs, monkeypatch):
    job = add(jobs)
    jobs.claim()
    get = jobs.get

    def get_late(job_id: str) -> Job:
        jobs.stopped(job_id)
        return get(job_id)

    monkeypatch.setattr(jobs, "get", get_late)

    assert jobs.cancel(job.id).state == "running"
