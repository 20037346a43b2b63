"""The network that a training run starts with: its shape, and the weights it begins from."""

from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import load_network
from model.tiny_vit import LiteMedSamEncoder
from model.unet import UNet, UNetConfig, channels_last, plan_strides
from training.cases import Dataset
from training.config import TrainConfig


def network_config(config: TrainConfig, dataset: Dataset) -> UNetConfig:
    """The network of a configuration, for the organs and the grid of a data set.

    Raises:
        ValueError: if the configuration's plan is for another grid.
    """
    spacing_mm = dataset.preprocessing.spacing_mm
    if config.plan is not None and config.plan.spacing_mm != spacing_mm:
        raise ValueError(
            f"the plan is for {config.plan.spacing_mm} mm (z, y, x), the cases in {config.cases} "
            f"are on {spacing_mm} mm: prepare them again or plan from them"
        )
    strides = config.strides
    if strides is None:
        strides = tuple(plan_strides(spacing_mm, config.patch, len(config.widths)))
    z, y, x = config.patch
    return UNetConfig(
        num_classes=len(dataset.organs) + 1,
        widths=config.widths[: len(strides) + 1],
        strides=strides,
        attention=config.attention,
        norm=config.norm,
        image_encoder=config.image_encoder,
        encoder_mean_hu=dataset.preprocessing.mean_hu,
        encoder_std_hu=dataset.preprocessing.std_hu,
        encoder_width=config.encoder_width,
        encoder_depth=config.encoder_depth,
        encoder_heads=config.encoder_heads,
        encoder_grid=(z // 4, y // 16, x // 16),
        attention_width=config.attention_width,
    )


def build_network(config: TrainConfig, dataset: Dataset) -> UNet:
    """The network of `network_config` with the weights that the run begins from.

    Raises:
        BadCheckpoint: if the weights to start from cannot be used.
        ValueError: if they are of another network, or the plan is for another grid.
    """
    torch.manual_seed(config.seed)
    network = UNet(network_config(config, dataset))
    if isinstance(network.image_encoder, LiteMedSamEncoder):
        network.image_encoder.load_pretrained()
    if config.start is not None:
        network.load_state_dict(_starting_weights(config.start, network.config))
    return channels_last(network)


def _starting_weights(folder: Path, config: UNetConfig) -> dict[str, Tensor]:
    """Weights of a finished model, for a network of `config` to go on from."""
    trained, _ = load_network(folder)
    if trained.config != config:
        theirs, ours = vars(trained.config), vars(config)
        differing = ", ".join(
            f"{key} {theirs[key]} and not {ours[key]}" for key in ours if theirs[key] != ours[key]
        )
        raise ValueError(f"{folder} is another network than the run's: {differing}")
    return trained.state_dict()
