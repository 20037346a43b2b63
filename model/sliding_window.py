"""Tiled inference: a volume of any size through a network of fixed tile, blended by Gaussians."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, int, int]

SURE = 100.0
"""Logit of the background where nobody looked."""

DECIDES = 0.15
"""A tile is run if it has this share of the largest weight of some voxel of the body."""


class Cancelled(Exception):
    """Whoever asked for this no longer wants it."""


def never() -> bool:
    """The `cancelled` of a run that nobody will cancel."""
    return False


def ignore(fraction: float) -> None:
    """The `progress` of a run that nobody watches."""


@torch.inference_mode()
def predict_tiled(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    tile: Shape,
    num_classes: int,
    *,
    overlap: float = 0.5,
    air: float | None = None,
    together: int = 1,
    progress: Callable[[float], None] = ignore,
    cancelled: Callable[[], bool] = never,
) -> Tensor:
    """Class probabilities of a volume; overlapping tiles count most near their centres.

    Logits are averaged, as in nnU-Net, and become probabilities at the end.

    Args:
        network: ``(B, 1, *tile)`` to ``(B, K, *tile)`` logits.
        image: ``(Z, Y, X)``; where smaller than the tile it is padded with its own minimum, air.
        tile: voxels (z, y, x).
        num_classes: ``K``, background included.
        overlap: smallest fraction of a tile shared with its neighbour, in [0, 1).
        air: what is not above this value is no body. Tiles that would decide nothing in the body
            are not run; what no tile sees is background. None: all are run.
        together: tiles a pass, the largest ``B``.
        progress: told the fraction done, 0 to 1, after every pass.
        cancelled: asked before every pass.

    Returns:
        ``(K, Z, Y, X)`` float16 probabilities on `image`'s device: they are the largest thing in
        memory.

    Raises:
        Cancelled: as soon as `cancelled` says so.
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
    total = padded.new_zeros(num_classes, *padded.shape, dtype=torch.float16)
    norm = padded.new_zeros(padded.shape)
    for first in range(0, len(windows), together):
        if cancelled():
            raise Cancelled
        these = windows[first : first + together]
        tiles = torch.stack([padded[window] for window in these])  # (B, *tile)
        for window, logits in zip(these, network(tiles[:, None]), strict=True):  # (K, *tile)
            total[(slice(None), *window)] += logits.float().mul_(weight).half()
            norm[window] += weight
        progress((first + len(these)) / len(windows))
    inside = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, shape, strict=True))
    for plane, weights in zip(total.unbind(1), norm, strict=True):  # (K, Y, X), (Y, X)
        seen = weights > 0
        plane[0][~seen] = SURE
        plane.copy_((plane.float() / weights.where(seen, 1)).softmax(dim=0))
    return total[(slice(None), *inside)]


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

    Sigma is an eighth of a side, and its centre the voxel behind the tile's middle.
    """
    axes = [torch.exp(-0.5 * ((torch.arange(n) - n // 2) / (n / 8)) ** 2) for n in tile]
    bump = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return bump.clamp(min=1e-4)
