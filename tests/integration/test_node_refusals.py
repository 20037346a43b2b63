"""A worker node that cannot work says why in one sentence, and says no password."""

import json
import logging
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import save
from plugin import __version__, node, rest_archive
from plugin import log as plugin_log
from plugin.rest_archive import RestArchive
from tests.demo import free_port
from tests.integration.conftest import Orthanc
from tests.integration.plain_orthanc import LOGIN, PlainOrthanc
from tests.postgresql import NoPostgresql, new_database, postgresql
from tests.tiny_model import tiny_model

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

SECRET = "geheim"
QUEUE = f"postgresql+psycopg://oar:{SECRET}@127.0.0.1:{{port}}/{{name}}"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a PostgreSQL."""
    try:
        with postgresql() as url:
            yield int(url.rpartition(":")[2].partition("/")[0])
    except NoPostgresql as why:
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainOrthanc]:
    """An Orthanc that asks for a password."""
    if shutil.which("Orthanc") is None:
        pytest.skip("needs Orthanc: apt-get install orthanc")
    one = PlainOrthanc(tmp_path_factory.mktemp("pacs"), passwords=True)
    one.start()
    yield one
    one.kill()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_archive, "PAUSE_S", 0.0)


def begin(configuration: Path, url: str) -> int:
    """The exit status of a node; what it sets for its whole process is undone."""
    loggers = [logging.getLogger(name) for name in (*plugin_log.OURS, *plugin_log.QUOTING)]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            return node.main([str(configuration), "--orthanc", url])
    finally:
        signal.signal(signal.SIGTERM, terminate)
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers


@pytest.fixture
def refusal(
    tmp_path: Path, quick_model: Path, pacs: PlainOrthanc, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Why a node with these settings does not begin."""

    def ask(url: str = "", users: dict[str, str] | None = None, **oar: Any) -> str:
        file = tmp_path / "orthanc.json"
        values = {"Oar": {"Model": str(quick_model), "Device": "cpu", "Threads": 1, **oar}}
        values["RegisteredUsers"] = {LOGIN.user: LOGIN.password} if users is None else users
        file.write_text("// As Orthanc's own.\n" + json.dumps(values))
        address = url or pacs.url.replace("//", f"//{LOGIN.user}@")
        assert begin(file, address) == 1
        said = capsys.readouterr().err
        for secret in (SECRET, LOGIN.password):
            assert secret not in said
        errors = [line for line in said.splitlines() if " ERROR " in line]
        assert len(errors) == 1, said
        assert "Traceback" not in said
        return errors[0].partition(" ERROR ")[2]

    return ask


def test_a_queue_in_a_file_is_not_for_nodes(refusal):
    for database in ("", "sqlite:////var/lib/orthanc/oar-jobs.db"):
        said = refusal(Database=database)
        assert "Database in the section Oar must be a postgresql:// URL" in said


def test_a_setting_that_does_not_exist_is_named(refusal):
    assert "Oar.Modell" in refusal(Modell="quick")


@pytest.mark.parametrize(
    ("wrap", "why"),
    [
        (lambda oar: oar, "orthanc.json has no section Oar: a copy of that of Orthanc's"),
        (lambda oar: {"oar": oar}, "write Oar instead of oar."),
    ],
)
def test_settings_that_do_not_stand_in_their_section_are_not_taken_for_defaults(
    tmp_path, capsys, wrap, why
):
    file = tmp_path / "orthanc.json"
    file.write_text(json.dumps(wrap({"Database": QUEUE.format(port=1, name="oar")})))

    assert begin(file, "http://pacs:8042") == 1

    said = capsys.readouterr().err
    assert why in said
    assert SECRET not in said


def test_a_configuration_that_cannot_be_read_is_named(tmp_path, capsys):
    file = tmp_path / "orthanc.json"
    for content, why in ((None, "No such file"), ('{"Oar": ', "is not JSON"), ("[]", "is not a")):
        if content is not None:
            file.write_text(content)
        assert begin(file, "http://pacs:8042") == 1
        said = capsys.readouterr().err
        assert str(file) in said
        assert why in said


def test_an_orthanc_out_of_reach_is_said_and_no_job_is_taken(refusal, port):
    queue = QUEUE.format(port=port, name="postgres")
    said = refusal(f"http://{LOGIN.user}@127.0.0.1:{free_port()}", Database=queue)
    assert "cannot be reached" in said


