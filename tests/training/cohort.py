"""A few coarse synthetic patients, and what it takes to train on them in a second."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import save as save_model
from tests.model.networks import save_tiny
from tests.phantoms import make_phantom, write_case
from tests.tiny_model import tiny_model
from training.config import TrainConfig
from training.prepare import main as prepare_main

ORGANS = ("brainstem", "parotid_left", "parotid_right")


def write_cohort(folder: Path, count: int) -> None:
    """Case folders pt_0, pt_1, ..., each labelling `ORGANS` alone."""
    for seed in range(count):
        phantom = make_phantom(shape=(24, 30, 30), spacing_mm=(10, 8, 8), seed=seed)
        write_case(phantom, folder / f"pt_{seed}")
        (folder / f"pt_{seed}" / "labelled.json").write_text(json.dumps(ORGANS))


def prepare_cohort(folder: Path, count: int) -> Path:
    """Write a cohort and prepare it; the folder of prepared cases."""
    write_cohort(folder / "cases", count)
    out = folder / "prepared"
    prepare_main(f"{folder / 'cases'} --out {out} --spacing 10 8 8 --window -1000 1500".split())
    return out


def cohort_with_models(folder: Path, count: int) -> Path:
    """A prepared cohort beside a random model and one that finds its one organ everywhere.

    They are in "model" and "everywhere" of the folder, which comes back.
    """
    prepare_cohort(folder, count)
    save_tiny(folder / "model")
    network, card = tiny_model("all", spacing_mm=(12.0, 10.0, 10.0))
    save_model(folder / "everywhere", network, card)
    return folder


def tiny_run(cases: Path, out: Path, *, validation_patients: int = 1) -> TrainConfig:
    return TrainConfig(
        name="tiny",
        version="0.0.1",
        description="Six steps, for tests alone.",
        cases=cases,
        out=out,
        widths=(4, 8),
        encoder_width=16,
        encoder_depth=1,
        encoder_heads=2,
        attention_width=16,
        patch=(8, 32, 32),
        batch=2,
        steps=6,
        warmup=2,
        ema=0.5,
        validate_every=3,
        save_every=2,
        test_patients=0,
        validation_patients=validation_patients,
        seed=5,
    )


def last_of(config: TrainConfig) -> dict[str, Any]:
    """The state that a run has left."""
    return torch.load(config.out / "last.pt", weights_only=True)


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def toml(config: TrainConfig) -> str:
    """The file that says the same; the augmentation is left as it is by default."""
    values = asdict(config)
    del values["augment"]
    return "".join(
        f"{key} = {json.dumps(value, default=str)}\n"
        for key, value in values.items()
        if value is not None
    )
