"""Plan a training run from its data: `python -m training.plan DIR --memory-gib 11`.

DIR is a folder written by `training.prepare`, or one of labelled cases as that command reads
them. Printed is a plan.toml: the spacing of the network's grid, the patch, the batch and the
poolings that suit the data and a GPU's memory. Write it with `--out`, change it as you like, and
name it as `plan` in a training configuration. After nnU-Net's planning (Isensee et al., Nature
Methods 18, 2021); small organs limit the spacing and the depth, as in Lin and Zhang (2026).
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from rich.progress import track

from model.preprocess import WINDOW_HU, Preprocessing
from model.unet import Shape, UNetConfig
from model.whole_files import whole_files
from training.cases import Dataset
from training.command_line import above_zero, command, described_by
from training.config import Plan, TrainConfig
from training.fingerprint import FILE, Fingerprint, Millimetres, fingerprint_of
from training.labelled import case_folders, read_case
from training.memory import step_gib
from training.network import network_config, plan_strides

RECIPE = Path(__file__).parent / "configs" / "hn22-gpu.toml"

STEP: Shape = (8, 16, 16)
"""Voxels by which a patch grows: a multiple of the image encoder's patches and of the poolings."""

SMALLEST: Shape = (16, 64, 64)
"""Voxels of the smallest patch that is worth training on."""

DEEPEST = 4.0
"""Features are not pooled to voxels wider than so many diameters of the smallest organ."""

SHARE = 0.05
"""A batch holds no larger part of all voxels of the data, as in nnU-Net."""


def make_plan(
    fingerprint: Fingerprint,
    config: TrainConfig,
    memory_gib: float,
    spacing_mm: Millimetres | None = None,
) -> Plan:
    """The largest patch whose training step fits, and the depth that goes with it.

    The patch begins as the median patient and gives way on its longest side, in millimetres, until
    two of them fit into the memory; then the batch grows as far as it can.

    Args:
        fingerprint: of the data.
        config: whose network is planned for; its widths are the deepest that it may become.
        memory_gib: of one device.
        spacing_mm: of cases that are prepared already; absent, what the data ask for.

    Raises:
        ValueError: if not even the smallest patch fits.
    """
    spacing_mm = spacing_mm or fingerprint.spacing_mm()
    sides = np.divide(fingerprint.body_mm, spacing_mm)
    longest = np.maximum(np.ceil(sides / STEP).astype(int) * STEP, SMALLEST)

    def network(patch: Shape) -> UNetConfig:
        strides = plan_strides(spacing_mm, patch, len(config.widths))
        widest_mm = [np.prod(strides[: i + 1], axis=0) * spacing_mm for i in range(len(strides))]
        levels = sum(bool(mm.max() <= DEEPEST * fingerprint.smallest_mm) for mm in widest_mm)
        shape = replace(
            config,
            plan=None,
            patch=SMALLEST,  # the network's positions are on its grid, and count for nothing
            strides=tuple(strides[: max(levels, 1)]),
            widths=config.widths[: max(levels, 1) + 1],
        )
        preprocessing = Preprocessing(spacing_mm=spacing_mm)
        organs = tuple(fingerprint.organs_ml)
        return network_config(shape, Dataset(preprocessing=preprocessing, organs=organs, cases=()))

    patch = _shape(longest)
    while (need := step_gib(network(patch), patch, 2, config)) > memory_gib:
        if patch == SMALLEST:
            raise ValueError(
                f"a training step takes {need:.1f} GiB with the smallest patch, {SMALLEST} voxels; "
                f"{memory_gib:g} GiB are too few for this network"
            )
        patch = _shrunk(patch, spacing_mm)
    batch = 2
    voxels = sum(prod(np.divide(case.body_mm, spacing_mm)) for case in fingerprint.cases)
    while (batch + 1) * prod(patch) <= SHARE * voxels:
        if step_gib(network(patch), patch, batch + 1, config) > memory_gib:
            break
        batch += 1
    chosen = network(patch)
    return Plan(
        spacing_mm=spacing_mm,
        patch=patch,
        batch=batch,
        strides=chosen.strides,
        widths=chosen.widths,
        memory_gib=memory_gib,
        estimated_gib=round(step_gib(chosen, patch, batch, config), 2),
    )


