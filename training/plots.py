"""Pictures of an evaluation: a box of Dice by organ, and three planes through a badly found one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import highdicom as hd
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from model.checkpoint import NOTICE
from model.metrics import Mask
from model.organs import BY_NAME
from model.preprocess import ORIENTATION
from model.volumes import labelled_box
from training.published import TABLE_1
from training.scores import Row, dice_by_organ

WINDOW_HU = (-160.0, 240.0)
"""Black and white of the pictures: the usual soft-tissue window, level 40 and width 400."""

MARGIN_MM = 25.0
"""What is shown around prediction and reference, on every side."""

LEAST_MM = 80.0
"""No picture shows less than this along an axis, however small the organ."""

SCALE_MM = 20.0
"""Length of the scale bar."""

OPPOSITE = {"F": "H", "P": "A", "L": "R"}
"""Where an axis of the pictures' orientation comes from, by where it goes to."""

PLANES = ("axial", "coronal", "sagittal")
"""What stays when axis 0, 1 or 2 of the pictures' orientation is fixed."""

PREDICTION, REFERENCE = "#e69f00", "#56b4e9"
"""Orange and sky blue: told apart without seeing red or green."""

EDGED = [withStroke(linewidth=4, foreground="black")]
"""White that is seen on bone too."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A slice through an organ, as drawn: first row at the top, first column on the left."""

    title: str
    image: npt.NDArray[np.float32]  # HU
    predicted: Mask
    reference: Mask
    spacing_mm: tuple[float, float]  # of rows and of columns
    sides: tuple[str, str, str, str]  # letters of top, bottom, left and right: of the patient


@dataclass(frozen=True, kw_only=True)
class View:
    """One organ of one case: what was measured, and the plane of each kind that differs most."""

    row: Row
    planes: tuple[Plane, ...]  # axial, coronal, sagittal

    @classmethod
    def of(cls, row: Row, ct: hd.Volume, predicted: Mask, reference: Mask) -> "View":
        """Cut the planes; masks are on the grid of `ct`, which may have any orientation."""
        shown = ct.to_patient_orientation(ORIENTATION)
        ours, theirs = (
            ct.with_array(mask.astype(np.uint8)).to_patient_orientation(ORIENTATION).array > 0
            for mask in (predicted, reference)
        )
        box = _box(ours | theirs, shown.spacing)
        return cls(row=row, planes=tuple(_plane(shown, ours, theirs, box, a) for a in range(3)))


def _box(mask: Mask, spacing_mm: tuple[float, float, float]) -> list[slice]:
    """The part to show: around the mask with its margin, within the volume."""
    box = []
    inside = labelled_box(mask.view(np.uint8))
    for side, n, mm in zip(inside, mask.shape, spacing_mm, strict=True):
        least_mm = (LEAST_MM - (side.stop - side.start) * mm) / 2
        margin = int(np.ceil(max(MARGIN_MM, least_mm) / mm))
        box.append(slice(max(side.start - margin, 0), min(side.stop + margin, n)))
    return box


def _plane(ct: hd.Volume, ours: Mask, theirs: Mask, box: list[slice], axis: int) -> Plane:
    """Of the slices through the organ, the one where prediction and reference differ most."""
    others = tuple(other for other in range(3) if other != axis)
    size = (theirs if theirs.any() else ours).sum(axis=others)
    differ = (ours ^ theirs).sum(axis=others) + size / (size.max() + 1)  # ties: the larger slice
    index = int(np.where(size > 0, differ, -1).argmax())
    cut: list[int | slice] = list(box)
    cut[axis] = index
    where = tuple(cut)
    centre = (np.array(ct.spatial_shape) - 1) / 2
    centre[axis] = index
    position_mm = ct.map_indices_to_reference(centre[None])[0]
    along = "zyx"[axis]
    rows, columns = others
    return Plane(
        title=f"{PLANES[axis]}, {along} = {position_mm['xyz'.index(along)]:.0f} mm",
        image=ct.array[where].astype(np.float32),
        predicted=ours[where],
        reference=theirs[where],
        spacing_mm=(ct.spacing[rows], ct.spacing[columns]),
        sides=(
            OPPOSITE[ORIENTATION[rows]],
            ORIENTATION[rows],
            OPPOSITE[ORIENTATION[columns]],
            ORIENTATION[columns],
        ),
    )


