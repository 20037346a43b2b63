"""The page under /oar: service, queue, models."""

import math
import re
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from pydicom.dataset import Dataset

from tests.integration.conftest import Orthanc
from tests.integration.pages.accessibility import violations
from tests.integration.pages.test_explorer import refusing
from tests.phantoms import ct_slices, make_phantom

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


def open_queue(page: Page, orthanc: Orthanc) -> None:
    page.goto(f"{orthanc.url}/oar/")
    expect(page.get_by_role("button", name="Pause").or_(page.get_by_text("Resume"))).to_be_visible()


def test_a_pause_holds_the_queue_over_a_restart_until_it_is_resumed(page, orthanc, push, ct):
    open_queue(page, orthanc)
    page.get_by_role("button", name="Pause").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#health")).to_contain_text("Paused")
    study = push(ct)
    [job] = orthanc.post(f"/oar/studies/{study}/jobs")["jobs"]
    shown = page.locator(f"[data-job='{job['id']}']")
    expect(shown).to_have_attribute("data-state", "queued")

    orthanc.stop()
    expect(page.get_by_role("alert")).to_contain_text("Orthanc does not answer.")
    orthanc.start()

    expect(page.get_by_role("alert")).to_be_empty()
    expect(page.locator("#health")).to_contain_text("Paused by a person")
    assert orthanc.get("/oar/health")["paused"]
    assert orthanc.get(f"/oar/jobs/{job['id']}")["state"] == "queued"
    page.get_by_role("button", name="Resume").click()
    expect(shown).to_have_attribute("data-state", "done")
    expect(shown).to_contain_text(ct[0].PatientID)
    expect(page.locator("#health")).to_have_text("Ready.")


def test_the_page_goes_on_after_somebody_else_has_answered(page, orthanc, push, ct):
    """A session has ended, and a proxy answers with its page for signing in."""
    open_queue(page, orthanc)
    where = "**/oar/jobs?*"
    sign_in = refusing(page, where, status=200, error="<p>Sign in</p>", kind="text/html")
    expect(page.get_by_role("alert")).to_contain_text("Perhaps you have to sign in again.")

    page.unroute(where, sign_in)

    expect(page.get_by_role("alert")).to_be_empty()
    [job] = orthanc.post(f"/oar/studies/{push(ct)}/jobs")["jobs"]
    expect(page.locator(f"[data-job='{job['id']}']")).to_have_attribute("data-state", "done")


def test_a_queue_that_nobody_takes_from_is_not_called_ready(page, orthanc):
    """All worker nodes are away, and Orthanc itself takes no jobs."""
    health = orthanc.get("/oar/health")
    health |= {"waiting_seconds": 300.0, "jobs": health["jobs"] | {"queued": 5}}
    page.route("**/oar/health", lambda route: route.fulfill(json=health))

    open_queue(page, orthanc)

    expect(page.locator("#health")).to_contain_text("Nobody takes jobs: 5 waiting.")


def test_the_models_show_what_their_cards_say_was_measured(page, orthanc):
    open_queue(page, orthanc)

    [card] = [m["card"] for m in orthanc.get("/oar/models")["models"] if m["name"] == "hn6-openkbp"]
    shown = page.locator("[data-model='hn6-openkbp']")
    shown.locator("summary").click()
    names = {
        "brainstem": "brainstem",
        "parotid_left": "left parotid",
        "parotid_right": "right parotid",
    }
    for organ, name in names.items():
        dice = card["measured"][organ]
        row = shown.get_by_role("row", name=name)
        expect(row).to_contain_text(f"{percent(dice['dice_mean'])} ± {percent(dice['dice_sd'])}")
        expect(row).to_contain_text(str(int(dice["patients"])))
    expect(shown).to_contain_text("OpenKBP")
    expect(page.locator("[data-model='steady'] summary")).to_contain_text("1 organ,")
    expect(page.locator("header")).to_contain_text("Research use only")


