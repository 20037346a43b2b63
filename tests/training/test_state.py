"""What a kill must not lose of a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import load_network, read_card
from model.unet import UNet
from tests.tiny_model import tiny_model
from tests.training.cohort import last_of, same, tiny_run
from training.cases import Dataset
from training.state import State
from training.train import train


def state(number: float) -> State:
    """Of a run that has made a step, every part of it unlike that of another number."""
    network, average = tiny_model("one")[0], tiny_model("one")[0]
    optimiser = torch.optim.SGD(network.parameters(), lr=number, momentum=0.9)
    for weights in network.parameters():
        weights.grad = torch.full_like(weights, number)
    optimiser.step()
    with torch.no_grad():
        for weights in average.parameters():
            weights.fill_(-number)
    scaler = torch.amp.GradScaler("cpu", init_scale=2**number)
    scaler.scale(torch.zeros(()))  # it has no scale before it is used
    return State(
        network=network,
        average=average,
        optimisers=[optimiser],
        scaler=scaler,
        step=int(number),
        best=number / 10,
        hours=number / 20,
        cpu_hours=number / 30,
    )


def parts(one: State) -> list[object]:
    return [
        one.network.state_dict(),
        one.average.state_dict(),
        one.optimisers[0].state_dict(),
        one.scaler.state_dict(),
        [one.step, one.best, one.hours, one.cpu_hours],
    ]


def test_a_run_goes_on_with_all_that_it_had(tmp_path: Path) -> None:
    ended, begun = state(3.0), state(2.0)
    assert not any(map(same, parts(ended), parts(begun)))

    ended.save(tmp_path / "last.pt")
    begun.load(tmp_path / "last.pt", "cpu")

    assert all(map(same, parts(ended), parts(begun)))


def test_a_disk_that_is_full_leaves_the_state_of_before_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")

    path = tmp_path / "last.pt"
    state(3.0).save(path)
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", short)

    with pytest.raises(OSError, match="is the disk full"):
        state(2.0).save(path)

    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]  # what there is would keep the disk full


@pytest.mark.slow
def test_the_weights_of_the_best_dice_stay_across_starts_however_low_it_is(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([0.0, 0.5, 0.2])

    asked: list[UNet] = []

    def dice(network: UNet, _: object, dataset: Dataset, *__: object, **___: object) -> Any:
        asked.append(network)
        return dict.fromkeys(dataset.organs, next(measured))

    monkeypatch.setattr("training.train.validation_dice", dice)
    config = replace(tiny_run(prepared, tmp_path / "run"), validate_every=1)
    for steps, best in ((1, 1), (2, 2), (3, 2)):
        train(replace(config, steps=steps), device="cpu", resume=steps > 1)

        model = config.out / "model"
        assert read_card(model).training["steps_done"] == best
        if steps == best:
            average = last_of(config)["average"]
            assert same(dict(asked[-1].state_dict()), dict(average))
            kept = load_network(model)[0].state_dict()
            assert same(
                dict(kept), {name: one.half().to(one.dtype) for name, one in average.items()}
            )
