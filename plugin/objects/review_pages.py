"""The review pages as pictures: an overview of all organs, then six organs a page."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from PIL import Image, ImageDraw

from model.checkpoint import NOTICE
from model.organs import Organ, opposite
from model.volumes import volumes_ml
from plugin.objects.drawing import VIEWS, Colour, write
from plugin.objects.identity import MANUFACTURER, Origin
from plugin.objects.scene import Scene

PICTURE = 312  # pixels; six in a row
GAP = 8
TITLE_HEIGHT = 44
CELL_TITLE_HEIGHT = 58
CELL_WIDTH = 3 * PICTURE + 2 * GAP
CELL_HEIGHT = CELL_TITLE_HEIGHT + PICTURE + GAP
ROWS = 3
PAGE_SIZE = (2 * CELL_WIDTH + 4 * GAP, TITLE_HEIGHT + ROWS * CELL_HEIGHT + GAP)
"""1936 x 1186 pixels: as wide as high-definition screens."""

PROJECTION = 752
LINE = 24
BELOW_PROJECTIONS = TITLE_HEIGHT + PROJECTION + 2 * GAP
WARNING_CHARACTERS = 120  # of a line below the projections
WARNING_LINES = (PAGE_SIZE[1] - BELOW_PROJECTIONS) // LINE - 2

ABOUT_X = PAGE_SIZE[0] - 560

READING = (
    "",
    "Patient's right is on the left of axial and coronal pictures;",
    "letters at the edges follow from the CT's own geometry.",
    "Thick: the organ named. Thin: the others, in their colours.",
    "Ticks at the edges: where the other two planes cut.",
    "Planes halve the organ's volume. x, y, z are patient coordinates,",
    "at the picture's centre. Soft tissue -135 to 215 HU;",
    "ears, joints and mandible -500 to 1500 HU.",
)

CAUTION: Colour = (255, 190, 60)
FAINT: Colour = (150, 150, 150)

Row = tuple[Organ | None, Organ | None]
"""What stands side by side, as a radiologist sees it: the patient's right on the left."""


def draw_pages(
    scene: Scene, *, organs: Sequence[Organ], origin: Origin, warnings: Sequence[str]
) -> list[Image.Image]:
    """Every page, the overview first."""
    rows = side_by_side(list(scene.boxes))
    groups = [rows[first : first + ROWS] for first in range(0, len(rows), ROWS)]
    lines = _lines(warnings)
    millilitres = volumes_ml(scene.labels, organs)
    pages = [_overview(scene, organs, millilitres, origin, lines[:WARNING_LINES])]
    for first in range(WARNING_LINES, len(lines), WARNING_LINES):
        pages.append(Image.new("RGB", PAGE_SIZE))
        _warnings(pages[-1], lines[first : first + WARNING_LINES], TITLE_HEIGHT + GAP)
    pages += [_organs(scene, group, millilitres, warnings) for group in groups]
    for number, page in enumerate(pages, 1):
        _title(page, origin, f"page {number} of {len(pages)}")
    return pages


def side_by_side(organs: Sequence[Organ]) -> list[Row]:
    """Organs in rows of two: those on the midline, then each right one beside its left one."""
    midline = [organ for organ in organs if organ.side is None]
    rows: list[Row] = [*zip_longest(midline[::2], midline[1::2])]
    for organ in organs:
        partner = opposite(organ)
        if organ.side == "left":
            rows.append((partner if partner in organs else None, organ))
        elif organ.side == "right" and partner not in organs:
            rows.append((organ, None))
    return rows


def _title(page: Image.Image, origin: Origin, number: str) -> None:
    draw = ImageDraw.Draw(page)
    model = origin.model
    middle = TITLE_HEIGHT / 2
    write(draw, (GAP, middle), "Organs at risk", 24, anchor="lm")
    write(draw, (200, middle), NOTICE, 20, CAUTION, "lm")
    by = f"{MANUFACTURER}, {model.name} {model.version}, {origin.created:%Y-%m-%d %H:%M}, {number}"
    write(draw, (page.width - GAP, middle), by, 18, anchor="rm")


def _organs(
    scene: Scene, rows: Sequence[Row], millilitres: Mapping[str, float], warnings: Sequence[str]
) -> Image.Image:
    page = Image.new("RGB", PAGE_SIZE)
    for y, row in enumerate(rows):
        for x, organ in enumerate(row):
            if organ is not None:
                at = (GAP + x * (CELL_WIDTH + 2 * GAP), TITLE_HEIGHT + y * CELL_HEIGHT)
                about = [each for each in warnings if organ.tg263 in each]
                _cell(page, at, scene, organ, millilitres[organ.name], about)
    return page


