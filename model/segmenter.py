"""The segmenter: a CT in HU in, the organs' labels on the same grid out; loaded once."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import highdicom as hd
import torch
from torch import Tensor

from model.checkpoint import BadCheckpoint, Card, load_network
from model.organs import Organ
from model.postprocess import clean
from model.preprocess import Preprocessing
from model.sliding_window import Cancelled, ignore, never, predict_tiled
from model.unet import Shape, UNet, channels_last, fold_normalisation
from model.unusable import Unusable

__all__ = ["Cancelled", "Segmentation", "Segmenter"]

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]

CPU_TILES = 2
"""Tiles a pass on a CPU: of a single one in float32, PyTorch leaves the coarser levels to a
convolution without oneDNN, and two then take less time than one."""


OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What errors say that are of memory and have no type of their own."""


class DeviceLost(Unusable):
    """The GPU has failed, and answers nothing any more in this process."""


class NoSuchDevice(Unusable):
    """The network cannot run where it is told to."""


@dataclass(frozen=True)
class Segmentation:
    """What came of one CT."""

    labels: hd.Volume  # uint8 organ labels on the CT's own grid
    warnings: tuple[str, ...]  # sentences for the person who reviews
    seconds: dict[str, float]  # by stage


class Segmenter:
    """The network with its weights on its device, and all that goes around it."""

    def __init__(
        self,
        network: UNet,
        card: Card,
        device: str,
        *,
        compiled: bool = False,
        unmeasured: bool = False,
    ) -> None:
        """As `load`, of a network in memory."""
        self.card = card
        self.device = device
        self.organs: tuple[Organ, ...]  # those that are looked for, in the network's order
        self.organs = card.organ_rows() if unmeasured else card.measured_rows()
        if not self.organs:
            raise BadCheckpoint(
                f"{card.name} {card.version} has not been measured on unseen patients, or found "
                "nothing in them, so it may not be used on others yet: run training.evaluate with "
                "--write-card"
            )
        self._network = channels_last(fold_normalisation(network.eval()))
        try:
            self._network.to(device)
            # PyTorch sees also a GPU for which it has no kernels, and copies weights to it.
            next(self._network.parameters()).sum().item()
        except RuntimeError as error:
            if is_of_memory(error):
                raise NoSuchDevice(
                    f"The GPU has no room for the weights of {card.name}."
                ) from error
            if isinstance(error, torch.AcceleratorError):
                raise NoSuchDevice(f"The GPU cannot be used: {in_short(error)}.") from error
            raise
        self._on_gpu: Callable[[Tensor], Tensor] = self._network.features
        if compiled:
            # When the first tile comes, and for its shape alone. CUDA graphs would save little with
            # so large a tile, and all threads that replay one share its input and output.
            self._on_gpu = torch.compile(self._network.features, dynamic=False)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: Device = "auto",
        compiled: bool = False,
        unmeasured: bool = False,
    ) -> "Segmenter":
        """Load weights and card from a folder.

        Args:
            folder: of the model.
            device: where the network runs.
            compiled: whether a GPU is to have the network compiled, see `torch.compile`.
            unmeasured: also look for organs that nobody has measured yet; for evaluation only.

        Raises:
            BadCheckpoint: if they cannot be used, or no organ has been measured.
            NoSuchDevice: if it is not here, has no room or cannot be used.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda" and not torch.cuda.is_available():
            raise NoSuchDevice("The device is cuda, but PyTorch sees no GPU.")
        return cls(*load_network(folder), device, compiled=compiled, unmeasured=unmeasured)

    @property
    def name(self) -> str:
        """Of the model, as in model/weights."""
        return self.card.name

    @property
    def version(self) -> str:
        """Of the weights."""
        return self.card.version

    @property
    def weights_sha256(self) -> str:
        """Hex digest of the weights' file."""
        return self.card.weights_sha256

    def __call__(
        self,
        ct: hd.Volume,
        *,
        progress: Callable[[float], None] = ignore,
        cancelled: Callable[[], bool] = never,
    ) -> Segmentation:
        """Segment a CT.

        Args:
            ct: float32 HU, any orientation and spacing.
            progress: told the fraction done, 0 to 1.
            cancelled: asked again and again.

        Raises:
            Cancelled: as soon as `cancelled` says so.
            NoBody: if there is nothing but air.
            OutOfOrder: if the organs lie as in no patient.
            DeviceLost: if the GPU has failed: the process must be started again.
        """
        seconds: dict[str, float] = {}
        clock = time.perf_counter()

        def lap(stage: str) -> None:
            nonlocal clock
            seconds[stage], clock = time.perf_counter() - clock, time.perf_counter()

        image = self.card.preprocessing.forward(ct)
        lap("preprocess")
        grid = image.get_geometry()
        probabilities = self.probabilities(
            torch.from_numpy(image.array), progress=progress, cancelled=cancelled
        )
        del image
        lap("network")
        looked_for = [o.label if o in self.organs else 0 for o in self.card.organ_rows()]
        labels = _on_ct(probabilities, grid, ct, looked_for)
        del probabilities
        if self.device != "cpu":
            torch.cuda.empty_cache()  # between jobs the GPU is for whoever else has one
        labels, warnings = clean(labels, self.organs, ct)
        lap("postprocess")
        return Segmentation(labels, warnings, seconds)

    def probabilities(
        self,
        image: Tensor,
        *,
        progress: Callable[[float], None] = ignore,
        cancelled: Callable[[], bool] = never,
    ) -> Tensor:
        """``(K, Z, Y, X)`` float16 of a preprocessed ``(Z, Y, X)`` CT, class 0 the background.

        They are where the network was. Short of GPU memory it takes smaller tiles, then the CPU.
        """
        for device, tile in self._attempts():
            try:
                return self._tiled(image, device, tile, progress, cancelled)
            except RuntimeError as error:
                _raise_unless_of_memory(error)
                log.warning("%s ran out of memory with tiles of %s", device, tile)
            torch.cuda.empty_cache()  # not above, where the exception still holds the tensors
        raise MemoryError("the network does not fit into memory with the smallest tile")

    def _attempts(self) -> list[tuple[str, Shape]]:
        tile = self.card.tile
        if self.device == "cpu":
            return [("cpu", tile)]
        return [(self.device, tile), (self.device, self._smaller(tile)), ("cpu", tile)]

    def _smaller(self, tile: Shape) -> Shape:
        """About half the tile in plane, as far as the network's strides allow."""
        multiple = self.card.network.multiple
        y, x = (max(side // 2 // m, 1) * m for side, m in zip(tile[1:], multiple[1:], strict=True))
        return tile[0], y, x

    def _tiled(
        self,
        image: Tensor,
        device: str,
        tile: Shape,
        progress: Callable[[float], None],
        cancelled: Callable[[], bool],
    ) -> Tensor:
        network = self._network.to(device)
        features: Callable[[Tensor], Tensor] = network.features
        kind = torch.device(device).type
        if kind == "cuda" and tile == self.card.tile:  # other tiles come once: not worth compiling
            features = self._on_gpu
        return tiled_probabilities(
            network,
            image.to(device),
            tile,
            overlap=self.card.overlap,
            air=self.card.preprocessing.air,
            features=features,
            progress=progress,
            cancelled=cancelled,
        )


def tiled_probabilities(
    network: UNet,
    image: Tensor,
    tile: Shape,
    *,
    overlap: float,
    air: float,
    features: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[float], None] = ignore,
    cancelled: Callable[[], bool] = never,
) -> Tensor:
    """`predict_tiled` as patients get it, and as training measures what they would get.

    Args:
        network: in evaluation mode, where the image is.
        image: ``(Z, Y, X)``, preprocessed.
        tile: voxels (z, y, x).
        overlap: of tiles.
        air: the grey value that is no body yet.
        features: the network's, compiled.
        progress: told the fraction done.
        cancelled: asked before every pass.
    """
    kind = image.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=runs_faster_in_bf16(kind)):
        return predict_tiled(
            features or network.features,
            network.heads[0],
            image,
            tile,
            channels=network.config.widths[0],
            num_classes=network.config.num_classes,
            overlap=overlap,
            air=air,
            together=CPU_TILES if kind == "cpu" else 1,
            progress=progress,
            cancelled=cancelled,
        )


