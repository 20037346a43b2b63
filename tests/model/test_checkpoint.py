"""Checkpoints: weights and card belong together or are refused with the file's name."""

import hashlib
import json
import os
import pickle
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.blocks import Norm
from model.checkpoint import CARD, WEIGHTS, BadCheckpoint, load_network, read_card, save
from model.unet import UNet
from tests.model.networks import (
    ATTENTIONS,
    TILE,
    AttentionName,
    save_tiny,
    tiny_card,
    tiny_config,
    tiny_network,
)


def edit_card(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads((folder / CARD).read_text())
    change(values)
    (folder / CARD).write_text(json.dumps(values))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_saved_network_answers_as_before(
    tmp_path: Path, attention: AttentionName, norm: Norm
) -> None:
    network = tiny_network(replace(tiny_config(), attention=attention, norm=norm))
    network.train()(torch.randn(2, 1, *TILE) + 0.5)  # batch norm gathers statistics
    network.eval()
    x = torch.randn(1, 1, *TILE)

    save(tmp_path, network, tiny_card(network.config))
    loaded, card = load_network(tmp_path)

    with torch.no_grad():
        expected = network(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(loaded(x), expected, rtol=0, atol=0.02)  # weights in half precision
    assert card.network == network.config
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.slow
def test_a_network_with_litemedsam_answers_as_before(tmp_path: Path) -> None:
    network = tiny_network(tiny_config(image_encoder="litemedsam")).eval()
    save(tmp_path, network, tiny_card(network.config))

    loaded, _ = load_network(tmp_path)

    x = torch.randn(1, 1, 2, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network(x), rtol=0, atol=0.02)


def test_the_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    network = tiny_network(tiny_config())
    card = replace(
        tiny_card(network.config),
        training={"patients": 3, "steps": 7},
        measured={"brainstem": {"dice_mean": 0.5, "dice_sd": 0.1, "patients": 2}},
    )

    saved = save(tmp_path, network, card)

    digest = hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    assert saved == replace(card, weights_sha256=digest) == read_card(tmp_path)
    assert saved.notice.startswith("Research use only")
    assert [organ.label for organ in saved.organ_rows()] == [1, 12, 13]


def test_weights_beyond_half_precision_are_not_saved(tmp_path: Path) -> None:
    network = tiny_network(tiny_config())
    with torch.no_grad():
        next(network.parameters())[0] = 1e5

    with pytest.raises(BadCheckpoint, match="half precision does not hold"):
        save(tmp_path, network, tiny_card(network.config))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, tmp_path / WEIGHTS)
    digest = hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    edit_card(tmp_path, lambda card: card.update(weights_sha256=digest))

    with pytest.raises(BadCheckpoint, match="half precision does not hold"):
        load_network(tmp_path)


def test_a_truncated_file_of_weights_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-100])

    with pytest.raises(BadCheckpoint, match=rf"{WEIGHTS} is damaged or not the file"):
        load_network(tmp_path)


def test_the_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "a", seed=1)
    save_tiny(tmp_path / "b", seed=2)
    (tmp_path / "a" / WEIGHTS).write_bytes((tmp_path / "b" / WEIGHTS).read_bytes())

    with pytest.raises(BadCheckpoint, match=rf"a/{WEIGHTS} is damaged or not the file"):
        load_network(tmp_path / "a")


def test_weights_that_do_not_fit_the_cards_network_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    edit_card(tmp_path, lambda card: card["network"].update(widths=[4, 8, 16]))

    with pytest.raises(BadCheckpoint, match=rf"{WEIGHTS} does not fit the network of its card"):
        load_network(tmp_path)


def test_weights_with_one_too_many_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    edit_card(tmp_path, lambda card: card["network"].update(attention="plain"))

    with pytest.raises(BadCheckpoint, match=r"Unexpected key.*image_encoder"):
        load_network(tmp_path)


