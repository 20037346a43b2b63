"""Whose a running job is, and how long it stays so without a sign of life.

Whoever claims a job gets a lease with a token of its own and renews it while the job runs. A job
whose lease has run out is handed on under a new token, so that a worker that was only slow, and not
dead, finds its own token worthless: nothing that it says of the job counts any more.
"""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, or_, update
from sqlalchemy.orm import Session

from plugin.jobs.job_table import JobRow


class Leases:
    """The leases of one process on jobs of the queue."""

    def __init__(
        self, engine: Engine, *, owner: str, seconds: float, now: Callable[[], datetime]
    ) -> None:
        """
        Args:
            engine: of the database of the jobs.
            owner: this process, by a name that no other one has at the same time.
            seconds: how long a lease holds from its last renewal.
            now: the clock of the database, which all processes share.
        """
        self._engine = engine
        self._owner = owner
        self._length = timedelta(seconds=seconds)
        self._now = now
        self._tokens: dict[str, str] = {}  # by job

    def new(self) -> dict[str, Any]:
        """The columns of a job that is claimed now."""
        return {"owner": self._owner, "lease": uuid.uuid4().hex, "lease_until": self._until()}

    def keep(self, job_id: str, lease: str) -> None:
        """Remember that this job was claimed under this token."""
        self._tokens[job_id] = lease

    def drop(self, job_id: str) -> None:
        """Forget a job that is no longer ours to do."""
        self._tokens.pop(job_id, None)

    def renew(self, job_id: str) -> bool:
        """Hold on to a job; False if it has been handed on, or has ended."""
        with Session(self._engine) as session, session.begin():
            renewed = session.scalar(
                update(JobRow)
                .where(self.held(job_id))
                .values(lease_until=self._until())
                .returning(JobRow.id)
            )
        return renewed is not None

    def held(self, job_id: str) -> ColumnElement[bool]:
        """That the job runs, and that it is this process that runs it."""
        token = self._tokens.get(job_id)  # None is nobody's token: the column is never NULL
        return and_(JobRow.id == job_id, JobRow.state == "running", JobRow.lease == token)

    def of_an_earlier_life(self) -> ColumnElement[bool]:
        """That the job was taken under this process's name, before it began or lost its way."""
        return and_(JobRow.state == "running", JobRow.owner == self._owner)

    def overdue(self) -> ColumnElement[bool]:
        """That whoever runs the job has been silent for too long."""
        # Jobs that an earlier version of the software began have no lease.
        silent = or_(JobRow.lease_until.is_(None), JobRow.lease_until <= self._now())
        return and_(JobRow.state == "running", silent)

    def _until(self) -> datetime:
        return self._now() + self._length
