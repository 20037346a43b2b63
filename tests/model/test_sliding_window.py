"""Tiled inference: the tiles must not be seen in the result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from model import sliding_window
from model.sliding_window import Cancelled, NotFinite

TILE = (4, 8, 6)

ROUNDING = 0.01
"""Of probabilities summed in float16; a seam would be far larger."""


def predict_tiled(
    network: Callable[[Tensor], Tensor], image: Tensor, tile: Any, classes: int, **settings: Any
) -> Tensor:
    """Of a network whose features are logits already."""
    return sliding_window.predict_tiled(
        network, lambda x: x, image, tile, channels=classes, num_classes=classes, **settings
    )


def voxelwise(x: Tensor) -> Tensor:
    """``(1, 1, *tile)`` to ``(1, 3, *tile)``: logits that depend on the voxel alone."""
    return torch.cat([torch.zeros_like(x), x, 1 - x.square()], dim=1)


def test_the_body_shows_no_seams_whatever_its_size() -> None:
    for size in [(4, 8, 6), (8, 16, 12), (9, 17, 13), (5, 30, 7), (3, 20, 6), (1, 2, 3)]:
        image = torch.randn(size, generator=torch.Generator().manual_seed(0))
        for overlap in (0.0, 0.3, 0.75):
            found = predict_tiled(voxelwise, image, TILE, 3, overlap=overlap)
            expected = voxelwise(image[None, None])[0].softmax(dim=0)
            assert found.shape == (3, *size)
            torch.testing.assert_close(found.float(), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_many_or_few_classes_come_of_four_features(classes: int) -> None:
    """The head comes after the tiles were blended, and the sum is the same as after them."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((9, 17, 13), generator=generator)
    weight, bias = torch.randn(classes, 4, generator=generator), torch.randn(classes, 1, 1, 1)

    def features(x: Tensor) -> Tensor:
        return torch.cat([x, 1 - x.square(), x.sin(), x.cos()], dim=1)

    def head(x: Tensor) -> Tensor:
        return torch.einsum("kc,bczyx->bkzyx", weight, x) + bias

    found = sliding_window.predict_tiled(
        features, head, image, TILE, channels=4, num_classes=classes
    )

    expected = head(features(image[None, None]))[0].softmax(dim=0)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 7e4])
def test_a_network_that_answers_no_numbers_has_not_found_that_there_is_nothing(
    wrong: float,
) -> None:
    def features(x: Tensor) -> Tensor:
        found = voxelwise(x)
        found[:, 1, 2, 4, 3] = wrong  # in the middle, where it counts most
        return found

    with pytest.raises(NotFinite, match="infinite or NaN"):
        predict_tiled(features, torch.zeros(9, 17, 13), TILE, 3)


def test_it_makes_no_difference_how_many_tiles_go_through_the_network_together() -> None:
    image = torch.randn((9, 17, 13), generator=torch.Generator().manual_seed(0))
    passes: list[int] = []

    def network(x: Tensor) -> Tensor:
        passes.append(len(x))
        return voxelwise(x)

    alone = predict_tiled(network, image, TILE, 3)
    count = len(passes)
    together = predict_tiled(network, image, TILE, 3, together=4)

    assert torch.equal(together, alone)
    assert passes[count:] == [4] * (count // 4) + [count % 4] * (count % 4 > 0)


def test_what_is_smaller_than_a_tile_is_surrounded_by_air() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x[0, 0])
        return voxelwise(x)

    predict_tiled(
        network, torch.full((2, 8, 6), 5.0).index_fill_(0, torch.tensor(0), -3.0), TILE, 3
    )

    assert len(seen) == 1
    assert seen[0].shape == TILE
    assert seen[0][:, 0, 0].tolist() == [-3.0, -3.0, 5.0, -3.0]


def test_a_tile_counts_most_near_its_centre() -> None:
    def network(x: Tensor) -> Tensor:  # of two tiles, the first sees organ 1 and the second 2
        organ = 1 if x[0, 0, 0, 0, 0] == 0 else 2
        return torch.full((1, 3, *TILE), -2.0).index_fill_(1, torch.tensor(organ), 2.0)

    image = torch.arange(8.0)[:, None, None].expand(8, 8, 6)[:6]
    found = predict_tiled(network, image, TILE, 3, overlap=0.5)

    share = found[1, :, 4, 3]  # tiles of planes 0 to 3 and 2 to 5
    alone = torch.tensor([-2.0, 2.0, -2.0]).softmax(dim=0)[1]
    torch.testing.assert_close(share[:3].float(), alone.expand(3), rtol=0, atol=ROUNDING)
    assert share[4:].max() < 0.1
    assert share[2] > share[3] > share[4], "plane 3 is as far from either centre"