def draw_view(view: View, path: Path, *, refused: str = "") -> None:
    """Write the three planes as a PNG.

    Args:
        view: what is drawn.
        path: of the picture.
        refused: why nothing that was found in the case counts; or empty.
    """
    row = view.row
    sizes_mm = [np.multiply(plane.image.shape, plane.spacing_mm) for plane in view.planes]
    height_mm = max(size[0] for size in sizes_mm)
    width_mm = sum(size[1] for size in sizes_mm)
    figure = Figure(figsize=(13, 13 * height_mm / width_mm + 1.4), layout="constrained", dpi=110)
    axes = figure.subplots(1, 3, width_ratios=[size[1] for size in sizes_mm])
    for ax, plane in zip(axes, view.planes, strict=True):
        _draw_plane(ax, plane)
    lines = [
        Line2D([], [], color=PREDICTION, label="prediction"),
        Line2D([], [], color=REFERENCE, linestyle="--", label="reference"),
    ]
    figure.legend(handles=lines, loc="outside lower left", ncols=2, frameon=False)
    figure.supxlabel(
        f"{NOTICE}\nThe planes through the organ that differ most. "
        f"{WINDOW_HU[0]:.0f} to {WINDOW_HU[1]:.0f} HU.",
        fontsize=8,
        x=0.99,
        ha="right",
    )
    distance = f"{row.hd95_mm:.1f} mm" if np.isfinite(row.hd95_mm) else "-"
    figure.suptitle(
        f"{BY_NAME[row.organ].tg263}, {row.case}: Dice {row.dice:.2f}, HD95 {distance}, "
        f"{row.volume_ml:.1f} ml (reference {row.reference_ml:.1f} ml)"
        + (f"\nNothing that was found counts: {fill(refused, 100)}" if refused else "")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_plane(ax: Axes, plane: Plane) -> None:
    (rows, columns), (dy, dx) = plane.image.shape, plane.spacing_mm
    height, width = rows * dy, columns * dx
    ax.imshow(
        plane.image,
        cmap="gray",
        vmin=WINDOW_HU[0],
        vmax=WINDOW_HU[1],
        extent=(0, width, height, 0),
        interpolation="bilinear",
    )
    # Voxel centres in millimetres, with a row around so that outlines close at the volume's edge.
    y, x = (np.arange(-0.5, n + 1) * step for n, step in ((rows, dy), (columns, dx)))
    for mask, colour, style in (
        (plane.reference, REFERENCE, "dashed"),
        (plane.predicted, PREDICTION, "solid"),
    ):
        if mask.any():
            ax.contour(
                x, y, np.pad(mask, 1), [0.5], colors=colour, linestyles=style, linewidths=1.6
            )
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], title=plane.title)
    marks = zip(plane.sides, ((0.5, 0.97), (0.5, 0.03), (0.03, 0.5), (0.97, 0.5)), strict=True)
    for letter, (across, up) in marks:
        ax.text(
            across,
            up,
            letter,
            transform=ax.transAxes,
            color="white",
            weight="bold",
            path_effects=EDGED,
            ha="center" if across == 0.5 else ("left" if across < 0.5 else "right"),
            va="center" if up == 0.5 else ("bottom" if up < 0.5 else "top"),
        )
    left, bottom = 0.04 * width, 0.94 * height
    ax.plot(
        [left, left + SCALE_MM], [bottom, bottom], color="white", linewidth=3, path_effects=EDGED
    )
    ax.text(
        left,
        bottom - 0.015 * height,
        f"{SCALE_MM:.0f} mm",
        color="white",
        va="bottom",
        path_effects=EDGED,
    )


def draw_boxes(rows: Sequence[Row], path: Path) -> None:
    """Write Dice by organ as a PNG: box, every patient, the worst one's name, the published."""
    dice = dice_by_organ(rows)
    width = max(2.2 + 0.62 * len(dice), 5.0)  # inches; no line of text is longer
    figure = Figure(figsize=(width, 5.6), layout="constrained", dpi=110)
    ax = figure.subplots()
    names = [BY_NAME[organ].tg263 for organ in dice]
    at = np.arange(1, len(dice) + 1)
    ax.boxplot(
        list(dice.values()),
        tick_labels=names,
        showfliers=False,
        widths=0.55,
        medianprops={"color": "black"},
    )
    rng = np.random.default_rng(0)
    for place, (organ, values) in zip(at, dice.items(), strict=True):
        beside = place + rng.uniform(-0.18, 0.18, len(values))
        ax.plot(beside, values, "o", color="#0072b2", markersize=3, alpha=0.6)
        worst = min((row for row in rows if row.organ == organ), key=lambda row: _low(row.dice))
        ax.annotate(
            worst.case,
            (place, worst.dice),
            xytext=(0, -4),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7,
            rotation=90 if len(dice) > 10 else 0,
        )
    published = [TABLE_1[organ][-1] for organ in dice]
    ax.errorbar(
        at + 0.38,
        [each.mean / 100 for each in published],
        [each.sd / 100 for each in published],
        fmt="D",
        color="#d55e00",
        markersize=4,
        label="nnSAM-UNet as published (other patients), mean ± sd",
    )
    ax.set(
        ylabel="Dice",
        ylim=(-0.25, 1.02),
        yticks=np.linspace(0, 1, 6),
        title="Dice by organ; the lowest patient is named",
    )
    ax.tick_params(axis="x", rotation=60)
    for label in ax.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    ax.grid(axis="y", alpha=0.3)
    figure.supxlabel(NOTICE, fontsize=8, x=0.99, ha="right")
    figure.legend(loc="outside upper left", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _low(dice: float) -> float:
    """For `min`: what says nothing is never the lowest."""
    return float("inf") if np.isnan(dice) else dice
