"""The loss: cross-entropy and Dice that leave out what a case does not label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.cases import UNKNOWN


def partial_label_loss(logits: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice loss over the organs that each case labels.

    Where a case lacks an organ's label, its background may be that organ: background and
    unlabelled organs count as one class there ("marginal loss", Shi et al., Medical Image Analysis
    70, 2021), and the organ has no Dice term. Nor has one that is not in the patch: its term could
    only push the organ down, and did so until small organs were never found.

    Args:
        logits: ``(B, K, Z, Y, X)``.
        target: ``(B, Z, Y, X)`` int64 classes, or `UNKNOWN`.
        labelled: ``(B, K)`` bool; background always true.

    Returns:
        A scalar, about 2 for a network that knows nothing and towards 0 for a perfect one.
    """
    known = target != UNKNOWN
    target = torch.where(known, target, 0)
    log_p = logits.float().log_softmax(dim=1)
    missing = ~labelled
    missing[:, 0] = True  # background, and what hides in it
    hidden = log_p.masked_fill(~missing[:, :, None, None, None], -torch.inf).logsumexp(dim=1)
    organs = log_p.masked_fill(missing[:, :, None, None, None], 0.0)
    picked = organs.gather(1, target[:, None])[:, 0]  # (B, Z, Y, X)
    log_likelihood = torch.where(target == 0, hidden, picked)
    cross_entropy = -(log_likelihood * known).sum() / known.sum().clamp(min=1)

    p = log_p[:, 1:].exp() * known[:, None]
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1)[:, 1:] * known[:, None]
    dims = (2, 3, 4)
    overlap = (p * truth).sum(dims)  # (B, K - 1)
    voxels = truth.sum(dims)
    dice = 2 * overlap / (p.sum(dims) + voxels).clamp(min=1e-6)
    counted = (voxels > 0).float()
    dice_loss = ((1 - dice) * counted).sum() / counted.sum().clamp(min=1)
    return cross_entropy + dice_loss


def deep_loss(levels: list[Tensor], target: Tensor, labelled: Tensor) -> Tensor:
    """`partial_label_loss` of every decoder level, each coarser one counting half as much."""
    weights = [0.5**i for i in range(len(levels))]
    total = levels[0].new_zeros(())
    for weight, logits in zip(weights, levels, strict=True):
        coarse = F.interpolate(target[:, None].float(), logits.shape[2:], mode="nearest-exact")
        total = total + weight * partial_label_loss(logits, coarse[:, 0].long(), labelled)
    return total / sum(weights)
