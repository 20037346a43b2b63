"""Who has a job: a worker that is silent for too long loses it to another."""

from datetime import UTC, datetime, timedelta

from plugin.jobs.job import Job, Outcome
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import Jobs
from tests.plugin.jobs.asking import RESULT, add
from tests.plugin.parts import new_queue


def a_job_of_the_first_of_two(database: str) -> tuple[list[datetime], Jobs, Jobs, Job]:
    """A clock to be turned, two workers' views of the queue, and the job that the first has."""
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    one, two = (
        new_queue(open_database(database), owner=owner, lease_seconds=60, now=lambda: clock[0])
        for owner in ("one", "two")
    )
    job = add(one)
    one.claim()
    return clock, one, two, job


def test_a_worker_that_starts_leaves_the_jobs_of_living_ones_alone(database):
    _, one, two, job = a_job_of_the_first_of_two(database)

    two.recover()

    assert two.claim() is None
    one.finish(job.id, Outcome(state="done", results=(RESULT,)))
    assert two.get(job.id).state == "done"


def test_a_silent_worker_loses_its_job_and_can_say_nothing_of_it_any_more(database):
    clock, one, two, job = a_job_of_the_first_of_two(database)
    clock[0] += timedelta(seconds=59)
    assert two.claim() is None
    assert one.renew(job.id)
    clock[0] += timedelta(seconds=59)
    assert two.claim() is None
    clock[0] += timedelta(seconds=1)

    taken = two.claim()

    assert (taken.id, taken.attempts) == (job.id, 2)
    assert not one.renew(job.id)
    one.report(job.id, "storing", 0.98)
    one.finish(job.id, Outcome(state="skipped", reason="too late"))
    assert two.get(job.id) == taken
    two.finish(job.id, Outcome(state="done", results=(RESULT,)))
    assert one.get(job.id).state == "done"


def test_a_worker_that_speaks_up_while_other_jobs_are_handed_on_keeps_its_own(database):
    clock, one, _, first = a_job_of_the_first_of_two(database)
    second = add(one, series="second")
    one.claim()
    clock[0] += timedelta(seconds=60)

    def speak_up(job: Job) -> None:
        if job.state == "queued":
            one.renew(({first.id, second.id} - {job.id}).pop())

    three = new_queue(
        open_database(database), owner="three", now=lambda: clock[0], changed=speak_up
    )
    three.claim()

    assert three.claim() is None


def test_a_job_whose_worker_is_silent_is_not_at_work(database):
    clock, one, two, _ = a_job_of_the_first_of_two(database)
    add(one, series="waits")
    assert [each.at_work() for each in (one, two)] == [1, 1]
    assert one.waiting_seconds() == 0

    clock[0] += timedelta(minutes=5)

    assert [each.at_work() for each in (one, two)] == [0, 0]
    assert two.waiting_seconds() == 300


def test_what_a_person_cancelled_is_not_handed_on(database):
    clock, one, two, job = a_job_of_the_first_of_two(database)
    one.cancel(job.id)
    clock[0] += timedelta(seconds=60)

    assert two.claim() is None
    assert two.get(job.id).state == "cancelled"
    one.finish(job.id, Outcome(state="done", results=(RESULT,)))  # it was only slow
    assert two.get(job.id).state == "cancelled"
