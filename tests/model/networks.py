"""Networks of a few thousand random weights, small enough to run in a test."""

from pathlib import Path
from typing import Literal

import torch

from model.checkpoint import Card, save
from model.preprocess import Preprocessing
from model.unet import UNet, UNetConfig

AttentionName = Literal["plain", "gate", "scse", "sam"]

ATTENTIONS: tuple[AttentionName, ...] = ("plain", "gate", "scse", "sam")
ORGANS = ("brainstem", "parotid_left", "parotid_right")
TILE = (8, 32, 32)


def tiny_config(
    attention: AttentionName = "sam",
    *,
    image_encoder: Literal["vit", "litemedsam"] = "vit",
) -> UNetConfig:
    return UNetConfig(
        num_classes=len(ORGANS) + 1,
        widths=(4, 8, 8),
        strides=((1, 2, 2), (2, 2, 2)),
        attention=attention,
        norm="instance",
        image_encoder=image_encoder,
        encoder_width=16,
        encoder_depth=1,
        encoder_heads=2,
        encoder_grid=(2, 2, 2),
        attention_width=16,
    )


def tiny_network(config: UNetConfig, *, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(config)


def tiny_card(config: UNetConfig) -> Card:
    return Card(
        name="tiny",
        version="1.2.3",
        description="Random weights, for tests alone.",
        organs=ORGANS,
        network=config,
        preprocessing=Preprocessing(spacing_mm=(9.0, 8.0, 8.0)),
        tile=TILE,
        training={},
        measured={name: {"dice_mean": 0.5} for name in ORGANS},
    )


def save_tiny(folder: Path, *, seed: int = 0) -> UNet:
    """Write a random SAM network with its card to `folder`."""
    network = tiny_network(tiny_config(), seed=seed)
    save(folder, network, tiny_card(network.config))
    return network
