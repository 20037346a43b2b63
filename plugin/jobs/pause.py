"""The wish of a person that no further job is taken. It outlives a restart."""

import logging

from sqlalchemy import Engine
from sqlalchemy.orm import Mapped, Session, mapped_column

from plugin.jobs.job_table import Row, make_tables
from plugin.jobs.jobs import Jobs

log = logging.getLogger(__name__)

QUEUE = "jobs"
"""Name of the one queue that there is."""


class PauseRow(Row):
    """There is one row while the queue is paused, and none otherwise."""

    __tablename__ = "pause"

    queue: Mapped[str] = mapped_column(primary_key=True)


class Pause:
    """Pauses and resumes the queue, for every process that works on its database."""

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self._engine = engine
        self._jobs = jobs
        make_tables(engine, PauseRow)

    def holds(self) -> bool:
        """Whether the queue is paused now."""
        with Session(self._engine) as session:
            return session.get(PauseRow, QUEUE) is not None

    def pause(self, user: str = "") -> None:
        """Take no further job, on somebody's wish."""
        with Session(self._engine) as session, session.begin():
            session.merge(PauseRow(queue=QUEUE))
        log.warning("the queue is paused%s", f" by {user}" if user else "")

    def resume(self, user: str = "") -> None:
        """Take jobs again, on somebody's wish."""
        with Session(self._engine) as session, session.begin():
            if (row := session.get(PauseRow, QUEUE)) is not None:
                session.delete(row)
        log.warning("the queue is resumed%s", f" by {user}" if user else "")
        self._jobs.wake()
