"""The network that a training run starts with: its shape, and the weights it begins from."""

from dataclasses import replace
from pathlib import Path

import torch

from model.checkpoint import Card, load_network
from model.tiny_vit import LiteMedSamEncoder
from model.unet import Shape, UNet, UNetConfig, channels_last
from training.cases import Dataset
from training.config import TrainConfig

MIN_SIDE = 4
"""Voxels: an axis is not pooled below this, for small organs would vanish."""


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
    z, y, x = (n // cell for n, cell in zip(config.patch, UNetConfig.encoder_patch, strict=True))
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
        encoder_grid=(z, y, x),
        attention_width=config.attention_width,
    )


def plan_strides(spacing_mm: tuple[float, float, float], patch: Shape, levels: int) -> list[Shape]:
    """Which axes to pool between levels, so that features become isotropic and stay useful.

    An axis is halved while it is less than twice as coarse as the finest one (so CT with thick
    slices is pooled in plane first) and at least `MIN_SIDE` voxels remain. After the planning
    of nnU-Net (Isensee et al., Nature Methods 18, 2021).

    Args:
        spacing_mm: of the network's grid, (z, y, x).
        patch: of the network's input, voxels, (z, y, x).
        levels: resolutions wanted; fewer come back where the patch is too small.
    """
    spacing, size, strides = list(spacing_mm), list(patch), list[Shape]()
    for _ in range(levels - 1):
        can = [n % 2 == 0 and n // 2 >= MIN_SIDE for n in size]
        finest = min((s for s, c in zip(spacing, can, strict=True) if c), default=0.0)
        z, y, x = (2 if c and s < 2 * finest else 1 for s, c in zip(spacing, can, strict=True))
        if (z, y, x) == (1, 1, 1):
            break
        strides.append((z, y, x))
        spacing = [s * f for s, f in zip(spacing, (z, y, x), strict=True)]
        size = [n // f for n, f in zip(size, (z, y, x), strict=True)]
    return strides


def check_patch(patch: Shape, network: UNetConfig) -> None:
    """See whether a network can be trained with a patch.

    Raises:
        ValueError: a side is no multiple of what the network pools and its encoder looks at.
    """
    if any(side % m for side, m in zip(patch, network.multiple, strict=True)):
        raise ValueError(
            f"the sides of patch {patch} must be multiples of {network.multiple}, which the "
            "network's strides and its image encoder ask for"
        )


def as_known_to(model: Card, folder: Path, dataset: Dataset) -> Dataset:
    """The data set with the organs of the model to start from, drawn here or not.

    Raises:
        ValueError: the cases have labels for others, or other grey values.
    """
    like = f"prepare them with --like {folder}"
    if others := [name for name in dataset.organs if name not in model.organs]:
        raise ValueError(
            f"the cases have labels for {', '.join(others)}, which {folder} does not know: {like}"
        )
    if model.preprocessing != dataset.preprocessing:
        raise ValueError(
            f"the preprocessing of {folder} is {model.preprocessing}, of the cases "
            f"{dataset.preprocessing}: {like}"
        )
    return replace(dataset, organs=model.organs)


def build_network(config: TrainConfig, dataset: Dataset) -> UNet:
    """The network of `network_config` with the weights that the run begins from.

    Of a model to start from it is that model's. The patch may be another one: positions stay on the
    grid that they were learned on, and are interpolated as they are for any tile.

    Raises:
        BadCheckpoint: if the weights to start from cannot be used.
        ValueError: if the plan is for another grid.
    """
    torch.manual_seed(config.seed)
    if config.start is not None:
        network = load_network(config.start)[0].requires_grad_(True)
        if isinstance(network.image_encoder, LiteMedSamEncoder):
            network.image_encoder.requires_grad_(False)
    else:
        network = UNet(network_config(config, dataset))
        if isinstance(network.image_encoder, LiteMedSamEncoder):
            network.image_encoder.load_pretrained()
    return channels_last(network)
