"""The database tables under jobs and deliveries, on SQLite or any other database of SQLAlchemy."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from sqlalchemy import (
    JSON,
    URL,
    Boolean,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    Table,
    TypeDecorator,
    create_engine,
    event,
    func,
    inspect,
    literal_column,
    make_url,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.schema import CreateColumn, CreateIndex

from model.unusable import Unusable

log = logging.getLogger(__name__)

BUSY_SECONDS = 30
"""How long one thread waits for another's transaction on an SQLite file before it gives up."""

SERVER_IS_AWAY = {
    "connect_timeout": "10",  # seconds
    "tcp_user_timeout": "20000",  # milliseconds
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
}
"""When PostgreSQL is given up that does not refuse but is silent, as a machine without power is.

The system's own patience is a quarter of an hour: so long would /oar and Orthanc's changes wait.
"""

UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
"""What SQLite says of a file, or of the two beside it, that belong to somebody else."""

MAKING_TABLES = 0x6F6172
"""Number of PostgreSQL's lock that is held while tables are made; any that nobody else takes."""


class UnwritableQueue(Unusable):
    """The queue's file cannot be written. The message says who must be able to."""

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"The queue's file {file} cannot be written: it, the files {file.name}-wal, "
            f"{file.name}-shm and {file.name}.lock beside it, and their folder must be writable by "
            "the user that Orthanc runs as."
        )


class UnusableDatabase(Unusable):
    """The queue's database cannot be used. The message says which and why, without a password."""

    def __init__(self, address: URL, why: Exception | str) -> None:
        said = str(getattr(why, "orig", None) or why).strip().splitlines()[0]
        super().__init__(
            f"The database {address.database} at {address.host or 'this machine'} cannot be used: "
            f"{said}. If that will pass, start again then; otherwise see to it, or to Database in "
            "the section Oar."
        )


class Utc(TypeDecorator[datetime]):
    """A moment in UTC, on databases with time zones and on those without, as SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Row(DeclarativeBase):
    """A row of any of our tables.

    A column that is added to a table must have a `server_default` or allow None: tables of an
    earlier version get it when they are opened.
    """


def asked_for(**values: object) -> dict[str, object]:
    """For `filter_by`: the columns for which a value is given; None is any."""
    return {column: value for column, value in values.items() if value is not None}


class DeliveryRow(Row):
    """A delivery as it is stored."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(primary_key=True)  # the same job, place and kind: the same
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    kind: Mapped[str]
    target: Mapped[str]
    result: Mapped[str] = mapped_column(default="", server_default="")  # its kind; "": all, or news
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(index=True)
    attempts: Mapped[int]
    reason: Mapped[str]
    ticket: Mapped[str]  # of a sending that is under way: Orthanc's job
    owner: Mapped[str]  # the process that looks after it
    begun: Mapped[datetime] = mapped_column(Utc)
    due: Mapped[datetime] = mapped_column(Utc)  # of the next attempt or the next look
    finished: Mapped[datetime | None] = mapped_column(Utc)


BEHIND_SEGMENT = literal_column("(kind != 'segment')", Boolean)
"""Nobody waits for a job of another kind. Not a parameter: an index is made of it."""


class JobRow(Row):
    """A job as it is stored."""

    __tablename__ = "jobs"
    __table_args__ = (
        # The next one to take and the time of the next one due, however many wait or have ended.
        Index("ix_jobs_to_take", "state", BEHIND_SEGMENT, "created", "id"),
        Index("ix_jobs_state_due", "state", "due"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)  # the same key: the same job
    source: Mapped[str] = mapped_column(index=True)  # the same source: the same slices
    study: Mapped[str] = mapped_column(index=True)
    series: Mapped[str] = mapped_column(index=True)
    state: Mapped[str]
    stage: Mapped[str] = mapped_column(default="")
    progress: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str] = mapped_column(default="")
    model: Mapped[str]
    asked_by: Mapped[str]
    run: Mapped[str] = mapped_column(default="")
    cancel_wanted: Mapped[bool] = mapped_column(default=False)
    results: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    volumes_ml: Mapped[dict[str, float]] = mapped_column(JSON, default=dict)
    seconds: Mapped[dict[str, float]] = mapped_column(JSON, default=dict)
    warnings: Mapped[list[str]] = mapped_column(JSON, default=list)
    kind: Mapped[str] = mapped_column(default="segment", server_default="segment", index=True)
    of: Mapped[str] = mapped_column(default="", server_default="")  # compared with that job
    user: Mapped[str] = mapped_column(default="", server_default="")
    shadow_model: Mapped[str] = mapped_column(default="", server_default="")  # runs after it
    dice: Mapped[dict[str, float]] = mapped_column(JSON, default=dict, server_default="{}")
    provenance: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    deliveries: Mapped[list[DeliveryRow]] = relationship(
        lazy="selectin", order_by=(DeliveryRow.kind, DeliveryRow.target, DeliveryRow.result)
    )
    owner: Mapped[str] = mapped_column(default="", server_default="")  # the process that runs it
    lease: Mapped[str] = mapped_column(default="", server_default="")  # token of its claim
    lease_until: Mapped[datetime | None] = mapped_column(Utc)  # then others may take it
    received: Mapped[str] = mapped_column(default="", server_default="")
    created: Mapped[datetime] = mapped_column(Utc, index=True)
    due: Mapped[datetime] = mapped_column(Utc)  # not before: the back-off of a retry
    started: Mapped[datetime | None] = mapped_column(Utc)
    finished: Mapped[datetime | None] = mapped_column(Utc)


