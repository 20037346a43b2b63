"""Validation: the network runs as it will for patients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.organs import BY_NAME
from model.segmenter import Segmenter
from tests.model.networks import tiny_card
from tests.tiny_model import ORGAN, tiny_model
from tests.training.cohort import tiny_run
from training.cases import UNKNOWN, Case, Dataset
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


def dice_of_one_that_finds_it_everywhere(*labels: np.ndarray) -> dict[str, float]:
    """Over patients with these labels."""
    network, card = tiny_model("everywhere")
    cases = [
        Case(
            name=f"pt_{number}",
            image=np.zeros(each.shape, np.float32),
            labels=each,
            labelled=(BY_NAME[ORGAN],),
            ct_sha256="",
        )
        for number, each in enumerate(labels)
    ]
    dataset = Dataset(preprocessing=card.preprocessing, organs=(ORGAN,), cases=())
    return validation_dice(network, cases, dataset, card.tile, device="cpu", ranks=Ranks())


def labels(background: int) -> np.ndarray:
    """A brainstem of an eighth of the volume, and all else."""
    labels = np.full((16, 32, 32), background, np.uint8)
    labels[:8, :16, :16] = BY_NAME[ORGAN].label
    return labels


def test_what_is_found_where_nothing_is_known_is_not_held_against_the_network() -> None:
    known, unknown = (dice_of_one_that_finds_it_everywhere(labels(n)) for n in (0, UNKNOWN))

    assert known == {ORGAN: 2 / 9}
    assert unknown == {ORGAN: 1.0}


def test_a_patient_without_an_organ_has_no_say_in_how_well_it_is_found() -> None:
    """Else one voxel too many is a zero, and the weights that find nothing are the best."""
    none = np.zeros((16, 32, 32), np.uint8)

    assert dice_of_one_that_finds_it_everywhere(labels(0), none) == {ORGAN: 2 / 9}
