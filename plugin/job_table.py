"""The database table under the queue of jobs, on SQLite or any other database of SQLAlchemy."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Engine, TypeDecorator, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BUSY_SECONDS = 30
"""How long one thread waits for another's transaction on an SQLite file before it gives up."""


class _Utc(TypeDecorator[datetime]):
    """A moment in UTC, on databases with time zones and on those without, as SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _Base(DeclarativeBase):
    pass


class JobRow(_Base):
    """A job as it is stored."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)  # the same key: the same job
    source: Mapped[str] = mapped_column(index=True)  # the same source: the same slices
    study: Mapped[str] = mapped_column(index=True)
    series: Mapped[str] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(index=True)
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
    created: Mapped[datetime] = mapped_column(_Utc)
    due: Mapped[datetime] = mapped_column(_Utc)  # not before: the back-off of a retry
    started: Mapped[datetime | None] = mapped_column(_Utc)
    finished: Mapped[datetime | None] = mapped_column(_Utc)


def open_database(url: str) -> Engine:
    """An engine on `url`, its table made if it is new. SQLite files survive a power cut."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        if engine.url.database:  # Orthanc makes its own folder only after it has loaded us
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_immediately)
    _Base.metadata.create_all(engine)
    return engine


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # sqlite3 must not begin transactions of its own
    for pragma in (
        "journal_mode = WAL",  # readers and the writer do not wait for each other
        "synchronous = FULL",  # a committed job is on the disk
        f"busy_timeout = {BUSY_SECONDS * 1000}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediately(connection: Any) -> None:
    # A transaction that reads, then writes, fails if another has written between; one that
    # announces itself as a writer waits instead.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
