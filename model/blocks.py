"""The blocks that the encoder-decoder is built from; the four networks differ in these alone.

Letters in shapes: batch ``B``, channels ``C``, and ``(Z, Y, X)`` for head-to-feet, front-to-back
and right-to-left extents.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "instance"]


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """The normalisation of a configuration: `batch` as in the paper, or `instance`."""
    if norm == "batch":
        return nn.BatchNorm3d(channels)
    return InstanceNorm(channels)


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation: one group per channel, quicker than nn.InstanceNorm3d on a CPU.

    Shapes: ``(B, C, Z, Y, X)`` in and out, channels last in memory.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, input: Tensor) -> Tensor:
        return self.of_gpu(input) if input.is_cuda else super().forward(input)

    def of_gpu(self, input: Tensor) -> Tensor:
        """The same where autocast would take float32 for groups, and twice the memory."""
        normalised = F.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)
        return normalised.contiguous(memory_format=torch.channels_last_3d)


class ConvNormAct(nn.Sequential):
    """3x3x3 convolution, normalisation, ReLU.

    Shapes: ``(B, C_in, Z, Y, X)`` in, ``(B, C, Z, Y, X)`` out.
    """

    def __init__(self, channels_in: int, channels: int, norm: Norm) -> None:
        super().__init__(
            nn.Conv3d(channels_in, channels, 3, padding=1, bias=False),
            norm_layer(norm, channels),
            nn.ReLU(inplace=True),
        )


class MaxPool(nn.MaxPool3d):
    """Maximum pooling in the precision of the features: what is largest does not depend on it."""

    def forward(self, input: Tensor) -> Tensor:
        # Autocast on a CPU would pool in float32, and copy the features there and back.
        with torch.autocast("cpu", enabled=False):
            return super().forward(input)


class Pointwise(nn.Conv3d):
    """1x1x1 convolution: mixes each voxel's channels.

    Shapes: ``(B, C_in, Z, Y, X)`` in, ``(B, C, Z, Y, X)`` out, channels last in memory.
    """

    def __init__(self, channels_in: int, channels: int, *, bias: bool = True) -> None:
        super().__init__(channels_in, channels, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        # With channels last this is one matrix product. PyTorch's convolution by one thread copies
        # all features to channels first for it, and those around it copy them back.
        by_voxel = F.linear(input.movedim(1, -1), self.weight.flatten(1), self.bias)
        return by_voxel.movedim(-1, 1)


class Head(Pointwise):
    """Features to the logits of each class, class by class in memory: who takes them asks by class.

    Shapes: ``(B, C, Z, Y, X)`` in, channels last in memory; ``(B, K, Z, Y, X)`` out.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)

    def forward(self, input: Tensor) -> Tensor:
        voxels = input.movedim(1, -1).flatten(1, 3).transpose(1, 2)  # (B, C, Z Y X)
        weight = self.weight.flatten(1).expand(len(input), -1, -1)  # (B, K, C)
        assert self.bias is not None
        return torch.baddbmm(self.bias[:, None], weight, voxels).unflatten(2, input.shape[2:])


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Multi-head scaled dot-product attention (Vaswani et al., NeurIPS 2017).

    Shapes: queries ``(B, Q, D)``, keys and values ``(B, N, D)``; ``(B, Q, D)`` out.
    """
    q, k, v = (
        t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (queries, keys, values)
    )  # (B, heads, Q or N, D / heads)
    if q.is_cpu and q.dtype == torch.bfloat16:
        # There PyTorch takes four to seven times as long for the gradient as in float32.
        with torch.autocast("cpu", enabled=False):
            attended = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    else:
        attended = F.scaled_dot_product_attention(q, k, v)
    return attended.transpose(1, 2).flatten(2)


class ScSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation (Roy et al., MICCAI 2018).

    Shapes: ``(B, C, Z, Y, X)`` in, how much of each feature is let through out, of the same shape.
    The gate by space and that by channel are combined by maximum.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // 2
        self.channel = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels)
        )
        self.space = Pointwise(channels, 1)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        by_channel = torch.sigmoid(self.channel(x.mean(dim=(2, 3, 4))))[..., None, None, None]
        return torch.maximum(by_channel, torch.sigmoid(self.space(x)))


class AttentionGate(nn.Module):
    """Weigh a skip connection by what the level below saw (Oktay et al., MIDL 2018).

    Shapes: skip ``(B, C, Z, Y, X)`` and the upsampled features of the level below, of the same
    shape; the skip's shape out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.of_skip = Pointwise(channels, inner)
        self.of_gate = Pointwise(channels, inner, bias=False)
        self.weight = Pointwise(inner, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        attention = torch.relu(self.of_skip(skip) + self.of_gate(gate))
        return skip * torch.sigmoid(self.weight(attention))


class ResidualBlock(nn.Module):
    """Path one: (conv, norm, ReLU) repeated, then recalibration. Path two: the input. Added.

    Shapes: ``(B, C_in, Z, Y, X)`` in, ``(B, C, Z, Y, X)`` out. `recalibration` takes the features
    and the image embedding (None unless the network has an image encoder), and gives what the
    features are multiplied by; the plain U-Net has none.
    """

    def __init__(
        self, channels_in: int, channels: int, *, norm: Norm, recalibration: nn.Module | None
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNormAct(channels_in, channels, norm), ConvNormAct(channels, channels, norm)
        )
        self.recalibration = recalibration
        same = channels_in == channels
        self.skip = nn.Identity() if same else Pointwise(channels_in, channels, bias=False)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        features, skip = self.body(x), self.skip(x)
        if self.recalibration is None:
            return features + skip
        # One pass over the features: they are many, and little is done with each.
        return torch.addcmul(skip, features, self.recalibration(features, embedding))