def _cell(
    page: Image.Image,
    at: tuple[int, int],
    scene: Scene,
    organ: Organ,
    millilitres: float,
    warnings: Sequence[str],
) -> None:
    x, y = at
    draw = ImageDraw.Draw(page)
    first, last = scene.images(organ)
    draw.rectangle([x, y + 14, x + 14, y + 30], organ.rgb)
    write(draw, (x + 22, y + 30), organ.tg263, 24, anchor="ls")
    measures = f"{millilitres:.{2 if millilitres < 10 else 1}f} ml, images {first} to {last}"
    write(draw, (x + 260, y + 30), measures, 20, anchor="ls")
    if warnings:
        text = textwrap.shorten("; ".join(warnings), 100, placeholder=" ... see the first page")
        write(draw, (x, y + 52), text, 17, CAUTION, "ls")
    for column, view in enumerate(VIEWS):
        picture = scene.picture(organ, view, PICTURE)
        page.paste(picture, (x + column * (PICTURE + GAP), y + CELL_TITLE_HEIGHT))


def _overview(
    scene: Scene,
    organs: Sequence[Organ],
    millilitres: Mapping[str, float],
    origin: Origin,
    warnings: Sequence[str],
) -> Image.Image:
    """All organs at once.

    Args:
        warnings: lines that fit.
    """
    page = Image.new("RGB", PAGE_SIZE)
    for column, picture in enumerate(scene.projections(PROJECTION)):
        page.paste(picture, (GAP + column * (PROJECTION + GAP), TITLE_HEIGHT))
    _table(page, scene, organs, millilitres)
    _warnings(page, warnings, BELOW_PROJECTIONS)
    _about(page, scene, origin)
    return page


def _table(
    page: Image.Image, scene: Scene, organs: Sequence[Organ], millilitres: Mapping[str, float]
) -> None:
    """The volumes of all organs that the model knows."""
    draw = ImageDraw.Draw(page)
    x, y = 2 * (PROJECTION + GAP) + 2 * GAP, TITLE_HEIGHT + GAP
    ml, images = page.width - 130, page.width - GAP
    for at, heading, anchor in (
        (x + 24, "organ", "la"),
        (ml, "ml", "ra"),
        (images, "images", "ra"),
    ):
        write(draw, (at, y), heading, 17, FAINT, anchor)
    for organ in sorted(organs, key=lambda organ: organ.label):
        y += LINE
        draw.rectangle([x, y + 3, x + 14, y + 17], organ.rgb)
        write(draw, (x + 24, y), organ.tg263, 19)
        if organ not in scene.boxes:
            write(draw, (images, y), "not found", 19, FAINT, "ra")
            continue
        first, last = scene.images(organ)
        write(draw, (ml, y), f"{millilitres[organ.name]:.2f}", 19, anchor="ra")
        write(draw, (images, y), f"{first} to {last}", 19, anchor="ra")


def _warnings(page: Image.Image, lines: Sequence[str], y: int) -> None:
    draw = ImageDraw.Draw(page)
    write(draw, (GAP, y), "Warnings", 20, CAUTION)
    for number, line in enumerate(lines, 1):
        write(draw, (GAP, y + GAP + number * LINE), line, 19)


def _lines(warnings: Sequence[str]) -> list[str]:
    """What is to be said of the result, in lines that fit."""
    if not warnings:
        return ["None from the automatic checks. That proves nothing: look at every contour."]
    return [
        line
        for warning in warnings
        for line in textwrap.wrap(
            warning, WARNING_CHARACTERS, initial_indent="- ", subsequent_indent="  "
        )
    ]


def _about(page: Image.Image, scene: Scene, origin: Origin) -> None:
    """What the result was made of and by, and how to read the pages."""
    draw = ImageDraw.Draw(page)
    model = origin.model
    voxel = " x ".join(f"{mm:.4g}" for mm in reversed(scene.ct.spacing))
    lines = (
        f"CT: {len(scene.image_numbers)} images, voxels of {voxel} mm",
        f"Model: {model.name} {model.version}, weights {model.weights_sha256[:12]}",
        f"Made: {origin.created:%Y-%m-%d %H:%M}{f', run {origin.run}' if origin.run else ''}",
        *READING,
    )
    for number, line in enumerate(lines):
        write(draw, (ABOUT_X, BELOW_PROJECTIONS + number * LINE), line, 17, FAINT)
