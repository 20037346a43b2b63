"""What README and docs/ promise is what the software has."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from model.checkpoint import CARD, read_card
from plugin.configuration import read_configuration
from plugin.ct.series_rules import SeriesRules
from plugin.model_rules import ModelRule
from plugin.sending.routing import RouteRule
from plugin.sending.webhook import WebhookSettings
from plugin.settings import DeliverySettings, Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MODELS = README + (ROOT / "docs" / "models.md").read_text()
ROUTING = (ROOT / "docs" / "routing.md").read_text()
INSTALL = (ROOT / "docs" / "install.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
DEBIAN = Path("/etc/orthanc/orthanc.json")


@pytest.mark.parametrize("model", [Settings, SeriesRules])
def test_every_setting_is_explained(model: type[Settings] | type[SeriesRules]) -> None:
    names = [field.alias for field in model.model_fields.values()]
    assert [name for name in names if f"`{name}`" not in SETTINGS] == []


@pytest.mark.parametrize("model", [RouteRule, ModelRule, WebhookSettings, DeliverySettings])
def test_every_key_of_routes_models_and_webhooks_is_explained(model: type[BaseModel]) -> None:
    names = [field.alias for field in model.model_fields.values()]
    assert [name for name in names if f"`{name}`" not in ROUTING] == []


@pytest.mark.parametrize("example", re.findall(r'```json\n("[^`]+)```', ROUTING + SETTINGS))
def test_every_example_of_settings_can_be_used_as_it_is(example: str) -> None:
    Settings.from_orthanc({"Oar": json.loads(f"{{{example}}}")})


@pytest.mark.parametrize("page", ["install", "nodes"])
def test_every_example_of_our_section_in_a_file_can_be_used_as_it_is(page: str) -> None:
    examples = re.findall(r"```json\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    ours = [example for example in examples if '"Oar"' in example]
    assert ours
    for example in ours:
        Settings.from_orthanc(json.loads(example))


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's Orthanc is not installed")
def test_what_is_written_into_a_file_of_its_own_does_not_stand_in_debians_orthanc_json() -> None:
    there, files = read_configuration(DEBIAN).keys(), []
    for example in re.finditer(r"```json\n\s*(\{.*?)```", INSTALL, re.DOTALL):
        files.append(re.findall(r"/etc/orthanc/([\w-]+)\.json", INSTALL[: example.start()])[-1])
        assert not json.loads(example[1]).keys() & there, files[-1]
    assert files == ["python", "oar", "serve-folders"]


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "docker/README.md"],
    ids=lambda file: f"{file.parent.name}/{file.name}",
)
def test_every_link_to_a_file_of_ours_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text())
    for link, anchor in links:
        there = page.parent / link if link else page
        assert there.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert anchor in [_anchor(heading) for heading in headings], f"{link}#{anchor}"


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_shipped_configuration_names_every_setting_at_its_default() -> None:
    shipped = json.loads((ROOT / "orthanc.json").read_text())["Oar"]
    assert shipped == Settings().model_dump(by_alias=True)


@pytest.mark.parametrize(
    "folder", sorted((ROOT / "model" / "weights").iterdir()), ids=lambda f: f.name
)
def test_every_bundled_model_says_how_good_it_is(folder: Path) -> None:
    card = read_card(folder)
    assert card.measured.keys() == set(card.organs)
    assert f"`{card.name}`" in README
    tables = re.findall(r"(?:^\|.*\n)+", MODELS, re.MULTILINE)
    own = [table for table in tables if all(f"| {o.tg263} |" in table for o in card.organ_rows())]
    for organ in card.organ_rows():
        mean = card.measured[organ.name]["dice_mean"]
        halves = (-5e-5, 0, 5e-5)  # the card has four digits, the table was made before rounding
        said = re.compile(
            "|".join(rf"\| {organ.tg263} \|.*\b{100 * (mean + half):.1f}\b" for half in halves)
        )
        assert any(said.search(table) for table in own), organ.tg263


def test_bundled_weights_are_small_enough_to_clone() -> None:
    folders = [card.parent for card in (ROOT / "model" / "weights").glob(f"*/{CARD}")]
    assert folders
    for folder in folders:
        assert sum(file.stat().st_size for file in folder.iterdir()) < 25e6