def test_of_organs_that_patients_do_not_get_it_says_why(page, orthanc):
    models = orthanc.get("/oar/models")
    [model] = [one for one in models["models"] if one["name"] == "hn6-openkbp"]
    model["written"] = [one for one in model["written"] if one not in ("brainstem", "spinal_cord")]
    del model["card"]["measured"]["spinal_cord"]
    page.route("**/oar/models", lambda route: route.fulfill(json=models))
    open_queue(page, orthanc)

    shown = page.locator("[data-model='hn6-openkbp']")
    shown.locator("summary").click()
    expect(shown.get_by_role("row", name="brainstem")).to_contain_text("never found: not written")
    expect(shown.get_by_role("row", name="spinal cord")).to_contain_text(
        "not measured: not written"
    )


def percent(fraction: float) -> str:
    """As documents have it: 76.2 of 0.7615."""
    return f"{math.floor(1000 * fraction + 0.5) / 10:.1f}"


@pytest.fixture
def two_series(orthanc, push, ct) -> Iterator[list[Dataset]]:
    """Both wait, of a patient with a long identifier."""
    other = ct_slices(
        make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(12, 32, 32), seed=12),
        series_number=2,
        series_description="Repeat",
    )
    for image in ct + other:
        image.PatientID = "W" * 60
        image.StudyInstanceUID = ct[0].StudyInstanceUID
    orthanc.post("/oar/queue/pause")
    jobs = orthanc.post(f"/oar/studies/{push([*ct, *other])}/jobs")["jobs"]
    yield [ct[0], other[0]]
    for job in jobs:
        orthanc.post(f"/oar/jobs/{job['id']}/cancel")
    orthanc.post("/oar/queue/resume")


def test_jobs_of_two_series_of_a_study_are_told_apart(page, orthanc, two_series):
    open_queue(page, orthanc)

    for image in two_series:
        title = page.locator(".oar-title", has_text=f" · CT {image.SeriesDescription}")
        expect(title).to_have_count(1)
        expect(title).to_contain_text(image.PatientID)


def test_a_date_beside_an_identifier_that_is_read_from_the_right_keeps_its_order(
    page, orthanc, push, ct
):
    for image in ct:
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientID, image.StudyDescription = "مريض-7", "تخطيط"
    orthanc.post("/oar/queue/pause")
    [job] = orthanc.post(f"/oar/studies/{push(ct)}/jobs")["jobs"]
    open_queue(page, orthanc)

    parts = page.locator(f"[data-job='{job['id']}'] .oar-title bdi")
    expect(parts).to_have_text(["مريض-7", "تخطيط", "2020-01-01"])
    left = [box["x"] for one in parts.all() if (box := one.bounding_box())]
    assert left == sorted(left)

    orthanc.post(f"/oar/jobs/{job['id']}/cancel")
    orthanc.post("/oar/queue/resume")


def test_what_waits_to_be_sent_says_when_it_is_tried_next_and_what_runs_since_when(page, orthanc):
    delivery = {"kind": "modality", "target": "TPS", "result": "seg", "state": "waiting"}
    delivery |= {"attempts": 3, "reason": "It is away.", "due": "2026-03-02T09:15:42+00:00"}
    job = {name: {} for name in ("volumes_ml", "dice")} | {"results": [], "warnings": []}
    job |= {"id": "j", "kind": "segment", "study": "s", "series": "t", "state": "running"}
    job |= {"stage": "reading", "progress": 0.1, "attempts": 1, "reason": "", "model": "steady"}
    job |= {"asked_by": "stable study", "user": "ada", "deliveries": [delivery]}
    job |= {"created": "2026-03-02T09:00:00Z", "started": "2026-03-02T09:10:00Z", "finished": None}
    page.route("**/oar/jobs?*", lambda route: route.fulfill(json={"jobs": [job]}))
    open_queue(page, orthanc)

    shown, minute = page.locator(".oar-job"), page.evaluate("new Date(0).getTimezoneOffset() % 60")
    expect(shown).to_contain_text("by itself, again by ada")
    if minute == 0:  # where this is run
        expect(shown).to_contain_text(re.compile(r"begun \d+:10:00"))
        expect(shown).to_contain_text(re.compile(r"3 attempts, next \d+:15:42.*It is away\."))


