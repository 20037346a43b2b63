"""Compare networks: `python -m training.compare CONFIG --cases CASES`.

The four networks of the paper, and nnSAM-UNet with the pre-trained LiteMedSAM encoder, train on
the same patches for the same number of optimiser steps, and again for the same CPU time. Each is
measured on test patients by the code of `training.evaluate`. CASES are the cases that the prepared
ones of CONFIG were made from. Stopped at any moment, the same command goes on.

OUT of CONFIG gets compare.md (a row per network) and a folder per network with its model and
metrics.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import ConfigDict

from model.checkpoint import NOTICE, load_network
from model.organs import BY_NAME
from model.segmenter import Segmenter
from model.tiny_vit import LiteMedSamEncoder
from training.command_line import command, described_by
from training.config import ENDLESS, TrainConfig, load_toml, validated
from training.held_out import cts_of, held_out_folders
from training.labelled import case_folders
from training.markdown import markdown_table
from training.measure import measure_once
from training.runs import Run, finish
from training.scores import Row, dice_by_organ, mean_and_sd, mean_dice


class Network(NamedTuple):
    """One of the compared networks."""

    title: str
    attention: Literal["plain", "gate", "scse", "sam"]
    image_encoder: Literal["vit", "litemedsam"]
    encoder: str  # in words


FOUR = (
    Network("U-Net", "plain", "vit", "none"),
    Network("Attention U-Net", "gate", "vit", "none"),
    Network("SE U-Net", "scse", "vit", "none"),
    Network("nnSAM-UNet", "sam", "vit", "ViT, from scratch"),
)
LITEMEDSAM = Network("nnSAM-UNet", "sam", "litemedsam", "LiteMedSAM, pre-trained and frozen")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What is compared with which budgets; a TOML file with these keys."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    steps: int  # of each network, when steps are equal
    cpu_minutes: float  # of each network, when CPU time is: of all cores together
    measured: int  # test patients that each network is measured on
    measured_litemedsam: int  # of these the first few: its encoder is slow. 0 leaves it out
    train: TrainConfig  # what all runs share; name, version and description are given
    unknown_hu: float | None = None  # as in `training.evaluate`

    def __post_init__(self) -> None:
        if not 0 <= self.measured_litemedsam <= self.measured <= self.train.test_patients:
            raise ValueError(
                f"measured_litemedsam {self.measured_litemedsam}, measured {self.measured} and "
                f"test_patients {self.train.test_patients} must ascend"
            )

    @classmethod
    def read(cls, path: Path) -> "CompareConfig":
        """Read a TOML file; relative folders in it are relative to where the command runs.

        Raises:
            ValueError: for unknown keys or values out of range.
        """
        values = load_toml(path)
        given = {"name": path.stem, "version": "0.0.0", "description": "A network to compare"}
        values["train"] = values.get("train", {}) | given
        return validated(cls, values, path)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network with one budget."""

    network: Network
    budget: str  # in words: what was equal
    config: TrainConfig
    measured: int  # test patients


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of an entry: a row of the table."""

    entry: Entry
    run: Run
    rows: list[Row]
    parameters: int
    frozen: int  # of the parameters
    seconds_per_case: float  # median, preprocessing and postprocessing included


def entries(config: CompareConfig) -> Iterator[Entry]:
    """All that is to be trained, in the order of the table."""

    def entry(network: Network, budget: str, measured: int, run: TrainConfig) -> Entry:
        encoder = "-litemedsam" if network.image_encoder == "litemedsam" else ""
        name = f"{network.attention}{encoder}-{budget.replace(' ', '-')}"
        run = replace(
            run,
            name=name,
            out=config.train.out / name,
            attention=network.attention,
            image_encoder=network.image_encoder,
            validate_every=run.steps,  # only at the end: it would count as training time
        )
        return Entry(network=network, budget=budget, config=run, measured=measured)

    same_steps = replace(config.train, steps=config.steps)
    same_time = replace(config.train, steps=ENDLESS, cpu_hours=config.cpu_minutes / 60)
    steps, minutes = f"{config.steps} steps", f"{config.cpu_minutes:g} CPU minutes"
    for budget, run in ((steps, same_steps), (minutes, same_time)):
        for network in FOUR:
            yield entry(network, budget, config.measured, run)
    if config.measured_litemedsam:
        for budget, run in ((minutes, same_time), (steps, same_steps)):
            yield entry(LITEMEDSAM, budget, config.measured_litemedsam, run)


def result_of(entry: Entry, config: CompareConfig, cases: Path, *, device: str) -> Result:
    """Train and measure one entry, or read what is there already."""
    folders, missing = held_out_folders(case_folders(cases), entry.config)
    if missing:  # who stands behind them would be measured in their place
        raise ValueError(f"{cases} lacks {', '.join(missing)}, which {entry.config.cases} has")
    run = finish(entry.config, device=device)
    network, card = load_network(run.model)
    parameters = sum(p.numel() for p in network.parameters())
    frozen = 0
    if isinstance(network.image_encoder, LiteMedSamEncoder):
        frozen = sum(p.numel() for p in network.image_encoder.parameters())
    rows, seconds = measure_once(
        entry.config.out,
        folders[: entry.measured],
        lambda: Segmenter(network, card, device, unmeasured=True),
        unknown_hu=config.unknown_hu,
        unseen=True,
        among=cts_of(entry.config),
    )
    return Result(
        entry=entry,
        run=run,
        rows=rows,
        parameters=parameters,
        frozen=frozen,
        seconds_per_case=float(np.median(list(seconds.values()))),
    )


def table(results: Sequence[Result]) -> str:
    """Markdown: a row per network and budget, Dice in percent.

    What was measured on fewer patients stands below the others, once more on just these.
    """
    organs = list(dict.fromkeys(o for result in results for o in dice_by_organ(result.rows)))
    head = ["equal", "network", "image encoder", "parameters, M", "steps", "s a step"]
    head += ["s a case", "patients", "mean over organs", *(BY_NAME[o].tg263 for o in organs)]
    most = max(result.entry.measured for result in results)
    lines = [_line(each, organs, None) for each in results if each.entry.measured == most]
    for few in (result for result in results if result.entry.measured < most):
        patients = {row.case for row in few.rows}
        lines += [
            _line(each, organs, patients)
            for each in results
            if each.entry.budget == few.entry.budget
            and each.entry.network.attention in {"plain", "sam"}
        ]
    return markdown_table(head, lines)


def _line(result: Result, organs: Sequence[str], patients: set[str] | None) -> list[str]:
    rows = [row for row in result.rows if patients is None or row.case in patients]
    millions = f"{result.parameters / 1e6:.1f}"
    if result.frozen:
        millions += f" ({result.frozen / 1e6:.1f} frozen)"
    dice = dice_by_organ(rows)
    return [
        result.entry.budget,
        result.entry.network.title,
        result.entry.network.encoder,
        millions,
        str(result.run.steps),
        f"{result.run.seconds_per_step:.2f}",
        f"{result.seconds_per_case:.1f}",
        str(len({row.case for row in rows})),
        f"{100 * mean_dice(rows):.1f}",
        *(mean_and_sd(dice.get(organ, [])) for organ in organs),
    ]


def notes(config: CompareConfig, results: Sequence[Result], device: str) -> str:
    """What the table is of, for the reader."""
    train = config.train
    about = f"{torch.get_num_threads()} CPU threads" if device == "cpu" else device
    text = (
        f"\n{NOTICE}\n\n{train.data or train.cases}. The same patches of "
        f"{' x '.join(map(str, train.patch))} voxels, {train.batch} a step, seed {train.seed}, for "
        f"every network; {sum(result.run.hours for result in results):.2f} hours of training in "
        f"all on {about}. Dice in percent on patients that no network has seen, mean ± sd over "
        "patients, from the last step's averaged weights. Budgets as small as these order networks "
        "by how fast they start, not by what they reach.\n"
    )
    if config.measured_litemedsam:
        text += (
            f"\nLiteMedSAM's encoder is pre-trained and frozen, and sees {_slices(train)} of "
            f"{train.litemedsam_side} x {train.litemedsam_side} pixels: that is most of the time "
            f"of its steps and cases. Only the first {config.measured_litemedsam} patients are "
            "measured; the rows beside it are the others on the same patients.\n"
        )
    return text


def _slices(train: TrainConfig) -> str:
    return "each slice" if train.litemedsam_every == 1 else f"one slice in {train.litemedsam_every}"


@command("training.compare", stopped="the same command goes on")
def main(argv: Sequence[str] | None = None) -> int:
    parser = described_by(__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    results: list[Result] = []
    config = CompareConfig.read(args.config)
    everything = list(entries(config))
    for number, entry in enumerate(everything, start=1):
        print(f"{number} of {len(everything)}: {entry.config.name}", flush=True)
        result = result_of(entry, config, args.cases, device=args.device)
        results.append(result)
        left = (len(everything) - number) * np.mean([each.run.hours for each in results])
        print(
            f"  {result.run.steps} steps at {result.run.seconds_per_step:.2f} s, mean Dice "
            f"{100 * mean_dice(result.rows):.1f} % on {entry.measured} patients; about "
            f"{60 * left:.0f} minutes of training left",
            flush=True,
        )
    text = table(results) + notes(config, results, args.device)
    (config.train.out / "compare.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
