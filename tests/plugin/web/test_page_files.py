import re
from pathlib import Path

import pytest

from plugin.web.page_files import FOLDER, FOR_OHIF, STRICT, TYPES, PageFiles

FILES = sorted(file for file in FOLDER.iterdir() if file.suffix in TYPES)

NAMED = re.compile(r"""(?:src=|href=|from )["']([^"':#]+)["']""")
"""What a page or a module asks for besides itself."""


def name(file: Path) -> str:
    return file.name


@pytest.mark.parametrize("file", FILES, ids=name)
def test_whatever_a_page_asks_for_is_there(file):
    pages = PageFiles(viewer=True)

    for asked in NAMED.findall(file.read_text()):
        if Path(asked).suffix in TYPES and not asked.startswith("../"):
            assert pages.find(f"/oar/{asked.removeprefix('./')}"), asked


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_page_needs_anything_from_elsewhere_or_makes_text_into_code(file):
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address

    assert not re.search(r"""["'(](https?:)?//""", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=[\"']|\sstyle=", text)


def test_the_viewers_page_is_there_only_with_the_viewer():
    assert PageFiles(viewer=False).find("/oar/viewer") is None

    page = PageFiles(viewer=True).find("/oar/viewer")

    assert page.headers["Content-Security-Policy"] == FOR_OHIF
    assert page.content_type == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["/oar/jobs", "/oar/health", "/oar/../main.py", "/oar/..%2Fmain.py", "/oar/", "/oar/x"]
)
def test_no_other_address_is_a_page(path):
    assert PageFiles(viewer=True).find(path) is None


def test_our_own_pages_run_nothing_that_is_not_ours():
    page = PageFiles(viewer=True).find("/oar/index.html")

    assert page.headers["Content-Security-Policy"] == STRICT
    assert "unsafe" not in STRICT
    assert "default-src 'none'" in STRICT
