"""The paper's protocol: `python -m training.folds CONFIG --cases CASES`.

CONFIG is a training configuration. Its test patients are held out; five networks are trained, each
validated on another fifth of the rest, and each is measured on the fifth that it was validated on
and on the test patients, by the code of `training.evaluate`. CASES are the cases that the prepared
ones of CONFIG were made from. Stopped at any moment, the same command goes on.

OUT of CONFIG gets folds.md (a row per organ), dice.png (the best fold on the test patients) and a
folder per fold with its model and metrics.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from model.checkpoint import NOTICE, load_network
from model.organs import BY_NAME
from model.segmenter import Segmenter
from training.cases import Dataset
from training.command_line import command, described_by, finite
from training.config import TrainConfig
from training.held_out import cts_of
from training.labelled import case_folders
from training.markdown import markdown_table
from training.measure import measure_once
from training.plots import draw_boxes
from training.published import TABLE_1
from training.runs import Run, finish
from training.scores import Row, dice_by_organ, mean_and_sd, mean_dice
from training.split import FOLDS, split_of


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One of the five networks and what it achieved."""

    number: int  # 1 to 5
    run: Run
    validation: list[Row]
    test: list[Row]


def run_fold(
    config: TrainConfig, number: int, cases: Path, *, device: str, unknown_hu: float | None
) -> Fold:
    """Train and measure one fold, or read what is there already."""
    out = config.out / f"fold-{number}"
    config = replace(config, name=f"{config.name}-{number}", out=out, fold=number - 1)
    split = split_of(config, Dataset.read(config.cases).cases)
    folders = {folder.name: folder for folder in case_folders(cases)}
    if missing := sorted({*split.validation, *split.test} - folders.keys()):
        raise ValueError(f"{cases} lacks {', '.join(missing)}, which {config.cases} has")
    run = finish(config, device=device)

    def load() -> Segmenter:
        return Segmenter(*load_network(run.model), device, unmeasured=True)

    def rows(part: str, names: Sequence[str], *, unseen: bool) -> list[Row]:
        those = [folders[name] for name in sorted(names)]
        return measure_once(
            out / part, those, load, unknown_hu=unknown_hu, unseen=unseen, among=cts_of(config)
        )[0]

    return Fold(
        number=number,
        run=run,
        validation=rows("validation", split.validation, unseen=False),
        test=rows("test", split.test, unseen=True),
    )


def best_fold(folds: Sequence[Fold]) -> Fold:
    """The one with the best Dice on its own validation patients; the test patients have no say."""
    return max(folds, key=lambda fold: mean_dice(fold.validation))


def table(folds: Sequence[Fold]) -> str:
    """Markdown: Dice in percent, a row per organ."""
    best = best_fold(folds)
    head = [
        "organ",
        *(f"fold {fold.number}" for fold in folds),
        "test, mean ± sd over folds",
        "validation, mean ± sd over folds",
        f"fold {best.number} alone, ± sd over patients",
        "nnSAM-UNet, published",
    ]
    tested = [dice_by_organ(fold.test) for fold in folds]
    validated = [dice_by_organ(fold.validation) for fold in folds]
    lines = []
    for organ in dict.fromkeys(organ for dice in tested for organ in dice):
        lines.append(
            [
                BY_NAME[organ].tg263,
                *(f"{100 * np.mean(d[organ]):.1f}" if organ in d else "-" for d in tested),
                mean_and_sd([float(np.mean(dice[organ])) for dice in tested if organ in dice]),
                mean_and_sd([float(np.mean(dice[organ])) for dice in validated if organ in dice]),
                mean_and_sd(dice_by_organ(best.test).get(organ, [])),
                f"{TABLE_1[organ][-1]}",
            ]
        )
    tests = [mean_dice(fold.test) for fold in folds]
    lines.append(
        [
            "mean over organs",
            *(f"{100 * mean:.1f}" for mean in tests),
            mean_and_sd(tests),
            mean_and_sd([mean_dice(fold.validation) for fold in folds]),
            f"{100 * mean_dice(best.test):.1f}",
            "",
        ]
    )
    return markdown_table(head, lines)


def notes(config: TrainConfig, folds: Sequence[Fold]) -> str:
    """What the table is of, for the reader."""
    tested = {row.case for fold in folds for row in fold.test}
    validated = {row.case for fold in folds for row in fold.validation}
    runs = [fold.run for fold in folds]
    return (
        f"\n{NOTICE}\n\n{config.data or config.name}. {len(tested)} test patients that no network "
        f"has seen; {len(validated)} others, each of whom validates one of the {len(folds)} "
        f"networks and trains the rest. Seed {config.seed}; {max(run.steps for run in runs)} steps "
        f"a network at {np.median([run.seconds_per_step for run in runs]):.2f} s; "
        f"{sum(run.hours for run in runs):.2f} hours of training in all. The columns 'fold 1' and "
        "so on are each network's mean over the test patients; the fold that stands alone was "
        "chosen by its validation patients. Published: Lin and Zhang 2026, Table 1, five folds on "
        "StructSeg 2019: other patients on another grid.\n"
    )


@command("training.folds", stopped="the same command goes on")
def main(argv: Sequence[str] | None = None) -> int:
    parser = described_by(__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    parser.add_argument("--unknown-hu", type=finite, metavar="HU", help="as in training.evaluate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    folds: list[Fold] = []
    config = TrainConfig.read(args.config)
    for number in range(1, FOLDS + 1):
        fold = run_fold(config, number, args.cases, device=args.device, unknown_hu=args.unknown_hu)
        folds.append(fold)
        left = (FOLDS - number) * np.mean([each.run.hours for each in folds])
        print(
            f"fold {number}: test Dice {100 * mean_dice(fold.test):.1f} %, validation "
            f"{100 * mean_dice(fold.validation):.1f} %; about {60 * left:.0f} minutes of "
            "training left",
            flush=True,
        )
    text = table(folds) + notes(config, folds)
    (config.out / "folds.md").write_text(text)
    draw_boxes(best_fold(folds).test, config.out / "dice.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
