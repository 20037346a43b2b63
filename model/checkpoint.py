"""Weights and their card: a folder with weights.safetensors and card.json, loaded strictly.

The card says all that the weights need to be used: network, preprocessing, organs, tile, what
they were trained on and how well they did on patients they had not seen.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as as_safetensors
from torch import Tensor

from model.explained import explained
from model.organs import BY_NAME, Organ
from model.preprocess import Preprocessing
from model.unet import UNet, UNetConfig
from model.unusable import Unusable
from model.whole_files import whole_files

WEIGHTS = "weights.safetensors"
CARD = "card.json"
NOTICE = "Research use only. Not a medical device; every contour must be reviewed."


class BadCheckpoint(Unusable):
    """The weights or their card cannot be used; the message says what is wrong with which file."""


PRINTABLE = r"[!-\[\]-~]"
"""What DICOM's short texts may hold in every character set; a backslash would part them."""


def check_names(name: str, version: str) -> None:
    """Of a model, which stand in every result and in paths.

    Raises:
        ValueError: they could not stand there.
    """
    for what, value, longest in (("name", name, 64), ("version", version, 48)):
        if not re.fullmatch(f"{PRINTABLE}{{1,{longest}}}", value):
            raise ValueError(
                f"the {what} of a model has 1 to {longest} letters, digits and signs of ASCII, no "
                f"space and no backslash; got {value!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the weights are and need. `organs` are those trained on, in channel order."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str  # folder name under model/weights
    version: str  # semantic; a change of weights is a change of version
    description: str  # one sentence for the person who chooses a model
    synthetic: bool = False  # learned from no patient: of no use on any, which all results say
    organs: tuple[str, ...]  # names in model/organs.py; channel i + 1 of the network is organs[i]
    network: UNetConfig
    preprocessing: Preprocessing
    tile: tuple[int, int, int]  # voxels (z, y, x) on the network's grid: the training patch
    overlap: float = 0.5  # smallest fraction of a tile that its neighbours share; 0.5: nnU-Net's
    training: dict[str, Any]  # data, steps, seed, hours: for the reader
    seen: tuple[str, ...] = ()  # hashes of the CTs that trained or chose them; (): it is not known
    measured: dict[str, dict[str, float]]  # organ -> dice_mean, dice_sd, patients: unseen ones
    weights_sha256: str = ""  # hex digest of weights.safetensors, set by `save`
    notice: str = NOTICE

    def __post_init__(self) -> None:
        check_names(self.name, self.version)
        if unknown := [name for name in self.organs if name not in BY_NAME]:
            raise ValueError(f"unknown organs {unknown}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap is a fraction in [0, 1), got {self.overlap}")
        if self.network.num_classes != len(self.organs) + 1:
            raise ValueError(
                f"{len(self.organs)} organs need {len(self.organs) + 1} classes, "
                f"the network has {self.network.num_classes}"
            )

    def organ_rows(self) -> tuple[Organ, ...]:
        """The organs as rows of the table, in channel order."""
        return tuple(BY_NAME[name] for name in self.organs)

    def measured_rows(self) -> tuple[Organ, ...]:
        """Those of them that were found in unseen patients. Patients get no others."""
        return tuple(
            organ
            for organ in self.organ_rows()
            if self.measured.get(organ.name, {}).get("dice_mean", 0.0) > 0
        )

    def to_json(self) -> dict[str, Any]:
        """As written to card.json."""
        return asdict(self)


def save(folder: Path, network: UNet, card: Card) -> Card:
    """Write weights (half precision) and card to `folder`; the card comes back with its hash.

    A model that is there already stays whole until the new one is on the disk.

    Raises:
        BadCheckpoint: if a weight is beyond half precision.
        OSError: it could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in network.state_dict().items()
    }
    _check_finite(folder, state)
    content = as_safetensors(state)
    values = card.to_json() | {"weights_sha256": hashlib.sha256(content).hexdigest()}
    with whole_files(folder / WEIGHTS, folder / CARD) as (weights_file, card_file):
        weights_file.write(content)
        card_file.write((json.dumps(values, indent=2) + "\n").encode())
    return read_card(folder)


def read_card(folder: Path) -> Card:
    """The card alone.

    Raises:
        BadCheckpoint: if there is none, or it does not say what a card must say.
    """
    path = folder / CARD
    try:
        return TypeAdapter(Card).validate_json(path.read_bytes())
    except OSError as error:
        raise BadCheckpoint(f"no model at {folder}: {CARD}: {error.strerror}") from error
    except ValidationError as error:
        raise BadCheckpoint(f"{path} is not a model card: {explained(error)}") from error


def load_network(folder: Path) -> tuple[UNet, Card]:
    """The network with its weights, on the CPU in float32, ready for inference.

    Raises:
        BadCheckpoint: if a file is missing or damaged, or weights and card do not belong together.
    """
    card = read_card(folder)
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(f"no weights at {path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != card.weights_sha256:
        raise BadCheckpoint(f"{path} is damaged or not the file that its card describes (SHA-256)")
    try:
        state = load(data)
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is not a safetensors file: {error}") from error
    _check_finite(path, state)
    network = UNet(card.network)
    try:
        network.load_state_dict(state, strict=True)  # float32 again: it copies into what is there
    except RuntimeError as error:
        raise BadCheckpoint(f"{path} does not fit the network of its card: {error}") from error
    return network.eval().requires_grad_(False), card


def _check_finite(where: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse what would silence a channel, or all of them, and read as an answer."""
    for key, value in state.items():
        if not value.isfinite().all():
            raise BadCheckpoint(f"{where}: {key} has values that half precision does not hold")
