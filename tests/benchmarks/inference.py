"""A whole volume through one network: our tiles against nnU-Net's and MONAI's.

The same weights, image, tile, overlap and threads. The two peers run as they are by default on a
CPU, in float32; MONAI, which leaves that to its caller, also in our bf16.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor

from model.checkpoint import Card, load_network
from model.metrics import dice
from model.segmenter import Segmenter, runs_faster_in_bf16
from tests.benchmarks.contest import OURS, Options, Row, against, in_turns

OVERLAP = 0.5
"""Of tiles: nnU-Net's own, whatever the model's card says."""

NNUNET, MONAI, MONAI_BF16 = "nnU-Net v2", "MONAI", "MONAI in bf16"


def rows(options: Options) -> list[Row]:
    """The network alone: no reading, no resampling."""
    network, card = load_network(options.model)
    card = replace(card, overlap=OVERLAP)
    segmenter = Segmenter(load_network(options.model)[0], card, "cpu")
    ct = options.phantom().ct
    image = torch.from_numpy(card.preprocessing.forward(ct.astype(np.float32)).array)
    predictor = nnunet_predictor(network, card)
    found: dict[str, Tensor] = {}

    def monai() -> None:
        with torch.inference_mode():
            found[MONAI] = sliding_window_inference(
                image[None, None],
                card.tile,
                sw_batch_size=1,
                predictor=network,
                overlap=card.overlap,
                mode="gaussian",
            )[0]

    def monai_bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=runs_faster_in_bf16("cpu")):
            monai()

    def nnunet() -> None:
        found[NNUNET] = predictor.predict_sliding_window_return_logits(image[None])

    def ours() -> None:
        found[OURS] = segmenter.probabilities(image)

    figures = in_turns(
        {OURS: ours, NNUNET: nnunet, MONAI_BF16: monai_bf16, MONAI: monai},
        options.repeats,
        options.clock,
    )
    masks = {name: scores.argmax(0).numpy() for name, scores in found.items()}
    shape = " x ".join(map(str, image.shape))
    notes = [agreement(masks[OURS], masks[name], name) for name in (NNUNET, MONAI)]
    return against(
        figures,
        {NNUNET: 3.0, MONAI: 2.0, MONAI_BF16: 1.0},
        what="whole-volume inference",
        note=f"{shape} voxels, tiles of {card.tile}, overlap {card.overlap:g}; {'; '.join(notes)}",
    )


def nnunet_predictor(network: torch.nn.Module, card: Card) -> nnUNetPredictor:
    """nnU-Net's predictor with our network in it: only the plan's patch and classes are asked."""
    predictor = nnUNetPredictor(
        tile_step_size=1 - card.overlap,
        use_mirroring=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    labels = SimpleNamespace(num_segmentation_heads=card.network.num_classes)
    predictor.manual_initialization(
        network,
        plans_manager=SimpleNamespace(get_label_manager=lambda dataset: labels),
        configuration_manager=SimpleNamespace(patch_size=list(card.tile)),
        parameters=None,
        dataset_json={},
        trainer_name="",
        inference_allowed_mirroring_axes=None,
    )
    return predictor


def agreement(ours: np.ndarray, theirs: np.ndarray, peer: str) -> str:
    """Dice of two label volumes: mean over organs, the lowest, and of all organs' voxels."""
    organs = np.union1d(ours, theirs)[1:]
    by_organ = [dice(ours == k, theirs == k) for k in organs]
    same = 2 * np.sum((ours == theirs) & (ours > 0)) / (np.sum(ours > 0) + np.sum(theirs > 0))
    return (
        f"masks agree with {peer}'s at Dice {same:.4f}, "
        f"mean over organs {np.mean(by_organ):.4f}, lowest {np.min(by_organ):.4f}"
    )