def open_database(url: str) -> Engine:
    """An engine on `url`, its tables made if they are new.

    SQLite files survive a power cut. One that a broken disk has damaged is set aside, and a new one
    is begun: what was to be done is found again in the archive, and Orthanc is needed meanwhile.

    Raises:
        UnwritableQueue: it is an SQLite file that may only be read, or not even that.
        UnusableDatabase: a server does not answer or does not let us; or another process holds the
            SQLite file, it is another program's, or the disk is full.
    """
    address = make_url(url)
    if address.get_backend_name() == "postgresql":
        query = SERVER_IS_AWAY | dict(address.query)
        address = address.set(drivername="postgresql+psycopg", query=query)
    # A server may restart, and a line break, while a connection waits for its next use.
    engine = create_engine(address, pool_pre_ping=address.get_backend_name() != "sqlite")
    try:
        if engine.dialect.name == "sqlite":
            if engine.url.database:  # Orthanc makes its own folder only after it has loaded us
                file = Path(engine.url.database)
                file.parent.mkdir(parents=True, exist_ok=True)
                if not _is_sound(file):
                    _set_aside(file)
            event.listen(engine, "connect", _configure_sqlite)
            event.listen(engine, "begin", _begin_immediately)
        make_tables(engine, JobRow, DeliveryRow)
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise UnusableDatabase(address, error) from error
    return engine


def clock_of(engine: Engine) -> Callable[[], datetime]:
    """The clock that all processes of this database share: a server's own, or this machine's."""

    def now() -> datetime:
        with engine.connect() as connection:
            return connection.execute(select(func.clock_timestamp(type_=Utc))).scalar_one()

    return now if engine.dialect.name == "postgresql" else lambda: datetime.now(UTC)


def make_tables(engine: Engine, *rows: type[Row]) -> None:
    """Make the tables that are not there, and the columns and indexes that the others lack."""
    tables = [cast(Table, row.__table__) for row in rows]
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # several processes may start at the same time
            connection.execute(select(func.pg_advisory_xact_lock(MAKING_TABLES)))
        there = set(inspect(connection).get_table_names())
        Row.metadata.create_all(connection, tables=tables)
        for table in tables:
            if table.name not in there:
                continue
            known = {column["name"] for column in inspect(connection).get_columns(table.name)}
            for column in table.columns:
                if column.name not in known:
                    new = CreateColumn(column).compile(engine)
                    connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {new}")
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))


def _is_sound(file: Path) -> bool:
    """Whether a file that is there can be read, and written without a change; or can be made."""
    try:
        with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return False
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if names and JobRow.__tablename__ not in names:
                address = URL.create("sqlite", database=str(file))
                raise UnusableDatabase(address, "it has tables of another program")
            [number] = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {number}")
            return True
    except sqlite3.DatabaseError as error:
        kind = error.sqlite_errorcode & 0xFF  # the low byte
        if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return False
        if kind in UNWRITABLE:
            raise UnwritableQueue(file) from error
        raise  # as of a locked file: it says nothing of its content


def _set_aside(file: Path) -> None:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    aside = file.with_name(f"{file.name}.damaged-{now}")
    for suffix in ("-wal", "-shm", ""):  # the file last: while it is there, this is done again
        part = Path(f"{file}{suffix}")
        if part.exists():
            part.rename(f"{aside}{suffix}")
    log.error(
        "the queue's file %s is damaged and was renamed to %s. A new one is begun; the record of "
        "earlier jobs, and what was still to be sent on, are only in the damaged one.",
        file,
        aside,
    )


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # sqlite3 must not begin transactions of its own
    for pragma in (
        "journal_mode = WAL",  # a commit is one append to a file
        "synchronous = FULL",  # a committed job is on the disk
        f"busy_timeout = {BUSY_SECONDS * 1000}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediately(connection: Any) -> None:
    # A transaction that reads, then writes, fails if another has written between; one that
    # announces itself as a writer waits instead. All do, so that also who only reads keeps the
    # others waiting, and must be short.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
