"""The record of every job, to which lines are added and of which none can be changed or removed.

One line for each change of a job's state, for each end of a delivery, and for each order of a
person that is neither: written in the transaction of what it tells of. The database
itself refuses to alter a line, and each line holds the hash of the line before it: whoever alters
the file behind the database's back breaks the chain. Who cuts lines off at the end, or writes the
whole chain anew, breaks nothing; that shows to anybody who has kept the number and hash of one line
(`Audit.verify`), as Orthanc's log does at each start.
There is nothing here that names a patient: a record that cannot be deleted must not.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Engine, Table, Text, event, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from plugin import __version__
from plugin.jobs.job import Job, Outcome
from plugin.jobs.job_table import Row, make_tables

NO_LINE = "0" * 64
"""What the first line holds for the hash of the line before it."""

PAGE = 1000
"""Lines read at a time while verifying."""


class AuditRow(Row):
    """A line as it is stored."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 1, 2, 3, …
    job: Mapped[str] = mapped_column(index=True)  # or empty; the line holds it too
    line: Mapped[str] = mapped_column(Text)  # JSON
    hash: Mapped[str]  # of the hash before it and the line


APPEND_ONLY = {
    "sqlite": (
        "CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit record is append-only'); END",
        "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit record is append-only'); END",
        # INSERT OR REPLACE deletes without the trigger above.
        "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit "
        "WHEN EXISTS (SELECT 1 FROM audit WHERE number = NEW.number) "
        "BEGIN SELECT RAISE(ABORT, 'the audit record is append-only'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit record is append-only'; END $$",
        "CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "EXECUTE FUNCTION audit_is_append_only()",
    ),
}
"""What makes each database refuse."""


@event.listens_for(AuditRow.__table__, "after_create")
def _make_append_only(_: Table, connection: Connection, **__: Any) -> None:
    for statement in APPEND_ONLY.get(connection.dialect.name, ()):
        connection.exec_driver_sql(statement)


class AuditLine(BaseModel):
    """One line: what is known of a job when it came to a state; or an event, which says which."""

    model_config = ConfigDict(frozen=True)

    number: int
    hash: str
    previous: str
    record: dict[str, Any]


class Verdict(BaseModel):
    """Whether the record is as it was written."""

    model_config = ConfigDict(frozen=True)

    intact: bool
    reason: Annotated[str, Field(description="what is wrong, in a sentence; or empty")]
    lines: Annotated[int, Field(description="in agreement with each other")]
    hash: Annotated[str, Field(description="of the last of these; to be kept elsewhere")]


