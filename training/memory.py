"""The memory that a training step takes, estimated without taking it.

The network runs on torch's meta device, where tensors have shapes and no values, and what autograd
keeps for the way back is counted.
"""

from functools import cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.unet import Shape, UNet, UNetConfig
from training.config import TrainConfig
from training.loss import deep_loss

OVERHEAD_GIB = 1.0
"""For the CUDA context, the workspace of convolutions and what the allocator cannot use."""

GRADIENTS = 3
"""Gradients of the largest features that live at once on the way back: a block's, its skip's and
the workspace of the convolution between them."""

GIB = 2**30


class Footprint(NamedTuple):
    """What a training step of a network keeps, in float32 numbers."""

    parameters: int
    features: float  # per voxel of the patches, until the way back
    slices: float  # per slice, the same: LiteMedSAM's encoder sees every slice at one size
    loss: float  # per voxel, kept by the loss, which always works in float32


def step_gib(network: UNetConfig, patch: Shape, batch: int, config: TrainConfig) -> float:
    """GiB that a training step takes on one device, `OVERHEAD_GIB` included.

    Args:
        network: what is trained.
        patch: voxels (z, y, x).
        batch: patches of this device.
        config: its optimiser and precision count.
    """
    kept = footprint(network)
    half = 0.5 if config.mixed_precision else 1.0
    slices, voxels = batch * patch[0], batch * prod(patch)
    largest = 2 * network.widths[0]  # channels: features and skip before the last block
    features = voxels * (kept.features + GRADIENTS * largest) + slices * kept.slices
    copies = 3 + (2 if config.optimiser == "adamw" else 1)  # weights, gradients, average; means
    weights = kept.parameters * (copies + (0.5 if config.mixed_precision else 0.0))
    return 4 * (half * features + voxels * kept.loss + weights) / GIB + OVERHEAD_GIB


@cache
def footprint(network: UNetConfig) -> Footprint:
    """Count what a network and its loss keep: on slices of two sizes, to tell slices from voxels.

    On small ones, for on the meta device attention keeps a matrix that it keeps on no other.
    """
    with torch.device("meta"):
        net = UNet(network)
    for module in net.modules():
        if type(module) in {nn.Conv3d, nn.ConvTranspose3d}:
            module.register_forward_hook(_laid_out_as_elsewhere)
    z, y, x = network.multiple
    slices, voxels = 4 * z, 16 * z * y * x  # of two patches of twice the least size
    features, loss = _kept(net, (2 * z, 2 * y, 2 * x))
    wider, _ = _kept(net, (2 * z, 4 * y, 4 * x))
    per_voxel = (sum(wider) - sum(features)) / (3 * voxels)
    return Footprint(
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        features=per_voxel,
        slices=(sum(features) - per_voxel * voxels) / slices,
        loss=sum(loss) / voxels,
    )


def _kept(net: UNet, patch: Shape) -> tuple[list[float], list[float]]:
    """Sizes of what the network and its loss keep of two patches, in float32 numbers."""
    with torch.device("meta"):
        image = torch.empty(2, 1, *patch)  # batch normalisation refuses to normalise one value
        target = torch.empty(2, *patch, dtype=torch.long)
        labelled = torch.ones(2, net.config.num_classes, dtype=torch.bool)
    known = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    features, loss = list[float](), list[float]()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: _note(t, known, features), _as_is):
        levels = net.forward_deep(image)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: _note(t, known, loss), _as_is):
        total = deep_loss(levels, target, labelled)
    del total  # only now may storages be freed, and their names be used again
    return features, loss


def _laid_out_as_elsewhere(module: nn.Module, given: object, features: Tensor) -> Tensor:
    """On the meta device alone convolutions forget channels last, and copies would be counted."""
    return features.contiguous(memory_format=torch.channels_last_3d)


def _note(tensor: Tensor, known: set[int], kept: list[float]) -> Tensor:
    """Write down the size of a saved tensor, once for all that share its storage."""
    storage = tensor.untyped_storage()
    if storage._cdata not in known:
        known.add(storage._cdata)
        kept.append(storage.nbytes() / 4)
    return tensor


def _as_is(tensor: Tensor) -> Tensor:
    return tensor
