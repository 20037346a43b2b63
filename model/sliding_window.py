"""Tiled inference: a volume of any size through a network of fixed tile, blended by Gaussians."""

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, int, int]


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
    progress: Callable[[float], None] = ignore,
    cancelled: Callable[[], bool] = never,
) -> Tensor:
    """Class probabilities of a volume; overlapping tiles count most near their centres.

    Args:
        network: ``(1, 1, *tile)`` to ``(1, K, *tile)`` logits.
        image: ``(Z, Y, X)``; where smaller than the tile it is padded with its own minimum, air.
        tile: voxels (z, y, x).
        num_classes: ``K``, background included.
        overlap: smallest fraction of a tile shared with its neighbour, in [0, 1).
        progress: told the fraction done, 0 to 1, after every tile.
        cancelled: asked before every tile.

    Returns:
        ``(K, Z, Y, X)`` float32 probabilities on `image`'s device.

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
    total = padded.new_zeros(num_classes, *padded.shape)
    norm = padded.new_zeros(padded.shape)
    starts = [_starts(n, t, overlap) for n, t in zip(padded.shape, tile, strict=True)]
    corners = list(product(*starts))
    for done, corner in enumerate(corners):
        if cancelled():
            raise Cancelled
        window = tuple(slice(c, c + t) for c, t in zip(corner, tile, strict=True))
        logits = network(padded[window][None, None])[0].float()  # (K, *tile)
        total[(slice(None), *window)] += logits.softmax(dim=0) * weight
        norm[window] += weight
        progress((done + 1) / len(corners))
    inside = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, shape, strict=True))
    total /= norm
    return total[(slice(None), *inside)]


def _starts(size: int, tile: int, overlap: float) -> list[int]:
    """Evenly spaced first voxels of the tiles that cover an axis."""
    count = 1 + -(-(size - tile) // max(int(tile * (1 - overlap)), 1))
    return [round(i * (size - tile) / max(count - 1, 1)) for i in range(count)]


def _bump(tile: Shape) -> Tensor:
    """A Gaussian over the tile, sigma an eighth of its sides as in nnU-Net, never zero."""
    axes = [torch.exp(-0.5 * (torch.linspace(-4, 4, n) ** 2)) for n in tile]
    bump = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return bump.clamp(min=1e-4)
