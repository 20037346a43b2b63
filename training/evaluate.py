"""Measure a model: `python -m training.evaluate --model DIR --cases DIR --out DIR`.

CASES is a folder of labelled cases as `training.prepare` reads it. Every CT goes through the very
segmenter that the plugin uses, and is compared on its own grid. With `--predictions DIR` in place
of a model, what another program found is scored in the same way: DIR/CASE.nii.gz holds its label
numbers, those of model/organs.py, on the CT's grid.

OUT gets metrics.csv (a row per case and organ), table.md (a row per organ, beside the published
numbers), dice.png (a box per organ) and worst/ (pictures of the worst case of each organ).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import highdicom as hd
import numpy as np
from rich.progress import track

from model.checkpoint import CARD, NOTICE, BadCheckpoint
from model.metrics import TOLERANCE_MM, agreement
from model.organs import BY_NAME, ORGANS, Organ
from model.postprocess import OutOfOrder
from model.preprocess import ORIENTATION, NoBody
from model.segmenter import Segmenter
from training.checks import examine
from training.config import TrainConfig
from training.filling import filling_hu, not_called_unknown
from training.held_out import cts_of, held_out_folders
from training.json_file import write_json
from training.labelled import LabelledCt, case_folders, read_case, read_nifti
from training.options import above_zero, finite
from training.plots import View, draw_boxes, draw_view
from training.published import COARSE_MM, SECOND_READER, TABLE_1
from training.report import markdown_table
from training.scores import Row, dice_by_organ, mean_dice, read_rows, summary, write_rows

Labeller = Callable[[LabelledCt], hd.Volume]
"""Gives organ labels on a case's own grid: a segmenter, or a reader of what another one found."""


@dataclass(kw_only=True)
class Measured:
    """What a labeller achieved on some cases."""

    tolerance_mm: float  # of the surface Dice
    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # to label a case, by case
    pixel_mm: dict[str, float] = field(default_factory=dict)  # in-plane side, by case
    worst: dict[str, View] = field(default_factory=dict)  # by organ
    left_out: list[str] = field(default_factory=list)  # references that cannot be right: sentences
    refused: list[str] = field(default_factory=list)  # cases of which nothing was taken: sentences
    forgotten: str = ""  # a sentence, if --unknown-hu may have been


def by_model(segmenter: Segmenter) -> Labeller:
    """Label cases with a model."""
    return lambda case: segmenter(case.ct).labels


def by_files(folder: Path) -> Labeller:
    """Take the labels of cases from `folder`, written there by another program."""

    def label(case: LabelledCt) -> hd.Volume:
        path = folder / f"{case.name}.nii.gz"
        if not path.is_file():
            raise FileNotFoundError(f"there is no prediction for {case.name} in {folder}")
        labels = read_nifti(path)
        if not labels.geometry_equal(case.ct, tol=1e-3):
            raise ValueError(f"{path} is not on the grid of the CT of {case.name}")
        numbers = np.unique(labels.array)
        if unknown := set(numbers.tolist()) - set(range(len(ORGANS) + 1)):
            raise ValueError(f"{path}: labels {unknown} are not in the table of organs")
        return labels.astype(np.uint8)

    return label


def measure_cases(
    folders: Sequence[Path],
    labeller: Labeller,
    organs: Sequence[Organ],
    *,
    unknown_hu: float | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    seen: Collection[str] = (),
    among: Collection[str] | None = None,
) -> Measured:
    """Label every case and compare each of `organs` that it has a label for.

    References that `training.prepare` would leave out are left out here too. What lies as in no
    patient is as good as not found.

    Args:
        folders: of the cases.
        labeller: what is measured.
        organs: that it knows.
        unknown_hu: voxels of exactly this value are left out.
        tolerance_mm: of the surface Dice.
        seen: hashes of CTs that must not be among them, as a card has them.
        among: hashes of the CTs that they must be of, if that is known.

    Raises:
        ValueError: if a case cannot be read or labelled, was seen before, is another patient, or
            none labels any of the organs.
        FileNotFoundError: if something is missing.
    """
    measured = Measured(tolerance_mm=tolerance_mm)
    fillings = []
    for folder in track(folders, "Measuring", disable=not sys.stderr.isatty(), transient=True):
        case, findings = examine(read_case(folder, unknown_hu))
        if seen and case.ct_sha256 in seen:
            raise ValueError(f"{case.name} has trained the network or chosen its weights")
        if among is not None and case.ct_sha256 not in among:
            raise ValueError(
                f"{case.name} in {folder.parent} has another CT than the patients of the training "
                "run: these are not the cases that it was prepared from"
            )
        fillings.append(filling_hu(case.ct))
        for name, reason in findings.left_out.items():
            measured.left_out.append(f"{BY_NAME[name].tg263} of {case.name}: {reason}")
        began = time.perf_counter()
        try:
            predicted = labeller(case)
        except NoBody as error:
            raise ValueError(f"{case.name}: {error}") from error
        except OutOfOrder as why:
            predicted = case.labels.with_array(np.zeros_like(case.labels.array))
            measured.refused.append(f"{case.name}: {why}")
        measured.seconds[case.name] = time.perf_counter() - began
        in_plane = case.ct.to_patient_orientation(ORIENTATION).spacing[1:]
        measured.pixel_mm[case.name] = float(np.sqrt(np.prod(in_plane)))
        measure(measured, case, predicted, [organ for organ in organs if organ in case.labelled])
    measured.forgotten = not_called_unknown(fillings, unknown_hu)
    if not dice_by_organ(measured.rows):
        raise ValueError("there is nothing to measure: no case labels an organ that is predicted")
    return measured


