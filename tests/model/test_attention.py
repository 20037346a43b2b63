"""The SAM attention and its image encoder."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.attention import SamAttention, _average
from model.blocks import (
    AttentionGate,
    Head,
    InstanceNorm,
    MaxPool,
    Pointwise,
    ResidualBlock,
    ScSE,
    attend,
)
from model.image_encoder import VitEncoder


def sam_attention(channels: int = 6) -> SamAttention:
    torch.manual_seed(0)
    return SamAttention(channels, embedding=8, organs=3, width=16)


def vit(grid: tuple[int, int, int] = (2, 2, 2)) -> VitEncoder:
    torch.manual_seed(0)
    return VitEncoder(width=8, depth=1, heads=2, patch=(2, 4, 4), position_grid=grid)


def test_there_is_a_gate_for_each_feature_whatever_the_embeddings_grid() -> None:
    x, embedding = torch.randn(2, 6, 4, 10, 6), torch.randn(2, 8, 3, 2, 5)

    assert sam_attention()(x, embedding).shape == x.shape


def test_the_gate_of_a_new_block_is_nearly_open() -> None:
    x = torch.ones(1, 6, 4, 8, 8)

    gate = sam_attention()(x, torch.randn(1, 8, 2, 2, 2))

    nearly = torch.sigmoid(torch.tensor(4.0)) ** 2  # of mask and channel
    assert (gate.mean() - nearly).abs() < 0.03
    assert gate.min() > 0.8
    assert gate.max() < 1


def test_the_gate_depends_on_what_organs_are_asked_for() -> None:
    attention = sam_attention()
    x, embedding = torch.randn(1, 6, 4, 8, 8), torch.randn(1, 8, 2, 2, 2)
    before = attention(x, embedding)

    with torch.no_grad():
        attention.prompt.organs.add_(torch.randn_like(attention.prompt.organs))

    assert (attention(x, embedding) - before).abs().max() > 1e-3


def test_the_gate_depends_on_the_image_and_on_the_blocks_own_features() -> None:
    attention = sam_attention()
    x, embedding = torch.ones(1, 6, 4, 8, 8), torch.randn(1, 8, 2, 2, 2)
    before = attention(x, embedding)

    assert (attention(x, -embedding) - before).abs().max() > 1e-3
    assert (attention(3 * x, embedding) - before).abs().max() > 1e-3


def test_the_mask_is_of_places_and_the_channel_weight_is_of_channels() -> None:
    gate = sam_attention()(torch.ones(1, 6, 4, 8, 8), torch.randn(1, 8, 2, 2, 2))[0]

    by_place = gate / gate[:, :1, :1, :1]  # (C, Z, Y, X), the channel's own weight divided out
    torch.testing.assert_close(by_place, by_place[:1].expand_as(by_place))
    assert by_place.std() > 1e-4
    assert gate[:, 0, 0, 0].std() > 1e-4


def test_the_gate_is_the_places_mask_times_the_channels_weight() -> None:
    attention = sam_attention().double()
    x = torch.randn(2, 6, 4, 8, 8).double().to(memory_format=torch.channels_last_3d)
    embedding = torch.randn(2, 8, 2, 4, 2).double()

    gate = attention(x, embedding)

    mask, channel = attention.decoder(*attention.prompt(x, embedding))
    mask = F.interpolate(mask, x.shape[2:], mode="trilinear", align_corners=False)
    torch.testing.assert_close(
        gate, torch.sigmoid(mask) * torch.sigmoid(channel)[..., None, None, None]
    )
    assert gate.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("grid", [(2, 4, 2), (4, 8, 8), (1, 1, 1), (3, 4, 2), (8, 4, 4)])
def test_features_are_averaged_over_the_cells_of_any_grid(grid: tuple[int, int, int]) -> None:
    x = torch.randn(2, 6, 4, 8, 8).double().to(memory_format=torch.channels_last_3d)

    averaged = _average(x, torch.Size(grid))

    torch.testing.assert_close(averaged, F.adaptive_avg_pool3d(x, grid))


def test_the_largest_is_the_same_in_half_precision_and_stays_in_it() -> None:
    x = torch.randn(1, 3, 4, 4, 4).bfloat16()

    with torch.autocast("cpu", torch.bfloat16):
        pooled = MaxPool((1, 2, 2))(x)

    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled.float(), F.max_pool3d(x.float(), (1, 2, 2)))


def test_every_patient_of_a_batch_is_attended_to_alone() -> None:
    attention = sam_attention().eval()
    x, embedding = torch.randn(2, 6, 4, 8, 8), torch.randn(2, 8, 2, 2, 2)

    alone = torch.cat([attention(x[i : i + 1], embedding[i : i + 1]) for i in range(2)])

    torch.testing.assert_close(attention(x, embedding), alone)


@pytest.mark.parametrize("size", [(2, 4, 4), (4, 8, 8), (6, 20, 12)])
def test_positions_are_interpolated_to_any_tile(size: tuple[int, int, int]) -> None:
    out = vit()(torch.randn(1, 1, *size))

    assert out.shape == (1, 8, size[0] // 2, size[1] // 4, size[2] // 4)


def test_the_encoder_knows_where_a_patch_lies() -> None:
    out = vit()(torch.zeros(1, 1, 4, 8, 8)).flatten(2)[0]  # (D, N); every patch looks the same

    assert (out - out[:, :1]).abs().amax(dim=0)[1:].min() > 1e-4


def test_a_tile_that_is_no_multiple_of_the_patch_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"\(4, 9, 8\) must be multiples of \(2, 4, 4\)"):
        vit()(torch.zeros(1, 1, 4, 9, 8))


def test_instances_are_normalised_alike_on_a_gpu() -> None:
    """Which is not here: what it is given to do is done by the processor."""
    torch.manual_seed(0)
    norm = InstanceNorm(6)
    torch.nn.init.normal_(norm.weight)
    features = torch.randn(2, 6, 4, 8, 8).contiguous(memory_format=torch.channels_last_3d)

    found = norm.of_gpu(features)

    torch.testing.assert_close(found, norm(features), atol=1e-5, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


def test_scse_and_the_attention_gate_only_turn_features_down() -> None:
    x, below = torch.randn(2, 6, 2, 4, 4), torch.randn(2, 6, 2, 4, 4)
    for share in (ScSE(6)(x, None), AttentionGate(6)(x, below) / x):
        assert share.shape == x.shape
        assert share.min() > 0
        assert share.max() < 1


def test_a_block_adds_its_input_to_what_its_gate_lets_through() -> None:
    gate = ScSE(6)
    block = ResidualBlock(6, 6, norm="batch", recalibration=gate).eval()
    x = torch.randn(2, 6, 2, 4, 4)

    features = block.body(x)

    torch.testing.assert_close(block(x, None), features * gate(features, None) + x)


def test_the_attention_gate_listens_to_the_level_below() -> None:
    torch.manual_seed(0)
    gate, skip = AttentionGate(6), torch.randn(1, 6, 2, 4, 4)

    assert not torch.allclose(
        gate(skip, torch.zeros_like(skip)), gate(skip, torch.randn(1, 6, 2, 4, 4))
    )


@pytest.mark.parametrize(
    ("kind", "layout"),
    [(Pointwise, torch.channels_last_3d), (Head, torch.contiguous_format)],
    ids=["channels last", "class by class"],
)
def test_a_pointwise_convolution_is_pytorchs_own_in_the_layout_that_is_wanted_next(
    kind: type[Pointwise], layout: torch.memory_format
) -> None:
    ours, theirs = kind(6, 5), nn.Conv3d(6, 5, 1)
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(2, 6, 4, 7, 3).contiguous(memory_format=torch.channels_last_3d)

    found = ours(features)

    torch.testing.assert_close(found, theirs(features))
    assert found.is_contiguous(memory_format=layout)


def test_attention_in_half_precision_is_that_of_full_precision() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 6, 8), torch.randn(2, 9, 8), torch.randn(2, 9, 8)
    expected = attend(q, k, v, heads=2)

    with torch.autocast("cpu", torch.bfloat16):
        found = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), heads=2)

    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0)


def test_a_gate_is_decided_in_full_precision_among_features_in_half() -> None:
    # As many bits as bf16 has tell 4 from 4.03 and nothing between, and gates start at sigmoid(4).
    decoder = sam_attention().decoder
    tokens, embedding = torch.randn(2, 3, 16).bfloat16(), torch.randn(2, 16, 2, 3, 4).bfloat16()
    expected = decoder(tokens.float(), embedding.float())

    with torch.autocast("cpu", torch.bfloat16):
        found = decoder(tokens, embedding)

    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=1e-6)
