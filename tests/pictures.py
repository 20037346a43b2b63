"""The pictures of the README, taken anew: `python -m tests.pictures`; needs chromium and OHIF.

A phantom in a real Orthanc with the plugin, as `make demo` has it: its page in Orthanc Explorer
while the study is segmented again, and the viewer with its organs. Research use only.
"""

import json
import shutil
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.demo import UNSEEN_SEED, Demo
from tests.integration.pages.conftest import FLAGS, PATIENCE_MS
from tests.phantoms import ct_slices, make_phantom

DOCS = Path(__file__).parents[1] / "docs"

MODEL = "hn22-phantom"

DRAWN_MS = 60_000
"""The viewer draws by software, the other planes once it has every slice."""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        orthanc = Demo(Path(folder) / "data", MODEL, Rtstruct=True)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(FLAGS)
        )
        expect.set_options(timeout=PATIENCE_MS)
        try:
            orthanc.wait()
            orthanc.push(
                ct_slices(
                    make_phantom(spacing_mm=(3, 1, 1), shape=(100, 512, 512), seed=UNSEEN_SEED)
                )
            )
            take(orthanc, browser)
        finally:
            browser.close()
            orthanc.process.terminate()
            orthanc.process.wait()
    return 0


def take(orthanc: Demo, browser: Browser) -> None:
    """Both pictures, once the study has its result."""
    while not (jobs := orthanc.get("/oar/jobs")["jobs"]) or jobs[0]["state"] != "done":
        time.sleep(1)
    [study] = orthanc.get("/studies")
    again = urllib.request.Request(
        f"{orthanc.url}/oar/studies/{study}/jobs", json.dumps({"force": True}).encode()
    )
    with urllib.request.urlopen(again, timeout=60):
        pass
    page = browser.new_page(viewport={"width": 1180, "height": 700})
    page.goto(f"{orthanc.url}/app/explorer.html#study?uuid={study}")
    expect(page.get_by_text("segmenting")).to_be_visible()
    page.wait_for_timeout(4000)
    page.screenshot(path=DOCS / "explorer.png")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Open viewer").click()
    viewer = opened.value
    viewer.set_viewport_size({"width": 1280, "height": 760})
    expect(viewer.get_by_text("Brainstem", exact=True)).to_be_visible()
    viewer.wait_for_timeout(DRAWN_MS)
    viewer.screenshot(path=DOCS / "viewer.png")


if __name__ == "__main__":
    sys.exit(main())
