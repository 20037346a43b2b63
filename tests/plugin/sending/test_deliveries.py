from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from plugin.jobs.job import Job, Outcome, Parcel
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import Jobs
from plugin.sending.deliveries import LEASE, LONGEST_PAUSE, MOST_UNDER_WAY, POLL, Deliveries, Errand
from tests.plugin.jobs.asking import RESULT, add
from tests.plugin.parts import new_deliveries, new_queue

PACS = Parcel(kind="modality", target="PACS", result="seg", instances=("abc",))
SENDER = Parcel(kind="sender", target="CT1@10.0.0.1", result="seg", instances=("abc",))
KINDS = ("modality", "sender")


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def later(self, by: timedelta) -> None:
        self.time += by


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deliveries(database: str, clock: Clock) -> Deliveries:
    return new_deliveries(open_database(database), owner="one", retry_delay_seconds=30, now=clock)


@pytest.fixture
def jobs(database: str, deliveries: Deliveries, clock: Clock) -> Jobs:
    return new_queue(open_database(database), notes=[deliveries.note], now=clock)


def done(jobs: Jobs, *parcels: Parcel, series: str = "series") -> Job:
    job = add(jobs, series=series)
    assert jobs.claim() is not None
    jobs.finish(job.id, Outcome(state="done", results=(RESULT,), parcels=parcels))
    return jobs.get(job.id)


def taken(deliveries: Deliveries) -> Errand:
    errand = deliveries.claim(KINDS)
    assert errand is not None
    return errand


def test_a_job_that_ends_shows_what_it_sends_on(jobs):
    job = done(jobs, PACS, SENDER)

    assert [(one.kind, one.target, one.state) for one in job.deliveries] == [
        ("modality", "PACS", "waiting"),
        ("sender", "CT1@10.0.0.1", "waiting"),
    ]


def test_each_kind_goes_its_own_way_to_the_same_place(jobs, deliveries):
    rtstruct = Parcel(kind="modality", target="PACS", result="rtstruct", instances=("def",))
    job = done(jobs, PACS, rtstruct)
    for _ in range(2):
        errand = taken(deliveries)
        if errand.result == "seg":
            deliveries.refused(errand, "The receiver takes no SEG.")
        else:
            assert errand.content == {"instances": ["def"]}
            deliveries.delivered(errand)

    assert [(one.result, one.state) for one in jobs.get(job.id).deliveries] == [
        ("rtstruct", "done"),
        ("seg", "refused"),
    ]


def test_what_an_earlier_version_left_to_deliver_is_delivered(jobs, deliveries, database, clock):
    job = done(jobs, PACS.model_copy(update={"result": ""}))  # all kinds in one
    with open_database(database).begin() as connection:
        connection.exec_driver_sql("ALTER TABLE deliveries DROP COLUMN result")

    upgraded = new_deliveries(open_database(database), owner="one", now=clock)
    errand = upgraded.claim(KINDS)

    assert errand is not None
    assert (errand.job, errand.result, errand.content) == (job.id, "", {"instances": ["abc"]})
    upgraded.delivered(errand)
    assert [one.state for one in jobs.get(job.id).deliveries] == ["done"]


def test_a_delivery_is_there_only_if_its_job_has_ended(database, clock):
    def fault(session: Session, job: Job, outcome: Outcome | None) -> None:
        if outcome is not None:
            raise RuntimeError("the power is cut")

    deliveries = new_deliveries(open_database(database), now=clock)
    jobs = new_queue(open_database(database), notes=[deliveries.note, fault])
    job = add(jobs)
    jobs.claim()

    with pytest.raises(RuntimeError, match="the power is cut"):
        jobs.finish(job.id, Outcome(state="done", parcels=(PACS,)))

    assert jobs.get(job.id).state == "running"
    assert deliveries.claim(KINDS) is None


def test_the_record_has_each_end_of_a_delivery_and_who_wished_for_another_but_no_attempt(
    database, clock
):
    noted: list[tuple[str, str, dict[str, object]]] = []
    deliveries = new_deliveries(
        open_database(database), now=clock, note_event=lambda _, *what: noted.append(what)
    )
    jobs = new_queue(open_database(database), notes=[deliveries.note], now=clock)
    job = done(jobs, PACS)
    deliveries.failed(taken(deliveries), "The receiver is away.")
    assert noted == []

    assert deliveries.send_again(job.id, "ada") == 1
    late = taken(deliveries)
    deliveries.refused(late, "PATIENT^NAME is not taken.")
    clock.later(POLL)
    assert deliveries.send_again(job.id, "bob") == 1
    deliveries.delivered(late)  # it was begun anew: this is no end of it
    deliveries.delivered(taken(deliveries))
    assert deliveries.send_again(job.id, "eve") == 0

    assert {one[1] for one in noted} == {job.id}
    assert [(event, more.get("user")) for event, _, more in noted] == [
        ("deliver", "ada"),
        ("delivery", None),
        ("deliver", "bob"),
        ("delivery", None),
    ]
    ended = [more["delivery"] for event, _, more in noted if event == "delivery"]
    assert [one["state"] for one in ended] == ["refused", "done"]
    assert ended[0] | {"state": "done"} == ended[1]
    assert ended[1]["target"] == "PACS"
    assert ended[1]["instances"] == ["abc"]
    assert "PATIENT" not in str(noted)


