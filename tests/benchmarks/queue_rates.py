"""What the queue itself takes on a PostgreSQL that waits for its disk, as in a hospital."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

from sqlalchemy import Engine, text

from model.organs import ORGANS
from plugin.jobs.job import Job, Outcome, Provenance, Result
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import Jobs
from tests.plugin.parts import new_audit, new_queue

OUTCOME = Outcome(
    state="done",
    results=(
        Result(
            kind="seg", sop_instance_uid="2.25." + "1" * 38, orthanc_id="a" * 44, sha256="b" * 64
        ),
    ),
    volumes_ml={organ.name: 12.345 for organ in ORGANS},
    seconds=dict.fromkeys(("reading", "segmenting", "segmenting.network", "writing"), 1.234),
    provenance=Provenance(
        instances=150,
        instances_sha256="c" * 64,
        model_version="1.0.0",
        weights_sha256="d" * 64,
        settings_sha256="e" * 64,
        software="orthanc-oar 0.1.0",
    ),
)
"""Of a study with all organs."""


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    value: float
    unit: str


def queue(engine: Engine) -> Jobs:
    """As a node has it."""
    return new_queue(engine, notes=[new_audit(engine).note])


def ask(jobs: Jobs, name: str) -> Job:
    return jobs.add(
        study=f"study {name}",
        series=f"series {name}",
        instances=[f"{name} {number}" for number in range(150)],
        model="hn22-phantom",
        identity="hn22-phantom 1.0.0",
        asked_by="stable study",
    )


def rates(url: str, *, jobs: int, claimers: tuple[int, ...]) -> Iterator[Figure]:
    """Jobs a second through the queue: asked for, taken and ended, by processes of their own."""
    engine = open_database(url)
    mine = queue(engine)
    begun = time.perf_counter()
    for number in range(jobs):
        ask(mine, f"alone {number}")
    yield Figure("asked for, one process", jobs / (time.perf_counter() - begun), "jobs/s")
    context = multiprocessing.get_context("spawn")
    for number in claimers:
        if number != claimers[0]:
            for each in range(jobs):
                ask(mine, f"{number} {each}")
        ready, go = context.Barrier(number + 1), context.Barrier(number + 1)
        workers = [context.Process(target=claim_all, args=(url, ready, go)) for _ in range(number)]
        for worker in workers:
            worker.start()
        ready.wait()
        begun = time.perf_counter()
        go.wait()
        for worker in workers:
            worker.join()
        rate = jobs / (time.perf_counter() - begun)
        yield Figure(f"taken and ended, {number} at a time", rate, "jobs/s")

    def look() -> None:
        if mine.claim() is not None:
            raise AssertionError("a job was left over")
        mine.wait(0.0)

    yield Figure("a look of an idle node, one a second", 1000 * _seconds(look), "ms")
    engine.dispose()


def claim_all(url: str, ready, go) -> None:  # type: ignore[no-untyped-def]  # barriers of a context
    """What a node does with the queue, without the work between."""
    engine = open_database(url)
    jobs = queue(engine)
    ready.wait()
    go.wait()
    while (job := jobs.claim()) is not None:
        jobs.finish(job.id, OUTCOME)
    engine.dispose()


def sizes(url: str) -> Iterator[Figure]:
    """Bytes that a job leaves in the database for good."""
    engine = open_database(url)
    with engine.connect() as connection:
        for table, what in (("jobs", "job with its indexes"), ("audit", "its lines of the record")):
            size = connection.scalar(text(f"SELECT pg_total_relation_size('{table}')"))
            count = connection.scalar(text("SELECT count(*) FROM jobs WHERE state = 'done'"))
            yield Figure(f"database, {what}", size / count, "bytes/job")
    engine.dispose()


def old_and_waiting(url: str, *, done: int, waiting: int) -> Iterator[Figure]:
    """How long a node's and a page's questions take beside so many jobs of the past."""
    engine = open_database(url)
    jobs = queue(engine)
    first = ask(jobs, "first")
    jobs.claim()
    jobs.finish(first.id, OUTCOME)
    _multiply(engine, done, "done")
    _multiply(engine, waiting, "queued")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))
    beside = f"beside {done:,} done and {waiting:,} waiting"
    questions: dict[str, Callable[[], object]] = {
        "taking a job": jobs.claim,
        "asking when the next is due": lambda: jobs.wait(0.0),
        "counting by state": jobs.counts,
        "the jobs of a study": lambda: jobs.find(study="study 0"),
        "the newest 100": lambda: jobs.find(limit=100),
    }
    for what, question in questions.items():
        yield Figure(f"{what}, {beside}", 1000 * _seconds(question), "ms")
    engine.dispose()


def _seconds(work: Callable[[], object], times: int = 9) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return median(taken)


def _multiply(engine: Engine, number: int, state: str) -> None:
    """Make that many copies of a job that was done, in the given state."""
    with engine.begin() as connection:
        columns = [
            row[0]
            for row in connection.execute(
                text("SELECT column_name FROM information_schema.columns WHERE table_name = 'jobs'")
            )
        ]
        anew = {
            "id": "md5(n::text || :state)",
            "key": "md5(n::text || 'key' || :state)",
            "source": "md5(n::text || 'source')",
            "study": "'study ' || n",
            "series": "'series ' || n",
            "state": ":state",
            "created": "created - n * interval '1 second'",
        }
        values = ", ".join(anew.get(name, f'"{name}"') for name in columns)
        names = ", ".join(f'"{name}"' for name in columns)
        connection.execute(
            text(
                f"INSERT INTO jobs ({names}) SELECT {values} "
                "FROM generate_series(1, :number) AS n, "
                "(SELECT * FROM jobs WHERE state = 'done' LIMIT 1) AS one"
            ),
            {"number": number, "state": state},
        )
