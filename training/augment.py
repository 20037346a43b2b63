"""Augmentation: parameters are drawn first, then applied to image and labels alike.

Left and right are different organs, so nothing here mirrors. Voxels of which nothing is known
get an invented background (air, couch, vague tissue), so that on a whole planning CT couch, mask
and shoulders do not become organs.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.cases import UNKNOWN

EDGE_VOXELS = 3
"""How far from known tissue the invented background begins to count as background."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges of the augmentation; every draw is uniform unless said otherwise."""

    still: float = 0.5  # fraction of patches on the case's own voxels: as sharp as the clinic's
    rotation_degrees: tuple[float, float, float] = (10.0, 10.0, 15.0)  # about x, y, z: +-
    scale: tuple[float, float] = (0.85, 1.2)
    stretch: float = 0.05  # each axis on its own: +-
    contrast: tuple[float, float] = (0.9, 1.12)
    brightness: float = 0.1  # +-, in standard deviations of the body
    noise: float = 0.2  # largest sigma, same unit
    blur: float = 0.25  # fraction of patches that are blurred
    invent: float = 0.6  # fraction of patches with something else than air where nothing is known


def sample_patch(
    image: Tensor,
    labels: Tensor,
    centre: tuple[float, float, float],
    patch: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """A patch, randomly disturbed and, unless it is still, rotated and scaled.

    Args:
        image: ``(Z, Y, X)`` normalised, the whole case.
        labels: ``(Z, Y, X)`` uint8, with `UNKNOWN`.
        centre: voxel (z, y, x) that the patch is centred on.
        patch: voxels (z, y, x).
        spacing_mm: of the grid, (z, y, x).
        config: the ranges.
        rng: source of every draw.

    Returns:
        ``(*patch)`` float32 image and ``(*patch)`` int64 labels.
    """
    air = image.min()
    if rng.random() < config.still:
        x, y = _cut_out(image, labels, centre, patch)
    else:
        z0, y0, x0 = _source_indices(centre, patch, spacing_mm, config, rng)
        grid = _to_grid((z0, y0, x0), image.shape)  # (1, *patch, 3)
        x = F.grid_sample((image - air)[None, None], grid, align_corners=True)[0, 0] + air
        # Nothing is known outside the volume either: shift so that the zero outside means that.
        shifted = ((labels.int() + 1) % 256).float()
        y = F.grid_sample(shifted[None, None], grid, mode="nearest", align_corners=True)[0, 0]
        y = (y.long() + UNKNOWN) % 256
    x, y = _invent(x, y, float(air), config, rng)
    x = x * rng.uniform(*config.contrast) + rng.uniform(-config.brightness, config.brightness)
    if rng.random() < config.blur:
        x = F.avg_pool3d(F.pad(x[None, None], (1,) * 6, mode="replicate"), (1, 3, 3), stride=1)
        x = x[0, 0, 1:-1]
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    sigma = float(rng.uniform(0, config.noise))
    x = x + sigma * torch.randn(x.shape, generator=generator)
    return x.clamp(min=float(air)), y


def _cut_out(
    image: Tensor,
    labels: Tensor,
    centre: tuple[float, float, float],
    patch: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    """The patch around the voxel nearest to `centre`; nothing is known outside the case."""
    first = [round(c - (n - 1) / 2) for c, n in zip(centre, patch, strict=True)]
    inside, padding = [], list[int]()
    for start, n, size in zip(first, patch, image.shape, strict=True):
        a, b = np.clip([start, start + n], 0, size).tolist()
        inside.append(slice(a, b))
        padding = [min(max(-start, 0), n), 0, *padding]  # torch pads the last axis first
        padding[1] = n - (b - a) - padding[0]
    box = tuple(inside)
    x = F.pad(image[box], padding, value=float(image.min()))
    return x, F.pad(labels[box], padding, value=UNKNOWN).long()


def _source_indices(
    centre: tuple[float, float, float],
    patch: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Tensor:
    """Where each voxel of the patch is taken from: ``(3, *patch)`` voxel indices (z, y, x)."""
    about_x, about_y, about_z = np.deg2rad(
        [rng.uniform(-limit, limit) for limit in config.rotation_degrees]
    )
    sines, cosines = np.sin([about_x, about_y, about_z]), np.cos([about_x, about_y, about_z])
    in_yx = np.array([[1, 0, 0], [0, cosines[2], -sines[2]], [0, sines[2], cosines[2]]])
    in_zx = np.array([[cosines[1], 0, -sines[1]], [0, 1, 0], [sines[1], 0, cosines[1]]])
    in_zy = np.array([[cosines[0], -sines[0], 0], [sines[0], cosines[0], 0], [0, 0, 1]])
    stretch = rng.uniform(1 - config.stretch, 1 + config.stretch, 3)
    scale = np.diag(stretch / rng.uniform(*config.scale))
    spacing = np.diag(spacing_mm)
    matrix = np.linalg.inv(spacing) @ in_yx @ in_zx @ in_zy @ scale @ spacing
    offsets = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in patch), indexing="ij"
    )
    moved = torch.einsum("ij,jzyx->izyx", torch.from_numpy(matrix).float(), torch.stack(offsets))
    return moved + torch.tensor(centre, dtype=torch.float32)[:, None, None, None]


def _to_grid(indices: tuple[Tensor, Tensor, Tensor], shape: torch.Size) -> Tensor:
    """Voxel indices (z, y, x) to the (x, y, z) in [-1, 1] of torch's grid_sample."""
    normalised = [2 * i / max(n - 1, 1) - 1 for i, n in zip(indices, shape, strict=True)]
    return torch.stack(normalised[::-1], dim=-1)[None]


def _invent(
    image: Tensor, labels: Tensor, air: float, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Fill what is unknown with air, a couch or vague tissue, which are background."""
    unknown = labels == UNKNOWN
    if not unknown.any():
        return image, labels
    size = 2 * EDGE_VOXELS + 1
    known = (~unknown).float()[None, None]
    near = F.max_pool3d(known, size, stride=1, padding=EDGE_VOXELS)[0, 0] > 0
    filling = torch.full_like(image, air)
    if rng.random() < config.invent:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if rng.random() < 0.5:
            couch = _couch(image.shape, rng)
            filling[couch] = float(rng.uniform(air, air + 2.0))
        coarse = torch.randn([max(n // 8, 2) for n in image.shape], generator=generator)
        smooth = F.interpolate(coarse[None, None], image.shape, mode="trilinear")[0, 0]
        tissue = smooth > float(rng.uniform(-0.5, 1.5))
        values = 0.3 * torch.randn(image.shape, generator=generator) * float(rng.random())
        filling[tissue] = values[tissue] + float(rng.uniform(-0.5, 0.6))
    image = torch.where(unknown, filling, image)
    labels = torch.where(unknown & ~near, 0, labels)
    return image, labels


def _couch(shape: torch.Size, rng: np.random.Generator) -> Tensor:
    """A slab across the patch, a little tilted: ``(Z, Y, X)`` mask."""
    y = torch.arange(shape[1], dtype=torch.float32)[:, None]
    x = torch.arange(shape[2], dtype=torch.float32)[None, :]
    top = float(rng.uniform(0.3, 1.0)) * shape[1] + float(rng.uniform(-0.1, 0.1)) * x
    slab = (y >= top) & (y < top + float(rng.uniform(1, 6)))
    return slab.expand(shape)
