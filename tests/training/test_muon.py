"""Muon: each direction of a weight's gradient counts alike, whatever its layout in memory."""

import pytest
import torch
from torch import Tensor, nn

from training.muon import Muon, orthogonal

SHAPES = [(8, 40), (40, 8), (16, 16), (8, 6, 3, 3, 3), (32, 1, 3, 3, 3), (6, 4, 2, 2, 2)]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def step_of(weight: Tensor, gradients: list[Tensor], **settings: float) -> Tensor:
    """The weight after so many steps."""
    moved = nn.Parameter(weight.clone())
    optimiser = Muon([moved], 0.1, **{"momentum": 0.0, "weight_decay": 0.0} | settings)
    for gradient in gradients:
        moved.grad = gradient.clone()
        optimiser.step()
    return moved.detach()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_keeps_the_directions_and_evens_their_lengths(shape: tuple[int, ...]) -> None:
    gradient = draw(*shape)
    u, lengths, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    assert lengths[0] > 1.3 * lengths[-1] or min(shape[0], gradient[0].numel()) == 1

    found = u.T @ orthogonal(gradient).flatten(1) @ v.T

    torch.testing.assert_close(found, torch.diag(found.diag()), atol=1e-4, rtol=0)
    assert 0.6 < found.diag().min() <= found.diag().max() < 1.25


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_length_of_the_gradient_does_not_matter(scale: float) -> None:
    gradient = draw(8, 40)

    torch.testing.assert_close(orthogonal(scale * gradient), orthogonal(gradient))


def test_the_layout_in_memory_does_not_matter() -> None:
    gradient = draw(8, 6, 3, 3, 3)
    last = gradient.contiguous(memory_format=torch.channels_last_3d)

    torch.testing.assert_close(orthogonal(last), orthogonal(gradient))


def test_a_gradient_of_zeros_moves_nothing() -> None:
    assert not orthogonal(torch.zeros(4, 6)).any()


def test_a_layer_with_more_outputs_than_inputs_moves_further() -> None:
    weight, gradient = torch.zeros(32, 8), draw(32, 8)

    moved = step_of(weight, [gradient])

    torch.testing.assert_close(moved, -0.1 * 2 * orthogonal(gradient))
    torch.testing.assert_close(step_of(weight.T, [gradient.T]), moved.T / 2)


def test_momentum_remembers_the_gradients_before() -> None:
    weight, first, second = torch.zeros(4, 9), draw(4, 9), draw(5, 9)[1:]

    moved = step_of(weight, [first, second], momentum=0.5)

    once = 0.5 * first
    expected = [0.5 * first + 0.5 * once, 0.5 * second + 0.5 * (0.5 * once + 0.5 * second)]
    torch.testing.assert_close(moved, -0.1 * sum(map(orthogonal, expected), torch.zeros(4, 9)))


def test_weights_decay_by_the_rate() -> None:
    weight = draw(4, 9)

    moved = step_of(weight, [torch.zeros(4, 9)], weight_decay=0.5)

    torch.testing.assert_close(moved, 0.95 * weight)


def test_a_weight_without_gradient_stays() -> None:
    frozen = nn.Parameter(draw(4, 9))

    Muon([frozen], 0.1, momentum=0.9, weight_decay=0.5).step()

    torch.testing.assert_close(frozen.detach(), draw(4, 9))
