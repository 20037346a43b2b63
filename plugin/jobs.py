"""The durable queue: one row for each series to segment, from the wish to the result."""

import hashlib
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from plugin.job import STATES, AskedBy, Job, Kind, Outcome, State
from plugin.job_table import JobRow

log = logging.getLogger(__name__)

REASON_LENGTH = 1000
"""Characters kept of a reason; an exception of a numerical library can be pages long."""


class UnknownJob(LookupError):
    """There is no job of this identifier."""


class WrongState(Exception):
    """What was asked makes no sense in the job's state. The message is a sentence for a person."""


def source_of(series: str, instances: Sequence[str]) -> str:
    """What is to be segmented, as one hash: a slice more or less is another source."""
    return _digest(series, *sorted(instances))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)


def _ignore(_: Job) -> None:
    pass


Note = Callable[[Session, Job, Outcome | None], None]
"""Writes down, in the session given, that a job has come to its state, and with what outcome."""


class Jobs:
    """The queue. Every method is one transaction and may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        *,
        max_attempts: int = 3,
        retry_delay_seconds: float = 30.0,
        notes: Sequence[Note] = (),
        changed: Callable[[Job], None] = _ignore,
        now: Callable[[], datetime] = _now,
    ) -> None:
        """
        Args:
            engine: from `open_database`.
            max_attempts: a job is begun at most this often before it is failed.
            retry_delay_seconds: before the second attempt; doubles with each further one.
            notes: told of each change of a state within its transaction: what they write is
                there if, and only if, the change is.
            changed: told afterwards, in the thread that changed it.
            now: the clock, with its time zone.
        """
        self._engine = engine
        self._max_attempts = max_attempts
        self._retry_delay = timedelta(seconds=retry_delay_seconds)
        self._notes = tuple(notes)
        self._changed = changed
        self._now = now
        self._work = threading.Event()

    # --- asking for work -------------------------------------------------------------------------

    def add(
        self,
        *,
        study: str,
        series: str,
        instances: Sequence[str],
        model: str,
        identity: str,
        asked_by: AskedBy,
        kind: Kind = "segment",
        user: str = "",
        shadow_model: str = "",
        force: bool = False,
    ) -> Job:
        """A job for these slices and this model: the one that exists already, or a new one.

        Args:
            study: the archive's identifier.
            series: the archive's identifier.
            instances: the archive's identifiers of the slices, in any order.
            model: the model's name.
            identity: all that the result depends on besides: the model's name, version and weights,
                and the kind of result.
            asked_by: who wants it.
            kind: what is to be done; its name is no part of the identity.
            user: the person, if it is one and the archive knows.
            shadow_model: the one that runs afterwards, to be compared; or empty.
            force: a new job in any case. Its run is its own identifier, so that its result gets
                UIDs of its own, and gets the same ones again if the job must be repeated.
        """
        identifier = uuid.uuid4().hex
        run = identifier if force else ""
        source = source_of(series, instances)
        key = _digest(source, identity, run)
        now = self._now()
        row = JobRow(
            id=identifier,
            key=key,
            kind=kind,
            source=source,
            study=study,
            series=series,
            state="queued",
            model=model,
            asked_by=asked_by,
            user=user,
            shadow_model=shadow_model,
            run=run,
            created=now,
            due=now,
        )
        with Session(self._engine) as session:
            same = session.scalar(select(JobRow).where(JobRow.key == key))
            if same is not None:
                return Job.model_validate(same)
            session.add(row)
            try:
                session.flush()
            except IntegrityError:  # another process was faster
                session.rollback()
                return Job.model_validate(
                    session.scalars(select(JobRow).where(JobRow.key == key)).one()
                )
            job = Job.model_validate(row)
            self._note(session, job, None)
            session.commit()
        self._changed(job)
        self._work.set()
        return job

    def cancel(self, job_id: str, *, user: str = "") -> Job:
        """Cancel at once if the job is queued; ask the worker to stop if it is running.

        Raises:
            UnknownJob: there is no such job.
            WrongState: it has ended already.
        """
        if job := self._move(
            job_id,
            "queued",
            state="cancelled",
            reason="Cancelled by a person.",
            user=user,
            finished=self._now(),
        ):
            return job
        with Session(self._engine) as session, session.begin():
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.state == "running")
                .values(cancel_wanted=True, user=user)
            )
        job = self.get(job_id)
        if job.state != "running":
            raise WrongState(f"The job is {job.state}: there is nothing left to cancel.")
        return job

    def retry(self, job_id: str, *, user: str = "") -> Job:
        """Put a job that ended without a result back in the queue, with all its attempts.

        Raises:
            UnknownJob: there is no such job.
            WrongState: it is waiting, running or done.
        """
        job = self._queue_again(job_id, ("failed", "cancelled", "skipped"), user)
        if job is None:
            raise WrongState(
                f"The job is {self.get(job_id).state}: only a failed, cancelled or skipped job "
                "can be tried again."
            )
        return job

    def redo(self, job_id: str, *, user: str = "") -> Job:
        """As `retry`, also for a done job whose result has since left the archive."""
        job = self._queue_again(job_id, ("failed", "cancelled", "skipped", "done"), user)
        return job or self.get(job_id)

    def _queue_again(self, job_id: str, states: Sequence[State], user: str) -> Job | None:
        job = self._move(
            job_id,
            *states,
            state="queued",
            user=user,
            due=self._now(),
            attempts=0,
            progress=0.0,
            stage="",
            reason="",
            started=None,
            finished=None,
            cancel_wanted=False,
            results=[],
            volumes_ml={},
            seconds={},
            warnings=[],
            dice={},
            provenance=None,
        )
        if job is not None:
            self._work.set()
        return job

    # --- looking ---------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job:
        """The job as it is now; UnknownJob if there is none."""
        with Session(self._engine) as session:
            row = session.get(JobRow, job_id)
            if row is None:
                raise UnknownJob(f"There is no job {job_id}.")
            return Job.model_validate(row)

    def find(
        self,
        *,
        state: State | None = None,
        study: str | None = None,
        series: str | None = None,
        kind: Kind | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        """Jobs, the newest first."""
        wanted = select(JobRow).order_by(JobRow.created.desc(), JobRow.id).limit(limit)
        for column, value in (
            (JobRow.state, state),
            (JobRow.study, study),
            (JobRow.series, series),
            (JobRow.kind, kind),
        ):
            if value is not None:
                wanted = wanted.where(column == value)
        with Session(self._engine) as session:
            return [Job.model_validate(row) for row in session.scalars(wanted)]

    def knows(self, source: str) -> bool:
        """Whether any model has, or had, a job for these slices."""
        with Session(self._engine) as session:
            return (
                session.scalar(select(JobRow.id).where(JobRow.source == source).limit(1))
                is not None
            )

    def counts(self) -> dict[State, int]:
        """Number of jobs in each state."""
        with Session(self._engine) as session:
            rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
            found = {row[0]: row[1] for row in rows}
        return {state: found.get(state, 0) for state in STATES}

    # --- the worker's side -----------------------------------------------------------------------

    def wait(self, seconds: float, *, for_due: bool = True) -> None:
        """Sleep until there may be work: a new job, one whose back-off has ended, or `wake`.

        Args:
            seconds: at most.
            for_due: whether a job that is due, or becomes so, ends the sleep.
        """
        with Session(self._engine) as session:
            due = session.scalar(select(func.min(JobRow.due)).where(JobRow.state == "queued"))
        if for_due and due is not None:
            seconds = min(seconds, (due - self._now()).total_seconds())
        if seconds > 0:
            self._work.wait(seconds)
        self._work.clear()

    def wake(self) -> None:
        """End a `wait`, in any thread."""
        self._work.set()

    def claim(self) -> Job | None:
        """Take the oldest job that is due, so that no other worker can; None if there is none.

        Nobody waits for a shadow: every series gets its result first.
        """
        oldest = (
            select(JobRow.id)
            .where(JobRow.state == "queued", JobRow.due <= self._now())
            .order_by(JobRow.kind != "segment", JobRow.created, JobRow.id)
            .limit(1)
        )
        while True:
            with Session(self._engine) as session:
                job_id = session.scalar(oldest)
            if job_id is None:
                return None
            job = self._move(
                job_id,
                "queued",
                state="running",
                attempts=JobRow.attempts + 1,
                progress=0.0,
                stage="",
                reason="",
                started=self._now(),
                cancel_wanted=False,
            )
            if job is not None:  # else another worker was faster: take the next
                return job

    def report(self, job_id: str, stage: str, progress: float) -> None:
        """Note how far a running job is."""
        with Session(self._engine) as session, session.begin():
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.state == "running")
                .values(stage=stage, progress=progress)
            )

    def cancel_wanted(self, job_id: str) -> bool:
        """Whether a person wants this running job to stop."""
        with Session(self._engine) as session:
            return bool(session.scalar(select(JobRow.cancel_wanted).where(JobRow.id == job_id)))

    def finish(self, job_id: str, outcome: Outcome) -> None:
        """Note the outcome of a running job."""
        values = outcome.model_dump(mode="json")
        values["reason"] = values["reason"][:REASON_LENGTH]
        progress = {"progress": 1.0} if outcome.state == "done" else {}
        self._move(
            job_id, "running", outcome=outcome, stage="", finished=self._now(), **progress, **values
        )

    def stopped(self, job_id: str) -> None:
        """Note that a running job was cancelled by a person."""
        self._move(
            job_id,
            "running",
            state="cancelled",
            reason="Cancelled by a person.",
            stage="",
            finished=self._now(),
        )

    def put_back(self, job_id: str) -> None:
        """Give a running job back because the service stops. The attempt does not count."""
        self._move(
            job_id,
            "running",
            state="queued",
            attempts=JobRow.attempts - 1,
            stage="",
            progress=0.0,
            started=None,
        )

    def fail(self, job_id: str, reason: str) -> Job | None:
        """Note that a running job met a fault of ours: queued again, or failed at last."""
        attempts = self.get(job_id).attempts
        if attempts >= self._max_attempts:
            final: dict[str, Any] = {"state": "failed", "finished": self._now()}
        else:
            final = {
                "state": "queued",
                "due": self._now() + self._retry_delay * 2 ** (attempts - 1),
            }
        return self._move(job_id, "running", stage="", reason=reason[:REASON_LENGTH], **final)

    def recover(self) -> None:
        """Queue again the jobs that ran when the last process ended; call before any `claim`.

        A job that ended the process as often as it may be tried is failed instead: it would end
        this one as well.
        """
        for job in self.find(state="running"):
            if job.attempts >= self._max_attempts:
                reason = f"Orthanc ended {job.attempts} times while this job ran."
                self._move(job.id, "running", state="failed", reason=reason, finished=self._now())
            else:
                self._move(job.id, "running", state="queued", stage="", progress=0.0)
            log.warning("job %s ran when Orthanc last ended", job.id)

    def _move(
        self, job_id: str, *states: State, outcome: Outcome | None = None, **values: Any
    ) -> Job | None:
        """Change a job that is in one of `states`, and tell of it; None if it is in none."""
        with Session(self._engine) as session, session.begin():
            moved = session.scalar(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.state.in_(states))
                .values(**values)
                .returning(JobRow.id)
            )
            if moved is None:
                return None
            row = session.get_one(JobRow, job_id)
            job = Job.model_validate(row)
            self._note(session, job, outcome)
            shadow = self._begin_shadow(session, row) if job.state == "done" else None
        self._changed(job)
        if shadow is not None:
            self._changed(shadow)
        return job

    def _begin_shadow(self, session: Session, row: JobRow) -> Job | None:
        """Queue the second model behind a job that is done, once."""
        key = _digest("shadow of", row.key)
        if not row.shadow_model or session.scalar(select(JobRow.id).where(JobRow.key == key)):
            return None
        shadow = JobRow(
            id=uuid.uuid4().hex,
            key=key,
            kind="shadow",
            of=row.id,
            source=row.source,
            study=row.study,
            series=row.series,
            state="queued",
            model=row.shadow_model,
            asked_by=row.asked_by,
            user=row.user,
            run=row.run,
            created=self._now(),
            due=self._now(),
        )
        session.add(shadow)
        session.flush()
        job = Job.model_validate(shadow)
        self._note(session, job, None)
        return job

    def _note(self, session: Session, job: Job, outcome: Outcome | None) -> None:
        for note in self._notes:
            note(session, job, outcome)
