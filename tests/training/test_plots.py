"""Pictures: left is left, and what is drawn is where the error is."""

from itertools import combinations
from math import inf, nan
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from model.checkpoint import NOTICE
from model.metrics import Mask
from model.organs import ORGANS
from training.plots import View, draw_boxes, draw_view
from training.scores import Row

SHAPE = (30, 40, 50)


def row(*, organ: str = "parotid_left", dice: float = 0.5, case: str = "pt_1") -> Row:
    return Row(
        case=case,
        organ=organ,
        dice=dice,
        surface_dice=0.5,
        hd95_mm=inf if dice == 0 else 4.0,
        volume_ml=2.0,
        reference_ml=3.0,
    )


def ct(array: np.ndarray) -> hd.Volume:
    """Slices of 3 mm, rows of 2 mm and columns of 1 mm, growing to the feet, back and left."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1.0], [0, 2.0, 0], [-3.0, 0, 0]])
    affine[:3, 3] = (-25, -40, 45)
    return hd.Volume(array, affine, "PATIENT", "1.2.3")


def mask(z: slice, y: slice, x: slice) -> Mask:
    found = np.zeros(SHAPE, bool)
    found[z, y, x] = True
    return found


ORGAN = mask(slice(10, 16), slice(18, 24), slice(30, 38))


@pytest.mark.parametrize("orientation", ["FPL", "HPL", "FAR", "LPH"])
def test_the_patients_left_is_on_the_right_of_the_picture(orientation: str) -> None:
    """However the archive stored the CT: a missed metal bead left, behind and below."""
    bead = mask(slice(14, 16), slice(22, 24), slice(36, 38))
    stored, found, reference = (
        ct(array).to_patient_orientation(orientation)
        for array in (
            np.where(bead, 1000, 0).astype(np.float32),
            (ORGAN & ~bead).astype(np.uint8),
            ORGAN.astype(np.uint8),
        )
    )

    axial, coronal, sagittal = View.of(row(), stored, found.array > 0, reference.array > 0).planes

    assert axial.sides == ("A", "P", "R", "L")
    assert coronal.sides == ("H", "F", "R", "L")
    assert sagittal.sides == ("H", "F", "A", "P")
    assert axial.spacing_mm == (2.0, 1.0)
    assert coronal.spacing_mm == (3.0, 1.0)
    assert sagittal.spacing_mm == (3.0, 2.0)
    for plane in (axial, coronal, sagittal):
        bead_rows, bead_columns = np.nonzero(plane.image == 1000)
        organ_rows, organ_columns = np.nonzero(plane.reference)
        assert bead_rows.max() == organ_rows.max()
        assert bead_columns.max() == organ_columns.max()
        assert bead_rows.min() > organ_rows.min()
        assert bead_columns.min() > organ_columns.min()


def test_the_planes_are_those_of_the_largest_error() -> None:
    predicted = ORGAN.copy()
    predicted[12, 18:23, 25:30] = True

    axial, coronal, sagittal = View.of(
        row(), ct(np.zeros(SHAPE, np.float32)), predicted, ORGAN
    ).planes

    assert axial.title == "axial, z = 9 mm"  # the head-most slice is at 45 mm, slices are 3 mm
    assert (axial.predicted ^ axial.reference).sum() == 5 * 5
    assert (coronal.predicted ^ coronal.reference).sum() == 5
    assert (sagittal.predicted ^ sagittal.reference).sum() == 0
    assert sagittal.title.startswith("sagittal, x = ")


def test_an_organ_that_was_not_found_is_drawn_where_it_is(tmp_path: Path) -> None:
    nothing = np.zeros(SHAPE, bool)

    view = View.of(row(dice=0.0), ct(np.zeros(SHAPE, np.float32)), nothing, ORGAN)
    draw_view(view, tmp_path / "a" / "missed.png")

    assert all(plane.reference.any() for plane in view.planes)
    assert (tmp_path / "a" / "missed.png").read_bytes().startswith(b"\x89PNG")


def test_an_organ_that_touches_the_edge_of_the_ct_is_drawn(tmp_path: Path) -> None:
    edge = mask(slice(0, 3), slice(0, 3), slice(47, 50))

    view = View.of(row(), ct(np.zeros(SHAPE, np.float32)), edge, np.roll(edge, 1, 0))
    draw_view(view, tmp_path / "edge.png")

    assert (tmp_path / "edge.png").stat().st_size > 10_000


def test_boxes_are_drawn_of_many_patients_and_of_one(tmp_path: Path) -> None:
    rows = [row(organ="lens_left", dice=0.4, case="pt_9"), row(organ="lens_left", dice=nan)]
    rows += [row(dice=0.5 + n / 100, case=f"pt_{n}") for n in range(20)]

    draw_boxes(rows, tmp_path / "dice.png")

    assert (tmp_path / "dice.png").stat().st_size > 10_000


@pytest.mark.parametrize("organs", [1, 8, 22])
def test_no_line_below_or_above_the_boxes_is_cut_or_covers_another(
    organs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, path: drawn.append(self) or save(self, path)
    )

    draw_boxes([row(organ=organ.name) for organ in ORGANS[:organs]], tmp_path / "dice.png")

    [figure] = drawn
    [notice] = [text for text in figure.findobj(Text) if text.get_text() == NOTICE]
    lines = [notice, figure.legends[0], figure.axes[0].title]
    boxes = [line.get_window_extent() for line in lines]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
