"""An Orthanc without the plugin, with or without passwords, and a line to it that breaks."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from plugin.rest_archive import Login, RestArchive
from tests.demo import free_port
from tests.integration.conftest import Orthanc

LOGIN = Login("physicist", "s3cr:et /?@")


class PlainOrthanc(Orthanc):
    """Any hospital's: it knows nothing of us."""

    def __init__(self, folder: Path, *, passwords: bool = False) -> None:
        self._passwords = passwords
        super().__init__(folder, model=Path())

    def configure(self, oar: dict[str, Any]) -> None:
        storage = str(self.folder / "storage")
        values = {
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "Plugins": [],
            "AuthenticationEnabled": self._passwords,
            "RegisteredUsers": {LOGIN.user: LOGIN.password} if self._passwords else {},
        }
        (self.folder / "orthanc.json").write_text(json.dumps(values))

    def answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise AssertionError(f"Orthanc has ended:\n{self.log()[-3000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.http)) == 0

    def archive(self) -> RestArchive:
        """Its archive, logged in to."""
        return RestArchive(self.url, login=LOGIN if self._passwords else None)

    def receive(self, images: list[Dataset]) -> None:
        """Take in what a modality or a planning system would send."""
        with self.archive() as archive:
            for image in images:
                archive.store(image)


@contextmanager
def breaking_line(port: int, *, cut_after: list[int | None]) -> Iterator[str]:
    """An address that leads to a port of this machine through a line that breaks.

    Args:
        port: where it leads.
        cut_after: bytes of the answers after which each connection is cut, in their order; None
            is never, and so are all that follow.
    """
    plan = iter(cut_after)
    with socket.socket() as door:
        entrance = free_port()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("127.0.0.1", entrance))
        door.listen()

        def serve() -> None:
            while True:
                try:
                    near, _ = door.accept()
                except OSError:
                    return  # the test is over
                far = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=_pass_on, args=(near, far, None), daemon=True).start()
                threading.Thread(
                    target=_pass_on, args=(far, near, next(plan, None)), daemon=True
                ).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{entrance}"
        door.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    """Copy bytes until the source ends or the limit is reached, then close both."""
    passed = 0
    with suppress(OSError):  # the other end was closed first
        while (limit is None or passed < limit) and (data := source.recv(65536)):
            if limit is not None:
                data = data[: limit - passed]
            target.sendall(data)
            passed += len(data)
    for one in (source, target):
        with suppress(OSError):  # closed already
            one.shutdown(socket.SHUT_RDWR)
        one.close()
