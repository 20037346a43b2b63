"""The page that shows how our results agree with what people drew."""

import csv
import io
from io import BytesIO

import highdicom as hd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from pydicom import dcmread
from pydicom.dataset import Dataset

from model.organs import BY_NAME
from plugin.drawn.drawn_organs import draw_organs
from plugin.drawn.structure_names import StructureNames
from plugin.drawn.structure_sets import read_structure_set
from tests.integration.conftest import Orthanc, wait_until
from tests.integration.pages.test_queue_page import percent
from tests.structure_sets import seg

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


def half_corrected(file: bytes, ct: list[Dataset]) -> Dataset:
    """Our result as somebody else's, without the lower half of it."""
    grid = hd.get_volume_from_series(ct).get_geometry()
    ours = read_structure_set(dcmread(BytesIO(file)))
    labels = draw_organs(ours, grid, StructureNames.read()).labels
    labels.array[len(ct) // 2 :] = 0
    return seg(ct, labels, [BY_NAME["brainstem"]])


def test_a_correction_that_arrives_is_measured_and_shown(page: Page, orthanc: Orthanc, push, ct):
    page.goto(f"{orthanc.url}/oar/quality.html")
    expect(page.get_by_role("status")).to_have_text("Nothing was compared yet.")
    study = push(ct)
    orthanc.post(f"/oar/studies/{study}/jobs")
    result = orthanc.wait_for_job("done")["results"][-1]["orthanc_id"]
    drawing = BytesIO()
    half_corrected(orthanc.file(result), ct).save_as(drawing, enforce_file_format=True)
    orthanc.request("POST", "/instances", drawing.getvalue())

    [compared] = wait_until(
        lambda: [
            job
            for job in orthanc.jobs()
            if job["kind"] == "compare" and job["state"] not in ("queued", "running")
        ],
        "the correction is compared",
    )

    assert (compared["state"], compared["asked_by"]) == ("done", "stable study")
    [found] = orthanc.get(f"/oar/quality?study={study}")["comparisons"]
    ours, theirs = found["volume_ml"], found["drawn_ml"]
    assert theirs < ours
    assert found["dice"] == pytest.approx(2 * theirs / (ours + theirs), abs=1e-3)
    [row] = csv.DictReader(io.StringIO(orthanc.text("/oar/quality.csv")))
    assert float(row["dice"]) == found["dice"]
    page.reload()
    shown = page.get_by_role("row", name="brainstem")
    expect(shown).to_contain_text(percent(found["dice"]))
    page.get_by_role("button", name="brainstem").click()
    expect(page.get_by_role("table", name="CTs with brainstem")).to_contain_text("SEG")
    expect(page.get_by_role("img", name="Dice of brainstem")).to_have_count(2)
    axis = page.locator("svg.chart text")  # as in the table
    expect(axis).to_have_text(["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"])
    assert Axe().run(page).violations_count == 0
    expect(page.locator("header")).to_contain_text("Research use only")
    assert dcmread(BytesIO(drawing.getvalue())).PatientID not in page.content()
