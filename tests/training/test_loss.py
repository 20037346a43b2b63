"""The loss: what is not labelled is not background."""

from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.cases import UNKNOWN
from training.loss import deep_loss, partial_label_loss

ALL = torch.tensor([[True, True, True]])
NO_PAROTID = torch.tensor([[True, True, False]])  # classes: background, brainstem, parotid


def logits_of(target: Tensor, sure: float = 30.0) -> Tensor:
    """Logits of a network that finds just this."""
    return sure * F.one_hot(target, 3).movedim(-1, 1).float()


def some_target() -> Tensor:
    target = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    target[0, 1:3, 1:3, :2] = 1
    target[0, 1:3, 1:3, 2:] = 2
    return target


def test_a_perfect_answer_costs_nothing_and_a_wrong_one_much() -> None:
    target = some_target()
    swapped = torch.tensor([0, 2, 1])[target]

    assert partial_label_loss(logits_of(target), target, ALL) < 1e-3
    assert partial_label_loss(logits_of(swapped), target, ALL) > 5


def test_the_loss_is_what_one_computes_by_hand() -> None:
    target = torch.tensor([0, 0, 1, 2]).view(1, 1, 1, 4)
    p = torch.tensor([[0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])

    loss = partial_label_loss(p.log().T.view(1, 3, 1, 1, 4), target, ALL)

    cross_entropy = -(log(0.5) + log(0.8) + log(0.6) + log(0.8)) / 4
    brainstem = 2 * 0.6 / ((0.3 + 0.1 + 0.6 + 0.1) + 1)
    parotid = 2 * 0.8 / ((0.2 + 0.1 + 0.2 + 0.8) + 1)
    expected = cross_entropy + 1 - (brainstem + parotid) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_without_a_parotids_label_background_and_parotid_count_as_one() -> None:
    target = torch.tensor([0, 0, 1]).view(1, 1, 1, 3)
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]])

    loss = partial_label_loss(p.log().T.view(1, 3, 1, 1, 3), target, NO_PAROTID)

    cross_entropy = -(log(0.7) + log(0.9) + log(0.6)) / 3
    brainstem = 2 * 0.6 / ((0.3 + 0.1 + 0.6) + 1)
    assert loss.item() == pytest.approx(cross_entropy + 1 - brainstem, abs=1e-6)


def test_finding_an_unlabelled_parotid_costs_nothing() -> None:
    torch.manual_seed(0)
    target = some_target()
    target[target == 2] = 0
    logits = torch.randn(1, 3, 4, 4, 4, requires_grad=True)

    partial_label_loss(logits, target, NO_PAROTID).backward()

    assert logits.grad is not None
    parotid, background = logits.grad[0, 2][target[0] == 0], logits.grad[0, 0][target[0] == 0]
    assert (parotid <= 0).all()  # raising it never raises the loss
    assert (parotid / background > 0).all()  # the two are pulled the same way
    labelled = torch.autograd.grad(partial_label_loss(logits, target, ALL), logits)[0]
    assert (labelled[0, 2][target[0] == 0] > 0).all()  # with a label it would be a mistake


def test_a_sure_unlabelled_parotid_is_as_good_as_background() -> None:
    target = some_target()
    found = target.clone()
    target[target == 2] = 0

    assert partial_label_loss(logits_of(found), target, NO_PAROTID) < 1e-3
    assert partial_label_loss(logits_of(found), target, ALL) > 1


def test_an_organ_that_is_not_in_the_patch_has_no_dice_term() -> None:
    target = torch.tensor([0, 0, 1]).view(1, 1, 1, 3)
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]])

    loss = partial_label_loss(p.log().T.view(1, 3, 1, 1, 3), target, ALL)

    cross_entropy = -(log(0.5) + log(0.1) + log(0.6)) / 3
    brainstem = 2 * 0.6 / ((0.3 + 0.1 + 0.6) + 1)
    assert loss.item() == pytest.approx(cross_entropy + 1 - brainstem, abs=1e-6)


def test_every_case_of_a_batch_counts_its_own_labels() -> None:
    target = some_target()
    without = torch.where(target == 2, 0, target)
    logits = torch.cat([logits_of(target), logits_of(target)])
    both = torch.cat([target, without])

    right = partial_label_loss(logits, both, torch.cat([ALL, NO_PAROTID]))
    exchanged = partial_label_loss(logits, both, torch.cat([NO_PAROTID, ALL]))

    assert right < 1e-3
    assert exchanged > 0.5


def test_unknown_voxels_have_no_say() -> None:
    torch.manual_seed(0)
    target = some_target()
    unknown = torch.rand(target.shape) < 0.4
    target[unknown] = UNKNOWN
    logits = torch.randn(1, 3, 4, 4, 4, requires_grad=True)

    partial_label_loss(logits, target, ALL).backward()

    assert logits.grad is not None
    by_voxel = logits.grad[0].abs().sum(dim=0)
    assert (by_voxel[unknown[0]] == 0).all()
    assert (by_voxel[~unknown[0]] > 0).all()


