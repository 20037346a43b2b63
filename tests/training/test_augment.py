"""Augmentation: a disturbed patient is still a patient, with the same left and right."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.augment import EDGE_VOXELS, AugmentConfig, Scan, _draw_matrix, sample_patch
from training.cases import UNKNOWN

SPACING_MM = (3.0, 2.0, 2.0)
PATCH = (12, 24, 24)
CENTRE = (8.0, 16.0, 16.0)
AIR = -3.0
BRIGHT = 4.0

STILL = AugmentConfig(
    still=0,
    rotation_degrees=(0, 0, 0),
    scale=(1, 1),
    stretch=0,
    contrast=(1, 1),
    brightness=0,
    noise=0,
    blur=0,
    invent=0,
)


def patient() -> tuple[Tensor, Tensor]:
    """Tissue in air; organ 1 on the left (high columns), 2 on the right, both bright, and 3."""
    image = torch.full((16, 32, 32), AIR)
    labels = torch.zeros(16, 32, 32, dtype=torch.uint8)
    image[1:-1, 4:28, 4:28] = 0.0
    for organ, box in (
        (1, np.s_[5:11, 13:19, 20:26]),
        (2, np.s_[5:11, 13:19, 6:12]),
        (3, np.s_[5:11, 7:10, 14:18]),
    ):
        image[box] = BRIGHT
        labels[box] = organ
    return image, labels


def draw(
    seed: int, config: AugmentConfig, *, unknown: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    image, labels = patient()
    if unknown is not None:
        image[unknown], labels[unknown] = AIR, UNKNOWN
    return taken(image, labels, CENTRE, config, seed)


def taken(
    image: Tensor,
    labels: Tensor,
    centre: tuple[float, float, float],
    config: AugmentConfig,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    scan = Scan(image, labels, float(image.min()), SPACING_MM)
    return sample_patch(scan, centre, PATCH, config, np.random.default_rng(seed))


def test_with_nothing_to_disturb_the_patch_is_the_patient() -> None:
    image, labels = patient()
    x, y = taken(image, labels, (7.5, 15.5, 15.5), STILL)

    torch.testing.assert_close(x, image[2:14, 4:28, 4:28], rtol=0, atol=1e-4)
    assert torch.equal(y, labels[2:14, 4:28, 4:28].long())
    assert x.dtype == torch.float32


AS_IT_IS = AugmentConfig(**(vars(STILL) | {"still": 1.0}))


@pytest.mark.parametrize("centre", [(8.0, 16.0, 16.0), (7.5, 15.5, 15.5), (7.6, 15.3, 15.8)])
def test_a_still_patch_is_the_very_voxels_of_the_case(centre: tuple[float, float, float]) -> None:
    image, labels = patient()
    image += torch.rand(image.shape, generator=torch.Generator().manual_seed(1))

    x, y = taken(image, labels, centre, AS_IT_IS)

    assert torch.equal(x, image[2:14, 4:28, 4:28])
    assert torch.equal(y, labels[2:14, 4:28, 4:28].long())


@pytest.mark.parametrize("config", [STILL, AS_IT_IS], ids=["resampled", "still"])
@pytest.mark.parametrize(
    "centre", [(0.5, 0.5, 0.5), (14.5, 30.5, 30.5), (7.5, 15.5, -3.5), (7.5, 42.5, 15.5)]
)
def test_a_patch_that_reaches_out_of_the_case_knows_nothing_there(
    config: AugmentConfig, centre: tuple[float, float, float]
) -> None:
    image, labels = patient()
    image[:] = BRIGHT
    image[8, 16, 16] = AIR
    labels[:] = 1

    x, y = taken(image, labels, centre, config)

    first = [round(c - (n - 1) / 2) for c, n in zip(centre, PATCH, strict=True)]
    inside = torch.zeros(PATCH, dtype=torch.bool)
    box = tuple(
        slice(max(-f, 0), max(min(size - f, n), 0))
        for f, n, size in zip(first, PATCH, image.shape, strict=True)
    )
    inside[box] = True
    assert inside.any()
    assert not inside.all()
    assert torch.equal(y == 1, inside)
    assert set(y[~inside].tolist()) <= {0, UNKNOWN}
    assert (x[~inside] - AIR).abs().max() < 1e-3
    assert (x[inside] - BRIGHT).abs().median() < 1e-3


def test_about_half_of_the_patches_are_still() -> None:
    image, labels = patient()
    image += torch.rand(image.shape, generator=torch.Generator().manual_seed(1))
    turning = AugmentConfig(**(vars(STILL) | {"still": 0.5, "rotation_degrees": (5, 5, 5)}))
    there = image[2:14, 4:28, 4:28]

    drawn = [taken(image, labels, CENTRE, turning, seed)[0] for seed in range(60)]

    assert 20 <= sum(torch.equal(x, there) for x in drawn) <= 40


def test_left_stays_left_in_a_hundred_draws() -> None:
    for seed in range(100):
        _, y = draw(seed, AugmentConfig())
        left, right, front = (
            torch.argwhere(y == organ).double().mean(dim=0) for organ in (1, 2, 3)
        )
        assert left[2] > right[2] + 4, seed
        assert front[1] < (left[1] + right[1]) / 2, seed


def test_labels_move_with_the_image() -> None:
    still = AugmentConfig(contrast=(1, 1), brightness=0, noise=0, blur=0)
    for seed in range(20):
        x, y = draw(seed, still)
        bright, labelled = x > BRIGHT / 2, y > 0
        dice = 2 * (bright & labelled).sum() / (bright.sum() + labelled.sum())
        assert dice > 0.85, seed


def test_every_draw_is_another_patient_and_the_same_draw_the_same() -> None:
    first, second = draw(0, AugmentConfig()), draw(0, AugmentConfig())
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    others = [draw(seed, AugmentConfig())[1] for seed in range(5)]
    assert all(not torch.equal(others[0], other) for other in others[1:])


def test_no_label_is_invented() -> None:
    unknown = torch.zeros(16, 32, 32, dtype=torch.bool)
    unknown[:, 24:] = True
    for seed in range(20):
        _, y = draw(seed, AugmentConfig(), unknown=unknown)
        assert set(y.unique().tolist()) <= {0, 1, 2, 3, UNKNOWN}
        assert y.dtype == torch.int64


@pytest.mark.parametrize("invent", [0.0, 1.0])
def test_unknown_stays_unknown_near_tissue_and_is_background_far_away(invent: float) -> None:
    image, labels = patient()
    labels[:, 20:] = UNKNOWN
    config = AugmentConfig(**(vars(STILL) | {"invent": invent}))

    _, y = taken(image, labels, (7.5, 15.5, 15.5), config)

    first = 20 - 4  # of the unknown rows, in the patch
    assert (y[:, :first] != UNKNOWN).all()
    assert (y[:, first : first + EDGE_VOXELS] == UNKNOWN).all()
    assert (y[:, first + EDGE_VOXELS :] == 0).all()


@pytest.mark.parametrize("config", [STILL, AS_IT_IS], ids=["resampled", "still"])
def test_outside_the_ct_nothing_is_known_and_there_is_air(config: AugmentConfig) -> None:
    image, labels = patient()
    x, y = taken(image, labels, (7.5, 15.5, 31.5), config)

    assert (x[:, :, 12:] == AIR).all()
    assert (y[:, :, 12 : 12 + EDGE_VOXELS] == UNKNOWN).all()
    assert (y[:, :, 12 + EDGE_VOXELS :] == 0).all()


def test_what_is_invented_is_only_where_nothing_is_known() -> None:
    unknown = torch.zeros(16, 32, 32, dtype=torch.bool)
    unknown[:, 22:] = True
    plain, invented = STILL, AugmentConfig(**(vars(STILL) | {"invent": 1.0}))
    different = 0
    for seed in range(10):
        x, _ = draw(seed, plain, unknown=unknown)
        z, _ = draw(seed, invented, unknown=unknown)
        _, y = draw(seed, STILL, unknown=unknown)
        known = slice(0, 12)  # rows well away from the edge of the known
        torch.testing.assert_close(x[:, known], z[:, known], rtol=0, atol=1e-5)
        assert y.shape == PATCH
        different += not torch.equal(x, z)
    assert different >= 5


def test_what_holds_a_mask_is_background_beside_the_patient() -> None:
    image, labels = patient()
    labels[:, 16:] = UNKNOWN
    config = AugmentConfig(**(vars(STILL) | {"invent": 1.0}))
    first = 16 - 12 + EDGE_VOXELS  # of the rows beside the patient, in the patch
    found = 0
    for seed in range(20):
        x, y = taken(image, labels, (7.5, 23.5, 15.5), config, seed)
        metal = x[:, first:] > 2  # brighter than couch and tissue are made
        found += bool(metal.any())
        assert (y[:, first:] == 0).all()
    assert found >= 5


def test_nothing_is_darker_than_air() -> None:
    noisy = AugmentConfig(noise=2.0, brightness=1.0)

    assert min(float(draw(seed, noisy)[0].min()) for seed in range(10)) >= AIR


def test_scaling_is_the_same_in_millimetres_along_every_axis() -> None:
    config = AugmentConfig(**(vars(STILL) | {"scale": (2.0, 2.0)}))
    image, labels = patient()
    labels[:] = 0
    labels[6:10, 14:18, 14:18] = 1

    _, y = taken(image, labels, (7.5, 15.5, 15.5), config)

    extent = [len(torch.argwhere(y == 1)[:, axis].unique()) for axis in range(3)]
    assert extent == [8, 8, 8]


def test_a_patient_is_turned_and_neither_bent_nor_mirrored() -> None:
    rigid = AugmentConfig(scale=(1, 1), stretch=0)
    for seed in range(5):
        spacing_mm = np.array([3.0, 1.0, 0.9])
        matrix = _draw_matrix((3.0, 1.0, 0.9), rigid, np.random.default_rng(seed))
        in_mm = spacing_mm[:, None] * matrix / spacing_mm
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(in_mm) > 0
