"""The wish of a person that no further job is taken. It outlives a restart."""

import logging
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Engine
from sqlalchemy.orm import Mapped, Session, mapped_column

from plugin.jobs.job_changes import NoteEvent
from plugin.jobs.job_table import Row, Utc, make_tables
from plugin.jobs.jobs import Jobs
from plugin.plain_text import PlainText

log = logging.getLogger(__name__)

QUEUE = "jobs"
"""Name of the one queue that there is."""


class PauseRow(Row):
    """There is one row while the queue is paused, and none otherwise."""

    __tablename__ = "pause"

    queue: Mapped[str] = mapped_column(primary_key=True)
    user: Mapped[str] = mapped_column(default="", server_default="")
    since: Mapped[datetime | None] = mapped_column(Utc)  # None: an earlier version paused it


class Held(BaseModel):
    """Who pauses the queue, and since when."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    user: PlainText  # if Orthanc knows; or empty
    since: datetime | None


class Pause:
    """Pauses and resumes the queue, for every process that works on its database."""

    def __init__(self, engine: Engine, jobs: Jobs, *, note: NoteEvent) -> None:
        """
        Args:
            engine: of the database of the jobs.
            jobs: told of the end of a pause.
            note: told of each pause and each end of one.
        """
        self._engine = engine
        self._jobs = jobs
        self._note = note
        make_tables(engine, PauseRow)

    def held(self) -> Held | None:
        """By whom the queue is paused now; None: it is not."""
        with Session(self._engine) as session:
            row = session.get(PauseRow, QUEUE)
            return None if row is None else Held.model_validate(row)

    def holds(self) -> bool:
        """Whether the queue is paused now."""
        return self.held() is not None

    def pause(self, user: str = "") -> None:
        """Take no further job, on somebody's wish. Who paused first counts."""
        with Session(self._engine) as session, session.begin():
            if session.get(PauseRow, QUEUE) is not None:
                return
            session.add(PauseRow(queue=QUEUE, user=user, since=datetime.now(UTC)))
            session.flush()
            self._note(session, "pause", "", {"user": user})
        log.warning("the queue is paused%s", f" by {user}" if user else "")

    def resume(self, user: str = "") -> None:
        """Take jobs again, on somebody's wish."""
        with Session(self._engine) as session, session.begin():
            row = session.get(PauseRow, QUEUE)
            if row is not None:
                session.delete(row)
                session.flush()
                self._note(session, "resume", "", {"user": user})
        if row is not None:
            log.warning("the queue is resumed%s", f" by {user}" if user else "")
        self._jobs.wake()