def test_a_patch_of_which_nothing_is_known_teaches_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, 4, requires_grad=True)

    loss = partial_label_loss(logits, torch.full((1, 4, 4, 4), UNKNOWN), ALL)
    loss.backward()

    assert loss.isfinite()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_arguments_are_left_as_they_were() -> None:
    target, labelled = some_target(), NO_PAROTID.clone()
    target[0, 0, 0, 0] = UNKNOWN
    before = target.clone()

    partial_label_loss(torch.randn(1, 3, 4, 4, 4), target, labelled)

    assert torch.equal(target, before)
    assert torch.equal(labelled, NO_PAROTID)


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_the_gradient_is_that_of_the_loss(balance: float) -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(3, 4, 2, 3, 4)).double().requires_grad_()
    target = torch.randint(0, 4, (3, 2, 3, 4))
    target[torch.rand(target.shape) < 0.2] = UNKNOWN
    target[1][target[1] == 2] = 0
    target[2] = torch.where(target[2] == UNKNOWN, UNKNOWN, 0)  # no organ
    labelled = torch.tensor([[True] * 4, [True, True, False, True], [True] * 4])

    assert torch.autograd.gradcheck(
        lambda x: partial_label_loss(x, target, labelled, balance), logits
    )


def test_a_sure_mistake_is_still_a_lesson() -> None:
    target = some_target()
    logits = logits_of(torch.tensor([0, 2, 1])[target], sure=200.0).requires_grad_()

    partial_label_loss(logits, target, ALL).backward()

    assert logits.grad is not None  # exp(-200) is no number of float32
    assert (logits.grad[0, 1][target[0] == 1] < 0).all()
    assert (logits.grad[0, 2][target[0] == 1] > 0).all()


def test_coarser_levels_count_half_as_much_each() -> None:
    target = some_target()
    levels = [torch.randn(1, 3, 4, 4, 4), torch.randn(1, 3, 4, 2, 2), torch.randn(1, 3, 2, 1, 1)]
    coarse = [target, target[:, :, 1::2, 1::2], target[:, 1::2, 2::4, 2::4]]  # nearest

    total = deep_loss(levels, target, ALL)

    each = [partial_label_loss(y, t, ALL) for y, t in zip(levels, coarse, strict=True)]
    expected = (each[0] + each[1] / 2 + each[2] / 4) / 1.75
    torch.testing.assert_close(total, expected)


def test_a_small_organ_counts_as_much_as_a_large_one_when_balanced() -> None:
    target = torch.zeros(1, 4, 8, 8, dtype=torch.int64)
    target[0, :, :4] = 1
    target[0, 0, 7, 7] = 2
    logits = torch.zeros(1, 3, 4, 8, 8, requires_grad=True)

    def pull(balance: float) -> float:
        labelled = torch.ones(1, 3, dtype=torch.bool)
        loss = partial_label_loss(logits, target, labelled, balance)
        return -torch.autograd.grad(loss, logits)[0][0, 2, 0, 7, 7].item()

    # By voxel the one voxel is one of 256; by organ it is half of everything.
    assert pull(1.0) - pull(0.0) == pytest.approx(2 / 3 * (1 / 2 - 1 / 256), rel=1e-3)


def test_the_loss_of_processes_that_share_a_batch_is_that_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 4, 4, 4, requires_grad=True)
    target = torch.randint(0, 3, (4, 4, 4, 4))
    target[0, :3] = UNKNOWN  # one process knows much less than the other
    target[1][target[1] == 2] = 1
    labelled = torch.tensor([[True, True, True], [True, True, False], *[[True] * 3] * 2])
    whole = partial_label_loss(logits, target, labelled, 0.3)
    (expected,) = torch.autograd.grad(whole, logits)
    halves = [(logits[i : i + 2], target[i : i + 2], labelled[i : i + 2], 0.3) for i in (0, 2)]
    divisors: list[list[Tensor]] = [[], []]
    for half, seen in zip(halves, divisors, strict=True):
        partial_label_loss(*half, lambda value, seen=seen: seen.append(value) or value)

    parts = []
    for half in halves:
        means = [(a + b) / 2 for a, b in zip(*divisors, strict=True)]
        parts.append(partial_label_loss(*half, lambda _, means=means: means.pop(0)))
    (gradient,) = torch.autograd.grad(sum(parts) / 2, logits)

    assert not torch.isclose(parts[0], parts[1])
    torch.testing.assert_close(sum(parts) / 2, whole)
    torch.testing.assert_close(gradient, expected)


def test_a_process_without_any_organ_in_its_patches_does_not_divide_by_none() -> None:
    empty = torch.zeros(1, 4, 4, 4, dtype=torch.int64)

    loss = partial_label_loss(torch.zeros(1, 3, 4, 4, 4), empty, ALL, 0.5)

    assert loss.item() == pytest.approx(log(3) / 2)
