"""What people who see or hear differently would stumble over."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def violations(page: Page, part: str = "html") -> list[str]:
    """What axe finds wrong, and where."""
    found = Axe().run(page, context=part).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]
