"""One picture of one plane of a CT with the outlines of organs, as radiologists look at it.

Patient's right on the left of axial and coronal pictures, the head on top, the face to the left of
sagittal ones. The letters at the edges are computed from the affine and prove it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

ORIENTATION = "FPL"
"""Volumes are drawn with axes that grow to the patient's feet, back and left."""

FINE = 2
"""Outlines are found on a grid this much finer than the picture's, and are smooth in it."""

OBLIQUE = 0.2
"""A direction takes a further letter if it leans that way by more than this sine."""

SCALE_BARS_MM = (5, 10, 20, 50, 100, 200)

TEXT = (225, 225, 225)
MARKER = (255, 215, 90)
TICK = (150, 140, 90)

Colour = tuple[int, int, int]
Image2D = NDArray[np.float32]  # (rows, columns)
Picture = NDArray[np.float32]  # (rows, columns, 3), 0 to 255
Mask = NDArray[np.bool_]  # (rows, columns)
AnyPlane = NDArray[np.generic]
Pixels = NDArray[np.int64]


class View(NamedTuple):
    """A way to look at the patient: which axes of a volume in ORIENTATION go where."""

    name: str
    coordinate: str  # the patient's axis that it cuts, as DICOM calls it
    normal: int
    down: int
    across: int


AXIAL = View("axial", "z", normal=0, down=1, across=2)
CORONAL = View("coronal", "y", normal=1, down=0, across=2)
SAGITTAL = View("sagittal", "x", normal=2, down=0, across=1)
VIEWS = (AXIAL, CORONAL, SAGITTAL)


class Window(NamedTuple):
    """The greys of a CT."""

    centre_hu: float
    width_hu: float

    def greys(self, hu: Image2D) -> Image2D:
        """0 to 255."""
        low = self.centre_hu - self.width_hu / 2
        return np.clip((hu - low) * (255 / self.width_hu), 0, 255)


