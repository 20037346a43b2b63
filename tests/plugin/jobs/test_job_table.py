import os
import resource
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from plugin.jobs import job_table
from plugin.jobs.job_table import UnusableDatabase, UnwritableQueue, open_database
from tests.plugin.jobs.asking import add
from tests.plugin.parts import new_queue


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A queue of a hundred jobs, all of them in the one file."""
    file = tmp_path / "jobs.db"
    engine = open_database(f"sqlite:///{file}")
    jobs = new_queue(engine)
    for number in range(100):
        add(jobs, series=f"series {number}")
    engine.dispose()
    return file


def overwrite_the_head(file: Path) -> None:
    file.write_bytes(b"noise" * 20 + file.read_bytes()[100:])


def overwrite_the_middle(file: Path) -> None:
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes(range(256)) * 64 + content[middle + 256 * 64 :])


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damage", [overwrite_the_head, overwrite_the_middle, cut])
def test_a_damaged_queue_is_kept_beside_a_new_one(
    file: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(file)
    damaged = file.read_bytes()

    jobs = new_queue(open_database(f"sqlite:///{file}"))

    assert jobs.find() == []
    assert add(jobs).state == "queued"
    [aside] = file.parent.glob("*.damaged-*")
    assert aside.read_bytes() == damaged
    assert "is damaged and was renamed" in caplog.text


def test_a_queue_that_is_whole_stays_where_it_is(file: Path) -> None:
    assert len(new_queue(open_database(f"sqlite:///{file}")).find()) == 100
    assert list(file.parent.glob("*.damaged-*")) == []


def test_a_queue_that_somebody_else_holds_is_not_called_damaged(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_table, "BUSY_SECONDS", 0)
    with closing(sqlite3.connect(file, isolation_level=None)) as somebody:
        somebody.execute("PRAGMA locking_mode = EXCLUSIVE")
        somebody.execute("BEGIN EXCLUSIVE")

        with pytest.raises(
            UnusableDatabase, match=r"jobs\.db .* cannot be used: database is locked"
        ):
            open_database(f"sqlite:///{file}")

    assert len(new_queue(open_database(f"sqlite:///{file}")).find()) == 100


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file takes a byte more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_start_on_a_full_disk_is_refused_with_the_file_and_the_reason(
    file: Path, full_disk: None
) -> None:
    with pytest.raises(UnusableDatabase, match=r"jobs\.db .* cannot be used: .*disk.*\. If that"):
        open_database(f"sqlite:///{file}")


def test_a_queue_in_another_programs_database_is_refused_and_the_file_left_as_it_is(
    tmp_path: Path,
) -> None:
    index = tmp_path / "index"
    with closing(sqlite3.connect(index)) as another:
        another.execute("CREATE TABLE Resources (internalId INTEGER PRIMARY KEY)")
    before = index.read_bytes()

    with pytest.raises(UnusableDatabase, match="it has tables of another program"):
        open_database(f"sqlite:///{index}")

    assert index.read_bytes() == before


@pytest.fixture
def anybodys_folder() -> Iterator[Path]:
    """One that every user can enter and write."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def as_orthancs_user() -> Iterator[Callable[[], None]]:
    """Goes on as a user who is not root."""
    before = os.geteuid()
    yield lambda: None if before else os.seteuid(65534)
    os.seteuid(before)


@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_a_backup_that_was_put_back_for_root_alone_stops_the_start_with_a_sentence(
    file: Path, anybodys_folder: Path, as_orthancs_user: Callable[[], None], mode: int
) -> None:
    restored = anybodys_folder / "oar-jobs.db"
    restored.write_bytes(file.read_bytes())
    restored.chmod(mode)
    as_orthancs_user()

    with pytest.raises(UnwritableQueue, match=r"oar-jobs\.db cannot be written: .*-wal, .*-shm"):
        open_database(f"sqlite:///{restored}")


def test_a_queue_in_a_folder_of_somebody_elses_stops_the_start_with_a_sentence(
    anybodys_folder: Path, as_orthancs_user: Callable[[], None]
) -> None:
    anybodys_folder.chmod(0o555)
    as_orthancs_user()

    with pytest.raises(UnwritableQueue, match="their folder must be writable"):
        open_database(f"sqlite:///{anybodys_folder / 'oar-jobs.db'}")


@pytest.mark.slow
def test_a_database_that_is_silent_keeps_neither_orthanc_nor_its_users_waiting(monkeypatch):
    monkeypatch.setitem(job_table.SERVER_IS_AWAY, "connect_timeout", "1")

    with socket.create_server(("127.0.0.1", 0)) as silent:  # as a port that is another program's
        address = f"postgresql://oar:geheim@127.0.0.1:{silent.getsockname()[1]}/oar"
        with pytest.raises(UnusableDatabase, match="connection timeout expired"):
            open_database(address)


def test_who_names_other_patience_in_the_address_has_it(monkeypatch):
    asked = []
    monkeypatch.setattr(job_table, "create_engine", lambda url, **_: asked.append(url) or 1 / 0)

    for address in ("postgresql://h/oar?connect_timeout=60", "postgresql+psycopg://h/oar"):
        with pytest.raises(ZeroDivisionError):
            open_database(address)

    assert [url.query["connect_timeout"] for url in asked] == ["60", "10"]
    assert [url.query["tcp_user_timeout"] for url in asked] == ["20000", "20000"]
