"""The table, the boxes and the pictures of what `training.measure` measured."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.checkpoint import NOTICE
from model.organs import BY_NAME, ORGANS, Organ
from training.markdown import markdown_table
from training.measure import Measured
from training.plots import draw_boxes, draw_view
from training.published import COARSE_MM, SECOND_READER, TABLE_1
from training.scores import Row, dice_by_organ, mean_and_sd, mean_dice, write_rows


def table(rows: Sequence[Row], tolerance_mm: float, pixel_mm: float) -> str:
    """Markdown: a row per organ, Dice in percent beside the published ones.

    Args:
        rows: what was measured.
        tolerance_mm: of the surface Dice.
        pixel_mm: in-plane side of the cases; the second reader's Dice depends on it.
    """
    grid = "about 4 mm" if pixel_mm >= COARSE_MM else "1 mm"
    head = ["organ", "patients", "Dice %", "lowest", f"surface Dice % at {tolerance_mm:g} mm"]
    head += ["HD95 mm", "nnSAM-UNet, published", f"second reader at {grid}"]
    lines = []
    for name in dice_by_organ(rows):
        mine = [row for row in rows if row.organ == name and not np.isnan(row.dice)]
        readers = SECOND_READER.get(name)
        reader = "" if readers is None else f"{readers[pixel_mm >= COARSE_MM]}"
        lines.append([*_line(BY_NAME[name], mine), reader])
    lines.append(["mean over organs", "", f"{100 * mean_dice(rows):.1f}", *[""] * 5])
    return markdown_table(head, lines)


def _line(organ: Organ, rows: Sequence[Row]) -> list[str]:
    dice = [row.dice for row in rows]
    surface = 100 * np.array([row.surface_dice for row in rows])
    far = np.array([row.hd95_mm for row in rows])
    missed = int(np.isinf(far).sum())
    distance = f"{far[np.isfinite(far)].mean():.1f}" if missed < len(far) else "-"
    distance += f" ({missed} not found)" if missed else ""
    return [
        organ.tg263,
        f"{len(rows)}",
        mean_and_sd(dice),
        f"{100 * min(dice):.1f}",
        f"{surface.mean():.1f}",
        distance,
        f"{TABLE_1[organ.name][-1]}",
    ]


NOTES = """
{notice}

Measured on {whom}.

Mean ± standard deviation over patients, of these alone (its divisor is their number). A patient
without a label for an organ does not count for it, nor one where neither prediction nor reference
has a voxel; where only one of the two has, Dice and surface Dice are 0 and HD95 is infinite: such
patients are counted as not found (or invented) and left out of the mean distance. Published: Lin
and Zhang 2026, Table 1, on StructSeg 2019: other patients on another grid. Second reader: an
oncologist against a radiographer, Nikolov et al. 2018.
"""

FORGOTTEN = "\nTo be looked at:\n"
LEFT_OUT = "\nReferences that cannot be right were left out:\n"
REFUSED = "\nNothing of what was found counts where organs lie as in no patient:\n"


def write_report(measured: Measured, out: Path, whom: str) -> str:
    """Write all that `training.evaluate` promises; the table comes back.

    Args:
        measured: what came of it.
        out: the folder.
        whom: the patients in words, for the reader.
    """
    pixel_mm = float(np.mean(list(measured.pixel_mm.values())))
    text = table(measured.rows, measured.tolerance_mm, pixel_mm)
    write_rows(measured.rows, out / "metrics.csv")
    notes = NOTES.format(notice=NOTICE, whom=whom)
    for heading, sentences in (
        (FORGOTTEN, [measured.forgotten] if measured.forgotten else []),
        (LEFT_OUT, measured.left_out),
        (REFUSED, [f"{case}: {why}" for case, why in measured.refused.items()]),
    ):
        if sentences:
            notes += heading + "".join(f"- {sentence}\n" for sentence in sentences)
    (out / "table.md").write_text(text + notes)
    draw_boxes(measured.rows, out / "dice.png")
    for organ in ORGANS:  # of an evaluation before
        (out / "worst" / f"{organ.name}.png").unlink(missing_ok=True)
    for name, view in measured.worst.items():
        why = measured.refused.get(view.row.case, "")
        draw_view(view, out / "worst" / f"{name}.png", refused=why)
    return text
