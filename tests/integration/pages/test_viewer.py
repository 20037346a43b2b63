"""OHIF, opened from a study's page with the organs already drawn over the CT."""

from io import BytesIO

import numpy as np
import pytest
from highdicom.seg import segread
from PIL import Image
from playwright.sync_api import Locator, expect
from pydicom.dataset import Dataset

from model.organs import ORGANS
from tests.integration.conftest import Orthanc, wait_until
from tests.phantoms import ct_slices, make_phantom
from tests.tiny_model import ORGAN

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

[BRAINSTEM] = [organ for organ in ORGANS if organ.name == ORGAN]

ENOUGH_PIXELS = 100

LABELLED_VOXELS = """() => {
    const [segmentation] = window.services.segmentationService.getSegmentations();
    const sums = [];
    for (const id of segmentation.representationData.Labelmap.imageIds) {
        const image = window.cornerstone.cache.getImage(id);
        const sum = [0, 0, 0];
        image.voxelManager.getScalarData().forEach((label, place) => {
            if (label) {
                sum[0] += 1;
                sum[1] += place % image.columns;
                sum[2] += Math.floor(place / image.columns);
            }
        });
        if (sum[0]) sums.push(sum);
    }
    return sums;
}"""
"""Of each slice with a label in OHIF: how many voxels have one, their columns and rows summed."""


SHOW_REPORT = """() => {
    const { displaySetService, viewportGridService } = window.services;
    const report = displaySetService.getActiveDisplaySets().find((one) => one.Modality === "SR");
    if (report) {
        viewportGridService.setDisplaySetsForViewport({
            viewportId: "oar-axial",
            displaySetInstanceUIDs: [report.displaySetInstanceUID],
        });
    }
    return document.body.innerText.includes("Imaging Measurement Report");
}"""
"""As a double click on the report in the list of series; whether it can be read yet."""


@pytest.fixture
def ct() -> list[Dataset]:
    """A patient on slices of an odd number of pixels, so that frames of bits end within a byte."""
    return ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 63, 65), seed=5))


def labelled_voxels(seg: bytes) -> list[list[int]]:
    """The same of the file."""
    sums = []
    for frame in segread(BytesIO(seg)).pixel_array:
        rows, columns = frame.nonzero()
        if len(rows):
            sums.append([len(rows), int(columns.sum()), int(rows.sum())])
    return sums


def pixels_of(colour: tuple[int, int, int], part: Locator) -> int:
    """How many pixels of a part of the page have about this colour."""
    shown = np.asarray(Image.open(BytesIO(part.screenshot())).convert("RGB")).astype(int)
    return int((np.abs(shown - colour).max(axis=-1) <= 12).sum())


def height(part: Locator) -> float:
    box = part.bounding_box()
    assert box is not None
    return box["height"]


def need_viewer(orthanc: Orthanc) -> None:
    if not orthanc.get("/oar/health")["viewer"]:
        pytest.skip("needs the OHIF viewer, which is fetched from npm: make viewer")


def test_the_organs_are_drawn_and_listed_in_three_planes_without_a_question(
    page, orthanc, push, ct
):
    need_viewer(orthanc)
    study = push(ct)
    orthanc.post(f"/oar/studies/{study}/jobs")
    page.goto(f"{orthanc.url}/app/explorer.html#study?uuid={study}")
    expect(page.locator(".oar-job")).to_have_attribute("data-state", "done")

    with page.expect_popup() as opened:
        page.get_by_role("link", name="Open viewer").click()
    viewer = opened.value

    expect(viewer.get_by_text("Research use only", exact=True)).to_be_visible()
    expect(viewer.get_by_text(ct[0].PatientID)).to_be_visible()
    listed = viewer.get_by_text(BRAINSTEM.tg263, exact=True)
    expect(listed).to_be_visible()
    for plane in ("axial", "sagittal", "coronal"):
        pane = viewer.locator(f"[data-viewportid='oar-{plane}']")
        wait_until(
            lambda pane=pane: pixels_of(BRAINSTEM.rgb, pane) > ENOUGH_PIXELS,
            f"the organ is drawn in the {plane} plane",
        )
    [result] = orthanc.jobs()[0]["results"]
    expected = labelled_voxels(orthanc.file(result["orthanc_id"]))
    assert sorted(viewer.evaluate(LABELLED_VOXELS)) == sorted(expected)
    row = listed.locator("xpath=ancestor::div[.//span[contains(@style, 'background')]][1]")
    assert pixels_of(BRAINSTEM.rgb, row) > 10
    name = viewer.get_by_role("heading").get_by_text("research use only, ")
    heading = name.locator("xpath=ancestor::h3")
    assert height(name) <= height(heading)  # all of it can be read
    assert viewer.get_by_role("dialog").count() == 0


def test_the_volumes_are_read_as_text_and_not_as_an_empty_picture(page, new_orthanc, quick_model):
    orthanc = new_orthanc(quick_model, VolumeReport=True)
    orthanc.start()
    need_viewer(orthanc)
    orthanc.push(ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64))))
    study = orthanc.wait_for_job("done")["study"]
    page.goto(f"{orthanc.url}/oar/viewer?study={study}")
    expect(page.locator("[data-viewportid='oar-axial']")).to_be_visible()
    # Again and again: the viewer puts the CT there itself when it has loaded it.
    page.wait_for_function(SHOW_REPORT, polling=3000)
    page.close()  # before Orthanc ends, of which it would ask further slices


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("?study=gone", "The study is not (or no longer) in Orthanc."),
        ("", "The address names no study."),
    ],
)
def test_a_viewer_that_cannot_start_says_why_so_that_it_can_be_read(page, orthanc, query, sentence):
    need_viewer(orthanc)

    page.goto(f"{orthanc.url}/oar/viewer{query}")

    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(f"The viewer cannot start. {sentence}")
    expect(alert).to_have_css("color", "rgb(27, 31, 36)")  # OHIF's own page is black
    expect(alert).to_have_css("background-color", "rgb(255, 255, 255)")
