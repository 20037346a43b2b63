"""Validation: the network runs as it will for patients."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from model.segmenter import Segmenter
from tests.model.networks import tiny_card
from tests.training.cohort import tiny_run
from training.cases import Case, Dataset
from training.distributed import Ranks
from training.network import build_network
from training.validate import OVERLAP, validation_dice


def test_validation_runs_the_tiles_that_the_clinic_runs(prepared: Path) -> None:
    config, dataset = tiny_run(prepared, Path("b")), Dataset.read(prepared)
    network, case = build_network(config, dataset), Case.read(prepared / "pt_0")
    shown: list[Tensor] = []

    def watch(block: nn.Module, given: tuple[Tensor, ...]) -> None:
        shown.append(given[0].clone())

    network.encoder[0].register_forward_pre_hook(watch)
    validation_dice(network, [case], dataset, config.patch, device="cpu", ranks=Ranks())
    validated = list(shown)
    shown.clear()

    card = tiny_card(network.config)
    card = replace(card, tile=config.patch, overlap=OVERLAP, preprocessing=dataset.preprocessing)
    Segmenter(network, card, "cpu").probabilities(torch.from_numpy(case.image))

    assert [len(tiles) for tiles in shown] == [len(tiles) for tiles in validated]
    assert all(map(torch.equal, shown, validated))
    assert max(map(len, shown)) > 1