def test_a_sending_is_begun_once_looked_at_again_and_arrives(jobs, deliveries, clock):
    job = done(jobs, PACS)

    begun = taken(deliveries)
    assert begun.content == {"instances": ["abc"]}
    assert deliveries.claim(KINDS) is None  # it is taken
    deliveries.under_way(begun, "orthancs-job")
    assert deliveries.claim(KINDS) is None  # it is too early to look
    clock.later(POLL)
    looked = taken(deliveries)
    assert looked.ticket == "orthancs-job"
    deliveries.delivered(looked)

    [delivery] = jobs.get(job.id).deliveries
    assert (delivery.state, delivery.attempts, delivery.finished) == ("done", 1, clock.time)
    assert deliveries.claim(KINDS) is None


def test_pauses_between_attempts_double_up_to_an_hour_and_end_after_three_days(
    jobs, deliveries, clock
):
    job = done(jobs, PACS)
    begun, pauses = clock.time, []

    for _ in range(1000):
        errand = deliveries.claim(KINDS)
        if errand is None:
            break
        deliveries.failed(errand, "The receiver is down.")
        [delivery] = jobs.get(job.id).deliveries
        pauses.append(delivery.due - clock.time)
        clock.later(max(delivery.due - clock.time, timedelta(0)))

    assert delivery.state == "failed"
    assert delivery.reason == "The receiver is down."
    assert pauses[:4] == [timedelta(seconds=30 * factor) for factor in (1, 2, 4, 8)]
    assert max(pauses) == LONGEST_PAUSE
    assert timedelta(hours=70) < clock.time - begun <= timedelta(hours=72)


def test_a_delivery_that_failed_while_the_clock_was_a_year_ahead_does_not_wait_for_a_year(
    jobs, deliveries, clock
):
    done(jobs, PACS)
    deliveries.failed(taken(deliveries), "The receiver is away.")
    assert deliveries.claim(KINDS) is None

    clock.later(timedelta(days=-365))

    assert taken(deliveries).attempts == 2


def test_what_a_person_must_change_is_not_tried_again_until_asked(jobs, deliveries, clock):
    job = done(jobs, SENDER, PACS)
    for _ in range(2):
        errand = taken(deliveries)
        if errand.kind == "sender":
            deliveries.refused(errand, "No modality of this title.")
        else:
            deliveries.delivered(errand)
    clock.later(timedelta(days=1))
    assert deliveries.claim(KINDS) is None

    assert deliveries.send_again(job.id) == 1

    again = taken(deliveries)
    assert (again.kind, again.attempts) == ("sender", 1)
    assert deliveries.send_again(job.id) == 0


def test_who_has_repaired_a_receiver_need_not_wait_for_the_next_attempt(jobs, deliveries, clock):
    job = done(jobs, PACS)
    deliveries.failed(taken(deliveries), "The receiver is down.")
    assert deliveries.claim(KINDS) is None

    assert deliveries.send_again(job.id) == 1

    assert deliveries.send_again(job.id) == 0  # it is due already
    assert taken(deliveries).attempts == 1


def test_what_another_process_left_in_a_pause_is_sent_again_at_once(
    jobs, deliveries, database, clock
):
    job = done(jobs, PACS)
    deliveries.failed(taken(deliveries), "The receiver is down.")
    other = new_deliveries(open_database(database), owner="two", now=clock)

    other.send_again(job.id)

    assert taken(other).attempts == 1


def test_a_job_done_again_sends_its_result_again_and_an_old_errand_changes_nothing(
    jobs, deliveries, clock
):
    job = done(jobs, PACS)
    old = taken(deliveries)
    clock.later(timedelta(seconds=1))
    jobs.redo(job.id)
    jobs.claim()
    jobs.finish(job.id, Outcome(state="done", results=(RESULT,), parcels=(PACS,)))

    deliveries.delivered(old)

    [delivery] = jobs.get(job.id).deliveries
    assert (delivery.state, delivery.attempts) == ("waiting", 0)


def test_the_same_process_goes_on_at_once_and_another_waits_until_it_must_be_dead(
    jobs, deliveries, database, clock
):
    done(jobs, PACS)
    deliveries.under_way(taken(deliveries), "orthancs-job")
    clock.later(POLL)
    other = new_deliveries(open_database(database), owner="other", now=clock)
    restarted = new_deliveries(open_database(database), owner="one", now=clock)

    assert other.claim(KINDS) is None
    killed = restarted.claim(KINDS)
    assert killed is not None
    assert killed.ticket == "orthancs-job"
    restarted.recover(KINDS)
    assert restarted.claim(KINDS) is not None
    clock.later(2 * LEASE)
    assert other.claim(KINDS) is not None


def test_a_clock_that_is_set_back_holds_neither_what_waits_nor_what_is_under_way(
    jobs, deliveries, clock
):
    done(jobs, PACS)
    clock.later(timedelta(hours=-2))
    begun = taken(deliveries)
    deliveries.under_way(begun, "orthancs-job")
    clock.later(timedelta(hours=-2))

    looked = taken(deliveries)

    assert (looked.id, looked.ticket) == (begun.id, "orthancs-job")
    deliveries.failed(looked, "Not now.")
    assert deliveries.claim(KINDS) is None  # its back-off counts


def test_only_a_few_are_under_way_at_a_time(jobs, deliveries):
    for number in range(MOST_UNDER_WAY + 1):
        done(jobs, PACS, series=str(number))

    for _ in range(MOST_UNDER_WAY):
        deliveries.under_way(taken(deliveries), "orthancs-job")

    assert deliveries.claim(KINDS) is None
    assert deliveries.claim(("webhook",)) is None


def test_a_courier_can_sleep_until_the_next_is_due(jobs, deliveries, clock):
    assert deliveries.due_in_s(KINDS) is None
    done(jobs, PACS)
    deliveries.failed(taken(deliveries), "Not now.")

    assert deliveries.due_in_s(KINDS) == 30
    assert deliveries.due_in_s(("webhook",)) is None
