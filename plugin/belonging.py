"""Whose a queue is: it knows the name of its archive, which the archive keeps in its storage.

Whoever does jobs of a queue on another archive finds no series there, and ends them all. The name
is made at random. It is no property of Orthanc's index: in a database server each Orthanc, by host
name and ports, has properties of its own, and nobody may ask for one before Orthanc has started.
"""

import fcntl
import os
import uuid
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Engine, make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from model.unusable import Unusable
from plugin.jobs.job_table import Row, UnwritableQueue, make_tables
from plugin.jobs.pause import QUEUE

NAME_FILE = "oar-archive"
"""Holds the archive's name, in Orthanc's StorageDirectory."""


class NotOurs(Unusable):
    """The queue is somebody else's."""


class ArchiveRow(Row):
    """There is one row, from the first Orthanc on that uses the queue."""

    __tablename__ = "archive"

    queue: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


def name_of_archive(storage: Path) -> str:
    """What the archive with this storage is called; named now if it was not yet.

    Raises:
        NotOurs: the name cannot be kept.
    """
    file = storage / NAME_FILE
    try:
        storage.mkdir(parents=True, exist_ok=True)  # Orthanc makes it only after it has loaded us
        with file.open("a+") as kept:
            fcntl.lockf(kept, fcntl.LOCK_EX)  # several Orthancs may share the storage
            kept.seek(0)
            if not (name := kept.read().strip()):
                name = uuid.uuid4().hex
                kept.write(f"{name}\n")
                kept.flush()
                os.fsync(kept.fileno())
    except OSError as why:
        raise NotOurs(f"{file}, the name of this archive, cannot be kept: {why}.") from why
    return name


class Belonging:
    """Whose the queue in a database is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        make_tables(engine, ArchiveRow)

    @property
    def owner(self) -> str:
        """The name of the archive that the queue belongs to; empty if it has none yet."""
        with Session(self._engine) as session:
            row = session.get(ArchiveRow, QUEUE)
            return "" if row is None else row.name

    def give(self, storage: Path) -> None:
        """Let the queue belong to the archive with this storage, if it belongs to none yet.

        Raises:
            NotOurs: it belongs to another, or the archive's name cannot be kept.
        """
        archive = name_of_archive(storage)
        if not self.owner:
            # Another process may be faster.
            with suppress(IntegrityError), Session(self._engine) as session, session.begin():
                session.add(ArchiveRow(queue=QUEUE, name=archive))
        if (owner := self.owner) != archive:
            raise NotOurs(
                f"The queue belongs to the archive {owner}, and this Orthanc's storage is the "
                f"archive {archive}. If Database in the section Oar names another Orthanc's queue, "
                "name one of its own. If the queue is this Orthanc's, whose storage was made anew "
                "or is not shared with the others of the same index, write "
                f"{owner} into {storage / NAME_FILE}."
            )


def hold(database_url: str) -> None:
    """Keep a queue in an SQLite file for this process, until it ends.

    Raises:
        NotOurs: another process holds it.
        UnwritableQueue: nothing can be written beside it.
    """
    address = make_url(database_url)
    if address.get_backend_name() != "sqlite" or not address.database:
        return
    file = Path(address.database)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT, 0o600)  # closed by the process's end
    except OSError as why:
        raise UnwritableQueue(file) from why
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as why:  # which of the two, depends on the system
        os.close(lock)
        raise NotOurs(
            f"The queue {file} is in use: a file is for one Orthanc alone. Name another one as "
            "Database in the section Oar, or a postgresql:// URL for Orthancs that share one index."
        ) from why
