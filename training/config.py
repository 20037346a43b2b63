"""The configuration of one training run, read from a TOML file, and the plan it may rest on."""

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from model.attention import HEADS
from model.checkpoint import check_names
from model.explained import explained
from training.augment import AugmentConfig

ENDLESS = 1_000_000
"""Steps of a run that ends by its time."""

Triple = tuple[PositiveInt, PositiveInt, PositiveInt]  # (z, y, x)
Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What follows from the data and the memory: plan.toml, made by `python -m training.plan`.

    To be read and changed by hand: training takes what the file says.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    spacing_mm: tuple[float, float, float]  # of the network's grid, (z, y, x)
    patch: Triple  # voxels
    batch: PositiveInt
    strides: tuple[Triple, ...]  # pooling between the levels: their number is the depth
    widths: tuple[int, ...]  # channels of each level, one more than strides
    memory_gib: float  # what a training step was planned to fit into
    estimated_gib: float  # what it is estimated to take

    def __post_init__(self) -> None:
        _check_levels(self.widths, self.strides)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read plan.toml.

        Raises:
            ValueError: for unknown keys or values out of range.
        """
        return validated(cls, load_toml(path), path)

    @property
    def of_config(self) -> dict[str, Any]:
        """The part of it that is also a `TrainConfig`'s."""
        known = {each.name for each in fields(TrainConfig)}
        return {key: value for key, value in asdict(self).items() if key in known}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; a TOML file with these keys."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # in [augment] too

    name: str  # of the model, its folder under model/weights
    version: str
    description: str
    data: str = ""  # where the cases come from, for the model's card
    synthetic: bool = False  # they are of no patients
    cases: Path  # folder written by `python -m training.prepare`
    out: Path  # checkpoints and log; must not hold another run
    start: Path | None = None  # a model folder: its network and weights, whatever is said below
    plan: Plan | None = None  # in TOML the path of a plan.toml; keys beside it override the plan's
    attention: Literal["plain", "gate", "scse", "sam"] = "sam"
    widths: tuple[PositiveInt, ...] = (32, 64, 128, 256, 320)
    strides: tuple[Triple, ...] | None = None  # pooling between levels; absent: of spacing, patch
    norm: Literal["batch", "instance"] = "batch"
    image_encoder: Literal["vit", "litemedsam"] = "vit"  # "litemedsam" starts pre-trained
    litemedsam_every: PositiveInt = 1  # of so many slices that encoder sees one,
    litemedsam_side: PositiveInt = 256  # resized to so many pixels: fewer of both for processors
    encoder_width: PositiveInt = 768
    encoder_depth: PositiveInt = 12
    encoder_heads: PositiveInt = 12
    attention_width: PositiveInt = 256
    patch: Triple = (48, 160, 160)  # voxels (z, y, x)
    batch: PositiveInt = 2  # of all processes together
    steps: PositiveInt = 250_000  # optimiser steps, not epochs
    cpu_hours: PositiveFloat | None = None  # of the processor: the run ends then, or by `steps`
    optimiser: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: PositiveFloat = 2e-3  # peak; of Muon 0.02
    decay: Literal["cosine", "polynomial", "exponential"] = "cosine"
    warmup: NonNegativeInt = 100  # steps up to the peak
    weight_decay: NonNegativeFloat = 1e-2
    ema: float = 0.998  # decay of the averaged weights; they are what is saved
    mixed_precision: bool = True  # bf16, or fp16 on a GPU without it; float32 on a CPU without it
    foreground: float = 0.75  # fraction of patches centred on an organ
    small_organs: NonNegativeFloat = 0.0  # an organ is drawn in proportion to 1 / volume ** this
    balance: float = 0.0  # share of the cross-entropy averaged by organ; for very small organs
    workers: PositiveInt = 1  # threads that draw the next patches while the network computes
    validate_every: PositiveInt = 500  # steps
    save_every: PositiveInt = 100  # steps
    test_patients: NonNegativeInt = 30  # held out, seen by `training.evaluate` only
    validation_patients: NonNegativeInt = 12  # choose the best weights
    fold: int | None = None  # of five, 0 to 4; instead of `validation_patients`
    seed: NonNegativeInt = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_names(self.name, self.version)
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"foreground is a fraction, got {self.foreground}")
        if not 0 <= self.balance <= 1:
            raise ValueError(f"balance is a share in [0, 1], got {self.balance}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is a decay in [0, 1), got {self.ema}")
        if self.strides is not None:
            _check_levels(self.widths, self.strides)
        if len(self.widths) < 2:
            raise ValueError(f"a U-Net has two levels or more, got widths {self.widths}")
        if self.encoder_width % self.encoder_heads:
            raise ValueError(
                f"encoder_width is a multiple of encoder_heads, got {self.encoder_width} and "
                f"{self.encoder_heads}"
            )
        if self.attention_width % HEADS:
            raise ValueError(
                f"attention_width is a multiple of {HEADS}, got {self.attention_width}"
            )

    @property
    def not_planned(self) -> list[str]:
        """What it says otherwise than its plan."""
        planned = {} if self.plan is None else self.plan.of_config
        return [key for key, value in planned.items() if getattr(self, key) != value]

    @classmethod
    def read(cls, path: Path) -> "TrainConfig":
        """Read a TOML file; relative folders in it are relative to where the command runs.

        Raises:
            ValueError: for unknown keys or values out of range, here or in the plan.
            FileNotFoundError: if there is no such file, or not the plan that it names.
        """
        values = load_toml(path)
        if "plan" in values:
            if not isinstance(values["plan"], str):
                raise ValueError(f"{path}: plan is the path of a plan.toml, in quotation marks")
            plan = Plan.read(Path(values["plan"]))
            values = plan.of_config | values | {"plan": asdict(plan)}
        return validated(cls, values, path)


def _check_levels(widths: Sequence[int], strides: Sequence[Triple]) -> None:
    if len(widths) != len(strides) + 1:
        raise ValueError(
            f"widths have {len(widths)} levels and strides make {len(strides) + 1}: with a plan, "
            "delete `widths` beside it"
        )


def load_toml(path: Path) -> dict[str, Any]:
    """What a file of TOML holds; ValueError if it is none."""
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from error


def validated(kind: type[Read], values: dict[str, Any], path: Path) -> Read:
    """The values of a file as a dataclass; ValueError says what is wrong with which."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"{path}: {explained(error, quoted=True)}") from error
