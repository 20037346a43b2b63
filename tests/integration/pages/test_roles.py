"""What people see who may not do everything: no button that then refuses."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.integration.pages.accessibility import violations
from tests.integration.test_security import Guarded
from tests.phantoms import ct_slices, make_phantom

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, quick_model: Path) -> Iterator[Guarded]:
    one = Guarded(tmp_path_factory.mktemp("guarded"), quick_model)
    try:
        one.start()
        few = make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(3, 32, 32))  # so that it is skipped
        one.push(ct_slices(few))
        yield one
    finally:
        one.kill()


@pytest.fixture
def page_of(browser: Browser) -> Iterator[object]:
    """Opens a page as one of the users."""
    contexts = []

    def open_as(user: str) -> Page:
        login = {"username": user, "password": f"{user}-geheim"}
        contexts.append(browser.new_context(http_credentials=login))
        return contexts[-1].new_page()

    yield open_as
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    ("user", "may_ask", "may_pause"),
    [("lea", False, False), ("ada", True, False), ("max", True, True)],
)
def test_each_role_is_offered_what_it_may_do_and_told_what_it_may_not(
    guarded, page_of, user, may_ask, may_pause
):
    page = page_of(user)
    page.goto(f"{guarded.url}/oar/")
    expect(page.locator(".oar-job")).to_have_attribute("data-state", "skipped")

    def offered(name: str) -> bool:
        return page.get_by_role("button", name=name).count() > 0

    assert (offered("Try again"), offered("Pause")) == (may_ask, may_pause)
    assert page.get_by_text("Your role").count() == (not may_pause)
    assert violations(page) == []

    page.locator(".oar-title").click()  # the study's page
    expect(page.locator("#oar-panel .oar-job")).to_be_visible()
    assert (offered("Try again"), offered("Segment")) == (may_ask, may_ask)
    assert page.get_by_text("Your role allows you to look").is_visible() == (not may_ask)


def test_who_may_do_nothing_is_told_so_and_can_press_nothing(guarded, page_of):
    page = page_of("nemo")
    page.goto(f"{guarded.url}/oar/")
    expect(page.get_by_role("alert")).to_contain_text("Your role does not allow this")

    assert page.get_by_role("button").count() == 0
