import threading
import time
from datetime import UTC, datetime

import pytest

from plugin.jobs.job_table import open_database
from plugin.jobs.pause import Held, Pause
from tests.plugin.jobs.asking import add
from tests.plugin.parts import new_pause, new_worker
from tests.plugin.test_worker import DONE, SOON_S, Ended


@pytest.fixture
def pause(database, jobs) -> Pause:
    return new_pause(open_database(database), jobs)


def test_no_job_is_taken_while_a_person_pauses_the_queue(jobs, pause):
    ended, looks = Ended(jobs), threading.Semaphore(0)

    def paused() -> bool:
        looks.release()
        return pause.holds()

    pause.pause()
    job = add(jobs)
    worker = new_worker(jobs, lambda job, watch: DONE, paused=paused)
    worker.start()
    for _ in range(2):  # when the worker looks again, it has gone by the first answer
        assert looks.acquire(timeout=SOON_S)
        jobs.wake()  # as news of any kind would
    assert (jobs.get(job.id).state, jobs.get(job.id).attempts) == ("queued", 0)

    pause.resume()
    ended.wait_for("done")
    worker.stop()


def test_a_pause_outlives_the_process_and_may_be_asked_for_twice(database, jobs, pause):
    pause.pause()
    pause.pause(user="physicist")
    after_a_restart = new_pause(open_database(database), jobs)

    assert after_a_restart.holds()
    after_a_restart.resume()
    after_a_restart.resume()
    assert not pause.holds()


def test_each_pause_and_its_end_are_noted_once_with_who_wished_them(database, jobs):
    noted: list[tuple[str, str, object]] = []
    engine = open_database(database)
    pause = Pause(engine, jobs, note=lambda _, *what: noted.append(what))

    pause.resume(user="nobody waits for this")
    pause.pause(user="max")
    pause.pause(user="mia")
    held = pause.held()
    pause.resume(user="mia")

    assert noted == [("pause", "", {"user": "max"}), ("resume", "", {"user": "mia"})]
    assert held is not None
    assert held.user == "max"
    assert abs(datetime.now(UTC) - held.since).total_seconds() < 60


def test_a_pause_by_an_earlier_version_holds_though_nobody_knows_whose_it_is(database, jobs):
    with open_database(database).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE pause (queue VARCHAR PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO pause VALUES ('jobs')")

    held = new_pause(open_database(database), jobs).held()

    assert held == Held(user="", since=None)


def test_a_job_that_is_due_does_not_wake_a_paused_worker(jobs):
    add(jobs)
    jobs.wait(0)  # the news of it is read
    begun = time.monotonic()

    jobs.wait(0.2, for_due=False)

    assert time.monotonic() - begun >= 0.2
