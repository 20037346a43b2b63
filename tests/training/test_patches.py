"""Patches: the same at the same step of every run, whoever draws them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoint import Card
from model.organs import BY_NAME
from model.preprocess import Preprocessing
from tests.tiny_model import tiny_model
from tests.training.cohort import tiny_run
from training.cases import UNKNOWN, Case, Dataset
from training.distributed import Ranks
from training.patches import Patches, classes, drawn_ahead, labelled_classes


def drawing(
    prepared: Path, ranks: Ranks | None = None, first: Card | None = None, **changed: Any
) -> Patches:
    dataset = Dataset.read(prepared)
    cases = [Case.read(prepared / name) for name in dataset.cases]
    config = replace(tiny_run(prepared, Path("unused")), **changed)
    return Patches(cases, dataset, config, ranks, first)


def test_a_step_always_draws_the_same_patches(prepared: Path) -> None:
    first, again = (drawing(prepared) for _ in range(2))
    first.batch(0)

    image, target, labelled = first.batch(7)

    for one, other in zip((image, target, labelled), again.batch(7), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(image, first.batch(8)[0])
    assert not torch.equal(image[0], image[1])
    assert image.shape == (2, 1, 8, 32, 32)
    assert target.shape == (2, 8, 32, 32)
    assert labelled.shape == (2, 4)


def test_a_run_that_goes_on_from_a_model_draws_others_than_the_run_that_made_it(
    prepared: Path,
) -> None:
    _, card = tiny_model("tiny")

    first, second = drawing(prepared), drawing(prepared, first=card)

    assert not torch.equal(first.batch(7)[0], second.batch(7)[0])
    assert torch.equal(second.batch(7)[0], drawing(prepared, first=card).batch(7)[0])


def test_two_processes_draw_what_one_alone_draws(prepared: Path) -> None:
    alone = drawing(prepared, batch=4).batch(3)

    halves = [drawing(prepared, Ranks(rank, 2), batch=4).batch(3) for rank in range(2)]

    for whole, parts in zip(alone, zip(*halves, strict=True), strict=True):
        assert [len(part) for part in parts] == [2, 2]
        assert torch.equal(whole, torch.cat(parts))


def test_a_batch_that_cannot_be_shared_is_refused(prepared: Path) -> None:
    with pytest.raises(ValueError, match="a batch of 3 cannot be shared by 2 processes"):
        drawing(prepared, Ranks(0, 2), batch=3)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_drawn_ahead_comes_in_order(prepared: Path, workers: int) -> None:
    patches, threads = drawing(prepared), torch.get_num_threads()

    ahead = list(drawn_ahead(patches, range(2, 9), workers))

    assert len(ahead) == 7
    for step, batch in zip(range(2, 9), ahead, strict=True):
        assert all(map(torch.equal, batch, patches.batch(step)))
    assert torch.get_num_threads() == threads


def test_a_fault_while_drawing_ahead_is_not_lost(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(self: Patches, step: int) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Patches, "batch", fault)

    with pytest.raises(OSError, match="the disk is gone"):
        next(drawn_ahead(drawing(prepared), range(3), 1))


def test_most_patches_show_an_organ(prepared: Path) -> None:
    patches = drawing(prepared, foreground=1.0, patch=(8, 16, 16))

    seen = [target for step in range(15) for target in patches.batch(step)[1]]

    assert sum(bool(((y > 0) & (y != UNKNOWN)).any()) for y in seen) >= 28
    every = torch.stack(seen)
    assert all((every == k).any() for k in (1, 2, 3))


def test_organs_are_drawn_from_their_voxels_in_the_order_of_memory(prepared: Path) -> None:
    """Another order would be another run from the same seed."""
    dataset = Dataset.read(prepared)
    patches = drawing(prepared)

    for name, places in zip(dataset.cases, patches.places, strict=True):
        whole = classes(Case.read(prepared / name), dataset)
        for k, there in enumerate(places, start=1):
            np.testing.assert_array_equal(there, np.argwhere(whole == k))
            assert len(there)


def test_unknown_and_unlabelled_voxels_are_in_the_patches_what_they_are_in_the_case() -> None:
    patches = two_organs(0.0)
    labels = patches.scans[0].labels
    labels[4:] = BY_NAME["mandible_left"].label  # of no class
    labels[:, 20:] = UNKNOWN

    _, target, _ = patches.batch(0)

    assert set(target.unique().tolist()) <= {0, 1, UNKNOWN}


def test_labels_stay_on_the_disk_until_they_are_looked_at(prepared: Path) -> None:
    case = Case.read(prepared / "pt_0")

    assert isinstance(case.labels, np.memmap)
    assert drawing(prepared).scans[0].air == case.image.min()


def two_organs(small_organs: float) -> Patches:
    """A brainstem of 64 voxels and a lens of 1, in one patient; a parotid that nobody has."""
    dataset = Dataset(
        preprocessing=Preprocessing(),
        organs=("brainstem", "lens_left", "parotid_left"),
        cases=("pt_1",),
    )
    labels = np.zeros((8, 32, 32), np.uint8)
    labels[:4, :4, :4] = BY_NAME["brainstem"].label
    labels[7, 31, 31] = BY_NAME["lens_left"].label
    organs = tuple(BY_NAME[name] for name in dataset.organs)
    case = Case(
        name="pt_1",
        image=np.zeros((8, 32, 32), np.float32),
        labels=labels,
        labelled=organs,
        ct_sha256="",
    )
    tiny = tiny_run(Path("a"), Path("b"))
    config = replace(tiny, foreground=1.0, small_organs=small_organs, patch=(8, 16, 16))
    return Patches([case], dataset, config)


def test_organs_are_drawn_equally_often_unless_small_ones_are_preferred() -> None:
    assert two_organs(0.0).shares == pytest.approx([0.5, 0.5, 0])
    assert two_organs(1 / 3).shares == pytest.approx([0.2, 0.8, 0])  # 64 ** (1 / 3) is 4


def test_the_lens_is_in_the_patches_as_often_as_its_share_says() -> None:
    patches = two_organs(1 / 3)

    _, centres = zip(
        *(patches._place(np.random.default_rng(seed)) for seed in range(400)), strict=True
    )

    assert np.mean([y > 16 for _, y, _ in centres]) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("foreground", [0.0, 1.0])
def test_a_patch_lies_within_its_case_as_far_as_it_fits(foreground: float) -> None:
    """Beside it is nothing but air that is made up, and no tile of a patient shows it.

    Of two organs in two corners patches show the middle between them only if drawn anywhere.
    """
    patches = two_organs(0.0)
    patches.config = replace(patches.config, foreground=foreground, patch=(16, 8, 12))

    centres = np.array([patches._place(np.random.default_rng(seed))[1] for seed in range(400)])

    z, y, x = centres.T
    assert -0.5 <= z.min() < z.max() <= 7.5  # the patch is larger than the case
    assert (y.min(), y.max()) == (3.5, 27.5)
    assert (x.min(), x.max()) == (5.5, 25.5)
    middle = np.mean((y > 8) & (y < 24))
    assert middle == pytest.approx((1 - foreground) / 2, abs=0.1)


def test_without_any_organ_there_is_nothing_to_train_on() -> None:
    case = Case(
        name="pt_1",
        image=np.zeros((2, 2, 2), np.float32),
        labels=np.zeros((2, 2, 2), np.uint8),
        labelled=(BY_NAME["brainstem"],),
        ct_sha256="",
    )
    dataset = Dataset(preprocessing=Preprocessing(), organs=("brainstem",), cases=("pt_1",))

    with pytest.raises(ValueError, match="no training patient has a voxel of any organ"):
        Patches([case], dataset, tiny_run(Path("a"), Path("b")))


def test_an_unlabelled_organ_is_not_a_class_of_the_case() -> None:
    dataset = Dataset(
        preprocessing=Preprocessing(),
        organs=("brainstem", "parotid_left", "mandible_left"),
        cases=("pt_1",),
    )
    case = Case(
        name="pt_1",
        image=np.zeros((1, 1, 5), np.float32),
        labels=np.array([[[0, 1, 12, 21, UNKNOWN]]], np.uint8),
        labelled=(BY_NAME["mandible_left"], BY_NAME["brainstem"]),
        ct_sha256="",
    )

    assert classes(case, dataset).tolist() == [[[0, 1, 0, 3, UNKNOWN]]]
    assert labelled_classes(case, dataset).tolist() == [True, True, False, True]