def _shrunk(patch: Shape, spacing_mm: Millimetres) -> Shape:
    """A step less of the side that reaches furthest into the patient."""
    can = np.greater(patch, SMALLEST)
    axis = int(np.argmax(np.where(can, np.multiply(patch, spacing_mm), 0)))
    return _shape(np.subtract(patch, np.where(np.arange(3) == axis, STEP, 0)))


def _shape(values: np.ndarray) -> Shape:
    z, y, x = values.tolist()
    return z, y, x


def as_toml(plan: Plan, fingerprint: Fingerprint) -> str:
    """The plan as a file to read and to change, with its reasons."""
    smallest = min(fingerprint.organs_ml, key=fingerprint.organs_ml.__getitem__)
    ml = fingerprint.organs_ml[smallest]
    filled = 1000 * ml / prod(plan.spacing_mm)
    return "\n".join(
        (
            f"# Made by `python -m training.plan` from {len(fingerprint.cases)} cases with "
            f"{len(fingerprint.organs_ml)} organs.",
            "# Change what you like: training takes what stands here. Axes are (z, y, x).",
            "",
            f"# The smallest organ, {smallest}: {ml:.2f} ml at the median, {filled:.0f} voxels.",
            f"spacing_mm = {list(plan.spacing_mm)}",
            "",
            f"# {_by(np.multiply(plan.patch, plan.spacing_mm))} mm; the median patient is "
            f"{_by(fingerprint.body_mm)} mm.",
            f"patch = {list(plan.patch)}",
            "# Of one GPU: for several under torchrun, times their number.",
            f"batch = {plan.batch}",
            "",
            f"# Features are pooled to at most {DEEPEST:g} diameters of the smallest organ, "
            f"{fingerprint.smallest_mm:.0f} mm each.",
            f"strides = {[list(stride) for stride in plan.strides]}",
            f"widths = {list(plan.widths)}",
            "",
            "# GiB that a training step may take on one device, and what it is estimated to take.",
            f"memory_gib = {plan.memory_gib:g}",
            f"estimated_gib = {plan.estimated_gib:g}",
            "",
        )
    )


def _by(sides_mm: Iterable[float]) -> str:
    return " x ".join(f"{side:.0f}" for side in sides_mm)


def measure_folder(folder: Path) -> Fingerprint:
    """Measure a folder of labelled cases that is not prepared.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if one cannot be read.
    """
    cases = []
    for each in track(case_folders(folder), "Measuring", disable=not sys.stderr.isatty()):
        case = read_case(each)
        cases.append(fingerprint_of(case.name, case.ct, case.labels, case.labelled, WINDOW_HU))
    return Fingerprint(window_hu=WINDOW_HU, cases=tuple(cases))


@command("training.plan", stopped="there is no plan")
def main(argv: Sequence[str] | None = None) -> int:
    parser = described_by(__doc__)
    parser.add_argument("cases", type=Path, metavar="DIR")
    parser.add_argument("--memory-gib", type=above_zero, required=True, help="of one GPU")
    parser.add_argument(
        "--config",
        type=Path,
        default=RECIPE,
        help="training configuration whose network is planned for; its patch, batch and depth are "
        "what is planned (default: hn22-gpu.toml)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it there")
    args = parser.parse_args(argv)
    prepared = (args.cases / FILE).exists()
    fingerprint = Fingerprint.read(args.cases) if prepared else measure_folder(args.cases)
    spacing_mm = Dataset.read(args.cases).preprocessing.spacing_mm if prepared else None
    plan = make_plan(fingerprint, TrainConfig.read(args.config), args.memory_gib, spacing_mm)
    text = as_toml(plan, fingerprint)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with whole_files(args.out) as (file,):
            file.write(text.encode())
    print(text, end="")
    asked = fingerprint.spacing_mm()
    if plan.spacing_mm != asked:
        print(f"# The data ask for {asked} mm: prepare with this --spacing, and plan again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