class Audit:
    """The record. Every method is one transaction and may be called from any thread."""

    def __init__(self, engine: Engine, *, settings_sha256: str) -> None:
        """
        Args:
            engine: of the database of the jobs.
            settings_sha256: see `settings_digest`, of settings.py.
        """
        make_tables(engine, AuditRow)
        self._engine = engine
        self._settings_sha256 = settings_sha256

    def note(self, session: Session, job: Job, _: Outcome | None) -> None:
        """Add a line, within the transaction that changes the job."""
        self._add(session, job.id, self._record(job))

    def note_event(self, session: Session, event: str, job: str, more: Mapping[str, Any]) -> None:
        """Add a line on what is no change of a job, within the transaction that brings it about.

        Call it last in that transaction: others wait until it is over.

        Args:
            event: its name.
            job: whose it is; or empty.
            more: what is to be known of it, with nothing that names a patient.
        """
        self._add(session, job, {"event": event, "job": job, **more, **self._made_by()})

    def _add(self, session: Session, job: str, record: Mapping[str, Any]) -> None:
        if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer at a time
            session.execute(text("LOCK TABLE audit IN EXCLUSIVE MODE"))
        last, previous = _last(session)
        line = json.dumps(
            {"number": last + 1, "time": datetime.now(UTC).isoformat(), **record},
            sort_keys=True,
        )
        session.add(AuditRow(number=last + 1, job=job, line=line, hash=_hash(previous, line)))
        session.flush()

    def _record(self, job: Job) -> dict[str, Any]:
        # Not the reason: it may quote an exception, and an exception a header.
        shown = ("kind", "of", "study", "series", "state", "asked_by", "user", "model", "run")
        return {
            "job": job.id,
            **{name: getattr(job, name) for name in shown},
            "attempts": job.attempts,
            "provenance": job.provenance.model_dump() if job.provenance else None,
            "outputs": [result.model_dump() for result in job.results],
            **self._made_by(),
        }

    def _made_by(self) -> dict[str, str]:
        return {
            "settings_sha256": self._settings_sha256,
            "software": f"orthanc-oar {__version__}",
        }

    def lines(self, *, job: str | None = None, after: int = 0, limit: int = 100) -> list[AuditLine]:
        """Lines from the one after a number on, in their order."""
        wanted = select(AuditRow).where(AuditRow.number > after).order_by(AuditRow.number)
        if job is not None:
            wanted = wanted.where(AuditRow.job == job)
        with Session(self._engine) as session:
            rows = session.scalars(wanted.limit(limit)).all()
            numbers = [row.number - 1 for row in rows]
            before = session.scalars(select(AuditRow).where(AuditRow.number.in_(numbers))).all()
        hash_of = {row.number: row.hash for row in before}
        return [
            AuditLine(
                number=row.number,
                hash=row.hash,
                previous=hash_of.get(row.number - 1, NO_LINE),
                record=_record_of(row),
            )
            for row in rows
        ]

    def verify(self, *, number: int | None = None, hash: str | None = None) -> Verdict:
        """Read the whole record again and compare it with its hashes.

        Args:
            number: of a line that somebody has kept a note of; 0: before the first line.
            hash: of that line, as it was then; without a number, of any line.
        """
        count, last, found = 0, NO_LINE, hash == NO_LINE
        if number == 0 and hash is not None and not found:
            return _broken(count, last, "Before the first line there is no hash but zeros.")
        for row in self._all():
            if row.number != count + 1:
                return _broken(count, last, f"Line {count + 1} is missing.")
            if not _agrees(row, last):
                return _broken(count, last, f"Line {row.number} is not as it was written.")
            if row.number == number and hash is not None and row.hash != hash:
                return _broken(count, last, f"Line {number} had another hash when it was noted.")
            count, last, found = row.number, row.hash, found or row.hash == hash
        if hash is not None and number is None and not found:
            return _broken(count, last, "No line has the hash that was noted.")
        if number is not None and number > count:
            return _broken(count, last, f"Line {number} and perhaps others after it are cut off.")
        return Verdict(intact=True, reason="", lines=count, hash=last)

    def last(self) -> tuple[int, str]:
        """Number and hash of the last line; to be kept elsewhere."""
        with Session(self._engine) as session:
            return _last(session)

    def _all(self) -> Iterator[AuditRow]:
        wanted, last = select(AuditRow).order_by(AuditRow.number).limit(PAGE), 0
        while True:
            # Each page in a transaction of its own, so that nobody waits until the whole record is
            # read; what has been read does not change.
            with Session(self._engine) as session:
                rows = session.scalars(wanted.where(AuditRow.number > last)).all()
            if not rows:
                return
            yield from rows
            last = rows[-1].number


def _last(session: Session) -> tuple[int, str]:
    row = session.execute(
        select(AuditRow.number, AuditRow.hash).order_by(AuditRow.number.desc()).limit(1)
    ).first()
    return (row.number, row.hash) if row else (0, NO_LINE)


def _hash(previous: str, line: str) -> str:
    return hashlib.sha256(f"{previous}\n{line}".encode()).hexdigest()


def _agrees(row: AuditRow, previous: str) -> bool:
    record = _record_of(row)
    said = record.get("number"), record.get("job")
    return row.hash == _hash(previous, row.line) and said == (row.number, row.job)


def _record_of(row: AuditRow) -> dict[str, Any]:
    try:
        return dict(json.loads(row.line))
    except (ValueError, TypeError):  # somebody was at it; `verify` says so
        return {"unreadable": row.line}


def _broken(lines: int, last: str, reason: str) -> Verdict:
    return Verdict(intact=False, reason=reason, lines=lines, hash=last)
