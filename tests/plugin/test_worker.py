import gc
import math
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import OperationalError

from model.segmenter import Cancelled, DeviceLost
from plugin import worker as worker_module
from plugin.archive import ArchiveError, UnknownResource
from plugin.jobs.heartbeat import Heartbeat
from plugin.jobs.job import Job, Outcome, Result
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import Jobs
from plugin.watch import Watch
from tests.plugin.jobs.asking import add
from tests.plugin.parts import new_queue, new_worker

SOON_S = 20.0
HOUR = timedelta(hours=1)
DONE = Outcome(
    state="done", results=(Result(kind="seg", sop_instance_uid="2.25.1", orthanc_id="abc"),)
)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Ended:
    """Lets a test wait for the end of jobs without polling."""

    def __init__(self, jobs: Jobs) -> None:
        self.states: list[str] = []
        self._news = threading.Condition()
        jobs._changes.tell = self._told  # the fixture's queue tells nobody else

    def _told(self, job: Job) -> None:
        with self._news:
            self.states.append(job.state)
            self._news.notify_all()

    def wait_for(self, state: str, times: int = 1) -> None:
        """Wait until jobs have come to a state so often; two threads may tell in any order."""
        with self._news:
            assert self._news.wait_for(lambda: self.states.count(state) >= times, SOON_S), (
                self.states
            )


@pytest.fixture
def ended(jobs: Jobs) -> Ended:
    return Ended(jobs)


def until_cancelled(job: Job, watch: Watch) -> Outcome:
    """A job that goes on until it is told to stop."""
    watch.report("segmenting", 0.5)
    while not watch.cancelled():
        pass
    raise Cancelled


def raising(error: Exception) -> Callable[[Job, Watch], Outcome]:
    def run(job: Job, watch: Watch) -> Outcome:
        raise error

    return run


def test_jobs_that_wait_and_jobs_that_come_are_done(jobs, ended):
    add(jobs, series="waits")
    worker = new_worker(jobs, lambda job, watch: DONE)
    worker.start()
    ended.wait_for("done")
    add(jobs, series="comes")
    ended.wait_for("done", times=2)
    assert worker.alive

    worker.stop()

    assert not worker.alive


@pytest.mark.parametrize("error", [RuntimeError("boom"), MemoryError(), ArchiveError("no answer")])
def test_whatever_a_job_does_it_is_parked_and_the_next_one_runs(jobs, ended, error):
    bad = add(jobs, series="bad")
    worker = new_worker(
        jobs, lambda job, watch: DONE if job.series == "good" else raising(error)(job, watch)
    )
    worker.start()
    ended.wait_for("failed")
    good = add(jobs, series="good")
    ended.wait_for("done")
    worker.stop()

    assert jobs.get(bad.id).attempts == 3
    assert type(error).__name__ in jobs.get(bad.id).reason
    assert jobs.get(good.id).state == "done"


def test_an_archive_that_is_away_costs_one_job_an_attempt_and_not_all_of_them(
    jobs, ended, monkeypatch
):
    monkeypatch.setattr(worker_module, "PAUSE_S", 0.0)
    first, second = add(jobs, series="first"), add(jobs, series="second")
    looks = [False, False, True]
    away = [ArchiveError("no answer")]

    def run(job: Job, watch: Watch) -> Outcome:
        if away:
            raise away.pop()
        assert looks == []  # no job was tried before the archive answered
        return DONE

    worker = new_worker(jobs, run, reachable=lambda: looks.pop(0))
    worker.start()
    ended.wait_for("done", times=2)
    worker.stop()

    assert jobs.get(first.id).attempts == 2
    assert jobs.get(second.id).attempts == 1


def test_a_series_that_was_deleted_meanwhile_is_skipped(jobs, ended):
    job = add(jobs)
    worker = new_worker(jobs, raising(UnknownResource("gone")))
    worker.start()
    ended.wait_for("skipped")
    worker.stop()

    assert jobs.get(job.id).reason == "The series is no longer in the archive."


def test_a_person_can_stop_a_running_job(jobs, ended):
    job = add(jobs)
    worker = new_worker(jobs, until_cancelled)
    worker.start()
    ended.wait_for("running")
    jobs.cancel(job.id)
    ended.wait_for("cancelled")
    worker.stop()


