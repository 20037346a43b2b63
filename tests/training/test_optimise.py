"""How weights move: learning rate, optimiser, precision and the average."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.cohort import tiny_run
from training.cases import Dataset
from training.network import build_network
from training.optimise import (
    build_optimisers,
    build_scaler,
    follow,
    fraction_done,
    precision,
    rate_factor,
    set_rate,
    take_step,
)


@pytest.mark.parametrize(
    ("decay", "half", "last"),
    [("cosine", 0.5, 0.0), ("polynomial", 0.5**0.9, 0.0), ("exponential", 0.1, 0.01)],
)
def test_the_learning_rate_warms_up_and_decays(decay: str, half: float, last: float) -> None:
    values: dict[str, Any] = {"decay": decay, "learning_rate": 0.01, "steps": 10_000}
    config = replace(tiny_run(Path("a"), Path("b")), warmup=100, **values)

    def rate(step: int) -> float:
        return config.learning_rate * rate_factor(step, config, fraction_done(step, config))

    assert rate(0) == pytest.approx(0.01 / 100)
    assert rate(49) == pytest.approx(0.005, rel=0.03)
    assert rate(99) == pytest.approx(0.01, rel=0.05)
    assert rate(5000) == pytest.approx(0.01 * half)
    assert rate(9999) == pytest.approx(0.01 * last, abs=1e-5)
    rates = [rate(step) for step in range(99, 10_000, 100)]
    assert rates == sorted(rates, reverse=True)


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert rate_factor(0, replace(tiny_run(Path("a"), Path("b")), warmup=0), 0.0) == 1.0


def test_a_run_is_as_far_as_the_nearer_of_its_ends() -> None:
    by_steps = replace(tiny_run(Path("a"), Path("b")), steps=100)
    limited = replace(by_steps, cpu_hours=2.0)

    assert fraction_done(25, by_steps, cpu_hours=99.0) == 0.25
    assert fraction_done(25, limited, cpu_hours=1.0) == 0.5
    assert fraction_done(75, limited, cpu_hours=1.0) == 0.75
    assert fraction_done(1, limited, cpu_hours=2.1) >= 1


def test_the_papers_optimiser_is_sgd(prepared: Path) -> None:
    config = replace(tiny_run(prepared, Path("b")), optimiser="sgd", learning_rate=0.01)
    network = build_network(config, Dataset.read(prepared))

    [optimiser] = build_optimisers(network, config)

    assert isinstance(optimiser, torch.optim.SGD)
    assert optimiser.param_groups[0]["lr"] == 0.01
    assert len(optimiser.param_groups[0]["params"]) == len(list(network.parameters()))


def test_muon_moves_the_matrices_and_adamw_all_else_more_slowly(prepared: Path) -> None:
    config = replace(tiny_run(prepared, Path("b")), optimiser="muon", learning_rate=0.02)
    network = build_network(config, Dataset.read(prepared))

    muon, adamw = build_optimisers(network, config)
    set_rate([muon, adamw], 0.5)

    names = {weight: name for name, weight in network.named_parameters()}
    matrices, others = (
        {names[weight] for group in optimiser.param_groups for weight in group["params"]}
        for optimiser in (muon, adamw)
    )
    assert {"encoder.1.body.0.0.weight", "up.0.weight", "image_encoder.embed.weight"} <= matrices
    assert {"image_encoder.positions", "encoder.0.body.0.1.weight", "heads.0.weight"} <= others
    assert matrices | others == {*names.values()}
    assert not matrices & others
    assert isinstance(adamw, torch.optim.AdamW)
    assert muon.param_groups[0]["lr"] == 0.01
    assert adamw.param_groups[0]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize("spoilt", ["encoder.0.body.0.0.weight", "heads.0.bias"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["fp16", "float32"])
def test_a_gradient_that_is_no_number_moves_no_weight(
    prepared: Path, spoilt: str, value: float, dtype: torch.dtype
) -> None:
    """The one is Muon's, the other AdamW's; fp16 is for GPUs, and the processor stands in."""
    config = replace(tiny_run(prepared, Path("b")), optimiser="muon")
    network = build_network(config, Dataset.read(prepared))
    optimisers = build_optimisers(network, config)
    scaler = build_scaler("cpu", dtype)
    loss = sum((weight.sum() for weight in network.parameters()), torch.zeros(()))
    scaler.scale(loss).backward()
    scale = scaler.get_scale()
    gradient = network.get_parameter(spoilt).grad
    assert gradient is not None
    gradient.view(-1)[0] = value
    before = {name: weight.clone() for name, weight in network.named_parameters()}

    assert not take_step(network, optimisers, scaler)

    for name, weight in network.named_parameters():
        assert torch.equal(weight, before[name]), name
    assert scaler.get_scale() < scale or dtype == torch.float32


def test_the_average_follows_the_network(prepared: Path) -> None:
    config, dataset = tiny_run(prepared, Path("b")), Dataset.read(prepared)
    network = build_network(config, dataset)
    average = build_network(replace(config, seed=6), dataset)
    before = average.state_dict()["heads.0.weight"].clone()

    follow(average, network, 0.75)

    expected = 0.75 * before + 0.25 * network.state_dict()["heads.0.weight"]
    torch.testing.assert_close(average.state_dict()["heads.0.weight"], expected)


def test_products_are_in_float32_when_asked_for() -> None:
    config = tiny_run(Path("a"), Path("b"))

    assert precision("cpu", replace(config, mixed_precision=False)) is torch.float32
    assert precision("cpu", config) in {torch.bfloat16, torch.float32}


@pytest.mark.parametrize(("bf16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_that_only_emulates_bf16_takes_fp16_and_scales_the_loss(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, expected: torch.dtype
) -> None:
    def supported(*, including_emulation: bool) -> bool:
        return bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)

    assert precision("cuda:0", tiny_run(Path("a"), Path("b"))) is expected
    assert build_scaler("cpu", expected).is_enabled() == (expected is torch.float16)