SOFT_TISSUE = Window(40.0, 350.0)
BONE = Window(500.0, 2000.0)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The square of a plane that a picture shows."""

    view: View
    centre: tuple[float, float]  # indices down and across that lie in the middle
    spacing_mm: tuple[float, float]  # down and across
    field_mm: float  # side of the square
    size: int  # of the picture, pixels

    def shown(self, plane: AnyPlane) -> Image2D:
        """The plane in pixels; zero outside of it."""
        whole = np.arange(self.size)
        return self._sampled(plane, whole, whole, self.size)

    def pixel(self, axis: int, index: float) -> float:
        """Where an index of the plane, down (0) or across (1), lies in the picture."""
        mm = (index - self.centre[axis]) * self.spacing_mm[axis]
        return self.size * (0.5 + mm / self.field_mm)

    def paint_outline(self, picture: Picture, mask: Mask, colour: Colour, wide: int) -> None:
        """Draw the outline of a mask, where the interpolated mask is one half.

        Args:
            picture: of this frame; painted in place.
            mask: the whole plane's.
            wide: half the line's width, in steps of the finer grid.
        """
        if not mask.any():
            return
        box = []
        for axis, side in enumerate(box_around(mask)):
            first, last = (self.pixel(axis, i) for i in (side.start - 1.5, side.stop + 0.5))
            box.append(slice(max(int(first) - 2, 0), min(int(last) + 3, self.size)))
        rows, columns = (np.arange(s.start * FINE, s.stop * FINE) for s in box)
        if not rows.size or not columns.size:
            return
        inside = self._sampled(mask, rows, columns, self.size * FINE) >= 0.5
        grown = ndimage.binary_dilation(inside, iterations=wide)
        line = grown & ~ndimage.binary_erosion(inside, iterations=wide, border_value=1)
        blocks = line.reshape(rows.size // FINE, FINE, columns.size // FINE, FINE)
        cover = blocks.mean(axis=(1, 3), dtype=np.float32)[..., None]
        part = picture[box[0], box[1]]
        part += cover * (np.asarray(colour, np.float32) - part)

    def _sampled(self, plane: AnyPlane, rows: Pixels, columns: Pixels, n: int) -> Image2D:
        """The plane at some of the pixels, when there are `n` each way."""
        (down, y), (across, x) = (
            self._weights(axis, side, pixels, n)
            for axis, (side, pixels) in enumerate(zip(plane.shape, (rows, columns), strict=True))
        )
        return y @ plane[down, across].astype(np.float32) @ x.T

    def _weights(self, axis: int, side: int, pixels: Pixels, n: int) -> tuple[slice, Image2D]:
        """Linear interpolation, averaging where pixels are larger than voxels.

        Returns:
            The indices that matter and their ``(pixels, indices)`` weights.
        """
        step = self.field_mm / n / self.spacing_mm[axis]
        at = self.centre[axis] + (pixels + 0.5 - n / 2) * step
        wide = max(step, 1.0)
        first = int(np.clip(at[0] - wide, 0, side))
        last = int(np.clip(at[-1] + wide + 1, first, side))
        near = 1 - np.abs(at[:, None] - np.arange(first, last)) / wide
        return slice(first, last), np.asarray(near.clip(min=0) / wide, np.float32)


def box_around(mask: Mask) -> tuple[slice, slice]:
    """The rows and the columns that hold all of a mask that is not empty."""
    ends = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
    rows, columns = (slice(first, last + 1) for first, last in ends)
    return rows, columns


def coloured(greys: Image2D) -> Picture:
    """Greys as red, green and blue."""
    return np.repeat(greys[..., None], 3, axis=2)


def finished(picture: Picture) -> Image.Image:
    """What can be written on and pasted."""
    return Image.fromarray(picture.round().astype(np.uint8))


def readable(colour: Colour) -> Colour:
    """A colour light enough for text on grey."""
    red, green, blue = (255 - (255 - part) // 2 for part in colour)
    return red, green, blue


def letters(direction: Iterable[float]) -> str:
    """Where a direction in the patient (LPS) leads: L R P A H F, the strongest first."""
    parts = zip(direction, ("LR", "PA", "HF"), strict=True)
    names = sorted(((abs(v), names[int(v < 0)]) for v, names in parts), reverse=True)
    strongest, *others = names
    return strongest[1] + "".join(name for size, name in others if size > OBLIQUE)


def annotate(
    image: Image.Image, frame: Frame, directions: NDArray[np.float64], caption: str
) -> None:
    """Letters at the edges, a scale bar, and a caption in the corner.

    Args:
        directions: of the volume's axes in the patient, one a column.
    """
    draw = ImageDraw.Draw(image)
    size, margin, beside = frame.size, 5, frame.size / 2 - 14  # where no tick is
    down, across = directions[:, frame.view.down], directions[:, frame.view.across]
    write(draw, (margin, margin), caption, 14)
    write(draw, (size - margin, margin), letters(-down), 18, MARKER, "ra")
    write(draw, (size - beside, size - margin), letters(down), 18, MARKER, "ls")
    write(draw, (margin, beside), letters(-across), 18, MARKER, "ls")
    write(draw, (size - margin, beside), letters(across), 18, MARKER, "rs")
    bar_mm = max(mm for mm in SCALE_BARS_MM if mm <= max(frame.field_mm / 4, SCALE_BARS_MM[0]))
    right, y = margin + bar_mm * size / frame.field_mm, size - margin - 4
    for colour, wider in (((0, 0, 0), 2), (TEXT, 0)):  # dark rims are seen on bone
        for x in (margin, right):
            draw.line([(x, y - 4 - wider), (x, y + 4 + wider)], colour, 1 + wider)
        draw.line([(margin, y), (right, y)], colour, 2 + wider)
    write(draw, (right + 6, size - margin), f"{bar_mm} mm", 14, anchor="ls")


def write_name(image: Image.Image, frame: Frame, mask: Mask, name: str, colour: Colour) -> None:
    """The name of an organ above the top of its outline, or else below it."""
    rows, _ = box_around(mask)
    draw = ImageDraw.Draw(image)
    half = draw.textlength(name, font(15)) / 2 + 4
    y, row = frame.pixel(0, rows.start - 0.5) - 5, rows.start
    if y < 40:  # the caption's
        y, row = frame.pixel(0, rows.stop - 0.5) + 18, rows.stop - 1
    middle = frame.pixel(1, float(np.flatnonzero(mask[row]).mean()))
    x = float(np.clip(middle, half, frame.size - half))
    write(draw, (x, y), name, 15, readable(colour), "ms")


def tick(image: Image.Image, frame: Frame, down: int, across: int) -> None:
    """Short lines at the edges where two other planes cut this one, at these indices."""
    draw = ImageDraw.Draw(image)
    y, x = frame.pixel(0, down), frame.pixel(1, across)
    end, long = frame.size - 1, frame.size // 20
    for line in (
        [(0, y), (long, y)],
        [(end - long, y), (end, y)],
        [(x, 0), (x, long)],
        [(x, end - long), (x, end)],
    ):
        draw.line(line, TICK, 1)


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    colour: Colour = TEXT,
    anchor: str = "la",
) -> None:
    """Text with a dark rim, readable on bone as on air."""
    draw.text(at, drawable(text), colour, font(size), anchor, stroke_width=1, stroke_fill=(0, 0, 0))


def drawable(text: str) -> str:
    """The text in the characters that Pillow's own font has."""
    return text.encode("ascii", "replace").decode()


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that pages look the same everywhere."""
    found = ImageFont.load_default(size)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which draws the review pages' text")
    return found
