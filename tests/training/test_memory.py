"""The memory of a training step: what is estimated is what it takes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model.segmenter import runs_faster_in_bf16
from model.unet import UNetConfig
from tests.training.cohort import tiny_run
from training.memory import OVERHEAD_GIB, footprint, step_gib

ROOT = Path(__file__).parents[2]

CONFIG = tiny_run(Path("a"), Path("b"))

NETWORK = UNetConfig(
    num_classes=7,
    widths=(16, 32, 64),
    strides=((1, 2, 2), (2, 2, 2)),
    encoder_width=96,
    encoder_depth=2,
    encoder_heads=4,
    attention_width=32,
)

PATCH = (24, 96, 96)

MEASURE = """
import re, sys
from pathlib import Path
import torch
from tests.training.test_memory import CONFIG, NETWORK, PATCH
from model.unet import UNet, channels_last
from training.loss import deep_loss

torch.set_num_threads(1)
network = channels_last(UNet(NETWORK))

def peak_after_step(patch):
    image = torch.randn(2, 1, *patch)
    target = torch.randint(0, 7, (2, *patch))
    with torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[1] == "mixed"):
        levels = network.forward_deep(image)
    deep_loss(levels, target, torch.ones(2, 7, dtype=torch.bool)).backward()
    # Not getrusage: its ru_maxrss begins with that of the process that started this one.
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])  # KiB

before = peak_after_step((8, 32, 32))  # all that is loaded and made once
print((peak_after_step(PATCH) - before) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed", "single"])
def test_the_estimate_is_what_a_step_takes_and_not_less(precision: str) -> None:
    if precision == "mixed" and not runs_faster_in_bf16("cpu"):
        pytest.skip("this processor emulates bf16, which takes minutes")
    # What is freed is given back at once, as by the allocator of a GPU.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, precision],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    measured_gib = float(run.stdout)
    config = replace(CONFIG, mixed_precision=precision == "mixed")

    estimated_gib = step_gib(NETWORK, PATCH, 2, config) - OVERHEAD_GIB

    weights_gib = 4 * 5.5 * footprint(NETWORK).parameters / 2**30
    assert measured_gib > 5 * weights_gib
    assert 0.95 < (estimated_gib - weights_gib) / measured_gib < 1.4


def test_what_is_kept_grows_with_the_batch_and_the_patch() -> None:
    def features_gib(patch: tuple[int, int, int], batch: int) -> float:
        return step_gib(NETWORK, patch, batch, CONFIG) - step_gib(NETWORK, (0, 0, 0), 0, CONFIG)

    once = features_gib((16, 64, 64), 1)
    assert features_gib((16, 64, 64), 4) == pytest.approx(4 * once)
    assert features_gib((32, 64, 128), 1) == pytest.approx(4 * once, rel=0.01)


def test_weights_count_with_gradient_average_and_optimiser() -> None:
    adam = step_gib(NETWORK, (0, 0, 0), 0, replace(CONFIG, mixed_precision=False))
    sgd = step_gib(NETWORK, (0, 0, 0), 0, replace(CONFIG, mixed_precision=False, optimiser="sgd"))
    weights = footprint(NETWORK).parameters * 4 / 2**30

    assert adam - OVERHEAD_GIB == pytest.approx(5 * weights)
    assert sgd - OVERHEAD_GIB == pytest.approx(4 * weights)


def test_a_plain_network_keeps_what_one_can_count() -> None:
    plain = replace(NETWORK, attention="plain", widths=(8, 16), strides=((2, 2, 2),))

    kept = footprint(plain)

    # In numbers per voxel of the patch; the input of each convolution and of each normalisation,
    # and what activations give is the input of the next. Down: 1, 8, 8, 8 and their sum 8; pooled
    # with its indices, which are twice as long; an eighth of that below; up: the concatenation.
    fine, coarse = 8, 16 / 8
    encoder = 1 + 4 * fine + fine
    pooled = 8 / 8 + 2 * 8 / 8
    below = 4 * coarse + coarse
    decoder = 2 * fine + 4 * fine + fine
    assert kept.features == pytest.approx(encoder + pooled + below + decoder, rel=0.15)
    assert kept.parameters == pytest.approx(
        27 * (8 + 64 + 128 + 256 + 128 + 64) + 8 + 128 + 1024 + 128, rel=0.02
    )


def test_litemedsam_keeps_the_same_of_every_slice_whatever_its_size() -> None:
    kept = footprint(replace(NETWORK, image_encoder="litemedsam"))

    assert kept.slices > 50 * footprint(NETWORK).slices
