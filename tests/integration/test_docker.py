"""What comes with the container works on an Orthanc outside: probe, smoke test and buttons."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urljoin

import pytest

from docker import healthcheck
from docker.smoke import Service, push, smoke
from tests.integration.conftest import PLUGINS, Orthanc

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

DOCKER = Path(__file__).parents[2] / "docker"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, quick_model):
    if shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")
    one = Orthanc(tmp_path_factory.mktemp("docker"), quick_model, Automatic=False)
    one.start()
    yield one
    one.kill()


def probe(configuration: Path) -> int:
    command = [sys.executable, DOCKER / "healthcheck.py", configuration]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_a_container_is_healthy_while_its_orthanc_answers(orthanc, tmp_path):
    assert probe(orthanc.folder / "orthanc.json") == 0
    (tmp_path / "other.json").write_text(json.dumps({"HttpPort": orthanc.dicom}))
    assert probe(tmp_path / "other.json") == 1
    assert probe(tmp_path / "missing.json") == 1


@pytest.mark.parametrize(
    ("roles", "user"),
    [({}, "first"), ({"second": "look"}, "second"), ({"first": "none", "second": "ask"}, "second")],
)
def test_whoever_may_look_asks_for_the_health(roles, user):
    users = {"first": "1", "second": "2"}
    found = healthcheck.someone({"RegisteredUsers": users, "Oar": {"Roles": roles}})
    assert found == (user, users[user])


def test_a_container_of_a_node_is_healthy_while_the_node_gives_signs_of_life(tmp_path):
    alive = tmp_path / "alive"
    assert healthcheck.main(["--node", str(alive)]) == 1
    alive.touch()
    assert healthcheck.main(["--node", str(alive)]) == 0
    minutes_ago = time.time() - 2 * healthcheck.SILENCE_S
    os.utime(alive, (minutes_ago, minutes_ago))
    assert healthcheck.main(["--node", str(alive)]) == 1


def test_the_smoke_test_sees_the_organs_and_leaves_nothing_behind(orthanc, capsys):
    assert smoke([orthanc.url, "--model", "quick"]) == 0
    assert "brainstem" in capsys.readouterr().out
    assert orthanc.get("/studies") == []


def test_the_smoke_test_fails_with_a_sentence(orthanc, capsys):
    assert smoke([orthanc.url, "--model", "best"]) == 1
    assert "There is no model 'best'" in capsys.readouterr().err
    assert orthanc.get("/studies") == []
    assert smoke([f"http://127.0.0.1:{orthanc.dicom}"]) == 1


def test_the_buttons_of_orthanc_explorer_2_lead_somewhere(orthanc):
    explorer = json.loads((DOCKER / "orthanc.json").read_text())["OrthancExplorer2"]
    buttons = explorer["UiOptions"]["CustomButtons"]["study"]
    study = push(Service(orthanc.url, None))
    for button in buttons:
        # as Orthanc Explorer 2 does, whose page is /ui/app/
        path = urljoin("/ui/app/", button["Url"].replace("{UUID}", study))
        if button["HttpMethod"] == "POST":
            jobs = orthanc.post(path, button["Payload"])["jobs"]
            assert [job["study"] for job in jobs] == [study]
            orthanc.wait_for_job("done", job=jobs[0]["id"])
        else:
            assert "<html" in orthanc.text(path.partition("#")[0])
    assert {button["HttpMethod"] for button in buttons} == {"POST", "GET"}
