"""What must leave this machine: results to send on and events to tell of, each until it arrived.

A delivery is *waiting* (for its first or next attempt), *sending*, then *done*, *failed* (not
arrived after the time that the settings allow) or *refused* (a person must change something).
It is written in the transaction that ends its job, so none is lost and none is sent for nothing.
"""

import threading
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, func, or_, select, update
from sqlalchemy.orm import Session

from plugin.jobs.job import Delivery, Job, Outcome, Parcel
from plugin.jobs.job_changes import NoteEvent, digest
from plugin.jobs.job_table import DeliveryRow, clock_of

POLL = timedelta(seconds=1)
"""Between two looks at a sending that is under way."""

LEASE = timedelta(seconds=60)
"""What another process has taken is left to it for as long, then taken over: it may have died."""

LONGEST_PAUSE = timedelta(hours=1)
"""Between two attempts."""

MOST_UNDER_WAY = 4
"""Sendings at once, of all processes. Orthanc remembers more finished jobs than these, so that we
learn how each ended."""

REASON_LENGTH = 500
"""Characters kept of a reason."""


class NotDelivered(Exception):
    """This attempt has failed; a later one may not. The message is a sentence for a person."""


class Refused(Exception):
    """No attempt can succeed before a person changes something. The message says what."""


class Errand(Delivery):
    """A delivery with all that its carrier must know."""

    content: dict[str, Any]  # "instances" for Orthanc, or what a webhook tells
    ticket: str  # of a sending that is under way: Orthanc's job; or empty


