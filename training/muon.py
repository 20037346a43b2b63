"""Muon: momentum whose steps move every direction of a weight matrix alike.

After Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024,
https://kellerjordan.github.io/posts/muon/). `torch.optim.Muon` takes matrices only, not the weights
of convolutions, and computes in bf16, which processors without it emulate.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration, from the same source."""

ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For the weights of convolutions and linear layers: the first axis by all others is a matrix.

    Which axis is which does not matter to the step, so that layouts in memory stay as they are.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, *, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["mean"] = torch.zeros_like(weight)
                mean = state["mean"].lerp_(weight.grad, 1 - momentum)
                ahead = weight.grad.lerp(mean, momentum)  # Nesterov
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(orthogonal(ahead), alpha=-rate * _gain(weight))


def orthogonal(gradient: Tensor) -> Tensor:
    """The same directions, all singular values near 1 (0.7 to 1.2, but for vanishing ones).

    Args:
        gradient: ``(O, ...)``, seen as a matrix of O rows.
    """
    # Channels last, this is no copy.
    matrix = gradient.movedim(1, -1).flatten(1) if gradient.dim() > 2 else gradient
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    # Each iteration multiplies by a polynomial of the Gram matrix, which they all commute with: so
    # they go on among the small matrices, and the large one is multiplied once.
    a, b, c = QUINTIC
    gram = wide @ wide.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for _ in range(ITERATIONS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    wide = product @ wide
    matrix = wide if len(matrix) <= matrix.shape[1] else wide.T
    if gradient.dim() == 2:
        return matrix
    columns, *kernel = gradient.shape[1:]
    return matrix.unflatten(1, (*kernel, columns)).movedim(-1, 1)


def _gain(weight: Tensor) -> float:
    """So that a layer with more outputs than inputs changes what it puts out by as much."""
    return max(1.0, len(weight) / weight[0].numel()) ** 0.5
