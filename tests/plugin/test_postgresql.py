"""The same tables on a real PostgreSQL server."""

import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DatabaseError

from plugin.belonging import Belonging, NotOurs, name_of_archive
from plugin.drawn.quality import Quality
from plugin.jobs.job import Outcome, Parcel
from plugin.jobs.job_table import open_database
from tests.plugin.drawn.test_quality import DRAWING, GOOD
from tests.plugin.jobs.asking import add
from tests.plugin.parts import new_audit, new_deliveries, new_queue
from tests.postgresql import NoPostgresql, postgresql

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    pytest.importorskip("psycopg", reason="needs psycopg")
    try:
        with postgresql() as url:
            yield url
    except NoPostgresql as why:
        pytest.skip(str(why))


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """An empty database."""
    empty = open_database(url)
    with empty.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("DROP FUNCTION IF EXISTS audit_is_append_only"))
        connection.execute(text("CREATE SCHEMA public"))
    empty.dispose()
    fresh = open_database(url)
    yield fresh
    fresh.dispose()


def test_a_job_its_deliveries_and_its_record_are_kept(engine):
    audit, deliveries = new_audit(engine), new_deliveries(engine, owner="one")
    jobs = new_queue(engine, notes=[audit.note, deliveries.note])
    parcel = Parcel(kind="modality", target="PACS", instances=("abc",))
    job = add(jobs, user="alice")
    jobs.claim()
    jobs.finish(job.id, Outcome(state="done", parcels=(parcel,), dice={"brainstem": 0.5}))

    errand = deliveries.claim(("modality",))
    deliveries.delivered(errand)

    done = jobs.get(job.id)
    assert (done.state, done.dice, done.user) == ("done", {"brainstem": 0.5}, "alice")
    assert done.deliveries[0].state == "done"
    assert done.finished.tzinfo is not None
    assert (audit.verify().intact, audit.verify().lines) == (True, 3)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET line = 'x' WHERE number = 1",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "INSERT INTO audit VALUES (1, 'x', 'x', 'x') ON CONFLICT (number) DO UPDATE SET line = 'x'",
    ],
)
def test_the_server_refuses_to_alter_the_record(engine, statement):
    audit = new_audit(engine)
    add(new_queue(engine, notes=[audit.note]))

    with pytest.raises(DatabaseError, match="append-only"), engine.begin() as connection:
        connection.execute(text(statement))

    assert audit.verify().intact


def test_many_that_write_at_the_same_time_write_one_chain(engine, url):
    audit = new_audit(engine)

    def write(number: int) -> None:
        mine = open_database(url)
        jobs = new_queue(mine, notes=[new_audit(mine).note])
        for count in range(10):
            add(jobs, series=f"{number} {count}")
        mine.dispose()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (audit.verify().intact, audit.verify().lines) == (True, 40)


def test_a_delivery_is_taken_once_however_many_take_at_the_same_time(engine, url):
    jobs = new_queue(engine, notes=[new_deliveries(engine).note])
    for number in range(3):
        job = add(jobs, series=str(number))
        jobs.claim()
        parcel = Parcel(kind="modality", target="PACS", instances=("abc",))
        jobs.finish(job.id, Outcome(state="done", parcels=(parcel,)))
    taken: list[str] = []

    def take(owner: str) -> None:
        mine = open_database(url)
        deliveries = new_deliveries(mine, owner=owner)
        while (errand := deliveries.claim(("modality",))) is not None:
            taken.append(errand.id)
        mine.dispose()

    threads = [threading.Thread(target=take, args=(owner,)) for owner in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(taken) == len(set(taken)) == 3


def test_under_load_every_job_is_taken_once_and_none_is_lost(engine, url):
    jobs = new_queue(engine)
    asked = [add(jobs, series=str(number)).id for number in range(300)]
    taken: dict[str, list[str]] = {f"node {number}": [] for number in range(6)}
    together = threading.Barrier(len(taken))

    def work(owner: str) -> None:
        mine = open_database(url)  # its own connections, as a process on another machine has
        queue = new_queue(mine, owner=owner, notes=[new_audit(mine).note])
        together.wait()
        while (job := queue.claim()) is not None:
            taken[owner].append(job.id)
            queue.finish(job.id, Outcome(state="done"))
        mine.dispose()

    threads = [threading.Thread(target=work, args=(owner,)) for owner in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(taken.values())
    assert sorted(chain.from_iterable(taken.values())) == sorted(asked)
    assert jobs.counts()["done"] == len(asked)
    assert {job.attempts for job in jobs.find()} == {1}
    assert (new_audit(engine).verify().intact, new_audit(engine).verify().lines) == (
        True,
        2 * len(asked),
    )


def test_a_queue_of_an_earlier_version_gets_what_is_new(engine, url):
    old = add(new_queue(engine))
    with engine.begin() as connection:
        for column in ("shadow_model", "dice", "provenance", "user"):
            connection.execute(text(f'ALTER TABLE jobs DROP COLUMN "{column}"'))

    upgraded = open_database(url)

    assert new_queue(upgraded).find() == [old]
    upgraded.dispose()


def test_the_quality_is_kept(engine):
    quality = Quality(engine)
    quality.keep(DRAWING, [GOOD])
    quality.keep(DRAWING, [GOOD])

    assert len(quality.find()) == 1


def test_of_archives_that_want_a_new_queue_at_the_same_moment_one_gets_it(engine, tmp_path):
    storages = [tmp_path / str(number) for number in range(4)]
    together, refused = threading.Barrier(len(storages)), []

    def start(storage: Path) -> None:
        together.wait()
        try:
            Belonging(engine).give(storage)
        except NotOurs:
            refused.append(storage)

    threads = [threading.Thread(target=start, args=(storage,)) for storage in storages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    [chosen] = set(storages) - set(refused)
    assert Belonging(engine).owner == name_of_archive(chosen)
