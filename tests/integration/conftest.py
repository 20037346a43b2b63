"""A real Orthanc with the plugin, on loopback and in a folder of its own."""

import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydicom.dataset import Dataset
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import CTImageStorage, MRImageStorage

from model.checkpoint import save
from plugin.serve import configuration, environment
from tests.demo import free_port
from tests.tiny_model import tiny_model

PLUGINS = Path("/usr/share/orthanc/plugins")
AET = "OARTEST"
PACS_AET = "PACS"
STABLE_AGE_S = 1
PATIENCE_S = 180.0
"""How long anything here may take on a busy machine before the test gives up."""


class Orthanc:
    """One Orthanc: started, stopped and killed at will, its storage kept."""

    def __init__(self, folder: Path, model: Path, **oar: Any) -> None:
        self.folder = folder
        self.http, self.dicom = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}"
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(
            {"Model": str(model), "Threads": 1, "Device": "cpu", "RetryDelaySeconds": 0.1, **oar}
        )

    def configure(self, oar: dict[str, Any]) -> None:
        """Write the configuration anew; it counts from the next start."""
        values = configuration(self.folder, http_port=self.http, dicom_port=self.dicom) | {
            "DicomAet": AET,
            "StableAge": STABLE_AGE_S,
            "AuthenticationEnabled": False,
            "Oar": oar,
        }
        (self.folder / "orthanc.json").write_text(json.dumps(values))

    # --- its life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["Orthanc", "--verbose", str(self.folder / "orthanc.json")],
                stdout=log,
                stderr=log,
                env=environment(),
            )
        wait_until(self.answers, "Orthanc answers")

    def answers(self) -> bool:
        """Whether its own REST API answers."""
        if self._process is None or self._process.poll() is not None:
            raise AssertionError(f"Orthanc has ended:\n{self.log()[-3000:]}")
        try:
            self.get("/system")
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Stop it as a service manager does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE_S)
            self._process = None

    def log(self) -> str:
        """Everything it has said since its first start."""
        return (self.folder / "orthanc.log").read_text(errors="replace")

    # --- what people do with it ------------------------------------------------------------------

    def push(self, images: list[Dataset]) -> None:
        """Send images by C-STORE, as a scanner does."""
        scanner = ApplicationEntity("SCANNER")
        scanner.add_requested_context(CTImageStorage)
        scanner.add_requested_context(MRImageStorage)
        association = scanner.associate("127.0.0.1", self.dicom, ae_title=AET)
        assert association.is_established
        for image in images:
            assert association.send_c_store(image).Status == 0
        association.release()

    def request(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of one answer, whatever the status."""
        request = urllib.request.Request(self.url + path, data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, dict(answer.headers), json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), json.loads(error.read())

    def get(self, path: str) -> Any:
        """The JSON at a path that must answer 200."""
        status, _, content = self.request("GET", path)
        assert status == 200, content
        return content

    def post(self, path: str, values: object = None) -> Any:
        """The JSON of a POST that must be accepted."""
        body = b"" if values is None else json.dumps(values).encode()
        status, _, content = self.request("POST", path, body)
        assert status in (200, 202), content
        return content

    def text(self, path: str) -> str:
        """What is at a path, as it is."""
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as answer:
            return answer.read().decode()

    def file(self, instance: str) -> bytes:
        """One stored instance."""
        with urllib.request.urlopen(f"{self.url}/instances/{instance}/file") as answer:
            return answer.read()

    def study(self) -> str:
        """The identifier of the only study."""
        [study] = self.get("/studies")
        return study

    def segs(self) -> list[str]:
        """The identifiers of all SEG instances."""
        query = {"Level": "Instance", "Query": {"Modality": "SEG"}}
        return self.post("/tools/find", query)

    def jobs(self) -> list[dict[str, Any]]:
        """Every job, the newest first."""
        return self.get("/oar/jobs")["jobs"]

    def wait_for_job(self, *states: str, job: str | None = None) -> dict[str, Any]:
        """The job, or the only one, once it is in one of these states."""

        def found() -> dict[str, Any] | None:
            jobs = [one for one in self.jobs() if job in (None, one["id"])]
            assert len(jobs) <= 1
            return jobs[0] if jobs and jobs[0]["state"] in states else None

        return wait_until(found, f"the job is {' or '.join(states)}")

    def wait_until_quiet(self) -> None:
        """Wait until every study is stable and each event of it is long over."""
        wait_until(
            lambda: all(s["IsStable"] for s in self.get("/studies?expand")), "studies are stable"
        )
        events = -1

        def no_more() -> bool:
            nonlocal events
            before, events = events, self.get("/changes?last")["Last"]
            time.sleep(2 * STABLE_AGE_S)  # an event that has not come now does not come
            return before == events

        wait_until(no_more, "no more events come")


class Pacs(Orthanc):
    """An Orthanc without our plugin: the receiver of results."""

    def configure(self, oar: dict[str, Any]) -> None:
        values = {
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": PACS_AET,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageDirectory": str(self.folder / "orthanc"),
            "IndexDirectory": str(self.folder / "orthanc"),
            "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
        }
        (self.folder / "orthanc.json").write_text(json.dumps(values))

    def seg_uids(self) -> set[str]:
        """SOP Instance UIDs of all that has arrived."""
        found = self.get("/instances?expand")
        return {one["MainDicomTags"]["SOPInstanceUID"] for one in found}


T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], what: str) -> T:
    """The first true value of a condition that a separate process brings about."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"gave up waiting until {what}")


@pytest.fixture(scope="session")
def quick_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that find one organ at once."""
    folder = tmp_path_factory.mktemp("weights") / "quick"
    save(folder, *tiny_model("quick"))
    return folder


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that find the same, but take some ten seconds, in a thousand tiny tiles."""
    folder = tmp_path_factory.mktemp("weights") / "slow"
    save(folder, *tiny_model("slow", spacing_mm=(3.0, 2.0, 2.0), tile=(16, 16, 16)))
    return folder


@pytest.fixture(scope="session")
def blind_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that find nothing."""
    folder = tmp_path_factory.mktemp("weights") / "blind"
    save(folder, *tiny_model("blind", finds=False))
    return folder


@pytest.fixture
def new_orthanc(tmp_path: Path) -> Iterator[Callable[..., Orthanc]]:
    """Makes Orthancs that are not started yet; whatever still runs at the end is killed."""
    if shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")
    made: list[Orthanc] = []

    def make(model: Path, **oar: Any) -> Orthanc:
        folder = tmp_path / f"orthanc{len(made)}"
        folder.mkdir()
        made.append(Orthanc(folder, model, **oar))
        return made[-1]

    yield make
    for one in made:
        one.kill()
