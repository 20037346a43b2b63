"""The durable queue: one row for each series to segment, from the wish to the result."""

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, func, not_, or_, select, update
from sqlalchemy.orm import Session

from plugin.jobs.job import STATES, AskedBy, Job, Kind, Outcome, State
from plugin.jobs.job_changes import JobChanges, Note, digest
from plugin.jobs.job_table import BEHIND_SEGMENT, JobRow, asked_for, clock_of
from plugin.jobs.leases import Leases
from plugin.plain_text import plain

log = logging.getLogger(__name__)


POLL_S = 1.0
"""How often a queue is looked at that other processes fill too."""


CANCELLED: dict[str, Any] = {"state": "cancelled", "reason": "Cancelled by a person."}


class UnknownJob(LookupError):
    """There is no job of this identifier."""


class WrongState(Exception):
    """What was asked makes no sense in the job's state. The message is a sentence for a person."""


def source_of(series: str, instances: Sequence[str]) -> str:
    """What is to be segmented, as one hash: a slice more or less is another source."""
    return digest(series, *sorted(instances))


class Jobs:
    """The queue. Every method is one transaction and may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        *,
        owner: str,
        max_attempts: int,
        retry_delay_seconds: float,
        lease_seconds: float,
        notes: Sequence[Note],
        changed: Callable[[Job], None],
        now: Callable[[], datetime] | None = None,
    ) -> None:
        """
        Args:
            engine: from `open_database`.
            owner: this process, by a name that it has again after a restart, and that no other
                process has: what it had claimed is then taken up again at once.
            max_attempts: a job is begun at most this often before it is failed.
            retry_delay_seconds: before the second attempt; doubles with each further one.
            lease_seconds: a worker that is silent for as long has lost its job to others.
            notes: told of each change of a state within its transaction: what they write is
                there if, and only if, the change is.
            changed: told afterwards, in the thread that changed it.
            now: the clock, with its time zone; the database's if there is none.
        """
        self._engine = engine
        self._max_attempts = max_attempts
        self._retry_delay = timedelta(seconds=retry_delay_seconds)
        self._longest_pause = self._retry_delay * 2 ** max(0, max_attempts - 2)
        self._now = now or clock_of(engine)
        self._changes = JobChanges(engine, notes=notes, changed=changed, now=self._now)
        self._leases = Leases(engine, owner=owner, seconds=lease_seconds, now=self._now)
        self.lease_seconds = lease_seconds
        # SQLite is for one process, which wakes itself.
        self._poll_s = float("inf") if engine.dialect.name == "sqlite" else POLL_S
        self._work = threading.Event()

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
        source: str | None = None,
        kind: Kind | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        """Jobs, the newest first; `source` is a hash of their slices."""
        which = asked_for(state=state, study=study, series=series, source=source, kind=kind)
        wanted = (
            select(JobRow)
            .filter_by(**which)
            .order_by(JobRow.created.desc(), JobRow.id)
            .limit(limit)
        )
        with Session(self._engine) as session:
            rows = session.scalars(wanted).all()
        return [Job.model_validate(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """Number of jobs in each state."""
        with Session(self._engine) as session:
            rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
            found = {row[0]: row[1] for row in rows}
        return {state: found.get(state, 0) for state in STATES}

    def at_work(self) -> int:
        """Jobs that run and whose worker lives."""
        living = and_(JobRow.state == "running", not_(self._leases.overdue()))
        with Session(self._engine) as session:
            return session.scalar(select(func.count()).where(living)) or 0

    def waiting_seconds(self) -> float:
        """How long the job has waited that has been due for longest; 0 if none is due."""
        due = self._first_due()
        return 0.0 if due is None else max(0.0, (self._now() - due).total_seconds())

    def _first_due(self) -> datetime | None:
        with Session(self._engine) as session:
            return session.scalar(select(func.min(JobRow.due)).where(JobRow.state == "queued"))

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
        received: str = "",
        run: str = "",
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
            received: when the archive had received the last slice.
            run: empty, or what tells this job and its result from others of the same slices.
            force: a new job in any case. Its run is its own identifier, so that its result gets
                UIDs of its own, and gets the same ones again if the job must be repeated.
        """
        identifier = uuid.uuid4().hex
        run = identifier if force else run
        source = source_of(series, instances)
        key = digest(source, identity, run)
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
            received=received,
            created=now,
            due=now,
        )
        job = self._changes.add(row)
        self._work.set()
        return job

    def came_again(self, job_id: str, *, received: str) -> None:
        """Note that the archive has received the slices once more, and that they are the same."""
        with Session(self._engine) as session, session.begin():
            session.execute(update(JobRow).where(JobRow.id == job_id).values(received=received))

    def cancel(self, job_id: str, *, user: str = "") -> Job:
        """Cancel at once if the job is queued; ask the worker to stop if it is running.

        Raises:
            UnknownJob: there is no such job.
            WrongState: it has ended already.
        """
        if job := self._changes.move(
            and_(JobRow.id == job_id, JobRow.state == "queued"),
            user=user,
            finished=self._now(),
            **CANCELLED,
        ):
            return job
        with Session(self._engine) as session, session.begin():
            asked = session.scalar(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.state == "running")
                .values(cancel_wanted=True, user=user)
                .returning(JobRow)
            )
            if asked is not None:  # as it is now: the worker may stop the job at any moment
                return Job.model_validate(asked)
        state = self.get(job_id).state
        raise WrongState(f"The job is {state}: there is nothing left to cancel.")

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
        job = self._changes.move(
            and_(JobRow.id == job_id, JobRow.state.in_(states)),
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

    # --- the worker's side -----------------------------------------------------------------------

    def wait(self, seconds: float, *, for_due: bool = True) -> None:
        """Sleep until there may be work: a new job, one whose back-off has ended, or `wake`.

        Args:
            seconds: at most; where other processes fill the queue too, `POLL_S` at most.
            for_due: whether a job that is due, or becomes so, ends the sleep.
        """
        due = self._first_due()
        seconds = min(seconds, self._poll_s)
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

        Nobody waits for a shadow: every series gets its result first. Jobs whose workers have been
        silent for too long are handed on first. Nobody is told yet, see `tell`.
        """
        self._hand_on(self._leases.overdue())
        now = self._now()
        # A clock that is set back must hold neither what was never begun, which has no back-off,
        # nor anything for longer than a back-off is.
        due = or_(JobRow.due <= now, JobRow.attempts == 0, JobRow.due > now + self._longest_pause)
        oldest = (
            select(JobRow.id)
            .where(JobRow.state == "queued", due)
            .order_by(BEHIND_SEGMENT, JobRow.created, JobRow.id)
            .limit(1)
            # Of those that no other worker is just taking; SQLite lets one write at a time.
            .with_for_update(skip_locked=True)
        )
        lease = self._leases.new()
        job = self._changes.move(
            JobRow.id == oldest.scalar_subquery(),
            state="running",
            attempts=JobRow.attempts + 1,
            progress=0.0,
            stage="",
            reason="",
            started=self._now(),
            telling=False,
            **lease,
        )
        if job is not None:
            self._leases.keep(job.id, lease["lease"])
        return job

    def tell(self, job: Job) -> None:
        """Tell that a claimed job runs. It may take long: the lease must be renewed meanwhile."""
        self._changes.tell(job)

    def renew(self, job_id: str) -> bool:
        """Say that the worker of this job lives; False if the job is no longer its own."""
        return self._leases.renew(job_id)

    def report(self, job_id: str, stage: str, progress: float) -> None:
        """Note how far a running job is."""
        with Session(self._engine) as session, session.begin():
            session.execute(
                update(JobRow)
                .where(self._leases.held(job_id))
                .values(stage=stage, progress=progress)
            )

    def cancel_wanted(self, job_id: str) -> bool:
        """Whether a person wants this running job to stop."""
        with Session(self._engine) as session:
            return bool(session.scalar(select(JobRow.cancel_wanted).where(JobRow.id == job_id)))

    def finish(self, job_id: str, outcome: Outcome) -> None:
        """Note the outcome of a running job."""
        values = outcome.model_dump(mode="json")
        progress = {"progress": 1.0} if outcome.state == "done" else {}
        self._end(job_id, outcome=outcome, finished=self._now(), **progress, **values)

    def replaced(self, job_id: str, reason: str) -> None:
        """Note that the result of a done job was taken out of the archive, for another one."""
        self._changes.move(
            and_(JobRow.id == job_id, JobRow.state == "done"),
            state="skipped",
            reason=reason,
            results=[],
            volumes_ml={},
        )

    def stopped(self, job_id: str) -> None:
        """Note that a running job was cancelled by a person."""
        self._end(job_id, finished=self._now(), **CANCELLED)

    def put_back(self, job_id: str) -> None:
        """Give a running job back unfinished. The attempt does not count."""
        self._end(job_id, state="queued", attempts=JobRow.attempts - 1, progress=0.0, started=None)

    def fail(self, job_id: str, reason: str, *, again: bool = True) -> None:
        """Note that a running job met a fault of ours: queued again, or failed at last.

        Args:
            again: whether a further attempt may help.
        """
        attempts = self.get(job_id).attempts
        if attempts >= self._max_attempts or not again:
            final: dict[str, Any] = {"state": "failed", "finished": self._now()}
        else:
            final = {
                "state": "queued",
                "due": self._now() + self._retry_delay * 2 ** (attempts - 1),
            }
        self._end(job_id, reason=plain(reason), **final)

    def recover(self) -> None:
        """Queue again what this process ran when it last ended; call before any `claim`.

        The jobs of other workers are left to them: they may be alive.
        """
        self._hand_on(self._leases.of_an_earlier_life())

    def _end(self, job_id: str, **values: Any) -> None:
        """Change a job that this process runs, which is then over for it."""
        held, moved = self._leases.held(job_id), None
        if values["state"] == "queued":  # unless a person wants it no more
            cancelled = CANCELLED | {"finished": self._now()}
            moved = self._changes.move(and_(held, JobRow.cancel_wanted), stage="", **cancelled)
        if moved is None and self._changes.move(held, stage="", **values) is None:
            log.warning("job %s is no longer ours: what became of it here does not count", job_id)
        self._leases.drop(job_id)

    def _hand_on(self, where: ColumnElement[bool]) -> None:
        """Queue again the running jobs that fit, whose workers are gone.

        A job that ended its worker as often as it may be tried is failed instead: it would end the
        next one as well.
        """
        with Session(self._engine) as session:
            rows = session.scalars(select(JobRow).where(where)).all()
        for row in rows:
            changes: dict[str, Any] = {"state": "queued", "stage": "", "progress": 0.0}
            if row.cancel_wanted:
                changes = {**CANCELLED}
            elif row.attempts >= self._max_attempts:
                reason = f"Its worker ended {row.attempts} times while this job ran."
                changes = {"state": "failed", "reason": reason}
            if changes["state"] != "queued":
                changes["finished"] = self._now()
            same_life = and_(JobRow.id == row.id, JobRow.lease == row.lease, where)
            if self._changes.move(same_life, **changes) is not None:
                log.warning("job %s was left by its worker %s", row.id, row.owner)
