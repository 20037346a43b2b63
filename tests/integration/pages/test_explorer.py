"""The panel on a study's page in Orthanc Explorer."""

import json
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect
from pydicom.dataset import Dataset

from tests.integration.conftest import Orthanc
from tests.integration.pages.accessibility import violations
from tests.phantoms import ct_slices, make_phantom

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

Push = Callable[[list[Dataset]], str]

WATCH_PROGRESS = """
    window.shown = [];
    new MutationObserver(() => {
        const stage = document.querySelector(".oar-stage");
        if (stage) window.shown.push(stage.textContent);
    }).observe(document.getElementById("oar-panel"), {subtree: true, childList: true});
"""
"""Notes what the panel says of a running job."""

QUIET_MS = 6000
"""Longer than any pause between two looks."""


def open_study(page: Page, orthanc: Orthanc, study: str) -> None:
    page.goto(f"{orthanc.url}/app/explorer.html#study?uuid={study}")
    expect(page.get_by_role("heading", name="Organs at risk", exact=True)).to_be_visible()


def test_a_study_is_segmented_from_its_page_and_watched_without_a_reload(page, orthanc, push, ct):
    open_study(page, orthanc, push(ct))
    page.evaluate(WATCH_PROGRESS)
    expect(page.locator("#oar-panel")).to_contain_text("Research use only")
    expect(page.locator("#list-series")).not_to_contain_text("SEG")

    page.get_by_role("button", name="Segment").click()

    job = page.locator(".oar-job")
    expect(job).to_have_attribute("data-state", "done")
    expect(page.locator("#list-series")).to_contain_text("SEG")  # Explorer's own list
    expect(page.get_by_role("status")).to_contain_text("done")
    shown = page.evaluate("window.shown")  # would be gone after a reload
    assert len({text for text in shown if text.startswith("segmenting")}) >= 2

    job.get_by_text("Volumes of 1 organ").click()
    expect(job.get_by_role("row", name="brainstem")).to_be_visible()
    seg = job.get_by_role("link", name="SEG")
    series = orthanc.get(f"/instances/{orthanc.jobs()[0]['results'][0]['orthanc_id']}")
    expect(seg).to_have_attribute(
        "href", f"{orthanc.url}/app/explorer.html#series?uuid={series['ParentSeries']}"
    )


def test_who_is_about_to_segment_reads_which_model_each_series_gets_and_by_which_rule(
    page, new_orthanc, steady_model, quick_model
):
    rule = {"Model": str(quick_model), "SeriesDescription": "neck"}
    orthanc = new_orthanc(steady_model, Automatic=False, Models=[rule])
    orthanc.start()
    ruled, other = (
        ct_slices(
            make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(slices, 32, 32)),
            series_description=name,
        )
        for name, slices in (("Neck", 30), ("Head", 31))
    )
    for image in other:
        image.StudyInstanceUID = ruled[0].StudyInstanceUID
    orthanc.push([*ruled, *other])
    open_study(page, orthanc, orthanc.study())

    taken = page.locator(".oar-explained li")
    expect(taken.filter(has_text="Neck")).to_contain_text("quick. Rule 1 of Models fits")
    expect(taken.filter(has_text="Head")).to_contain_text("steady. No rule of Models fits")
    expect(taken.first).to_contain_text("Taken when somebody asks: ")
    expect(taken.first).to_contain_text("Automatic is false.")
    chosen = page.get_by_label("Model").locator("option:checked")
    expect(chosen).to_have_text("as the settings say")
    expect(taken.first).to_be_visible()


def test_nothing_is_asked_once_nothing_can_change(page, orthanc, push, ct):
    study = push(ct)
    orthanc.wait_until_quiet()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_study(page, orthanc, study)
    expect(page.locator(".oar-explained")).to_contain_text("Taken")  # opens if there is no job
    page.wait_for_timeout(QUIET_MS)  # there is one look more
    asked.clear()

    page.wait_for_timeout(QUIET_MS)

    assert asked == []


def test_who_comes_back_to_a_study_sees_what_a_colleague_has_asked_for_meanwhile(
    page, orthanc, push, ct
):
    study = push(ct)
    orthanc.wait_until_quiet()
    open_study(page, orthanc, study)
    expect(page.get_by_text("No job yet.")).to_be_visible()
    page.wait_for_timeout(2 * QUIET_MS)  # it looks no more
    page.locator("#list-series a").first.click()
    expect(page.locator("#list-instances")).to_be_visible()
    orthanc.post(f"/oar/studies/{study}/jobs")

    page.go_back()

    expect(page.locator(".oar-job")).to_be_visible()


def test_a_service_that_does_not_answer_at_first_is_asked_again(page, orthanc, push, ct):
    study = push(ct)
    refuse = refusing(page, "**/oar/health", status=503, error="The database does not answer.")
    open_study(page, orthanc, study)
    expect(page.locator("#oar-panel").get_by_role("alert")).to_contain_text("does not answer")
    expect(page.get_by_text("No job yet.")).not_to_be_visible()  # nobody knows

    page.unroute("**/oar/health", refuse)

    expect(page.locator("#oar-panel").get_by_role("alert")).to_be_empty()
    page.get_by_role("button", name="Segment").click()
    expect(page.locator(".oar-job")).to_have_attribute("data-state", "done")


