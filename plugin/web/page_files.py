"""The pages that a person sees under /oar: the files of the folder `pages`, ready to be sent.

They are plain: no framework, no build, no inline script, nothing from outside. What they show they
ask of the routes in `rest.py`, as anybody else may.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "pages"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""Content-Security-Policy of our own pages."""

FOR_OHIF = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""OHIF compiles code and writes styles while it runs. It too gets nothing from another host."""

IN_ORTHANC_EXPLORER = 'import("../oar/explorer.js");'
"""The script that Orthanc Explorer is extended by. Orthanc serves it at /plugins/explorer.js."""


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """One file and what is sent with it."""

    content: bytes
    content_type: str
    headers: Mapping[str, str]


class PageFiles:
    """Knows which address is which file."""

    def __init__(self, *, viewer: bool) -> None:
        """
        Args:
            viewer: whether OHIF is there; without it, neither is the page that starts it.
        """
        self._files = {
            f"/oar/{file.name}": file for file in FOLDER.iterdir() if file.suffix in TYPES
        }
        page = self._files.pop("/oar/viewer.html")
        if viewer:
            self._files["/oar/viewer"] = page

    def find(self, path: str) -> PageFile | None:
        """What is at an address; None if it is none of ours."""
        if (file := self._files.get(path)) is None:
            return None
        return PageFile(
            content=file.read_bytes(),
            content_type=TYPES[file.suffix],
            headers={
                "Content-Security-Policy": FOR_OHIF if path == "/oar/viewer" else STRICT,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-cache",  # a new version counts at once
            },
        )