def test_a_job_that_takes_too_long_is_stopped_for_good_and_the_next_one_runs(
    jobs, ended, monkeypatch
):
    monkeypatch.setattr(worker_module, "GRACE", SOON_S)  # however busy this machine is
    slow = add(jobs, series="slow")
    worker = new_worker(
        jobs,
        lambda job, watch: DONE if job.series == "good" else until_cancelled(job, watch),
        time_limit_s=0.5,
    )
    worker.start()
    ended.wait_for("failed")
    add(jobs, series="good")
    ended.wait_for("done")
    worker.stop()

    assert jobs.get(slow.id).attempts == 1
    assert jobs.get(slow.id).reason == (
        "It took longer than TimeLimitSeconds (0.5) while segmenting. It was stopped."
    )
    assert worker.hanging == 0


def test_jobs_that_cannot_be_stopped_are_left_behind_until_there_are_too_many(jobs, ended):
    go_on = threading.Event()
    stopped: list[str] = []

    def hang(job: Job, watch: Watch) -> Outcome:
        if job.series == "good":
            return DONE
        go_on.wait(SOON_S)
        stopped.append(job.series)
        return until_cancelled(job, watch)

    worker = new_worker(jobs, hang, time_limit_s=0.5)
    worker.start()
    hung = [add(jobs, series="hangs")]
    ended.wait_for("failed")
    add(jobs, series="good")
    ended.wait_for("done")
    assert (worker.alive, worker.hanging) == (True, 1)
    hung.append(add(jobs, series="hangs too"))
    ended.wait_for("failed", times=2)
    assert (worker.alive, worker.hanging) == (False, 2)
    last = add(jobs, series="good", identity="of another model")
    time.sleep(0.5)
    assert jobs.get(last.id).state == "queued"

    go_on.set()  # what held them up is over: they see that they are not wanted any more
    wait_until(lambda: worker.hanging == 0)
    jobs.wake()
    ended.wait_for("done", times=2)
    worker.stop()

    assert sorted(stopped) == ["hangs", "hangs too"]
    assert {jobs.get(one.id).state for one in hung} == {"failed"}
    assert "restart Orthanc" in jobs.get(hung[0].id).reason


def test_a_job_that_was_left_behind_gives_its_memory_back_when_it_ends_at_last(jobs, ended):
    go_on = threading.Event()
    held: list[weakref.ref[Outcome]] = []

    def hang(job: Job, watch: Watch) -> Outcome:
        volume = DONE.model_copy()
        held.append(weakref.ref(volume))
        go_on.wait(SOON_S)
        raise Cancelled

    worker = new_worker(jobs, hang, time_limit_s=0.1)
    worker.start()
    add(jobs)
    ended.wait_for("failed")
    go_on.set()
    wait_until(lambda: worker.hanging == 0)
    gc.collect()

    assert held[0]() is None
    worker.stop()


def test_a_lost_gpu_fails_its_job_and_ends_the_worker_before_it_fails_all_others(jobs, ended):
    def lose(job: Job, watch: Watch) -> Outcome:
        raise DeviceLost("the GPU failed: an illegal memory access was encountered")

    lost, other = add(jobs, series="lost"), add(jobs, series="other")
    worker = new_worker(jobs, lose)
    worker.start()

    wait_until(lambda: not worker.alive)

    assert "the GPU failed" in jobs.get(lost.id).reason
    assert (jobs.get(other.id).state, jobs.get(other.id).attempts) == ("queued", 0)


def test_a_failed_job_holds_nothing_of_what_it_worked_on(jobs, ended, monkeypatch):
    monkeypatch.setattr(worker_module.log, "exception", lambda *said: None)  # pytest keeps records

    class Features:
        """Stands for gigabytes on a GPU."""

    held: list[weakref.ref[Features]] = []

    def fail(job: Job, watch: Watch) -> Outcome:
        features = Features()
        held.append(weakref.ref(features))
        raise RuntimeError("of the network")

    gc.disable()  # which would find it at some time, when the next job has run out of memory
    try:
        worker = new_worker(jobs, fail)
        worker.start()
        add(jobs)
        wait_until(lambda: held and held[0]() is None)
    finally:
        gc.enable()
        worker.stop()


