"""OHIF, opened from a study's page with the organs already drawn over the CT."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect

from model.organs import ORGANS
from tests.integration.conftest import wait_until
from tests.tiny_model import ORGAN

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

[BRAINSTEM] = [organ for organ in ORGANS if organ.name == ORGAN]

ENOUGH_PIXELS = 100


def pixels_of(colour: tuple[int, int, int], part: Locator) -> int:
    """How many pixels of a part of the page have about this colour."""
    shown = np.asarray(Image.open(BytesIO(part.screenshot())).convert("RGB")).astype(int)
    return int((np.abs(shown - colour).max(axis=-1) <= 12).sum())


def test_the_organs_are_drawn_and_listed_in_three_planes_without_a_question(
    page, orthanc, push, ct
):
    if not orthanc.get("/oar/health")["viewer"]:
        pytest.skip("needs the OHIF viewer, which is fetched from npm: make viewer")
    study = push(ct)
    orthanc.post(f"/oar/studies/{study}/jobs")
    page.goto(f"{orthanc.url}/app/explorer.html#study?uuid={study}")
    expect(page.locator(".oar-job")).to_have_attribute("data-state", "done")

    with page.expect_popup() as opened:
        page.get_by_role("link", name="Open viewer").click()
    viewer = opened.value

    expect(viewer.get_by_text("Research use only", exact=True)).to_be_visible()
    listed = viewer.get_by_text(BRAINSTEM.tg263, exact=True)
    expect(listed).to_be_visible()
    for plane in ("axial", "sagittal", "coronal"):
        pane = viewer.locator(f"[data-viewportid='oar-{plane}']")
        wait_until(
            lambda pane=pane: pixels_of(BRAINSTEM.rgb, pane) > ENOUGH_PIXELS,
            f"the organ is drawn in the {plane} plane",
        )
    row = listed.locator("xpath=ancestor::div[.//span[contains(@style, 'background')]][1]")
    assert pixels_of(BRAINSTEM.rgb, row) > 10
    assert viewer.get_by_role("dialog").count() == 0
