"""The network that a training run starts with: its shape, and the weights it begins from."""

from pathlib import Path

import torch

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
        litemedsam_every=config.litemedsam_every,
        litemedsam_side=config.litemedsam_side,
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
        ValueError: if they are of other organs or grey values, or the plan is for another grid.
    """
    torch.manual_seed(config.seed)
    if config.start is not None:
        return channels_last(_started_from(config.start, dataset))
    network = UNet(network_config(config, dataset))
    if isinstance(network.image_encoder, LiteMedSamEncoder):
        network.image_encoder.load_pretrained()
    return channels_last(network)


def _started_from(folder: Path, dataset: Dataset) -> UNet:
    """The network of a finished model, to go on from, for the organs and grey values it knows.

    The patch may be another one: positions stay on the grid that they were learned on, and are
    interpolated as they are for any tile.
    """
    trained, card = load_network(folder)
    for what, theirs, ours in (
        ("organs", card.organs, dataset.organs),
        ("preprocessing", card.preprocessing, dataset.preprocessing),
    ):
        if theirs != ours:
            raise ValueError(
                f"the {what} of {folder} are {theirs}, of the cases {ours}: prepare them with "
                f"--like {folder}"
            )
    trained.requires_grad_(True)
    encoder = trained.image_encoder
    if isinstance(encoder, LiteMedSamEncoder):
        encoder.tiny_vit.requires_grad_(encoder.fine_tune)
    return trained
