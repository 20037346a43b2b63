"""The OHIF viewer: fetched once from the npm registry, served by Orthanc's plugin for folders.

`python -m plugin.web.ohif` fetches it, which `make setup` does. Nothing else needs it: without the
viewer, the pages have no link to it.

Its 17 megabytes are not served from Python: a Python callback would hold the interpreter, and with
it the network at work, for as long as Orthanc packs and sends them.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = "3.13.2"
INTEGRITY = (
    "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j"
    "4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
)
"""Of the package @ohif/app in that version, as npm's registry names it."""

FOLDER = Path(__file__).parents[2] / ".ohif"
ADDRESS = "/oar-ohif"
BUNDLE = "app.bundle.js"

PLUGIN = "/usr/share/orthanc/plugins/libServeFolders.so"

PATCHES = (
    # The bundles take the root of the server for their folder. It is the script's own, on a page
    # and in a worker.
    (
        '__webpack_require__.p = "/";',
        '__webpack_require__.p = new URL(".", self.document ? document.currentScript.src '
        ": self.location).href;",
    ),
    # Where a frame of a BINARY SEG is no whole number of bytes, as with 511 columns, dcmjs takes
    # the bits of each byte from the wrong end and forgets that values are padded to even length.
    # Organs would be drawn in stripes.
    (
        "bitValue = sourceByte >> 7 - sourceBitIndex & 1;",
        "bitValue = sourceByte >> sourceBitIndex & 1;",
    ),
    ("|= 1 << 7 - targetBitIndex;", "|= 1 << targetBitIndex;"),
    ("if (!(totalBytes !== length)) {", "if (!(totalBytes + totalBytes % 2 !== length)) {"),
    (
        "allPixelData = stream.readArrayBuffer(totalBytes);",
        "allPixelData = stream.readArrayBuffer(length);",
    ),
    # A report of measurements without drawn coordinates, as ours of volumes, would be a black page:
    # this sends it to the viewer's plain page for reports.
    (
        ".n7.ImagingMeasurementReport;\n",
        '.n7.ImagingMeasurementReport && JSON.stringify(instance.ContentSequence || "")'
        '.includes("SCOORD");\n',
    ),
    ("url(/", "url("),
)
"""What is replaced in the viewer's scripts and styles, each found at least once."""

LEFT_OUT = ("ort/", "dicom-microscopy-viewer/", "sw.js", "init-service-worker.js", "google.js")
"""Neural networks, microscopy, and what would ask other hosts: three quarters of the package."""


class NoViewer(Exception):
    """The viewer cannot be had. The message says why."""


def is_served(configuration: Mapping[str, Any]) -> bool:
    """Whether Orthanc's configuration has the viewer's folder at its address, and it is there."""
    section = configuration.get("ServeFolders", {})
    folders = section.get("Folders", section)  # Orthanc takes both
    return ADDRESS in folders and (Path(folders[ADDRESS]) / BUNDLE).is_file()


def with_viewer(configuration: Mapping[str, Any], folder: Path = FOLDER) -> dict[str, Any]:
    """Orthanc's configuration with the viewer added, if it was fetched and can be served."""
    if not (folder / BUNDLE).is_file() or not Path(PLUGIN).is_file():
        return dict(configuration)
    return {
        **configuration,
        "Plugins": [*configuration["Plugins"], PLUGIN],
        "ServeFolders": {"AllowCache": True, "Folders": {ADDRESS: str(folder)}},
    }


def fetch(folder: Path = FOLDER) -> None:
    """Put the viewer into a folder, unless it is there.

    Raises:
        NoViewer: npm or the registry does not give it, or gives something else.
    """
    made_by = hashlib.sha256(repr((INTEGRITY, PATCHES, LEFT_OUT)).encode()).hexdigest()
    note = folder / "made-by"
    if note.is_file() and note.read_text() == made_by:
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".ohif-") as temporary:
        package = download(Path(temporary))
        check(package)
        files = Path(temporary) / "files"
        unpack(package, files)
        patch(files)
        (files / note.name).write_text(made_by)
        shutil.rmtree(folder, ignore_errors=True)
        files.rename(folder)


def download(into: Path) -> Path:
    """The package as npm has it, by npm itself or from the registry that npm is configured for."""
    if npm := shutil.which("npm"):
        command = [npm, "pack", f"@ohif/app@{VERSION}", "--silent", "--fetch-retries=1"]
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoViewer(f"npm does not give it: {' '.join(done.stderr.split())[:300]}")
        if not (said := done.stdout.split()):
            raise NoViewer("npm does not say what it has fetched")
        return into / said[-1]
    file = into / "package.tgz"
    try:
        with urllib.request.urlopen(f"{registry()}/@ohif%2Fapp/{VERSION}", timeout=60) as answer:
            address = json.load(answer)["dist"]["tarball"]
        with urllib.request.urlopen(address, timeout=60) as answer, file.open("wb") as copy:
            shutil.copyfileobj(answer, copy)
    except (OSError, ValueError, LookupError, TypeError) as why:  # also pages of others, and typos
        raise NoViewer(f"the npm registry does not give it: {why!r}") from why
    return file


def registry() -> str:
    """Address of the npm registry of this machine, where npm itself is not installed."""
    key = "npm_config_registry"  # in capitals or not, as npm takes it
    named = next((value for name, value in os.environ.items() if name.lower() == key), None)
    if named is None and (settings := Path.home() / ".npmrc").is_file():
        lines = (line.partition("=") for line in settings.read_text().splitlines())
        named = next((value for name, _, value in lines if name.strip() == "registry"), None)
    if named is None:
        raise NoViewer("npm is not installed (apt-get install npm), nor is a registry in ~/.npmrc")
    return named.strip().rstrip("/")


def check(package: Path) -> None:
    """Whether it is byte for byte the package that we know."""
    digest = hashlib.sha512(package.read_bytes()).digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != INTEGRITY:
        raise NoViewer("what was fetched is not the package that its checksum names")


def unpack(package: Path, into: Path) -> None:
    """The built viewer and its licence, without what is never used here."""
    with tarfile.open(package) as archive:
        for member in archive:
            name = member.name.removeprefix("package/").removeprefix("dist/")
            content = archive.extractfile(member)
            if content is None or name.startswith(LEFT_OUT) or name.endswith((".map", ".html")):
                continue
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            with content, (into / name).open("wb") as copy:
                shutil.copyfileobj(content, copy)


def patch(files: Path) -> None:
    """Put right what is wrong, and give the main bundle a name that stays."""
    missing = {old for old, _ in PATCHES}
    for file in [*files.glob("*.js"), *files.glob("*.css")]:
        text = before = file.read_text()
        for old, new in PATCHES:
            if old in text:
                missing.discard(old)
                text = text.replace(old, new)
        if text != before:
            file.write_text(text)
    bundles = list(files.glob("app.bundle.*.js"))
    if missing or len(bundles) != 1:
        raise NoViewer("its files are not as expected")
    bundles[0].rename(files / BUNDLE)


def main() -> int:
    """Fetch it; that it cannot be had is no error of the set-up."""
    try:
        fetch()
    except NoViewer as why:
        print(f"The OHIF viewer is left out: {why}. All else works. To try again: make viewer")
    return 0


if __name__ == "__main__":
    sys.exit(main())