def test_a_wrong_password_is_said_and_not_shown(refusal, port):
    queue = QUEUE.format(port=port, name="postgres")
    said = refusal(users={LOGIN.user: f"{SECRET} word"}, Database=queue)
    assert "does not accept this user and password" in said


def test_a_database_that_cannot_be_used_is_named_without_its_password(refusal, port):
    said = refusal(Database=QUEUE.format(port=port, name="nobody"))
    assert "The database nobody at 127.0.0.1 cannot be used" in said
    assert "does not exist" in said
    said = refusal(Database=QUEUE.format(port=free_port(), name="oar"))
    assert "The database oar at 127.0.0.1 cannot be used" in said


def test_a_model_that_is_not_there_is_named(refusal, port):
    queue = QUEUE.format(port=port, name="postgres")
    assert "There is no model 'nobody'" in refusal(Database=queue, Model="nobody")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said(refusal, port):
    queue = QUEUE.format(port=port, name="postgres")
    assert "PyTorch sees no GPU" in refusal(Database=queue, Device="cuda")


def test_other_weights_than_those_of_orthancs_plugin_are_refused(
    new_orthanc, quick_model, tmp_path, port, refusal
):
    queue = QUEUE.format(port=port, name="postgres")
    orthanc: Orthanc = new_orthanc(quick_model, Automatic=False, Database=queue)
    orthanc.start()
    other = tmp_path / "quick"
    save(other, *tiny_model("quick", finds=False))

    said = refusal(orthanc.url, Database=queue, Model=str(other))

    assert "not with the same weights: quick." in said
    with RestArchive(orthanc.url) as archive:
        assert "hn6-openkbp" in archive.offer().weights_sha256


def test_a_node_of_another_version_writes_no_results_beside_those_of_orthancs(
    new_orthanc, quick_model, port, refusal, monkeypatch
):
    queue = QUEUE.format(port=port, name="versions")
    new_database(QUEUE.format(port=port, name="postgres"), "versions")
    orthanc: Orthanc = new_orthanc(quick_model, Automatic=False, Database=queue)
    orthanc.start()
    monkeypatch.setattr(node, "__version__", "0.0.9")

    said = refusal(orthanc.url, Database=queue, Model=str(quick_model))

    assert said.startswith(f"Orthanc's plugin is orthanc-oar {__version__} and this node 0.0.9: ")


def test_other_settings_of_what_is_written_and_sent_than_orthancs_are_refused_by_name(
    new_orthanc, quick_model, port, refusal
):
    """Its results would lack the contours, and no route of Orthanc's would see them."""
    queue = QUEUE.format(port=port, name="settings")
    new_database(QUEUE.format(port=port, name="postgres"), "settings")
    routes = [{"To": ["modality:TPS"], "Kinds": ["rtstruct"]}]
    orthanc: Orthanc = new_orthanc(
        quick_model, Automatic=False, Database=queue, Rtstruct=True, Routes=routes
    )
    orthanc.start()

    said = refusal(orthanc.url, Database=queue, Model=str(quick_model))

    assert "says otherwise than this node's of Routes, Rtstruct: copy its section Oar" in said


def test_a_model_that_orthanc_has_by_path_must_be_named_on_the_node_too(
    new_orthanc, quick_model, blind_model, port, refusal
):
    queue = QUEUE.format(port=port, name="by_path")
    new_database(QUEUE.format(port=port, name="postgres"), "by_path")
    rules = [{"Model": str(blind_model), "SeriesDescription": "never"}]
    orthanc: Orthanc = new_orthanc(quick_model, Automatic=False, Database=queue, Models=rules)
    orthanc.start()

    said = refusal(orthanc.url, Database=queue)

    assert "models that are not here, or not with the same weights: blind." in said
    assert "gives by path must stand in this node's configuration and on its disk" in said


def test_the_address_of_an_orthanc_with_another_queue_is_refused(
    new_orthanc, quick_model, port, refusal
):
    orthanc: Orthanc = new_orthanc(quick_model, Automatic=False)
    orthanc.start()

    said = refusal(orthanc.url, Database=QUEUE.format(port=port, name="postgres"))

    assert said.startswith("Orthanc has another queue than this node: Database in the section Oar")


def test_an_orthanc_without_the_plugin_has_no_jobs_for_nodes(refusal, port):
    said = refusal(Database=QUEUE.format(port=port, name="postgres"))

    assert said.startswith("Orthanc does not say which queue and which models it has: ")