def measure_once(
    out: Path,
    folders: Sequence[Path],
    load: Callable[[], Segmenter],
    *,
    unknown_hu: float | None,
    unseen: bool,
    among: Collection[str] | None = None,
) -> tuple[list[Row], dict[str, float]]:
    """As `measure_cases` with a model, or what `out` has if just these were measured before.

    Args:
        out: where that is.
        folders: of the cases.
        load: gives the model.
        unknown_hu: as there.
        unseen: none of them may have trained the model or chosen its weights.
        among: as there.

    Returns:
        The rows, and seconds to label a case, by case.
    """
    asked = {"cases": [folder.name for folder in folders], "unknown_hu": unknown_hu}
    record, metrics = out / "measured.json", out / "metrics.csv"
    known = json.loads(record.read_text()) if record.exists() else {}
    if {key: known.get(key) for key in asked} != asked:
        segmenter = load()
        measured = measure_cases(
            folders,
            by_model(segmenter),
            segmenter.organs,
            unknown_hu=unknown_hu,
            seen=segmenter.card.seen if unseen else (),
            among=among,
        )
        record.unlink(missing_ok=True)
        write_rows(measured.rows, metrics)
        known = asked | {"seconds": measured.seconds}
        write_json(record, known)
    return read_rows(metrics), known["seconds"]


def measure(
    measured: Measured, case: LabelledCt, predicted: hd.Volume, organs: Sequence[Organ]
) -> None:
    """Compare one case's labels with its reference, organ by organ; add what came to `measured`."""
    known = True if case.unknown is None else case.unknown.array == 0
    ml = float(np.prod(case.ct.spacing)) / 1000
    for organ in organs:
        ours = (predicted.array == organ.label) & known
        theirs = (case.labels.array == organ.label) & known
        found = agreement(ours, theirs, case.ct.spacing, measured.tolerance_mm)
        row = Row(
            case=case.name,
            organ=organ.name,
            **found._asdict(),
            volume_ml=float(ours.sum()) * ml,
            reference_ml=float(theirs.sum()) * ml,
        )
        measured.rows.append(row)
        worst = measured.worst.get(organ.name)
        if not np.isnan(row.dice) and (worst is None or row.dice < worst.row.dice):
            measured.worst[organ.name] = View.of(row, case.ct, ours, theirs)


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
    dice = 100 * np.array([row.dice for row in rows])
    surface = 100 * np.array([row.surface_dice for row in rows])
    far = np.array([row.hd95_mm for row in rows])
    missed = int(np.isinf(far).sum())
    distance = f"{far[np.isfinite(far)].mean():.1f}" if missed < len(far) else "-"
    distance += f" ({missed} not found)" if missed else ""
    published = TABLE_1[organ.name][-1]
    return [
        organ.tg263,
        f"{len(rows)}",
        f"{dice.mean():.1f} ± {dice.std():.1f}",
        f"{dice.min():.1f}",
        f"{surface.mean():.1f}",
        distance,
        f"{published.mean:.1f} ± {published.sd:.1f}",
    ]