def test_no_other_job_comes_under_a_mouse_that_is_about_to_cancel_one(page, orthanc, push, ct):
    orthanc.post("/oar/queue/pause")
    [job] = orthanc.post(f"/oar/studies/{push(ct)}/jobs")["jobs"]
    open_queue(page, orthanc)
    shown = page.locator(f"[data-job='{job['id']}']")
    shown.get_by_role("button", name="Cancel").hover()
    place = shown.bounding_box()

    [next_job] = orthanc.post(f"/oar/studies/{job['study']}/jobs", {"force": True})["jobs"]
    expect(page.get_by_label("queued (2)")).to_be_attached()  # the page has seen it

    assert shown.bounding_box() == place
    page.mouse.down()
    page.mouse.up()
    expect(shown).to_have_attribute("data-state", "cancelled")
    page.mouse.move(0, 0)
    newer = page.locator(f"[data-job='{next_job['id']}']")
    expect(newer).to_have_attribute("data-state", "queued")

    orthanc.post(f"/oar/jobs/{next_job['id']}/cancel")
    orthanc.post("/oar/queue/resume")


def test_nothing_is_wider_than_a_narrow_window(page, orthanc, two_series):
    page.set_viewport_size({"width": 360, "height": 800})
    open_queue(page, orthanc)
    expect(page.get_by_text("W" * 60).first).to_be_visible()
    expect(page.locator("[data-model='steady']")).to_be_visible()
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    study = orthanc.get("/oar/jobs?state=queued")["jobs"][0]["study"]
    page.goto(f"{orthanc.url}/app/explorer.html#study?uuid={study}")
    expect(page.locator(".oar-job").first).to_be_visible()
    overflow = "(one) => one.scrollWidth - one.clientWidth"
    assert page.locator("#oar-panel").evaluate(overflow) == 0


def test_the_jobs_can_be_narrowed_to_one_state_by_the_keyboard(page, orthanc, push, ct):
    orthanc.post("/oar/queue/pause")
    [job] = orthanc.post(f"/oar/studies/{push(ct)}/jobs")["jobs"]
    open_queue(page, orthanc)
    shown = page.locator(f"[data-job='{job['id']}']")
    expect(shown).to_be_visible()

    page.get_by_label("all").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("queued")).to_be_checked()
    expect(shown).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(shown).to_have_count(0)

    orthanc.post(f"/oar/jobs/{job['id']}/cancel")
    orthanc.post("/oar/queue/resume")


def test_people_who_see_or_hear_differently_can_use_both_pages(page, orthanc, push, ct):
    study = push(ct)
    orthanc.post("/oar/queue/pause")
    [job] = orthanc.post(f"/oar/studies/{study}/jobs")["jobs"]
    open_queue(page, orthanc)
    expect(page.locator(f"[data-job='{job['id']}']")).to_be_visible()
    expect(page.locator("[data-model='steady']")).to_be_visible()

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []
    page.emulate_media(media="print", color_scheme="dark")
    ink = "window.getComputedStyle(document.body).color"
    assert page.evaluate(ink) == "rgb(27, 31, 36)"  # paper is white
    page.emulate_media(media="screen", color_scheme="light")
    page.goto(f"{orthanc.url}/app/explorer.html#study?uuid={study}")
    expect(page.locator(".oar-job")).to_be_visible()
    assert violations(page, "#oar-panel") == []  # the rest of the page is Orthanc Explorer's

    orthanc.post(f"/oar/jobs/{job['id']}/cancel")
    orthanc.post("/oar/queue/resume")


def test_the_pages_carry_a_policy_that_lets_nothing_else_in(orthanc):
    for name in ("index.html", "page.js", "explorer.js", "jobs.css"):
        with urllib.request.urlopen(f"{orthanc.url}/oar/{name}") as answer:
            headers = answer.headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
