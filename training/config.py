"""The configuration of one training run, read from a TOML file."""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from training.augment import AugmentConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; a TOML file with these keys."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # in [augment] too

    name: str  # of the model, its folder under model/weights
    version: str
    description: str
    data: str = ""  # where the cases come from, for the model's card
    cases: Path  # folder written by `python -m training.prepare`
    out: Path  # checkpoints and log; must not hold another run
    start: Path | None = None  # a model folder whose weights to start from, for fine-tuning
    attention: Literal["plain", "gate", "scse", "sam"] = "sam"
    widths: tuple[int, ...] = (32, 64, 128, 256, 320)
    norm: Literal["batch", "instance"] = "batch"
    image_encoder: Literal["vit", "litemedsam"] = "vit"  # "litemedsam" starts pre-trained
    encoder_width: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    attention_width: int = 256
    patch: tuple[int, int, int] = (48, 160, 160)  # voxels (z, y, x)
    batch: int = 2
    steps: int = 250_000  # optimiser steps, not epochs
    cpu_hours: float | None = None  # of the processor, after which the run ends if `steps` do not
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3  # peak
    decay: Literal["cosine", "polynomial", "exponential"] = "cosine"
    warmup: int = 100  # steps up to the peak
    weight_decay: float = 1e-2
    ema: float = 0.998  # decay of the averaged weights; they are what is saved
    foreground: float = 0.75  # fraction of patches centred on an organ, every organ equally often
    balance: float = 0.0  # share of the cross-entropy averaged by organ; for very small organs
    validate_every: int = 500  # steps
    save_every: int = 100  # steps
    test_patients: int = 30  # held out, seen by `training.evaluate` only
    validation_patients: int = 12  # choose the best weights
    fold: int | None = None  # of five, 0 to 4; instead of `validation_patients`
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"foreground is a fraction, got {self.foreground}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is a decay in [0, 1), got {self.ema}")

    @classmethod
    def read(cls, path: Path) -> "TrainConfig":
        """Read a TOML file; relative folders in it are relative to where the command runs.

        Raises:
            ValueError: for unknown keys or values out of range.
        """
        values = tomllib.loads(path.read_text())
        if unknown := sorted(values.keys() - {f.name for f in fields(cls)}):
            raise ValueError(f"{path}: unknown {unknown}")
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ValueError(f"{path}: {error}") from error