def test_a_result_is_called_gone_only_when_orthanc_says_so(page, orthanc, push, ct):
    study = push(ct)
    [job] = orthanc.post(f"/oar/studies/{study}/jobs")["jobs"]
    [result] = orthanc.wait_for_job("done", job=job["id"])["results"]
    refuse = refusing(page, "**/instances/*", status=503, error="Busy.")
    open_study(page, orthanc, study)
    link = page.locator(".oar-results a", has_text="SEG")  # that leads nowhere yet
    expect(link).to_be_attached()

    page.unroute("**/instances/*", refuse)

    expect(link).to_have_attribute("href", re.compile("explorer.html#series"))
    expect(page.locator(".oar-results")).not_to_contain_text("no longer in Orthanc")
    orthanc.request("DELETE", f"/instances/{result['orthanc_id']}")
    page.reload()
    expect(page.locator(".oar-results")).to_contain_text("no longer in Orthanc")


def refusing(
    page: Page, where: str, *, status: int, error: str, kind: str = "application/json"
) -> Callable[[Route], None]:
    """Have requests answered by somebody in between, until `page.unroute`."""

    def answer(route: Route) -> None:
        body = json.dumps({"error": error}) if kind == "application/json" else error
        route.fulfill(status=status, body=body, content_type=kind)

    page.route(where, answer)
    return answer


def test_another_model_is_asked_for_again_cancelled_and_retried(page, orthanc, push, ct):
    orthanc.post("/oar/queue/pause")
    open_study(page, orthanc, push(ct))
    page.get_by_label("Model").select_option("hn22-phantom")
    expect(page.locator("#oar-panel")).to_contain_text(re.compile("synthetic", re.IGNORECASE))
    page.get_by_label("again, although there is a result").check()
    page.get_by_role("button", name="Segment").click()

    job = page.locator(".oar-job")
    expect(job).to_have_attribute("data-state", "queued")
    expect(job).to_contain_text("hn22-phantom")
    assert orthanc.jobs()[0]["run"]  # forced
    job.get_by_role("button", name="Cancel").click()
    expect(job).to_have_attribute("data-state", "cancelled")
    job.get_by_role("button", name="Try again").click()
    expect(job).to_have_attribute("data-state", "queued")

    job.get_by_role("button", name="Cancel").click()
    expect(job).to_have_attribute("data-state", "cancelled")
    orthanc.post("/oar/queue/resume")


def test_earlier_jobs_are_folded_away_behind_the_last_result_and_how_it_ended_last(
    page, orthanc, push, ct
):
    study = push(ct)
    [done] = orthanc.post(f"/oar/studies/{study}/jobs")["jobs"]
    result = orthanc.wait_for_job("done", job=done["id"])["id"]
    orthanc.post("/oar/queue/pause")
    for _ in range(5):
        [job] = orthanc.post(f"/oar/studies/{study}/jobs", {"force": True})["jobs"]
        orthanc.post(f"/oar/jobs/{job['id']}/cancel")
    open_study(page, orthanc, study)

    shown = page.locator(".oar-job")
    expect(shown).to_have_count(2)
    assert [one.get_attribute("data-job") for one in shown.all()] == [job["id"], result]
    assert violations(page, "#oar-panel") == []
    page.get_by_text("Earlier jobs, shadows and comparisons (4)").focus()
    page.keyboard.press("Enter")
    expect(shown).to_have_count(6)
    shown.last.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Earlier jobs, shadows and comparisons (3)")).to_be_visible()
    waits = page.locator(".oar-job[data-state='queued']")  # no earlier one any more
    waits.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Earlier jobs, shadows and comparisons (4)")).to_be_visible()
    orthanc.post("/oar/queue/resume")


def test_who_waits_or_asks_in_vain_reads_why_where_they_look(page, orthanc, push, ct):
    study = push(ct)
    orthanc.post("/oar/queue/pause")
    open_study(page, orthanc, study)
    page.get_by_role("button", name="Segment").click()
    panel, job = page.locator("#oar-panel"), page.locator(".oar-job")
    expect(panel).to_contain_text("Paused by a person")
    refuse = refusing(page, "**/cancel", status=409, error="The job is done already.")
    job.get_by_role("button", name="Cancel").click()
    expect(job.get_by_role("alert")).to_have_text("The job is done already.")
    page.unroute("**/cancel", refuse)

    orthanc.post("/oar/queue/resume")
    expect(job).to_have_attribute("data-state", "done")
    expect(panel).not_to_contain_text("Paused")
    page.get_by_role("button", name="Segment").click()

    expect(panel).to_contain_text("There is a result already.")


def test_a_series_that_is_not_taken_says_why_and_its_text_is_no_code(page, orthanc, push):
    few = ct_slices(
        make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(3, 32, 32), seed=11),
        series_description="<img src=x onerror=alert(1)>",
    )
    open_study(page, orthanc, push(few))

    why = page.locator(".oar-explained")
    expect(why).to_contain_text("Not taken: CT <img src=x onerror=alert(1)>")
    expect(why).to_contain_text("3 slices")
    page.get_by_role("button", name="Segment").click()

    job = page.locator(".oar-job")
    expect(job).to_have_attribute("data-state", "skipped")
    expect(job.locator(".oar-reason")).to_contain_text("3 slices")
    expect(job.locator(".oar-title")).to_have_text("CT <img src=x onerror=alert(1)>")
    assert page.locator("#oar-panel img").count() == 0
