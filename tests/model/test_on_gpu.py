"""What the network does on a GPU, tried on one that is pretended: see tests/pretended_gpu.py."""

import copy
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
import torch

from model.blocks import Norm
from model.segmenter import Segmenter
from model.unet import UNet
from tests.model.networks import (
    ATTENTIONS,
    TILE,
    AttentionName,
    tiny_card,
    tiny_config,
    tiny_network,
)
from tests.phantoms import make_phantom
from tests.pretended_gpu import CUDA, pretended_gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture(scope="module")
def ct() -> hd.Volume:
    return make_phantom(shape=(30, 40, 44), spacing_mm=(8, 6.3, 5.9)).ct.astype(np.float32)


def segmenter(network: UNet, device: str) -> Segmenter:
    return Segmenter(copy.deepcopy(network), tiny_card(network.config), device)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_gpu_gives_a_patient_the_organs_that_the_processor_gives(
    attention: AttentionName, ct: hd.Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny_network(tiny_config(attention))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    expected = segmenter(network, "cpu")(ct).labels.array

    with pretended_gpu(monkeypatch, bf16=False):
        found = segmenter(network, str(CUDA))(ct).labels.array
    with pretended_gpu(monkeypatch, bf16=True):
        rounded = segmenter(network, str(CUDA))(ct).labels.array

    np.testing.assert_array_equal(found, expected)
    assert (rounded != expected).mean() < 0.01
    assert expected.any()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_no_block_of_the_network_lapses_to_float32_on_a_gpu(
    attention: AttentionName, norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast takes it for some operations, and its features would be twice as large."""
    network = tiny_network(replace(tiny_config(attention), norm=norm)).eval()
    with pretended_gpu(monkeypatch), torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        network.to(CUDA)
        found = []
        for block in (*network.encoder, *network.decoder):
            block.register_forward_hook(lambda _, given, features: found.append(features.dtype))
        network.features(torch.zeros(1, 1, *TILE, device=CUDA))

    assert found == [torch.bfloat16] * (2 * len(network.decoder) + 1)


def test_tensors_of_a_pretended_gpu_and_of_the_processor_do_not_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pretended_gpu(monkeypatch):
        there = torch.ones(2, device=CUDA)

        assert (there.device, there.is_cuda) == (CUDA, True)
        assert torch.equal((there + torch.tensor(1.0)).cpu(), torch.tensor([2.0, 2.0]))
        with pytest.raises(RuntimeError, match="of tensors on cuda:0 and cpu"):
            there + torch.ones(2)
