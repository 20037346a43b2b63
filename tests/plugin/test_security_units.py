"""What must not get in by a header, a name or an address, and what must not get out."""

import ast
import base64
import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from plugin.configuration import BadConfiguration
from plugin.jobs.job import Outcome
from plugin.log import OneLine
from plugin.settings import Settings, settings_digest
from plugin.web.router import from_elsewhere, user_of
from tests.plugin.jobs.asking import add

ROOT = Path(__file__).parents[2]


def logged(message: str, *values: object, error: BaseException | None = None) -> str:
    about = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("plugin", logging.ERROR, "", 0, message, values, about)
    return OneLine("oar: %(message)s").format(record)


@pytest.mark.parametrize("evil", ["\n", "\r\n", "\x1b[2J", "\x85", "\u2028", "\x00"])
def test_a_value_cannot_begin_a_line_of_the_log_or_command_a_terminal(evil):
    line = logged("delivery to %s", f"PACS{evil}E0101 forged")

    assert line.isprintable()
    assert line.startswith("oar: delivery to PACS\\")


@pytest.mark.parametrize("evil", ["\n", "\x1b[2J", "\u2028", "\u202e", "\u2066", "\ud800", "\x00"])
def test_no_reason_or_warning_holds_a_character_that_disguises_it(jobs, evil):
    outcome = Outcome(state="skipped", reason=f"Modality is {evil}", warnings=(evil,))
    add(jobs)
    job = jobs.claim()
    jobs.fail(job.id, f"ValueError: {evil}")

    assert outcome.reason.isprintable()
    assert outcome.warnings[0].isprintable()
    assert jobs.get(job.id).reason.isprintable()


def test_the_log_says_where_a_fault_was_but_not_the_header_it_quotes():
    try:
        try:
            float("DOE^JANE\nforged")
        except ValueError as cause:
            raise OSError("No space left on device\nforged") from cause
    except OSError as fault:
        lines = logged("job %s failed", "1", error=fault)

    assert "DOE" not in lines
    assert "\nforged" not in lines
    assert "ValueError" in lines
    assert "No space left on device" in lines
    assert Path(__file__).name in lines


def test_the_log_says_what_sqlite_said_but_no_value_of_the_statement():
    with closing(sqlite3.connect(":memory:")) as connection:
        engine = create_engine("sqlite://", creator=lambda: connection)
        with engine.connect() as session, pytest.raises(OperationalError) as fault:
            session.execute(text("SELECT * FROM gone WHERE name = :name"), {"name": "DOE^JANE"})

    line = logged("the queue does not answer", error=fault.value)

    assert "no such table: gone" in line
    assert "DOE" not in line


@pytest.mark.parametrize(
    "address", ["geheim", "postgresql://u:p@h:geheim/db", "postgresql://u:geheim@h:x/db"]
)
def test_a_bad_address_of_the_database_is_not_repeated(address):
    with pytest.raises(BadConfiguration, match=r"Oar\.Database") as fault:
        Settings.from_orthanc({"Oar": {"Database": address}})

    assert "geheim" not in str(fault.value)
    assert fault.value.__suppress_context__


def test_the_databases_password_is_in_no_copy_or_digest_of_the_settings():
    one, other = (
        Settings.from_orthanc({"Oar": {"Database": f"postgresql://oar:{password}@db/oar"}})
        for password in ("geheim", "anders")
    )

    assert "geheim" not in one.model_dump_json()
    assert settings_digest(one) == settings_digest(other)
    assert one.database_url({}, Path()) == "postgresql://oar:geheim@db/oar"


def test_roles_without_authentication_stop_the_start():
    oar = {"Oar": {"Roles": {"alice": "look"}}}

    with pytest.raises(BadConfiguration, match="AuthenticationEnabled"):
        Settings.from_orthanc(oar)
    settings = Settings.from_orthanc({**oar, "AuthenticationEnabled": True})

    assert [settings.role_of(name) for name in ("alice", "bob", "")] == ["look", "none", "none"]


@pytest.mark.parametrize(
    ("headers", "elsewhere"),
    [
        ({}, False),  # curl
        ({"sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"origin": "http://pacs:8042", "host": "pacs:8042"}, False),
        ({"origin": "http://evil.example", "host": "pacs:8042"}, True),
        ({"origin": "null", "host": "pacs:8042"}, True),
    ],
)
def test_a_page_of_another_site_is_known_by_what_its_browser_sends(headers, elsewhere):
    assert from_elsewhere(headers) is elsewhere


def faults_of(source: str) -> list[str]:
    """What in this source could run code that a file of weights holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [n for n in names if n.split(".")[0] in ("pickle", "dill", "joblib")]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            options = {one.arg: ast.unparse(one.value) for one in node.keywords}
            found += ["torch.load"] if options.get("weights_only") != "True" else []
    return found


def test_the_search_for_pickles_finds_them():
    assert faults_of("import torch, pickle\ntorch.load('x')") == ["pickle", "torch.load"]
    assert faults_of("torch.load('x', weights_only=False)") == ["torch.load"]


@pytest.mark.parametrize("room", ["plugin", "model", "training"])
def test_no_file_of_weights_can_run_code(room):
    files = list((ROOT / room).rglob("*.py"))

    assert files
    assert {str(f): faults for f in files if (faults := faults_of(f.read_text()))} == {}


def test_a_shipped_configuration_holds_no_secret():
    shipped = json.loads((ROOT / "orthanc.json").read_text())

    assert "RegisteredUsers" not in shipped
    assert shipped["Oar"]["Webhooks"] == []
    assert shipped["RemoteAccessAllowed"] is False


@pytest.mark.parametrize(
    ("header", "user"),
    [
        ("Basic " + base64.b64encode(b"alice:pass:word").decode(), "alice"),
        ("basic " + base64.b64encode("zoë:x".encode()).decode(), "zoë"),
        ("Bearer abc", ""),
        ("Basic ???", ""),
        ("Basic " + base64.b64encode(b"\xff\xfe").decode(), ""),
        ("", ""),
    ],
)
def test_who_asks_is_read_from_the_request(header, user):
    assert user_of({"authorization": header}) == user
    assert user_of({}) == ""
