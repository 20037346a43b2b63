"""The four networks: same drawing, different blocks."""

from dataclasses import replace

import pytest
import torch

from model.unet import (
    UNet,
    UNetConfig,
    channels_last,
    fold_normalisation,
)
from tests.model.networks import ATTENTIONS, TILE, AttentionName, tiny_config, tiny_network

SHIFT_BLIND = (".k.bias", "combine.bias")
"""Parameters that add one number to everything under a softmax, which changes nothing."""


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_voxel_gets_a_score_for_every_organ(attention: AttentionName) -> None:
    network = tiny_network(replace(tiny_config(), attention=attention))

    levels = network.forward_deep(torch.randn(2, 1, *TILE))

    assert [tuple(level.shape) for level in levels] == [(2, 4, 8, 32, 32), (2, 4, 8, 16, 16)]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_parameter_learns(attention: AttentionName) -> None:
    network = tiny_network(replace(tiny_config(), attention=attention))

    loss = sum(y.square().mean() for y in network.forward_deep(torch.randn(2, 1, *TILE)))
    assert isinstance(loss, torch.Tensor)
    loss.backward()

    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in idle if not name.endswith(SHIFT_BLIND)] == []


@pytest.mark.parametrize(
    ("attention", "expected"),
    [("plain", (2, 4, 4)), ("gate", (2, 4, 4)), ("scse", (2, 4, 4)), ("sam", (4, 16, 16))],
)
def test_a_size_that_cannot_be_pooled_is_refused_by_name(
    attention: AttentionName, expected: tuple[int, int, int]
) -> None:
    network = tiny_network(replace(tiny_config(), attention=attention))

    assert network.config.multiple == expected
    with pytest.raises(ValueError, match=r"\(8, 33, 32\) must be multiples of"):
        network(torch.zeros(1, 1, 8, 33, 32))


def test_the_multiple_suits_both_the_pooling_and_the_patches() -> None:
    config = replace(tiny_config(), strides=((3, 1, 1), (1, 1, 1)), encoder_patch=(4, 16, 16))

    assert config.multiple == (12, 16, 16)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_four_networks_differ_in_their_attention_alone(attention: AttentionName) -> None:
    plain = tiny_network(tiny_config("plain")).state_dict()
    other = tiny_network(replace(tiny_config(), attention=attention)).state_dict()

    assert plain.keys() <= other.keys()
    assert all(other[name].shape == value.shape for name, value in plain.items())
    allowed = {
        "plain": (),
        "gate": ("gate.",),
        "scse": (".recalibration.",),
        "sam": (".recalibration.", "image_encoder."),
    }[attention]
    own = other.keys() - plain.keys()
    assert all(any(part in name for part in allowed) for name in own)
    assert bool(own) == bool(allowed)


def test_the_ct_is_looked_at_once_by_the_image_encoder() -> None:
    network = tiny_network(tiny_config())
    calls: list[torch.Size] = []
    assert network.image_encoder is not None
    network.image_encoder.register_forward_hook(lambda _, __, out: calls.append(out.shape))

    network(torch.randn(1, 1, *TILE))

    assert calls == [torch.Size((1, 16, 2, 2, 2))]


def test_the_network_answers_the_same_on_every_run() -> None:
    network = tiny_network(tiny_config()).eval()
    x = torch.randn(1, 1, *TILE)

    assert torch.equal(network(x), network(x))
    assert torch.equal(network(x), network.forward_deep(x)[0])


@pytest.mark.slow
def test_litemedsam_can_be_the_image_encoder() -> None:
    network = tiny_network(tiny_config(image_encoder="litemedsam")).eval()

    with torch.inference_mode():
        y = network(torch.randn(1, 1, 2, 8, 8))

    assert y.shape == (1, 4, 2, 8, 8)
    assert y.isfinite().all()
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in network.named_parameters() if n.startswith("image_encoder.")}


@pytest.mark.parametrize("image_encoder", ["vit", "litemedsam"])
def test_laying_weights_out_for_speed_changes_none(image_encoder: str) -> None:
    config = tiny_config(image_encoder=image_encoder)  # type: ignore[arg-type]
    before = tiny_network(config)

    after = channels_last(tiny_network(config))

    state = after.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in before.state_dict().items())
    weights = [p for p in after.parameters() if p.dim() == 5]
    assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in weights)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_network_without_its_normalisations_answers_the_same(attention: AttentionName) -> None:
    network = tiny_network(replace(tiny_config(attention), norm="batch"))
    network(torch.randn(2, 1, *TILE))  # the normalisations learn what to expect
    network.eval()
    x = torch.randn(1, 1, *TILE)
    with torch.inference_mode():
        expected = network(x)

    folded = fold_normalisation(network)

    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_compiler_sees_the_whole_network_at_once() -> None:
    network = tiny_network(tiny_config()).eval()
    x = torch.randn(1, 1, *TILE)
    torch.compiler.reset()

    with torch.inference_mode():
        compiled = torch.compile(network.features, backend="eager", fullgraph=True)(x)

        assert torch.equal(compiled, network.features(x))
    torch.compiler.reset()


def test_a_configuration_that_makes_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="3 widths need 2 strides"):
        UNetConfig(num_classes=2, widths=(4, 8, 8), strides=((1, 2, 2),))
    with pytest.raises(ValueError, match="counts the background too, got 1"):
        UNetConfig(num_classes=1, widths=(4, 8), strides=((1, 2, 2),))


def test_a_network_has_one_head_for_every_level_it_decodes() -> None:
    network = UNet(tiny_config("plain"))

    assert [head.in_channels for head in network.heads] == [4, 8]
