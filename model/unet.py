"""The network: one residual encoder-decoder; the four compared networks are configurations.

U-Net, Attention U-Net, SE U-Net and nnSAM-UNet of Lin and Zhang (Advances in Clinical Medicine
16(3), 2026, 2644-2650) differ in `UNetConfig.attention` and in nothing else.
"""

from dataclasses import dataclass
from math import lcm, prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.attention import SamAttention
from model.blocks import (
    AttentionGate,
    ConvNormAct,
    Head,
    MaxPool,
    Norm,
    ResidualBlock,
    ScSE,
)
from model.image_encoder import VitEncoder
from model.tiny_vit import SLICE_SIDE, LiteMedSamEncoder

Shape = tuple[int, int, int]  # (Z, Y, X)


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Everything needed to rebuild a network; saved in the card beside its weights."""

    num_classes: int  # background and organs
    widths: tuple[int, ...]  # channels of each level, finest first
    strides: tuple[Shape, ...]  # pooling (z, y, x) between the levels: one fewer than widths
    attention: Literal["plain", "gate", "scse", "sam"] = "sam"
    norm: Norm = "batch"
    image_encoder: Literal["vit", "litemedsam"] = "vit"  # used by "sam" only
    encoder_width: int = 768  # the paper's; a CPU model takes less
    encoder_depth: int = 12
    encoder_heads: int = 12
    encoder_patch: Shape = (4, 16, 16)  # voxels; 16 x 16 in plane as in the paper
    encoder_grid: Shape = (12, 4, 5)  # grid on which the encoder's positions are learned
    encoder_mean_hu: float = 0.0  # what the input was standardised with: "litemedsam" needs HU
    encoder_std_hu: float = 1.0
    litemedsam_every: int = 1  # of so many slices one is embedded
    litemedsam_side: int = SLICE_SIDE  # pixels that it is resized to; both for processors
    attention_width: int = 256  # of the two-way attention; 256 in Segment Anything

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.widths) - 1:
            raise ValueError(f"{len(self.widths)} widths need {len(self.widths) - 1} strides")
        if self.num_classes < 2:
            raise ValueError(f"num_classes counts the background too, got {self.num_classes}")

    @property
    def multiple(self) -> Shape:
        """Every side of an input must be a multiple of this (z, y, x)."""
        pooled = [prod(stride[axis] for stride in self.strides) for axis in range(3)]
        cells = self.encoder_patch if self.image_encoder == "vit" else (self.litemedsam_every, 1, 1)
        if self.attention == "sam":
            pooled = [lcm(p, e) for p, e in zip(pooled, cells, strict=True)]
        return pooled[0], pooled[1], pooled[2]


class UNet(nn.Module):
    """Residual encoder-decoder with max pooling, transposed convolutions and concatenated skips.

    Shapes: ``(B, 1, Z, Y, X)`` in, ``(B, K, Z, Y, X)`` logits out; sides are multiples of
    ``config.multiple``.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.multiple = config.multiple  # reckoned once: a compiler cannot trace how
        widths, strides = config.widths, config.strides
        self.image_encoder = _image_encoder(config)
        self.encoder = nn.ModuleList(
            self._block(c_in, c) for c_in, c in zip((1, *widths[:-1]), widths, strict=True)
        )
        self.pool = nn.ModuleList(MaxPool(stride) for stride in strides)
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(below, c, stride, stride=stride)
            for below, c, stride in zip(widths[1:], widths[:-1], strides, strict=True)
        )
        self.gate = nn.ModuleList(
            AttentionGate(c) for c in widths[:-1] if config.attention == "gate"
        )
        self.decoder = nn.ModuleList(self._block(2 * c, c) for c in widths[:-1])
        self.heads = nn.ModuleList(Head(c, config.num_classes) for c in widths[:-1])

    def _block(self, channels_in: int, channels: int) -> ResidualBlock:
        recalibration: nn.Module | None = None
        if self.config.attention == "scse":
            recalibration = ScSE(channels)
        elif self.image_encoder is not None:
            recalibration = SamAttention(
                channels,
                embedding=self.image_encoder.width,
                organs=self.config.num_classes - 1,
                width=self.config.attention_width,
            )
        return ResidualBlock(
            channels_in, channels, norm=self.config.norm, recalibration=recalibration
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.heads[0](self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """``(B, 1, Z, Y, X)`` to what the first of `heads` is given: ``(B, C, Z, Y, X)``."""
        return self._levels(x)[0]

    def forward_deep(self, x: Tensor) -> list[Tensor]:
        """Logits of every decoder level, finest first, for deep supervision."""
        return [head(y) for head, y in zip(self.heads, self._levels(x), strict=True)]

    def _levels(self, x: Tensor) -> list[Tensor]:
        if any(side % m for side, m in zip(x.shape[2:], self.multiple, strict=True)):
            raise ValueError(f"sides {(*x.shape[2:],)} must be multiples of {self.multiple}")
        # Channels last is what the convolutions of CPUs and of tensor cores are quick with.
        x = x.contiguous(memory_format=torch.channels_last_3d)
        embedding = None if self.image_encoder is None else self.image_encoder(x)
        y, skips = x, []
        for level, block in enumerate(self.encoder):
            y = block(self.pool[level - 1](y) if level else y, embedding)
            skips.append(y)
        skips.pop()
        levels = []
        for level in reversed(range(len(skips))):
            y, skip = self.up[level](y), skips[level]
            if self.gate:
                skip = self.gate[level](skip, y)
            y = self.decoder[level](torch.cat([y, skip], dim=1), embedding)
            levels.append(y)
        return levels[::-1]


def channels_last(network: UNet) -> UNet:
    """The network with the weights of its 3D convolutions laid out as those are quickest with."""
    for weights in network.parameters():
        if weights.dim() == 5:  # LiteMedSAM's are of 2D convolutions
            weights.data = weights.data.contiguous(memory_format=torch.channels_last_3d)
    return network


def fold_normalisation(network: UNet) -> UNet:
    """The network for inference alone: batch normalisation as part of the convolution before it."""
    for block in network.modules():
        if not isinstance(block, ConvNormAct):
            continue
        conv, norm = block[0], block[1]
        if isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
            block[0], block[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network


def _image_encoder(config: UNetConfig) -> VitEncoder | LiteMedSamEncoder | None:
    if config.attention != "sam":
        return None
    if config.image_encoder == "litemedsam":
        return LiteMedSamEncoder(
            mean_hu=config.encoder_mean_hu,
            std_hu=config.encoder_std_hu,
            every=config.litemedsam_every,
            slice_side=config.litemedsam_side,
        )
    return VitEncoder(
        width=config.encoder_width,
        depth=config.encoder_depth,
        heads=config.encoder_heads,
        patch=config.encoder_patch,
        position_grid=config.encoder_grid,
    )