class Deliveries:
    """The deliveries of all jobs. Every method is one transaction and may be called anywhere."""

    def __init__(
        self,
        engine: Engine,
        *,
        owner: str,
        retry_delay_seconds: float,
        give_up_after_hours: float,
        note_event: NoteEvent,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        """
        Args:
            engine: of the database of the jobs.
            owner: this process, by a name that it has again after a restart: what it had taken is
                then continued at once.
            retry_delay_seconds: before the second attempt; doubles with each further one.
            give_up_after_hours: the delivery has failed then; a person may ask for it again.
            note_event: told of each delivery that ends, and of each wish to deliver again.
            now: the clock, with its time zone; the database's if there is none.
        """
        self._engine = engine
        self._owner = owner
        self._retry_delay = timedelta(seconds=retry_delay_seconds)
        self._give_up_after = timedelta(hours=give_up_after_hours)
        self._now = now or clock_of(engine)
        self._note_event = note_event
        self._listeners: list[threading.Event] = []

    # --- asking ----------------------------------------------------------------------------------

    def note(self, session: Session, job: Job, outcome: Outcome | None) -> None:
        """Write down what a job that ends sends on, within the transaction that ends it."""
        for parcel in outcome.parcels if outcome else ():
            self.add(session, job, parcel, {"instances": list(parcel.instances)})

    def add(self, session: Session, job: Job, parcel: Parcel, content: dict[str, Any]) -> None:
        """Begin a delivery. One of the same kind to the same place for the same job begins anew."""
        # A clock of its own would be a second connection, for which those of all others may wait.
        now = job.finished or self._now()
        results = [parcel.result] if parcel.result else []
        session.merge(
            DeliveryRow(
                id=digest(job.id, parcel.kind, parcel.target, *results)[:32],
                job=job.id,
                kind=parcel.kind,
                target=parcel.target,
                result=parcel.result,
                content=content,
                state="waiting",
                attempts=0,
                reason="",
                ticket="",
                owner="",
                begun=now,
                due=now,
                finished=None,
            )
        )

    def send_again(self, job_id: str, user: str = "") -> int:
        """Begin anew all of a job that failed, was refused or waits for a further attempt.

        Args:
            job_id: the job.
            user: on whose wish, if that is known.

        Returns:
            How many these are.
        """
        given_up = DeliveryRow.state.in_(("failed", "refused"))
        in_a_pause = and_(DeliveryRow.state == "waiting", DeliveryRow.attempts > 0)
        with Session(self._engine) as session, session.begin():
            rows = session.scalars(
                update(DeliveryRow)
                .where(DeliveryRow.job == job_id, or_(given_up, in_a_pause))
                .values(
                    state="waiting",
                    attempts=0,
                    begun=self._now(),
                    due=self._now(),
                    finished=None,
                    reason="",
                    owner="",
                )
                .returning(DeliveryRow.id)
            ).all()
            if rows:
                self._note_event(session, "deliver", job_id, {"user": user, "deliveries": [*rows]})
        self.wake()
        return len(rows)

    # --- the couriers' side ----------------------------------------------------------------------

    def listen(self) -> threading.Event:
        """An event that is set whenever there may be something to carry."""
        self._listeners.append(threading.Event())
        return self._listeners[-1]

    def wake(self) -> None:
        """Tell every listener."""
        for listener in self._listeners:
            listener.set()

    def due_in_s(self, kinds: Collection[str]) -> float | None:
        """Seconds until the next of these kinds is due, negative if it is; None: there is none."""
        with Session(self._engine) as session:
            due = session.scalar(select(func.min(DeliveryRow.due)).where(_open(kinds)))
        return None if due is None else (due - self._now()).total_seconds()

    def recover(self, kinds: Collection[str]) -> None:
        """Go on at once with what this process had taken when it last ended; before any `claim`."""
        with Session(self._engine) as session, session.begin():
            session.execute(
                update(DeliveryRow)
                .where(_open(kinds), DeliveryRow.owner == self._owner)
                .where(DeliveryRow.state == "sending")
                .values(due=self._now())
            )

    def claim(self, kinds: Collection[str]) -> Errand | None:
        """Take the next step that is due, so that no other process does; None if there is none."""
        now = self._now()
        # A clock that is set back must hold neither what was never begun nor what is under way, and
        # nothing for longer than a pause is.
        due = or_(
            DeliveryRow.due <= now,
            DeliveryRow.attempts == 0,
            DeliveryRow.due > now + LONGEST_PAUSE,
            and_(DeliveryRow.state == "sending", DeliveryRow.due > now + LEASE),
        )
        free = or_(
            DeliveryRow.owner.in_(("", self._owner)),
            DeliveryRow.due <= now - LEASE,
        )
        with Session(self._engine) as session, session.begin():
            under_way = session.scalar(
                select(func.count()).where(_open(kinds), DeliveryRow.state == "sending")
            )
            wanted = (
                select(DeliveryRow)
                .where(_open(kinds), due, free)
                .order_by(DeliveryRow.due, DeliveryRow.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            if under_way and under_way >= MOST_UNDER_WAY:
                wanted = wanted.where(DeliveryRow.state == "sending")
            row = session.scalar(wanted)
            if row is None:
                return None
            if not row.ticket:
                row.attempts += 1
            row.state, row.owner, row.due = "sending", self._owner, now + LEASE
            return Errand.model_validate(row)

    def under_way(self, errand: Errand, ticket: str) -> None:
        """Note that the carrier has begun, and is to be asked again soon."""
        self._set(errand, ticket=ticket, due=self._now() + POLL)

    def delivered(self, errand: Errand) -> None:
        """Note that everything has arrived."""
        self._set(errand, state="done", ticket="", reason="", finished=self._now())

    def refused(self, errand: Errand, reason: str) -> None:
        """Note that a person must change something first."""
        self._set(errand, state="refused", ticket="", reason=reason, finished=self._now())

    def failed(self, errand: Errand, reason: str) -> None:
        """Note that an attempt has failed: another one later, or none after so long a time."""
        now = self._now()
        pause = min(self._retry_delay * 2 ** min(errand.attempts - 1, 20), LONGEST_PAUSE)
        if now + pause > errand.begun + self._give_up_after:
            self._set(errand, state="failed", ticket="", reason=reason, finished=now)
        else:
            self._set(errand, state="waiting", ticket="", reason=reason, due=now + pause)

    def _set(self, errand: Errand, **values: Any) -> None:
        if "reason" in values:
            values["reason"] = values["reason"][:REASON_LENGTH]
        with Session(self._engine) as session, session.begin():
            changed = session.scalar(
                update(DeliveryRow)
                # A delivery that was begun anew meanwhile is no longer the one of this errand.
                .where(DeliveryRow.id == errand.id, DeliveryRow.begun == errand.begun)
                .values(**values)
                .returning(DeliveryRow.id)
            )
            if changed is not None and "finished" in values:
                self._note_event(session, "delivery", errand.job, _ended(errand, values["state"]))


def _ended(errand: Errand, state: str) -> dict[str, Any]:
    """What the record says of a delivery; not the reason, which may quote anything."""
    shown = ("id", "kind", "target", "result", "attempts")
    of_it = {name: getattr(errand, name) for name in shown}
    return {"delivery": {**of_it, "state": state, "instances": errand.content.get("instances", [])}}


def _open(kinds: Collection[str]) -> ColumnElement[bool]:
    return and_(DeliveryRow.kind.in_(kinds), DeliveryRow.state.in_(("waiting", "sending")))
