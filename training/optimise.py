"""How the weights move: optimiser, learning rate, precision, and the average that is kept."""

import numpy as np
import torch

from model.segmenter import runs_faster_in_bf16
from model.unet import UNet
from training.config import TrainConfig

LARGEST_GRADIENT = 12.0
"""Gradients are scaled down to this norm, as in nnU-Net."""


def build_optimiser(network: UNet, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, or the paper's SGD (with Nesterov momentum as in nnU-Net)."""
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            config.learning_rate,
            momentum=0.99,
            nesterov=True,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def fraction_done(step: int, config: TrainConfig, cpu_hours: float = 0.0) -> float:
    """Of the run: of its steps, or of the processor's time where that is limited and nearer."""
    by_time = 0.0 if config.cpu_hours is None else cpu_hours / config.cpu_hours
    return max(step / config.steps, by_time)


def learning_rate(step: int, config: TrainConfig, done: float) -> float:
    """Of a step: linear warm-up, then the configured decay over the fraction of the run."""
    shape = {
        "cosine": 0.5 * (1 + np.cos(np.pi * done)),
        "polynomial": (1 - done) ** 0.9,
        "exponential": 0.01**done,
    }[config.decay]
    return float(config.learning_rate * shape * min(1.0, (step + 1) / max(config.warmup, 1)))


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


@torch.no_grad()
def follow(average: UNet, network: UNet, decay: float) -> None:
    """Move the averaged weights a little towards the network's."""
    theirs = network.state_dict()
    moving, towards = [], []
    for key, value in average.state_dict().items():
        if value.is_floating_point():
            moving.append(value)
            towards.append(theirs[key])
        else:
            value.copy_(theirs[key])
    torch._foreach_lerp_(moving, towards, 1 - decay)  # all in one call
