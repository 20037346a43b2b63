"""A worker knows by itself when its job may be somebody else's."""

import threading

import pytest
from sqlalchemy.exc import OperationalError

from plugin.jobs import heartbeat
from plugin.jobs.heartbeat import Heartbeat

SOON_S = 10.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    return now


def beats(alive: Heartbeat, times: int) -> None:
    """So many renewals, without their thread and its pauses."""
    turns = iter([*[False] * times, True])
    alive._over.wait = lambda _: next(turns)
    alive._beat()


def test_a_job_whose_lease_cannot_be_renewed_is_lost_when_the_lease_ends(clock) -> None:
    def away() -> bool:
        raise OperationalError("", None, ConnectionError())

    alive = Heartbeat(away, every_s=15, lease_s=60)

    clock[0] += 59
    beats(alive, 3)
    assert not alive.lost
    clock[0] += 2
    beats(alive, 1)
    assert alive.lost


def test_a_lease_that_is_renewed_holds(clock) -> None:
    alive = Heartbeat(lambda: True, every_s=15, lease_s=60)
    for _ in range(10):
        clock[0] += 30
        beats(alive, 1)
    assert not alive.lost


def test_a_job_that_was_handed_on_is_lost_at_once_and_not_asked_for_again(clock) -> None:
    answers = iter([False])
    alive = Heartbeat(lambda: next(answers), every_s=15, lease_s=60)
    beats(alive, 3)
    assert alive.lost


def test_a_renewal_that_was_answered_late_counts_from_when_it_was_asked_for(clock) -> None:
    def late() -> bool:
        clock[0] += 61
        return True

    alive = Heartbeat(late, every_s=15, lease_s=60)
    beats(alive, 1)
    assert alive.lost


def test_a_lease_is_renewed_well_before_it_ends_and_no_longer_than_the_job_runs() -> None:
    renewed = threading.Event()

    def renew() -> bool:
        renewed.set()
        return True

    with Heartbeat(renew, every_s=0.01, lease_s=10 * SOON_S) as alive:
        assert renewed.wait(SOON_S)
    alive._thread.join(SOON_S)
    assert not alive._thread.is_alive()


def test_a_database_that_never_answers_does_not_keep_the_process_alive() -> None:
    assert Heartbeat(lambda: True, every_s=15, lease_s=60)._thread.daemon
