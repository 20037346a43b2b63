"""What newer versions of Orthanc and of its Python plugin can do is made use of."""

import json
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from plugin.orthanc_api import keeps_labels
from plugin.serve import ROOT
from tests.integration.conftest import PATIENCE_S, PLUGINS, Orthanc, wait_until
from tests.phantoms import ct_slices, make_phantom

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists(),
        reason="needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python",
    ),
]

SLOW_SCRIPT = f"""
import orthanc
import runpy

runpy.run_path({str(ROOT / "plugin" / "main.py")!r})


def wait_for_orthanc(output, uri, **request):
    try:
        orthanc.RestApiPost("/modalities/silent/echo", '{{"Timeout": {PATIENCE_S:.0f}}}')
    except orthanc.OrthancException:
        output.AnswerBuffer("[]", "application/json")


orthanc.RegisterRestCallback("/slow", wait_for_orthanc)
"""
"""The plugin, and a call into Orthanc that lasts until a modality breaks its silence."""


class SlowOrthanc(Orthanc):
    """One with that call at /slow, and with that modality."""

    def __init__(self, folder: Path, model: Path, *, silent: int) -> None:
        self._silent = silent
        super().__init__(folder, model)

    def configure(self, oar: dict[str, Any]) -> None:
        super().configure(oar)
        (self.folder / "slow.py").write_text(SLOW_SCRIPT)
        file = self.folder / "orthanc.json"
        values = json.loads(file.read_text()) | {
            "PythonScript": str(self.folder / "slow.py"),
            "DicomModalities": {"silent": ["SILENT", "127.0.0.1", self._silent]},
        }
        file.write_text(json.dumps(values))


@pytest.fixture
def silent_modality() -> Iterator[socket.socket]:
    """One that takes calls and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as modality:
        modality.settimeout(PATIENCE_S)
        yield modality


@pytest.fixture(scope="module")
def resting_orthanc(
    tmp_path_factory: pytest.TempPathFactory, quick_model: Path
) -> Iterator[Orthanc]:
    """One that does nothing unless it is asked."""
    orthanc = Orthanc(tmp_path_factory.mktemp("resting"), quick_model, Automatic=False)
    orthanc.start()
    yield orthanc
    orthanc.kill()


def test_a_study_is_found_by_the_states_of_its_series(resting_orthanc: Orthanc) -> None:
    orthanc = resting_orthanc
    if not keeps_labels(orthanc.get("/system")):
        pytest.skip("this Orthanc has no labels")
    good = ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64)))
    short = ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(4, 64, 64)))
    for image in short:
        image.StudyInstanceUID = good[0].StudyInstanceUID
    orthanc.push([*good, *short])
    study = orthanc.study()
    orthanc.request("PUT", f"/studies/{study}/labels/teaching", b"")

    orthanc.post(f"/oar/studies/{study}/jobs")
    wait_until(
        lambda: {job["state"] for job in orthanc.jobs()} == {"done", "skipped"}, "the jobs end"
    )

    def labels() -> bool:
        return orthanc.get(f"/studies/{study}/labels") == ["oar-done", "oar-skipped", "teaching"]

    wait_until(labels, "the study is labelled")
    for label, found in [("oar-done", [study]), ("oar-skipped", [study]), ("oar-running", [])]:
        query = {"Level": "Study", "Query": {}, "Labels": [label]}
        assert orthanc.post("/tools/find", query) == found


@pytest.mark.parametrize(("path", "status"), [("/oar/health", 200), ("/oar/nothing", 404)])
def test_an_answer_has_one_type(resting_orthanc: Orthanc, path: str, status: int) -> None:
    connection = HTTPConnection("127.0.0.1", resting_orthanc.http, timeout=PATIENCE_S)
    with closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        [content_type] = answer.headers.get_all("Content-Type")

        assert answer.status == status
        # What an error is called is no longer ours to say from Orthanc 1.12.2 on.
        assert content_type in ("application/json", "text/plain" if status == 404 else None)
        assert json.loads(answer.read())


def test_what_takes_orthanc_long_does_not_stop_us(
    tmp_path: Path, quick_model: Path, silent_modality: socket.socket
) -> None:
    orthanc = SlowOrthanc(tmp_path, quick_model, silent=silent_modality.getsockname()[1])
    orthanc.start()
    try:
        if orthanc.get("/plugins/python")["Version"] == "4.0":
            pytest.skip("a call into Orthanc stops all of Python in this plugin")
        with ThreadPoolExecutor() as threads:
            slow = threads.submit(orthanc.get, "/slow")
            call, _ = silent_modality.accept()
            with call:
                assert orthanc.get("/oar/health")["status"] == "ok"
                assert not slow.done()
            assert slow.result(PATIENCE_S) == []
    finally:
        orthanc.kill()