NOTES = """
{notice}

Measured on {whom}.

Mean ± standard deviation over patients. A patient without a label for an organ does not count for
it, nor one where neither prediction nor reference has a voxel; where only one of the two has, Dice
and surface Dice are 0 and HD95 is infinite: such patients are counted as not found (or invented)
and left out of the mean distance. Published: Lin and Zhang 2026, Table 1, on StructSeg 2019: other
patients on another grid. Second reader: an oncologist against a radiographer, Nikolov et al. 2018.
"""

FORGOTTEN = "\nTo be looked at:\n"
LEFT_OUT = "\nReferences that cannot be right were left out:\n"
REFUSED = "\nNothing of what was found counts where organs lie as in no patient:\n"


def write_report(measured: Measured, out: Path, whom: str) -> str:
    """Write all that the module's docstring lists; the table comes back.

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
        (REFUSED, measured.refused),
    ):
        if sentences:
            notes += heading + "".join(f"- {sentence}\n" for sentence in sentences)
    (out / "table.md").write_text(text + notes)
    draw_boxes(measured.rows, out / "dice.png")
    for organ in ORGANS:  # of an evaluation before
        (out / "worst" / f"{organ.name}.png").unlink(missing_ok=True)
    for name, view in measured.worst.items():
        draw_view(view, out / "worst" / f"{name}.png")
    return text


def write_measured(model: Path, rows: Sequence[Row]) -> None:
    """Put the summary into the model's card."""
    path = model / CARD
    write_json(path, json.loads(path.read_text()) | {"measured": summary(rows)})


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, metavar="DIR")
    what.add_argument("--predictions", type=Path, metavar="DIR", help="made by another program")
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--test-of",
        type=Path,
        metavar="CONFIG",
        help="only the test patients of this training run, whose folders must be there",
    )
    parser.add_argument(
        "--unknown-hu", type=finite, metavar="HU", help="voxels of exactly this value are left out"
    )
    parser.add_argument("--tolerance-mm", type=above_zero, default=TOLERANCE_MM, metavar="MM")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--write-card",
        action="store_true",
        help="put the result into the model's card: the plugin writes measured organs alone",
    )
    args = parser.parse_args(argv)
    if args.write_card and args.model is None:
        parser.error("--write-card needs --model: predictions have no card")
    if args.write_card and args.test_of is None:
        parser.error("--write-card needs --test-of: a card tells of patients not seen before")
    try:
        folders = case_folders(args.cases)
        whom = f"all {len(folders)} cases there, among them perhaps some that trained the network"
        among: Collection[str] | None = None
        if args.test_of is not None:
            config = TrainConfig.read(args.test_of)
            held_out, missing = held_out_folders(folders, config)
            test = len(held_out) + len(missing)
            if missing and args.write_card:
                raise ValueError(
                    f"{len(missing)} of {test} test patients are not there: {' '.join(missing)}. "
                    "A card tells of all of them."
                )
            folders = sorted(held_out)
            whom = f"{len(folders)} patients held out of the training of {config.name}"
            if missing:
                whom += f", of {test}: not there are {' '.join(missing)}"
                print(f"training.evaluate: only {whom}", file=sys.stderr)
            among = cts_of(config)
        organs: Sequence[Organ] = ORGANS
        seen: Collection[str] = ()
        if args.model is not None:
            segmenter = Segmenter.load(args.model, device=args.device, unmeasured=True)
            organs, labeller = segmenter.organs, by_model(segmenter)
            if args.test_of is not None:
                seen = segmenter.card.seen
            if args.write_card and not seen:
                raise ValueError(f"the card of {args.model} does not say whom it has seen")
        else:
            labeller = by_files(args.predictions)
        measured = measure_cases(
            folders,
            labeller,
            organs,
            unknown_hu=args.unknown_hu,
            tolerance_mm=args.tolerance_mm,
            seen=seen,
            among=among,
        )
        print(write_report(measured, args.out, whom))
        if measured.forgotten:
            print(f"training.evaluate: {measured.forgotten}", file=sys.stderr)
        if measured.refused:
            print(
                f"of {len(measured.refused)} of {len(folders)} patients nothing counts, as the "
                f"organs found lie as in no patient: {args.out / 'table.md'} says which",
                file=sys.stderr,
            )
        if args.write_card:
            write_measured(args.model, measured.rows)
    except (ValueError, OSError, BadCheckpoint) as error:
        print(f"training.evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("training.evaluate: stopped; the same command begins anew", file=sys.stderr)
        return 130  # as shells have it
    return 0


if __name__ == "__main__":
    sys.exit(main())
