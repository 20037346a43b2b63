"""A browser, and an Orthanc whose jobs take long enough to be watched."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from pydicom.dataset import Dataset

from model.checkpoint import save
from tests.integration.conftest import PLUGINS, Orthanc
from tests.phantoms import ct_slices, make_phantom
from tests.tiny_model import tiny_model

PATIENCE_MS = 180_000
"""How long anything on a page may take on a busy machine before the test gives up."""

FLAGS = (
    "--no-sandbox",  # tests may run as root
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Without a graphics card the viewer draws by software.
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("needs a browser: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a fresh profile, on which nothing may fail and nothing may come from outside."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    faults: list[str] = []
    context.on("weberror", lambda error: faults.append(f"exception: {error.error}"))
    context.on(
        "console",
        lambda message: faults.append(message.text) if is_fault(message) else None,
    )
    context.on("request", lambda request: faults.extend(outside(request.url)))
    yield context.new_page()
    context.close()
    assert faults == []


def is_fault(message: ConsoleMessage) -> bool:
    """Whether it is an error, such as one of policy, and not just that Orthanc was stopped."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


def outside(url: str) -> list[str]:
    """The address itself if it is not of this machine."""
    here = ("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:")
    return [] if url.startswith(here) else [f"asked for {url}"]


@pytest.fixture(scope="session")
def steady_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that find one organ in some seconds, in a few thousand small tiles."""
    folder = tmp_path_factory.mktemp("weights") / "steady"
    save(folder, *tiny_model("steady", spacing_mm=(1.5, 1.5, 1.5), tile=(16, 16, 16)))
    return folder


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, steady_model: Path) -> Iterator[Orthanc]:
    """One that does nothing unless it is asked."""
    if shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")
    one = Orthanc(tmp_path_factory.mktemp("orthanc"), steady_model, Automatic=False)
    one.start()
    yield one
    one.kill()


@pytest.fixture
def push(orthanc: Orthanc) -> Callable[[list[Dataset]], str]:
    """Sends images of one study and returns its identifier."""

    def send(images: list[Dataset]) -> str:
        orthanc.push(images)
        query = {"StudyInstanceUID": str(images[0].StudyInstanceUID)}
        [study] = orthanc.post("/tools/find", {"Level": "Study", "Query": query})
        return str(study)

    return send


@pytest.fixture
def ct(request: pytest.FixtureRequest) -> list[Dataset]:
    """A patient of this test's own."""
    seed = sum(request.node.name.encode())
    return ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64), seed=seed))
