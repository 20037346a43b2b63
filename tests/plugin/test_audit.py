import hashlib
import json

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DatabaseError

from plugin.audit import NO_LINE, Audit
from plugin.jobs.job import Outcome
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import Jobs
from plugin.jobs.pause import Pause
from tests.plugin.jobs.asking import MADE_OF, RESULT, add
from tests.plugin.parts import new_audit, new_queue


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


@pytest.fixture
def audit(engine: Engine) -> Audit:
    return Audit(engine, settings_sha256="33")


@pytest.fixture
def jobs(engine: Engine, audit: Audit) -> Jobs:
    return new_queue(engine, notes=[audit.note])


@pytest.fixture
def written(jobs: Jobs) -> str:
    """The identifier of a job that was asked for by a person, and of which five lines tell."""
    job = add(jobs, asked_by="rest", user="alice")
    jobs.cancel(job.id, user="bob")
    jobs.retry(job.id, user="carol")
    jobs.claim()
    jobs.finish(job.id, Outcome(state="done", results=(RESULT,), provenance=MADE_OF))
    return job.id


def without_triggers(engine: Engine) -> None:
    """What somebody can do who has the file of the database."""
    with engine.begin() as connection:
        names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
        for name in names.scalars().all():
            connection.execute(text(f"DROP TRIGGER {name}"))


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


def test_every_change_of_a_job_is_a_line_that_says_who_and_with_what(audit, written):
    records = [line.record for line in audit.lines()]

    assert [(one["state"], one["user"]) for one in records] == [
        ("queued", "alice"),
        ("cancelled", "bob"),
        ("queued", "carol"),
        ("running", "carol"),
        ("done", "carol"),
    ]
    assert {one["job"] for one in records} == {written}
    assert records[-1]["provenance"] == MADE_OF.model_dump()
    assert records[-1]["outputs"] == [RESULT.model_dump()]
    assert records[-1]["settings_sha256"] == "33"
    assert records[-1]["software"].startswith("orthanc-oar ")


def test_the_reason_is_no_part_of_it_for_it_may_quote_a_header(audit, jobs):
    job = add(jobs)
    jobs.claim()
    jobs.fail(job.id, "ValueError: PATIENT^NAME")

    assert "PATIENT" not in json.dumps([line.record for line in audit.lines()])


def test_each_line_holds_the_hash_of_the_one_before_it(audit, written):
    before = NO_LINE
    for line in audit.lines():
        text = json.dumps(line.record, sort_keys=True)
        assert line.previous == before
        assert line.hash == hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
        before = line.hash
    assert (audit.verify().intact, audit.verify().lines, audit.verify().hash) == (True, 5, before)
    assert audit.last() == (5, before)


def test_what_is_no_change_of_a_job_has_its_place_in_the_same_chain(engine, audit, jobs, written):
    Pause(engine, jobs, note=audit.note_event).pause(user="dora")

    [line] = audit.lines(after=5)
    assert (line.record["event"], line.record["user"], line.record["job"]) == ("pause", "dora", "")
    assert line.previous == audit.lines()[4].hash
    assert (audit.verify().intact, audit.verify().lines) == (True, 6)


def test_an_empty_record_is_intact(audit):
    assert audit.verify().intact
    assert audit.last() == (0, NO_LINE)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET line = '{}' WHERE number = 2",
        "DELETE FROM audit WHERE number = 5",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit (number, job, line, hash) VALUES (2, 'x', '{}', 'y')",
    ],
)
def test_the_database_refuses_to_alter_it(engine, audit, written, statement):
    with pytest.raises(DatabaseError, match="append-only"):
        execute(engine, statement)

    assert audit.verify().intact


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE audit SET line = replace(line, 'bob', 'eve')", "Line 2 is not as it was written."),
        ("UPDATE audit SET line = 'no JSON' WHERE number = 3", "Line 3 is not as it was written."),
        ("UPDATE audit SET job = 'other' WHERE number = 4", "Line 4 is not as it was written."),
        ("DELETE FROM audit WHERE number = 2", "Line 2 is missing."),
        ("DELETE FROM audit WHERE number = 1", "Line 1 is missing."),
    ],
)
def test_what_is_altered_behind_the_databases_back_shows(engine, audit, written, statement, says):
    without_triggers(engine)
    execute(engine, statement)

    verdict = audit.verify()

    assert (verdict.intact, verdict.reason) == (False, says)
    assert len(audit.lines()) == audit.lines()[-1].number - ("missing" in says)


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"number": 5}'])
def test_a_line_of_another_shape_with_the_right_hash_shows(engine, audit, written, line):
    without_triggers(engine)
    before = audit.lines()[3].hash
    forged = hashlib.sha256(f"{before}\n{line}".encode()).hexdigest()
    execute(engine, f"UPDATE audit SET line = '{line}', hash = '{forged}' WHERE number = 5")

    assert audit.verify().reason == "Line 5 is not as it was written."


def test_lines_cut_off_at_the_end_show_to_whoever_has_kept_one(engine, audit, written):
    kept = audit.lines()[-1]
    without_triggers(engine)
    execute(engine, "DELETE FROM audit WHERE number = 5")

    assert audit.verify().intact
    assert audit.verify(number=5, hash=kept.hash).reason == (
        "Line 5 and perhaps others after it are cut off."
    )


def test_a_record_written_anew_shows_to_whoever_has_kept_one(audit, written):
    kept = audit.lines()[2]

    assert audit.verify(number=3, hash=kept.hash).intact
    assert audit.verify(number=3, hash=NO_LINE).reason == (
        "Line 3 had another hash when it was noted."
    )


def test_what_was_noted_at_the_first_start_is_no_false_alarm(audit, written):
    assert audit.verify(number=0, hash=NO_LINE).intact
    assert audit.verify(hash=NO_LINE).intact
    assert audit.verify(number=0, hash="1" * 64).reason == (
        "Before the first line there is no hash but zeros."
    )


def test_lines_are_read_in_pages_and_by_job(audit, jobs, written):
    other = add(jobs, series="other")

    assert [line.number for line in audit.lines(after=2, limit=2)] == [3, 4]
    [line] = audit.lines(job=other.id)
    assert (line.number, line.previous) == (6, audit.lines(job=written)[-1].hash)


def test_two_processes_write_one_chain(database, audit, written):
    engine = open_database(database)
    other = new_queue(engine, notes=[new_audit(engine).note])
    add(other, series="other")

    assert audit.verify().lines == 6
    assert audit.verify().intact
