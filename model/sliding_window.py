"""Tiled inference: a volume of any size through a network of fixed tile, blended by Gaussians."""

from collections.abc import Callable, Sequence
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from model.checkpoint import BadCheckpoint
from model.unet import Shape

SURE = 100.0
"""Logit of the background where nobody looked."""

DECIDES = 0.15
"""A tile is run if it has this share of the largest weight of some voxel of the body."""


class Cancelled(Exception):
    """Whoever asked for this no longer wants it."""


class NotFinite(BadCheckpoint):
    """The network's numbers are NaN or infinite: of its weights, not of the patient."""


def never() -> bool:
    """The `cancelled` of a run that nobody will cancel."""
    return False


def ignore(fraction: float) -> None:
    """The `progress` of a run that nobody watches."""


@torch.inference_mode()
def predict_tiled(
    features: Callable[[Tensor], Tensor],
    head: Callable[[Tensor], Tensor],
    image: Tensor,
    tile: Shape,
    *,
    channels: int,
    num_classes: int,
    overlap: float = 0.5,
    air: float | None = None,
    together: int = 1,
    progress: Callable[[float], None] = ignore,
    cancelled: Callable[[], bool] = never,
) -> Tensor:
    """Class probabilities of a volume; overlapping tiles count most near their centres.

    Averaged are the features that the head is given, and not its logits as in nnU-Net: a head is
    linear, so that this is the same, and asked once for each voxel and not in each tile.

    Args:
        features: ``(B, 1, *tile)`` to ``(B, C, *tile)``, best with channels last in memory.
        head: ``(1, C, 1, Y, X)`` to ``(1, K, 1, Y, X)`` logits; linear but for a bias.
        image: ``(Z, Y, X)``; where smaller than the tile it is padded with its own minimum, air.
        tile: voxels (z, y, x).
        channels: ``C``.
        num_classes: ``K``, background included.
        overlap: smallest fraction of a tile shared with its neighbour, in [0, 1).
        air: what is not above this value is no body. Tiles that would decide nothing in the body
            are not run; what no tile sees is background. None: all are run.
        together: tiles a pass, the largest ``B``.
        progress: told the fraction done, 0 to 1, after every pass.
        cancelled: asked before every pass.

    Returns:
        ``(K, Z, Y, X)`` float16 probabilities on `image`'s device, slice by slice in memory. They
        are the largest thing there, and lie where the features were.

    Raises:
        Cancelled: as soon as `cancelled` says so.
        NotFinite: a logit is infinite or NaN, which would read as background.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is a fraction in [0, 1), got {overlap}")
    shape = image.shape
    missing = [max(t - n, 0) for n, t in zip(shape, tile, strict=True)]
    padding = [n for m in reversed(missing) for n in (m // 2, m - m // 2)]
    padded = F.pad(image, padding, value=float(image.min()))
    weight = _bump(tile).to(image)  # (*tile)
    starts = [_starts(n, t, overlap) for n, t in zip(padded.shape, tile, strict=True)]
    windows = [
        tuple(slice(c, c + t) for c, t in zip(corner, tile, strict=True))
        for corner in product(*starts)
    ]
    if air is not None:
        windows = _deciding(windows, padded > air, weight)
    depth, *plane = padded.shape
    area = prod(plane)
    memory = padded.new_zeros(depth, max(channels, num_classes) * area, dtype=torch.float16)
    total = memory[:, : channels * area].view(depth, *plane, channels)
    norm = padded.new_zeros(padded.shape)
    for first in range(0, len(windows), together):
        if cancelled():
            raise Cancelled
        these = windows[first : first + together]
        tiles = torch.stack([padded[window] for window in these])  # (B, *tile)
        for window, found in zip(these, features(tiles[:, None]), strict=True):  # (C, *tile)
            total[window] += (found.movedim(0, -1) * weight[..., None]).half()
            norm[window] += weight
        progress((first + len(these)) / len(windows))
    checked = padded.new_zeros(())  # asked once at the end: a GPU would wait for each answer
    probabilities = memory[:, : num_classes * area].view(depth, num_classes, *plane)
    for summed, weights, out in zip(total, norm, probabilities, strict=True):  # one slice
        seen = weights > 0
        mean = summed.float() / weights.where(seen, 1)[..., None]  # (Y, X, C)
        with torch.autocast(mean.device.type, enabled=False):  # which class wins is told exactly
            logits = head(mean.movedim(-1, 0)[None, :, None])[0, :, 0]  # (K, Y, X)
        checked += logits.sum()
        logits[0][~seen] = SURE
        out.copy_(logits.softmax(dim=0))
    if not checked.isfinite():
        raise NotFinite(
            "the network answers with numbers that are infinite or NaN, so that nothing it says "
            "can be used: its weights are damaged, or its features are beyond half precision"
        )
    inside = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, shape, strict=True))
    return probabilities.transpose(0, 1)[(slice(None), *inside)]


def _deciding(
    windows: Sequence[tuple[slice, ...]], body: Tensor, weight: Tensor
) -> list[tuple[slice, ...]]:
    """The tiles with some voxel of the body where they count, beside the one that counts most.

    No voxel of the body is left without its best tile. What a voxel loses are tiles at whose edge
    it lies.
    """
    largest = weight.new_zeros(body.shape)
    for window in windows:
        torch.maximum(largest[window], weight, out=largest[window])
    return [w for w in windows if ((weight >= DECIDES * largest[w]) & body[w]).any()]


def _starts(size: int, tile: int, overlap: float) -> list[int]:
    """Evenly spaced first voxels of the tiles that cover an axis."""
    count = 1 + -(-(size - tile) // max(int(tile * (1 - overlap)), 1))
    return [round(i * (size - tile) / max(count - 1, 1)) for i in range(count)]


def _bump(tile: Shape) -> Tensor:
    """A Gaussian over the tile, never zero: nnU-Net's, so that the same weights give its masks.

    Sigma is an eighth of a side, its centre the voxel behind the tile's middle, its height ten. At
    the ends of a volume corners of tiles are all there is, so that the least counts as well: what
    is added in float16 must still tell 1e-5 of a feature.
    """
    axes = [torch.exp(-0.5 * ((torch.arange(n) - n // 2) / (n / 8)) ** 2) for n in tile]
    bump = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return 10 * bump.clamp(min=1e-6)