def test_a_stop_gives_the_running_job_back(jobs, ended):
    job = add(jobs)
    worker = new_worker(jobs, until_cancelled)
    worker.start()
    ended.wait_for("running")

    worker.stop()

    assert jobs.get(job.id).state == "queued"
    assert jobs.get(job.id).attempts == 0
    assert not worker.alive


def test_a_job_left_running_by_the_last_process_is_taken_first(jobs, ended):
    left = add(jobs, series="left")
    jobs.claim()
    worker = new_worker(jobs, lambda job, watch: DONE)
    worker.start()
    ended.wait_for("done")
    worker.stop()

    assert jobs.get(left.id).state == "done"


@pytest.mark.parametrize("fault", [ArchiveError("no answer"), OperationalError("", {}, OSError())])
def test_missed_studies_are_looked_for_once_and_again_if_somebody_does_not_answer(
    jobs, ended, monkeypatch, fault
):
    monkeypatch.setattr(worker_module, "PAUSE_S", 0.0)
    looked: list[int] = []

    def catch_up() -> None:
        looked.append(len(looked))
        if len(looked) == 1:
            raise fault
        add(jobs)

    worker = new_worker(jobs, lambda job, watch: DONE, catch_up=catch_up, catch_up_after_s=0.0)
    worker.start()
    ended.wait_for("done")
    worker.stop()

    assert looked == [0, 1]


def test_a_queue_that_does_not_answer_for_a_while_ends_nothing(jobs, ended, monkeypatch):
    monkeypatch.setattr(worker_module, "PAUSE_S", 0.0)
    job = add(jobs)
    finish, faults = jobs.finish, [OperationalError("UPDATE", {}, Exception("disk full"))]

    def fail_once(job_id: str, outcome: Outcome) -> None:
        if faults:
            raise faults.pop()
        finish(job_id, outcome)

    monkeypatch.setattr(jobs, "finish", fail_once)
    worker = new_worker(jobs, lambda job, watch: DONE)
    worker.start()
    ended.wait_for("done")
    worker.stop()

    assert jobs.get(job.id).state == "done"


def test_a_queue_that_is_away_for_a_while_costs_no_attempt_and_is_told_of_once(
    jobs, ended, monkeypatch, caplog
):
    monkeypatch.setattr(worker_module, "PAUSE_S", 0.01)
    monkeypatch.setattr(worker_module, "REPORT_EVERY_S", 0.0)
    job = add(jobs)
    finish, gone = jobs.finish, OperationalError("UPDATE", {}, Exception("server closed"))
    away = [gone] * 3

    def refuse(*_: object) -> None:
        raise gone

    def finish_later(job_id: str, outcome: Outcome) -> None:
        if away:
            raise away.pop()
        finish(job_id, outcome)

    def run(job: Job, watch: Watch) -> Outcome:
        for progress in (0.1, 0.2, 0.3):
            watch.report("segmenting", progress)
            assert not watch.cancelled()
        return DONE

    monkeypatch.setattr(jobs, "report", refuse)
    monkeypatch.setattr(jobs, "cancel_wanted", refuse)
    monkeypatch.setattr(jobs, "finish", finish_later)
    worker = new_worker(jobs, run)
    worker.start()
    ended.wait_for("done")
    worker.stop()

    assert (jobs.get(job.id).state, jobs.get(job.id).attempts) == ("done", 1)
    assert caplog.text.count("goes on though its queue does not answer") == 1


def test_a_queue_that_stays_away_is_known_and_logged_whole_but_once(
    jobs, ended, monkeypatch, caplog
):
    monkeypatch.setattr(worker_module, "PAUSE_S", 0.0)
    claim, known = jobs.claim, list[bool]()

    def fail_twice() -> Job | None:
        known.append(worker.queue_answers)
        if len(known) <= 2:
            raise OperationalError("UPDATE", {}, Exception("attempt to write a readonly database"))
        return claim()

    monkeypatch.setattr(jobs, "claim", fail_twice)
    add(jobs)
    worker = new_worker(jobs, lambda job, watch: DONE)
    worker.start()
    ended.wait_for("done")
    worker.stop()

    assert known[:3] == [True, False, False]
    assert worker.queue_answers
    told = [one for one in caplog.records if "queue of jobs does not answer" in one.message]
    assert [bool(one.exc_info) for one in told] == [True, False]


