"""What the plugin uses of the module `orthanc`, kept in memory."""

import json
import re
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import sha1
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pydicom
from pydicom.dataset import Dataset


class OrthancException(Exception):
    """As the plugin's: a code and a message."""


class FakeOrthanc:
    """Stands for the module. Names in CamelCase are Orthanc's own."""

    OrthancException = OrthancException
    ChangeType = SimpleNamespace(STABLE_STUDY=9, ORTHANC_STARTED=10, ORTHANC_STOPPED=11)
    MetricsType = SimpleNamespace(DEFAULT=0)

    def __init__(self, configuration: dict[str, Any] | None = None, path: str = "") -> None:
        self.configuration = configuration or {}
        self.path = path
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, Dataset] = {}
        self.metadata: dict[tuple[str, str], str] = {}
        self.labels: dict[str, set[str]] = {}
        self.system: dict[str, Any] = {"Version": "1.12.7", "HasLabels": True}
        self.plugin_version = "5.0"
        self.metrics: dict[str, float] = {}
        self.log: list[tuple[str, str]] = []
        self.unstable: set[str] = set()
        self.last_update: dict[str, str] = {}
        self.origins: dict[str, str] = {}  # of instances that did not come by DICOM
        self.series_update = ""  # of all series, as YYYYMMDDTHHMMSS
        self.received_from = {"CalledAET": "OAR", "RemoteAET": "SCANNER", "RemoteIP": "10.0.0.1"}
        self.broken = False
        self._metric_set = threading.Condition()
        self.change_callbacks: list[Callable[[int, int, str], None]] = []
        self.rest_callbacks: dict[str, Callable[..., None]] = {}
        self.explorer_scripts: list[str] = []

    # --- for tests -------------------------------------------------------------------------------

    def receive(self, images: Iterable[Dataset]) -> str:
        """Take images in, and return the identifier of their study."""
        for image in images:
            file = BytesIO()
            image.save_as(file, enforce_file_format=True)
            study = self._keep(file.getvalue())
        return study

    def wait_for_metric(self, name: str, value: float, seconds: float) -> None:
        """Wait until another thread has set a metric to a value."""
        with self._metric_set:
            if not self._metric_set.wait_for(lambda: self.metrics.get(name) == value, seconds):
                raise AssertionError(f"{name} is not {value}: {self.metrics}")

    def series_ids(self, study: str) -> list[str]:
        return [one["ID"] for one in json.loads(self.RestApiGet(f"/studies/{study}/series"))]

    def segs(self) -> list[Dataset]:
        return [
            pydicom.dcmread(BytesIO(self.files[instance]))
            for instance, header in self.headers.items()
            if header.Modality == "SEG"
        ]

    def _keep(self, file: bytes) -> str:
        header = pydicom.dcmread(BytesIO(file), stop_before_pixels=True)
        instance = identifier(header.SOPInstanceUID)
        self.files[instance], self.headers[instance] = file, header
        study = identifier(header.StudyInstanceUID)
        self.last_update[study] = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        return study

    # --- the module ------------------------------------------------------------------------------

    def GetConfiguration(self) -> str:
        return json.dumps(self.configuration)

    def GetConfigurationPath(self) -> str:
        return self.path

    def CheckVersionAdvanced(self, *version: int) -> int:
        return int(tuple(map(int, self.system["Version"].split("."))) >= version)

    def GetDicomForInstance(self, instance: str) -> bytes:
        if self.broken or instance not in self.files:
            raise OrthancException(17, "Unknown resource")
        return self.files[instance]

    def RestApiGet(self, uri: str) -> bytes:
        if self.broken:
            raise OrthancException(-1, "Internal error")
        if uri == "/system":
            return json.dumps(self.system).encode()
        if uri == "/plugins/python":
            return json.dumps({"ID": "python", "Version": self.plugin_version}).encode()
        if found := re.fullmatch(r"/studies/([^/]+)/labels", uri):
            return json.dumps(sorted(self.labels.get(found[1], ()))).encode()
        if found := re.fullmatch(r"/studies\?since=(\d+)&limit=(\d+)&expand", uri):
            first, limit = map(int, found.groups())
            ids = list(self.last_update)[first : first + limit]
            answer: Any = [
                {
                    "ID": one,
                    "LastUpdate": self.last_update[one],
                    "IsStable": one not in self.unstable,
                }
                for one in ids
            ]
        elif found := re.fullmatch(r"/studies/([^/]+)/series", uri):
            answer = [one for one in self._series().values() if one["ParentStudy"] == found[1]]
        elif found := re.fullmatch(r"/studies/([^/]+)", uri):
            studies = {identifier(one.StudyInstanceUID): one for one in self.headers.values()}
            tags = {"StudyDescription": studies[found[1]].get("StudyDescription", "")}
            answer = {"ID": found[1], "MainDicomTags": tags}
        elif found := re.fullmatch(r"/instances/([^/]+)/study", uri):
            header = self.headers.get(found[1])
            answer = header and {"ID": identifier(header.StudyInstanceUID)}
        elif found := re.fullmatch(r"/instances/([^/]+)/metadata\?expand", uri):
            answer = self.received_from | {"Origin": self.origins.get(found[1], "DicomProtocol")}
        elif found := re.fullmatch(r"/series/([^/]+)", uri):
            answer = self._series().get(found[1])
        elif found := re.fullmatch(r"/series/([^/]+)/instances", uri):
            answer = [
                {"ID": one, "MainDicomTags": {"SOPInstanceUID": str(header.SOPInstanceUID)}}
                for one, header in self.headers.items()
                if identifier(header.SeriesInstanceUID) == found[1]
            ]
        else:
            raise AssertionError(f"the fake does not know {uri}")
        if not answer and "?" not in uri:
            raise OrthancException(17, "Unknown resource")
        return json.dumps(answer).encode()

    def _series(self) -> dict[str, dict[str, Any]]:
        series: dict[str, dict[str, Any]] = {}
        for instance, header in self.headers.items():
            key = identifier(header.SeriesInstanceUID)
            one = series.setdefault(
                key,
                {
                    "ID": key,
                    "ParentStudy": identifier(header.StudyInstanceUID),
                    "LastUpdate": self.series_update,
                    "MainDicomTags": {
                        "Modality": header.Modality,
                        "SeriesDescription": header.get("SeriesDescription", ""),
                        "BodyPartExamined": header.get("BodyPartExamined", ""),
                        "SeriesInstanceUID": str(header.SeriesInstanceUID),
                    },
                    "Instances": [],
                },
            )
            one["Instances"].append(instance)
        return series

    def RestApiPost(self, uri: str, body: str | bytes) -> bytes:
        if self.broken:
            raise OrthancException(-1, "Internal error")
        if uri == "/tools/lookup":
            wanted = identifier(str(body))
            found = [{"ID": wanted, "Type": "Instance"}] if wanted in self.files else []
            return json.dumps(found).encode()
        if uri == "/instances" and isinstance(body, bytes):
            uid = pydicom.dcmread(BytesIO(body), specific_tags=["SOPInstanceUID"]).SOPInstanceUID
            if identifier(uid) in self.files:  # Orthanc's default is to keep what it has
                return json.dumps({"ID": identifier(uid), "Status": "AlreadyStored"}).encode()
            self._keep(body)
            self.origins[identifier(uid)] = "Plugins"
            return json.dumps({"ID": identifier(uid), "Status": "Success"}).encode()
        raise AssertionError(f"the fake does not know {uri}")

    def RestApiDelete(self, uri: str) -> bytes:
        if self.broken:
            raise OrthancException(-1, "Internal error")
        if found := re.fullmatch(r"/studies/([^/]+)/labels/([A-Za-z0-9_-]+)", uri):
            self.labels[found[1]].remove(found[2])
            return b""
        instance = uri.removeprefix("/instances/")
        if self.files.pop(instance, None) is None:
            raise OrthancException(17, "Unknown resource")
        del self.headers[instance]
        return b""

    def RestApiPut(self, uri: str, body: str) -> bytes:
        if self.broken:
            raise OrthancException(-1, "Internal error")
        _, _, study, kind, name = uri.split("/")
        if kind == "labels":
            self.labels.setdefault(study, set()).add(name)
        else:
            self.metadata[study, name] = body
        return b""

    def SetMetricsValue(self, name: str, value: float, kind: int) -> None:
        with self._metric_set:
            self.metrics[name] = value
            self._metric_set.notify_all()

    def LogInfo(self, message: str) -> None:
        self.log.append(("info", message))

    def LogWarning(self, message: str) -> None:
        self.log.append(("warning", message))

    def LogError(self, message: str) -> None:
        self.log.append(("error", message))

    def RegisterOnChangeCallback(self, callback: Callable[[int, int, str], None]) -> None:
        self.change_callbacks.append(callback)

    def RegisterRestCallback(self, pattern: str, callback: Callable[..., None]) -> None:
        self.rest_callbacks[pattern] = callback

    def ExtendOrthancExplorer(self, script: str) -> None:
        self.explorer_scripts.append(script)


def identifier(uid: str) -> str:
    """Looks like Orthanc's identifiers and follows from the UID."""
    return sha1(uid.encode()).hexdigest()