@pytest.mark.parametrize("file", [CARD, WEIGHTS])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    save_tiny(tmp_path)
    (tmp_path / file).unlink()

    with pytest.raises(BadCheckpoint, match=rf"No such file.*{file}|{file}: No such file"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda card: card.update(colour="red"), "colour"),
        (lambda card: card["network"].update(dropout=0.1), r"network\.dropout"),
        (lambda card: card["preprocessing"].update(flip=True), r"preprocessing\.flip"),
        (lambda card: card.update(organs=["brainstem", "parotid_left"]), "need 3 classes"),
        (lambda card: card["organs"].append("spinal_cord"), "need 5 classes"),
        (lambda card: card.update(organs=["brainstem", "spleen", "liver"]), "spleen"),
        (lambda card: card.pop("tile"), "tile"),
        (lambda card: card.update(name="x" * 65), "name of a model has 1 to 64 letters"),
        (lambda card: card.update(name="a\\b"), "no backslash"),
        (lambda card: card.update(name="hn\u5934"), "of ASCII"),
        (lambda card: card.update(version=""), "version of a model has 1 to 48"),
        (lambda card: card.update(version="1" * 49), "version of a model has 1 to 48"),
        (lambda card: card.update(overlap=1.0), "overlap is a fraction"),
        (lambda card: card.update(tile=[8, 32]), "tile"),
        (lambda card: card["network"].update(attention="magic"), "attention"),
    ],
)
def test_a_card_that_says_what_no_card_says_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    save_tiny(tmp_path)
    edit_card(tmp_path, change)

    with pytest.raises(BadCheckpoint, match=rf"(?s){CARD} is not a model card.*{complaint}"):
        load_network(tmp_path)


def test_a_card_that_is_no_json_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / CARD).write_bytes(b"\xff\xfe not json")

    with pytest.raises(BadCheckpoint, match=f"{CARD} is not a model card"):
        read_card(tmp_path)


def touch(path: str) -> Path:
    Path(path).touch()
    return Path(path)


class Trap:
    """What unpickles by running code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], Path], tuple[str]]:
        return touch, (str(self.path),)


def test_a_pickle_is_never_unpickled(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    sprung = tmp_path / "sprung"
    trap = pickle.dumps({"head": Trap(sprung)})
    (tmp_path / WEIGHTS).write_bytes(trap)
    digest = hashlib.sha256(trap).hexdigest()
    edit_card(tmp_path, lambda card: card.update(weights_sha256=digest))

    with pytest.raises(BadCheckpoint, match=f"{WEIGHTS} is not a safetensors file"):
        load_network(tmp_path)

    assert not sprung.exists()
    pickle.loads(trap)
    assert sprung.exists()  # the trap would have told


def test_another_user_can_read_what_was_saved(tmp_path: Path) -> None:
    """Orthanc is not who trains."""
    save_tiny(tmp_path)

    assert all(file.stat().st_mode & 0o044 == 0o044 for file in tmp_path.iterdir())


def test_a_model_that_finds_no_room_leaves_the_one_of_before_and_nothing_else(
    tmp_path: Path,
) -> None:
    save_tiny(tmp_path, seed=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        with pytest.raises(OSError, match=f"File too large: '{tmp_path}'"):
            save_tiny(tmp_path, seed=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_is_on_the_disk_before_it_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path, seed=1)
    first, there = read_card(tmp_path), []
    monkeypatch.setattr(os, "fsync", lambda _: there.append(load_network(tmp_path)[1]))

    save_tiny(tmp_path, seed=2)

    assert there == [first, first]  # as a power cut would leave it, the weights or both written
    assert load_network(tmp_path)[1] != first


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    network: UNet = save_tiny(tmp_path / "a")
    save(tmp_path / "b", network, tiny_card(network.config))

    assert read_card(tmp_path / "a").weights_sha256 == read_card(tmp_path / "b").weights_sha256