def test_a_fault_of_the_worker_itself_does_not_keep_all_others_waiting(jobs, ended, monkeypatch):
    monkeypatch.setattr(worker_module, "PAUSE_S", 0.0)
    claim, faults = jobs.claim, [OverflowError("date value out of range")]

    def fail_once() -> Job | None:
        if faults:
            raise faults.pop()
        return claim()

    monkeypatch.setattr(jobs, "claim", fail_once)
    add(jobs)
    worker = new_worker(jobs, lambda job, watch: DONE)
    worker.start()
    ended.wait_for("done")
    worker.stop()

    assert faults == []


def test_a_job_that_stops_though_nobody_wants_it_to_is_done_again(jobs, ended):
    """Its lease was lost for a moment, and renewed before anybody asked why it stopped."""
    job, attempts = add(jobs), list[int]()

    def run(job: Job, watch: Watch) -> Outcome:
        attempts.append(job.attempts)
        if len(attempts) == 1:
            raise Cancelled
        return DONE

    worker = new_worker(jobs, run)
    worker.start()
    ended.wait_for("done")
    worker.stop()

    assert jobs.get(job.id).state == "done"
    assert len(attempts) == 2


def test_telling_of_a_job_for_longer_than_its_lease_does_not_cost_it(database):
    """Orthanc does not answer, and is told again and again that the job runs."""
    told = threading.Event()

    def changed(job: Job) -> None:
        if job.state == "running":
            told.set()
            time.sleep(1.5)

    one = new_queue(open_database(database), owner="one", lease_seconds=0.5, changed=changed)
    job = add(one)
    worker = new_worker(one, lambda job, watch: DONE)
    worker.start()
    assert told.wait(SOON_S)
    time.sleep(1.0)  # twice the lease

    assert new_queue(open_database(database), owner="two").claim() is None
    wait_until(lambda: one.get(job.id).state == "done")
    worker.stop()
    assert one.get(job.id).attempts == 1


def test_the_worker_never_keeps_the_process_alive(jobs):
    assert new_worker(jobs, lambda job, watch: DONE)._thread.daemon


def test_progress_is_written_seldom_but_every_stage_is(jobs, monkeypatch):
    written: list[tuple[str, float]] = []
    monkeypatch.setattr(
        jobs, "report", lambda job, stage, progress: written.append((stage, progress))
    )
    alive = Heartbeat(lambda: True, every_s=60, lease_s=60)
    watch = new_worker(jobs, lambda job, watch: DONE)._watch(add(jobs), alive, math.inf)

    for step in range(1000):
        watch.report("segmenting", step / 1000)
    watch.report("writing", 0.98)

    assert written[0] == ("segmenting", 0.0)
    assert written[-1] == ("writing", 0.98)
    assert len(written) < 10


def test_a_job_that_was_handed_on_is_given_up_and_left_to_its_new_worker(database):
    slow = new_queue(open_database(database), owner="slow", lease_seconds=0.4)
    job = add(slow)
    begun, handed_on, ended = threading.Event(), threading.Event(), threading.Event()

    def run(job: Job, watch: Watch) -> Outcome:
        begun.set()
        handed_on.wait(SOON_S)
        try:
            return until_cancelled(job, watch)
        finally:
            ended.set()

    worker = new_worker(slow, run)
    worker.start()
    assert begun.wait(SOON_S)
    fast = new_queue(open_database(database), owner="fast", now=lambda: datetime.now(UTC) + HOUR)
    assert fast.claim().id == job.id
    handed_on.set()
    assert ended.wait(SOON_S)
    fast.finish(job.id, DONE)
    worker.stop()

    assert slow.get(job.id).state == "done"
    assert slow.get(job.id).attempts == 2


def test_a_job_that_takes_longer_than_its_lease_stays_with_its_living_worker(database):
    one = new_queue(open_database(database), owner="one", lease_seconds=1.0)
    add(one)
    begun, go_on = threading.Event(), threading.Event()

    def run(job: Job, watch: Watch) -> Outcome:
        begun.set()
        go_on.wait(SOON_S)
        return DONE

    worker = new_worker(one, run)
    worker.start()
    assert begun.wait(SOON_S)
    time.sleep(2.0)  # twice the lease

    assert new_queue(open_database(database), owner="two").claim() is None
    go_on.set()
    worker.stop()
