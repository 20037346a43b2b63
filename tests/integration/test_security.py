"""A real Orthanc that asks for passwords: who gets in, and what each may do."""

import base64
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin.web.page_files import FOLDER, STRICT, TYPES
from tests.integration.conftest import PATIENCE_S, Orthanc

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

Answer = tuple[int, dict[str, str], bytes]

PAGES = sorted(
    f"/oar/{file.name}"
    for file in FOLDER.iterdir()
    if file.suffix in TYPES and file.name != "viewer.html"
)


class Guarded(Orthanc):
    """One with three users; a fourth has no role."""

    def configure(self, oar):
        roles = {"lea": "look", "ada": "ask", "max": "administer"}
        super().configure({**oar, "Roles": roles})
        file = self.folder / "orthanc.json"
        values = json.loads(file.read_text())
        values["AuthenticationEnabled"] = True
        values["RegisteredUsers"] = {name: f"{name}-geheim" for name in [*roles, "nemo"]}
        file.write_text(json.dumps(values))

    def answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()[-3000:]
        try:
            return self.ask("GET", "/system", "max")[0] == 200
        except OSError:
            return False

    def ask(
        self, method: str, path: str, user: str = "", body: bytes | None = None, **headers: str
    ) -> Answer:
        """Status, headers and body; the path goes out as it stands."""
        if user:
            token = base64.b64encode(f"{user}:{user}-geheim".encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=PATIENCE_S)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, quick_model: Path) -> Iterator[Guarded]:
    one = Guarded(tmp_path_factory.mktemp("guarded"), quick_model)
    try:
        one.start()
        yield one
    finally:
        one.kill()


def routes(orthanc: Guarded) -> list[tuple[str, str]]:
    paths = json.loads(orthanc.ask("GET", "/oar/openapi.json", "max")[2])["paths"]
    return [
        (method.upper(), re.sub(r"\{\w+\}", "nothing", path))
        for path, operations in paths.items()
        for method in operations
    ]


def test_nothing_answers_without_a_password_when_orthanc_asks_for_one(guarded):
    asked = [*routes(guarded), *(("GET", page) for page in [*PAGES, "/oar", "/oar/viewer"])]

    assert len(asked) > len(PAGES) + 10
    assert {one: s for one in asked if (s := guarded.ask(*one)[0]) != 401} == {}


def test_each_role_may_do_what_it_says_and_what_is_below_it(guarded):
    job = "/oar/jobs/nothing"
    wanted = {
        ("GET", "/oar/jobs"): ["lea", "ada", "max"],
        ("GET", job): ["lea", "ada", "max"],
        ("POST", f"{job}/cancel"): ["ada", "max"],
        ("POST", "/oar/studies/nothing/jobs"): ["ada", "max"],
        ("GET", "/oar/audit"): ["max"],
        ("POST", "/oar/queue/pause"): ["max"],
        ("POST", "/oar/queue/resume"): ["max"],
    }

    allowed = {
        one: [u for u in ("lea", "ada", "max", "nemo") if guarded.ask(*one, u)[0] != 403]
        for one in wanted
    }

    assert allowed == wanted


def test_a_user_without_a_role_is_refused_on_every_route(guarded):
    assert {one for one in routes(guarded) if guarded.ask(*one, "nemo")[0] != 403} == set()


def test_another_sites_page_cannot_pause_the_queue_with_its_visitors_password(guarded):
    from_there = {"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example"}

    assert guarded.ask("POST", "/oar/queue/pause", "max", **from_there)[0] == 403
    assert not json.loads(guarded.ask("GET", "/oar/health", "max")[2])["paused"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({}, 200),
    ],
)
def test_another_sites_page_cannot_ask_orthanc_itself_either(guarded, headers, status):
    assert guarded.ask("POST", "/tools/lookup", "max", b"1.2.3", **headers)[0] == status


@pytest.mark.parametrize(("languages", "status"), [({"Accept_Language": "de"}, 403), ({}, 404)])
def test_a_picture_in_another_sites_page_deletes_nothing_either(guarded, languages, status):
    assert guarded.ask("GET", "/studies/x?_method=delete", "max", **languages)[0] == status


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_the_strict_policy(guarded, page):
    status, headers, _ = guarded.ask("GET", page, "lea")

    assert status == 200
    assert headers["Content-Security-Policy"] == STRICT
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/oar/../main.py",
        "/oar/..%2fmain.py",
        "/oar/%2e%2e/main.py",
        "/oar/..%5cmain.py",
        "/oar/....//main.py",
        "/oar//etc/passwd",
    ],
)
def test_no_spelling_of_an_address_leads_out_of_the_pages(guarded, path):
    status, _, body = guarded.ask("GET", path, "max")

    assert status in (400, 404)
    assert b"import" not in body
    assert b"root:" not in body


# Orthanc itself cuts an address at a zero and resolves dots, before it chooses who answers.
@pytest.mark.parametrize("path", ["/oar/audit%00.css", "/oar/jobs/..%2faudit", "/oar//audit/"])
def test_no_spelling_of_an_address_leads_past_a_role_or_the_password(guarded, path):
    assert guarded.ask("GET", path, "max")[0] == 200
    assert guarded.ask("GET", path, "lea")[0] == 403
    assert guarded.ask("GET", path)[0] == 401


def test_line_ends_and_html_in_an_address_come_back_as_text_alone(guarded):
    status, headers, body = guarded.ask("GET", "/oar/x%0d%0aEvil:%20yes%3Cscript%3E", "max")

    assert status == 404
    assert "Evil" not in headers
    assert headers["Content-Type"] in ("application/json", "text/plain")  # no HTML
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"\r\nEvil" not in body


# Bytes that are no text never reach Python, which could not hold them.
@pytest.mark.parametrize(
    "path",
    ["/oar/jobs/%ff", "/oar/%ed%a0%80", "/oar/%e2%80%ae", "/oar/jobs?study=%ff", "/oar/jobs?%00=1"],
)
def test_bytes_that_are_no_text_are_refused_without_a_fault_of_ours(guarded, path):
    before = guarded.log().count("traceback")

    status, _, body = guarded.ask("GET", path, "max")

    assert status in (400, 404)
    assert b"raceback" not in body
    assert guarded.log().count("traceback") == before


@pytest.mark.parametrize("body", [b"[" * 600, b"[" * 60_000, b'{"model":' * 600])
def test_a_body_of_brackets_is_refused_and_orthanc_lives(guarded, body):
    status, _, answer = guarded.ask("POST", "/oar/studies/nothing/jobs", "ada", body)

    assert status == 400
    assert b"brackets" in answer
    assert guarded.answers()


def test_no_password_is_in_the_log_or_in_what_the_service_says_of_itself(guarded):
    health = guarded.ask("GET", "/oar/health", "max")[2].decode()

    assert "geheim" not in health
    assert "geheim" not in guarded.log()
