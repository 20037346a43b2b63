"""A training step on a GPU, tried on one that is pretended: see tests/pretended_gpu.py.

That one has no gradients: those of the loss are its own, and the weights get invented ones.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from model.unet import UNet
from tests.model.networks import ATTENTIONS, TILE, AttentionName, tiny_config
from tests.pretended_gpu import CUDA, pretended_gpu
from tests.training.cohort import tiny_run
from training.cases import UNKNOWN
from training.loss import _PartialLabelLoss, deep_loss
from training.network import channels_last
from training.optimise import (
    autocast,
    build_optimisers,
    build_scaler,
    follow,
    precision,
    take_step,
)

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")

CONFIG = tiny_run(Path("cases"), Path("out"))


def network(attention: AttentionName = "sam", *, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return channels_last(UNet(tiny_config(attention)))


def loss_and_gradients(
    of: UNet, device: torch.device, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, list[Tensor]]:
    """Of two patches, the gradients by the logits of each level."""
    gradients: list[Tensor] = []

    def apply(*given: Any) -> Tensor:
        wanted = SimpleNamespace(needs_input_grad=(True,), save_for_backward=gradients.append)
        return _PartialLabelLoss.forward(wanted, *given)

    monkeypatch.setattr(_PartialLabelLoss, "apply", apply)
    drawn = torch.Generator().manual_seed(1)
    image = torch.randn(2, 1, *TILE, generator=drawn)
    target = torch.randint(of.config.num_classes, (2, *TILE), generator=drawn)
    target[:, 0] = UNKNOWN
    labelled = torch.tensor([[True] * 4, [True, True, False, True]])
    with torch.no_grad():
        with autocast(str(device), dtype):
            levels = of.forward_deep(image.to(device))
        loss = deep_loss(levels, target.to(device), labelled.to(device), CONFIG.balance)
        return loss.item(), [gradient.cpu() for gradient in gradients]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_gpu_has_the_loss_and_its_gradients_of_the_processor(
    attention: AttentionName, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    expected, by_logits = loss_and_gradients(network(attention), cpu, torch.float32, monkeypatch)

    with pretended_gpu(monkeypatch):
        there = network(attention).to(CUDA)
        found = loss_and_gradients(there, CUDA, torch.float32, monkeypatch)
        half = loss_and_gradients(there, CUDA, torch.bfloat16, monkeypatch)[0]

    assert found[0] == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(found[1], by_logits)
    assert half == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp16"])
def test_a_gpu_moves_weights_and_their_average_as_the_processor_does(
    optimiser: Literal["sgd", "adamw", "muon"], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(device: torch.device) -> list[Tensor]:
        moved, average = network().to(device), network(seed=2).to(device)
        optimisers = build_optimisers(moved, replace(CONFIG, optimiser=optimiser))
        scaler = build_scaler(str(device), precision(str(device), CONFIG))
        scale = scaler.scale(torch.ones((), device=device)).item()
        for k, weight in enumerate(moved.parameters()):
            drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(k))
            weight.grad = (scale * drawn).to(device)
        assert take_step(moved, optimisers, scaler)
        follow(average, moved, 0.75)
        return [weight.detach().cpu() for weight in (*moved.parameters(), *average.parameters())]

    expected = step(torch.device("cpu"))
    with pretended_gpu(monkeypatch, bf16=bf16):
        torch.testing.assert_close(step(CUDA), expected)