def test_at_a_cts_ends_tiles_count_as_in_its_middle() -> None:
    """There every tile is far from its centre, and the nearest must still decide."""

    def network(x: Tensor) -> Tensor:  # of two tiles, the first sees organ 1 and the second 2
        organ = 1 if x[0, 0, 0, 0, 0] == 0 else 2
        return torch.full((1, 3, 16, 16, 32), -2.0).index_fill_(1, torch.tensor(organ), 2.0)

    image = torch.arange(48.0).expand(16, 16, 48)
    found = predict_tiled(network, image, (16, 16, 32), 3, overlap=0.5).float()

    middle, first, last = found[1, 8, 8], found[1, 0, 8], found[1, -1, 8]  # along x
    assert middle[20] > 0.9 > 0.2 > middle[27]
    torch.testing.assert_close(first, middle, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(last, middle, rtol=0, atol=ROUNDING)


def head_in_a_wide_field(wide: int) -> Tensor:
    """Air at -1 and, in the middle, a body of 4 x 8 x 6 voxels, one tile's size."""
    image = torch.full((4, 8, wide), -1.0)
    image[..., wide // 2 - 3 : wide // 2 + 3] = 1.0
    return image


def test_tiles_beside_the_body_are_not_run() -> None:
    image = head_in_a_wide_field(60)
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return voxelwise(x)

    predict_tiled(network, image, TILE, 3, air=0.0)

    assert 0 < len(seen) <= 4  # of 19
    assert all((x > 0).any() for x in seen)


def test_what_no_tile_sees_is_background_for_certain() -> None:
    def sees_an_organ_everywhere(x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), torch.full_like(x, 20.0)], dim=1)

    found = predict_tiled(sees_an_organ_everywhere, head_in_a_wide_field(60), TILE, 2, air=0.0)

    assert found[0, :, :, :20].eq(1).all()
    assert found[1, :, :, 27:33].gt(0.99).all()
    torch.testing.assert_close(
        found.sum(dim=0).float(), torch.ones(4, 8, 60), rtol=0, atol=ROUNDING
    )


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_every_voxel_of_the_body_is_seen_wherever_it_lies(overlap: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        image = torch.full((9, 17, 23), -1.0)
        place = [int(torch.randint(n, (1,), generator=generator)) for n in image.shape]
        image[tuple(place)] = 1.0

        found = predict_tiled(voxelwise, image, TILE, 3, overlap=overlap, air=0.0)

        expected = voxelwise(image[None, None])[0].softmax(dim=0)
        here = (slice(None), *place)
        torch.testing.assert_close(found[here].float(), expected[here], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("place", "tiles"), [(18, 1), (23, 2)])
def test_a_tile_is_run_if_it_still_counts_for_a_voxel_of_the_body(place: int, tiles: int) -> None:
    """The middles of the two tiles along x are at 16 and 32."""
    image = torch.full((1, 1, 48), -1.0)
    image[0, 0, place] = 1.0
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return voxelwise(x)

    predict_tiled(network, image, (1, 1, 32), 3, air=0.0)

    assert len(seen) == tiles


@pytest.mark.parametrize("grey", [-1.0, 0.0])
def test_without_any_body_there_is_only_background(grey: float) -> None:
    """What is clipped to the end of the window is as grey as air, and no body."""
    found = predict_tiled(voxelwise, torch.full((9, 17, 13), grey), TILE, 3, air=0.0)
    assert found[0].eq(1).all()
    assert found[1:].eq(0).all()


def test_progress_only_grows_and_ends_at_one() -> None:
    told: list[float] = []

    predict_tiled(voxelwise, torch.zeros(9, 17, 13), TILE, 3, progress=told.append)

    assert told == sorted(set(told))
    assert told[0] > 0
    assert told[-1] == 1


def test_a_cancelled_case_stops_before_the_next_tile() -> None:
    tiles: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        tiles.append(x)
        return voxelwise(x)

    with pytest.raises(Cancelled):
        predict_tiled(network, torch.zeros(9, 17, 13), TILE, 3, cancelled=lambda: len(tiles) == 2)
    assert len(tiles) == 2


@pytest.mark.parametrize(("overlap", "tiles"), [(0.0, 8), (0.25, 11), (0.75, 29)])
def test_neighbours_share_as_much_of_a_tile_as_is_asked_for(overlap: float, tiles: int) -> None:
    told: list[float] = []

    predict_tiled(voxelwise, torch.zeros(32, 8, 6), TILE, 3, overlap=overlap, progress=told.append)

    assert len(told) == tiles


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5])
def test_an_overlap_that_is_no_fraction_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="overlap is a fraction"):
        predict_tiled(voxelwise, torch.zeros(4, 8, 6), TILE, 3, overlap=overlap)
