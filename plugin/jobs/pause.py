"""The wish of a person that no further job is taken. It outlives a restart."""

import logging

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine
from sqlalchemy.orm import Mapped, Session, mapped_column

from plugin.jobs.job_table import Row, make_tables
from plugin.jobs.jobs import Jobs
from plugin.web.router import Route

log = logging.getLogger(__name__)

QUEUE = "jobs"
"""Name of the one queue that there is."""


class PauseRow(Row):
    """There is one row while the queue is paused, and none otherwise."""

    __tablename__ = "pause"

    queue: Mapped[str] = mapped_column(primary_key=True)


class QueueState(BaseModel):
    """Whether jobs are taken from the queue."""

    model_config = ConfigDict(frozen=True)

    paused: bool = Field(description="no further job is taken; the running one goes on")


class Pause:
    """Pauses and resumes the queue, for every process that works on its database."""

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self._engine = engine
        self._jobs = jobs
        make_tables(engine, PauseRow)
        self.routes = (
            Route(
                method="POST",
                path="/oar/queue/pause",
                summary="Take no further job; the running one goes on",
                function=self.pause,
                user=True,
                role="administer",
                answer=QueueState,
            ),
            Route(
                method="POST",
                path="/oar/queue/resume",
                summary="Take jobs again",
                function=self.resume,
                user=True,
                role="administer",
                answer=QueueState,
            ),
        )

    def holds(self) -> bool:
        """Whether the queue is paused now."""
        with Session(self._engine) as session:
            return session.get(PauseRow, QUEUE) is not None

    def pause(self, user: str = "") -> QueueState:
        with Session(self._engine) as session, session.begin():
            session.merge(PauseRow(queue=QUEUE))
        log.warning("the queue is paused%s", f" by {user}" if user else "")
        return QueueState(paused=True)

    def resume(self, user: str = "") -> QueueState:
        with Session(self._engine) as session, session.begin():
            if (row := session.get(PauseRow, QUEUE)) is not None:
                session.delete(row)
        log.warning("the queue is resumed%s", f" by {user}" if user else "")
        self._jobs.wake()
        return QueueState(paused=False)
