"""The loss: cross-entropy and Dice that leave out what a case does not label."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.cases import UNKNOWN

Mean = Callable[[Tensor], Tensor]
"""A number of this process, averaged over all processes that share the batch."""


def alone(value: Tensor) -> Tensor:
    """The `Mean` of a process that has the whole batch."""
    return value


def partial_label_loss(
    logits: Tensor, target: Tensor, labelled: Tensor, balance: float = 0.0, mean: Mean = alone
) -> Tensor:
    """Cross-entropy plus soft Dice loss over the organs that each case labels.

    Where a case lacks an organ's label, its background may be that organ: background and
    unlabelled organs count as one class there ("marginal loss", Shi et al., Medical Image Analysis
    70, 2021), and the organ has no Dice term. Nor has one that is not in the patch: its term could
    only push the organ down, and did so until small organs were never found.

    Args:
        logits: ``(B, K, Z, Y, X)``.
        target: ``(B, Z, Y, X)`` int64 classes, or `UNKNOWN`.
        labelled: ``(B, K)`` bool; background always true.
        balance: share of the cross-entropy that is averaged by organ and not by voxel, in [0, 1].
            A lens of ten voxels is otherwise never found: its gradient drowns in background.
        mean: used on what the loss is divided by, so that the mean of all processes' losses (and of
            their gradients) is that of the whole batch, however voxels and organs are dealt out.

    Returns:
        A scalar: log K + 1 or less for a network that knows nothing, towards 0 for a perfect one.
    """
    target = target.flatten(1)  # (B, N)
    known = (target != UNKNOWN).float()
    target = torch.where(known > 0, target, 0)
    p = logits.float().softmax(dim=1).flatten(2)  # (B, K, N)
    p_true = p.gather(1, target[:, None])[:, 0]  # (B, N)
    missing = ~labelled
    missing[:, 0] = True  # background, and what hides in it
    p_hidden = torch.bmm(missing.float()[:, None], p)[:, 0]  # (B, N)
    likelihood = torch.where(target == 0, p_hidden, p_true).clamp(min=1e-30)
    surprise = -likelihood.log() * known  # (B, N)
    by_voxel = surprise.sum() / mean(known.sum()).clamp(min=1)

    # Sums over voxels as products and scatters: K one-hot volumes would take most of a step.
    sizes = torch.bmm(p, known[..., None])[..., 0]  # (B, K)
    empty = torch.zeros_like(sizes)
    voxels = empty.scatter_add(1, target, known)
    overlap = empty.scatter_add(1, target, p_true * known)
    dice = (2 * overlap / (sizes + voxels).clamp(min=1e-6))[:, 1:]
    counted = (voxels[:, 1:] > 0).float()
    organs = mean(counted.sum())
    organs = torch.where(organs > 0, organs, 1)
    by_organ = (empty.scatter_add(1, target, surprise) / voxels.clamp(min=1))[:, 1:].sum() / organs
    dice_loss = ((1 - dice) * counted).sum() / organs
    return (1 - balance) * by_voxel + balance * by_organ + dice_loss


def deep_loss(
    levels: list[Tensor],
    target: Tensor,
    labelled: Tensor,
    balance: float = 0.0,
    mean: Mean = alone,
) -> Tensor:
    """`partial_label_loss` of every decoder level, each coarser one counting half as much."""
    weights = [0.5**i for i in range(len(levels))]
    total = levels[0].new_zeros(())
    for weight, logits in zip(weights, levels, strict=True):
        coarse = F.interpolate(target[:, None].float(), logits.shape[2:], mode="nearest-exact")
        coarse = coarse[:, 0].long()
        total = total + weight * partial_label_loss(logits, coarse, labelled, balance, mean)
    return total / sum(weights)
