"""The loss: cross-entropy and Dice that leave out what a case does not label."""

from collections.abc import Callable
from typing import Any

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
    apply: Callable[..., Tensor] = _PartialLabelLoss.apply  # which torch does not type
    return apply(logits.flatten(2), target, labelled, balance, mean)


class _PartialLabelLoss(torch.autograd.Function):
    """The loss together with its gradient, which is known by hand.

    Autograd goes over all classes of all voxels a dozen times, and divides by likelihoods that
    float32 no longer knows: of a sure mistake it learned nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, labelled: Tensor, balance: float, mean: Mean
    ) -> Tensor:
        precise = torch.promote_types(logits.dtype, torch.float32)
        p = logits.softmax(dim=1, dtype=precise)  # (B, K, N)
        target = target.flatten(1)  # (B, N)
        known = (target != UNKNOWN).to(precise)
        target = torch.where(known > 0, target, 0)
        background = (target == 0).to(precise)
        p_true = p.gather(1, target[:, None])[:, 0]  # (B, N)
        missing = (~labelled).to(precise)
        missing[:, 0] = 1  # background, and what hides in it
        p_hidden = torch.bmm(missing[:, None], p)[:, 0]  # (B, N)
        likelihood = torch.where(target == 0, p_hidden, p_true).clamp(min=1e-30)
        surprise = -likelihood.log() * known  # (B, N)
        voxels_known = mean(known.sum()).clamp(min=1)
        by_voxel = surprise.sum() / voxels_known

        # Sums over voxels as products and scatters: K one-hot volumes would take most of a step.
        sizes = torch.bmm(p, known[..., None])[..., 0]  # (B, K)
        empty = torch.zeros_like(sizes)
        voxels = empty.scatter_add(1, target, known)
        overlap = empty.scatter_add(1, target, p_true * known)
        both = (sizes + voxels).clamp(min=1e-6)
        counted = (voxels > 0).to(precise)
        counted[:, 0] = 0  # background has no Dice
        organs = mean(counted.sum())
        organs = torch.where(organs > 0, organs, 1)
        share = counted / organs
        dice_loss = ((1 - 2 * overlap / both) * share).sum()
        by_organ_voxel = share / voxels.clamp(min=1)  # (B, K)
        by_organ = (empty.scatter_add(1, target, surprise) * by_organ_voxel).sum()

        if ctx.needs_input_grad[0]:
            # By the softmax's own derivative, dL/dlogit_j = p_j (g_j - sum_k p_k g_k) for
            # g = dL/dp. What g has in the true class alone is added to that class at the end.
            by_size = share * 2 * overlap / both**2  # (B, K): how the loss falls with each sum
            by_overlap = (-2 * share / both).gather(1, target) * known  # (B, N)
            weight = (1 - balance) / voxels_known + balance * by_organ_voxel.gather(1, target)
            weight = weight * known  # (B, N): of a voxel's surprise
            of_size = torch.bmm(by_size[:, None], p)[:, 0] * known  # (B, N)
            everywhere = weight - of_size - p_true * by_overlap
            hidden = weight * background / p_hidden.clamp(min=1e-30)
            factors = torch.stack([torch.ones_like(by_size), by_size, -missing], dim=2)
            gradient = torch.bmm(factors, torch.stack([everywhere, known, hidden], dim=1))
            gradient *= p
            own = p_true * by_overlap - weight * (1 - background)
            gradient.scatter_add_(1, target[:, None], own[:, None])
            ctx.save_for_backward(gradient)
            ctx.dtype = logits.dtype
        return (1 - balance) * by_voxel + balance * by_organ + dice_loss

    @staticmethod
    def backward(ctx: Any, *of_loss: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * of_loss[0]).to(ctx.dtype), None, None, None, None


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
