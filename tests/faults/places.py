"""Where faults happen: an Orthanc with its settings, on a disk of its own if need be."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.ward import Ward


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[None]:
    """A file system of its own at a folder, as long as the `with` lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={mebibytes}m"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def may_mount() -> bool:
    """Whether this user may mount file systems here."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder), 1):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


@contextmanager
def plain(ward: Ward) -> Iterator[None]:
    """An Orthanc that runs as long as the `with` lasts."""
    ward.start()
    try:
        yield
    finally:
        ward.close()


@contextmanager
def on_a_small_disk(ward: Ward) -> Iterator[None]:
    """The same, images and index and queue on a disk of 64 MiB."""
    with small_disk(ward.folder / "orthanc", 64), plain(ward):
        yield


@contextmanager
def with_images_apart(ward: Ward) -> Iterator[None]:
    """The same, the images on a disk of their own."""
    images = ward.folder / "images"
    ward.adjust(StorageDirectory=str(images))
    with small_disk(images, 64), plain(ward):
        yield


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """One Orthanc, on which several faults happen one after the other."""

    model: str = "quick"
    script: Path | None = None  # instead of plugin/main.py
    oar: dict[str, Any] = field(default_factory=dict)
    place: Callable[[Ward], AbstractContextManager[None]] = plain

    @property
    def why_not(self) -> str:
        """Why there cannot be one here; or empty."""
        if self.place is not plain and not may_mount():
            return "file systems cannot be mounted here"
        return ""

    @contextmanager
    def open(self, folder: Path) -> Iterator[Ward]:
        """Orthanc, running as long as the `with` lasts."""
        ward = Ward(folder, model=self.model, script=self.script, **self.oar)
        with self.place(ward):
            yield ward
