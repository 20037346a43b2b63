"""Jobs come and change their state: each in one transaction with all that is noted of it."""

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from plugin.jobs.job import Job, Outcome
from plugin.jobs.job_table import JobRow

Note = Callable[[Session, Job, Outcome | None], None]
"""Writes down, in the session given, that a job has come to its state, and with what outcome."""

NoteEvent = Callable[[Session, str, str, Mapping[str, Any]], None]
"""Writes down what is no change of a job: the event, the job or nothing, and what is known of it.

Last in its transaction, as in all others: whoever took locks in another order could wait for ever.
"""


def digest(*parts: str) -> str:
    """One name for several."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class JobChanges:
    """The only place that writes states of jobs. Notes are there if, and only if, the change is."""

    def __init__(
        self,
        engine: Engine,
        *,
        notes: Sequence[Note],
        changed: Callable[[Job], None],
        now: Callable[[], datetime],
    ) -> None:
        """As of `Jobs`."""
        self._engine = engine
        self._notes = tuple(notes)
        self.tell = changed
        self._now = now

    def add(self, row: JobRow) -> Job:
        """Queue a job, unless one of the same key is there, which is then returned."""
        of_same_key = select(JobRow).where(JobRow.key == row.key)
        with Session(self._engine) as session:
            same = session.scalar(of_same_key)
            if same is not None:
                return Job.model_validate(same)
            session.add(row)
            try:
                session.flush()
            except IntegrityError:  # another process was faster
                session.rollback()
                return Job.model_validate(session.scalars(of_same_key).one())
            job = Job.model_validate(row)
            self._note(session, job, None)
            session.commit()
        self.tell(job)
        return job

    def move(
        self,
        where: ColumnElement[bool],
        *,
        outcome: Outcome | None = None,
        telling: bool = True,
        **values: Any,
    ) -> Job | None:
        """Change the one job that fits, and tell of it unless not `telling`; None if none does."""
        shadow = None
        with Session(self._engine) as session, session.begin():
            moved = session.scalar(
                update(JobRow).where(where).values(**values).returning(JobRow.id)
            )
            if moved is None:
                return None
            row = session.get_one(JobRow, moved)
            job = Job.model_validate(row)
            self._note(session, job, outcome)
            if job.state == "done":
                shadow = self._begin_shadow(session, row)
        if telling:
            self.tell(job)
        if shadow is not None:
            self.tell(shadow)
        return job

    def _begin_shadow(self, session: Session, row: JobRow) -> Job | None:
        """Queue the second model behind a job that is done, once."""
        key = digest("shadow of", row.key)
        if not row.shadow_model or session.scalar(select(JobRow.id).where(JobRow.key == key)):
            return None
        now = self._now()
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
            created=now,
            due=now,
        )
        session.add(shadow)
        session.flush()
        job = Job.model_validate(shadow)
        self._note(session, job, None)
        return job

    def _note(self, session: Session, job: Job, outcome: Outcome | None) -> None:
        for note in self._notes:
            note(session, job, outcome)