def _on_ct(
    probabilities: Tensor, grid: hd.VolumeGeometry, ct: hd.Volume, labels: Sequence[int]
) -> hd.Volume:
    """Labels on the CT's grid, made where the probabilities are, or else on the CPU."""
    try:
        return Preprocessing.backward(probabilities, grid, ct, labels=labels)
    except RuntimeError as error:
        _raise_unless_of_memory(error)
        log.warning("%s ran out of memory on the way back to the CT", probabilities.device)
    torch.cuda.empty_cache()  # not above, where the exception still holds the tensors
    return Preprocessing.backward(probabilities.cpu(), grid, ct, labels=labels)


def _raise_unless_of_memory(error: RuntimeError) -> None:
    """Return if there is another way to try, with less memory.

    Raises:
        DeviceLost: the GPU has failed.
        RuntimeError: the error itself, of anything else.
    """
    if is_of_memory(error):
        return
    if isinstance(error, torch.AcceleratorError):
        raise DeviceLost(f"the GPU failed: {in_short(error)}") from error
    raise error


def is_of_memory(error: RuntimeError) -> bool:
    """Whether there was too little memory, on a GPU or beside the processor."""
    # PyTorch's own allocator of a GPU has an exception; its libraries and the processor have words.
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(one in said for one in OUT_OF_MEMORY)


def in_short(error: torch.AcceleratorError) -> str:
    """What CUDA says, without the hints for who writes kernels."""
    return str(error).partition("\n")[0]


def runs_faster_in_bf16(device: str) -> bool:
    """Whether the processor or GPU multiplies bf16 in hardware (AVX512-BF16, AMX, Ampere)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
