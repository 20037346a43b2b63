"""How the weights move: optimisers, learning rate, precision, and the average that is kept."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from model.segmenter import runs_faster_in_bf16
from model.unet import UNet
from training.config import TrainConfig
from training.muon import Muon

LARGEST_GRADIENT = 12.0
"""Gradients are scaled down to this norm, as in nnU-Net."""


ADAMW_SHARE = 0.1
"""Of Muon's learning rate: the rate of the weights that AdamW moves beside it."""


def build_optimisers(network: UNet, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Of all weights: AdamW, the paper's SGD (with Nesterov momentum as in nnU-Net), or Muon.

    Muon is for matrices: biases, normalisations, what is learned by place or by organ, and the
    heads are AdamW's.
    """
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimiser == "sgd":
        sgd = torch.optim.SGD(
            network.parameters(), rate, momentum=0.99, nesterov=True, weight_decay=decay, fused=True
        )
        return [sgd]
    if config.optimiser == "adamw":
        return [torch.optim.AdamW(network.parameters(), rate, weight_decay=decay, fused=True)]
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in network.named_parameters():
        is_matrix = weight.dim() > 1 and len(weight) > 1 and not name.startswith("heads.")
        (matrices if is_matrix else others).append(weight)
    share = ADAMW_SHARE * rate
    return [
        Muon(matrices, rate, momentum=0.95, weight_decay=decay),
        torch.optim.AdamW(others, share, weight_decay=decay, fused=True),
    ]


def set_rate(optimisers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Let each move by this part of the rate that it was built with."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = factor * optimiser.defaults["lr"]


def fraction_done(step: int, config: TrainConfig, cpu_hours: float = 0.0) -> float:
    """Of the run: of its steps, or of the processor's time where that is limited and nearer."""
    by_time = 0.0 if config.cpu_hours is None else cpu_hours / config.cpu_hours
    return max(step / config.steps, by_time)


def rate_factor(step: int, config: TrainConfig, done: float) -> float:
    """Of a step, in (0, 1]: linear warm-up, then the configured decay over the run."""
    shape = {
        "cosine": 0.5 * (1 + np.cos(np.pi * done)),
        "polynomial": (1 - done) ** 0.9,
        "exponential": 0.01**done,
    }[config.decay]
    return float(shape * min(1.0, (step + 1) / max(config.warmup, 1)))


def precision(device: str, config: TrainConfig) -> torch.dtype:
    """What convolutions and products are computed in."""
    if not config.mixed_precision:
        return torch.float32
    if runs_faster_in_bf16(device):
        return torch.bfloat16
    return torch.float16 if torch.device(device).type == "cuda" else torch.float32


def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    """Computes in `dtype` what can be."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype, enabled=dtype != torch.float32)


def build_scaler(device: str, dtype: torch.dtype) -> torch.amp.GradScaler:
    """Keeps the small gradients of fp16 from vanishing; does nothing in other precisions."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=dtype == torch.float16)


def take_step(
    network: UNet, optimisers: Sequence[torch.optim.Optimizer], scaler: torch.amp.GradScaler
) -> bool:
    """Move all weights by their gradients, or none of them if one is infinite or NaN.

    The scaler of fp16 knows for each optimiser whether its gradients are numbers, but they are
    scaled down by a norm that all share: what is infinite in one would spoil the other's.
    """
    for optimiser in optimisers:
        scaler.unscale_(optimiser)
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
    moves = bool(norm.isfinite())
    if moves:
        for optimiser in optimisers:
            scaler.step(optimiser)
    scaler.update()
    return moves


@torch.no_grad()
def follow(average: UNet, network: UNet, decay: float) -> None:
    """Move the averaged weights a little towards the network's."""
    moving, towards = [], []
    for value, target in zip(_values(average), _values(network), strict=True):
        if value.is_floating_point():
            moving.append(value)
            towards.append(target)
        else:
            value.copy_(target)
    torch._foreach_lerp_(moving, towards, 1 - decay)  # all in one call


def _values(network: UNet) -> list[Tensor]:
    """Weights and what normalisation has counted: a state_dict of them takes 20 ms to make."""
    return [*network.parameters(), *network.buffers()]
