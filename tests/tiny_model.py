"""A network of a few hundred weights that finds the same organ everywhere, or none."""

import torch

from model.checkpoint import Card
from model.preprocess import Preprocessing
from model.unet import Shape, UNet, UNetConfig

ORGAN = "brainstem"


def tiny_model(
    name: str,
    *,
    spacing_mm: tuple[float, float, float] = (6.0, 4.0, 4.0),
    tile: Shape = (16, 32, 32),
    finds: bool = True,
) -> tuple[UNet, Card]:
    """Network and card, ready to save.

    Args:
        spacing_mm: the network's grid; a fine one takes long.
        tile: voxels; small ones take long, and ask often whether to go on.
        finds: whether every voxel is the organ, or every voxel is background.
    """
    config = UNetConfig(num_classes=2, widths=(2, 2), strides=((1, 2, 2),), attention="plain")
    network = UNet(config)
    with torch.no_grad():
        for weights in network.parameters():
            weights.zero_()
        for head in network.heads:
            head.bias.copy_(torch.tensor([0.0, 1.0] if finds else [1.0, 0.0]))
    card = Card(
        name=name,
        version="1.0.0",
        description="For tests alone.",
        organs=(ORGAN,),
        network=config,
        preprocessing=Preprocessing(spacing_mm=spacing_mm),
        tile=tile,
        training={},
        measured={ORGAN: {"dice_mean": 0.5, "dice_sd": 0.0, "patients": 1}},
    )
    return network, card
