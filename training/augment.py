"""Augmentation: parameters are drawn first, then applied to image and labels alike.

Left and right are different organs, so nothing here mirrors. Voxels of which nothing is known
get an invented background (air, couch, rails, vague tissue), so that on a whole planning CT couch,
mask, its holders and shoulders do not become organs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.cases import UNKNOWN

EDGE_VOXELS = 3
"""How far from known tissue the invented background begins to count as background."""

MOST_RAILS = 3
"""In a patch, if its background is invented."""


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

    def __post_init__(self) -> None:
        for key in ("still", "blur", "invent"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} is a fraction of the patches, got {getattr(self, key)}")
        for key in ("scale", "contrast"):
            low, high = getattr(self, key)
            if not 0 < low <= high:
                raise ValueError(f"{key} is two factors, the lower first, got {low} {high}")
        for key in ("brightness", "noise"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} is not negative, got {getattr(self, key)}")
        if not 0 <= self.stretch < 1:
            raise ValueError(f"stretch is in [0, 1), got {self.stretch}")
        if min(self.rotation_degrees) < 0:
            raise ValueError(f"rotation_degrees are not negative, got {self.rotation_degrees}")


class Scan(NamedTuple):
    """What patches are taken from: a whole case."""

    image: Tensor  # (Z, Y, X) normalised
    labels: Tensor  # (Z, Y, X) uint8, with `UNKNOWN`; patches have the same
    air: float  # the least value that an image can have
    spacing_mm: tuple[float, float, float]  # (z, y, x)


def sample_patch(
    scan: Scan,
    centre: tuple[float, float, float],
    patch: tuple[int, int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """A patch, randomly disturbed and, unless it is still, rotated and scaled.

    Args:
        scan: the case.
        centre: voxel (z, y, x) that the patch is centred on.
        patch: voxels (z, y, x).
        config: the ranges.
        rng: source of every draw.

    Returns:
        ``(*patch)`` float32 image and ``(*patch)`` int64 labels.
    """
    if rng.random() < config.still:
        x, y = _cut_out(scan, centre, patch)
    else:
        matrix = _draw_matrix(scan.spacing_mm, config, rng)
        x, y = _resampled(scan, centre, patch, matrix)
    x, y = _invent(x, y, scan.air, config, rng)
    x = x * rng.uniform(*config.contrast) + rng.uniform(-config.brightness, config.brightness)
    if rng.random() < config.blur:
        padded = F.pad(x[:, None], (1, 1, 1, 1), mode="replicate")
        x = F.avg_pool2d(padded, 3, stride=1)[:, 0]
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    sigma = float(rng.uniform(0, config.noise))
    x = x + sigma * torch.randn(x.shape, generator=generator)
    return x.clamp(min=scan.air), y


def _cut_out(
    scan: Scan, centre: tuple[float, float, float], patch: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """The patch around the voxel nearest to `centre`; nothing is known outside the case."""
    first = [round(c - (n - 1) / 2) for c, n in zip(centre, patch, strict=True)]
    inside, padding = [], list[int]()
    for start, n, size in zip(first, patch, scan.image.shape, strict=True):
        a, b = np.clip([start, start + n], 0, size).tolist()
        inside.append(slice(a, b))
        padding = [min(max(-start, 0), n), 0, *padding]  # torch pads the last axis first
        padding[1] = n - (b - a) - padding[0]
    box = tuple(inside)
    x = F.pad(scan.image[box], padding, value=scan.air)
    return x, F.pad(scan.labels[box], padding, value=UNKNOWN).long()


def _draw_matrix(
    spacing_mm: tuple[float, float, float], config: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """A rotation with a scaling: ``(3, 3)``, a step in the patch to a step in the case, voxels."""
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
    return np.linalg.inv(spacing) @ in_yx @ in_zx @ in_zy @ scale @ spacing


def _resampled(
    scan: Scan,
    centre: tuple[float, float, float],
    patch: tuple[int, int, int],
    matrix: np.ndarray,
) -> tuple[Tensor, Tensor]:
    """The patch around `centre` through `matrix`; nothing is known outside the case."""
    half = (np.asarray(patch) - 1) / 2
    reach = np.abs(matrix) @ half
    size = np.asarray(scan.image.shape)
    # Two voxels at least: over a single one, torch's grid cannot say how far outside a point is.
    first = np.clip(np.floor(centre - reach), 0, np.maximum(size - 2, 0)).astype(int)
    last = np.clip(np.ceil(centre + reach), np.minimum(first + 1, size - 1), size - 1).astype(int)
    box = tuple(slice(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    # torch's grids count from -1 to 1 over an axis, and from x to z.
    side = np.maximum(last - first, 1)
    theta = np.zeros((3, 4), np.float32)
    theta[:, :3] = (2 / side[:, None] * matrix * half)[::-1, ::-1]
    theta[:, 3] = (2 * (centre - first) / side - 1)[::-1]
    grid = F.affine_grid(torch.from_numpy(theta)[None], [1, 1, *patch], align_corners=True)
    x = F.grid_sample((scan.image[box] - scan.air)[None, None], grid, align_corners=True)[0, 0]
    # Shifted by one and back, bytes wrap round: the zero outside the case becomes `UNKNOWN`.
    shifted = (scan.labels[box] + 1).float()
    y = F.grid_sample(shifted[None, None], grid, mode="nearest", align_corners=True)[0, 0]
    return x + scan.air, (y.byte() + UNKNOWN).long()


def _invent(
    image: Tensor, labels: Tensor, air: float, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Fill what is unknown with air, couch, rails or vague tissue, which are background."""
    unknown = labels == UNKNOWN
    if not unknown.any():
        return image, labels
    near = _within(~unknown, EDGE_VOXELS)
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
        for _ in range(rng.integers(MOST_RAILS + 1)):
            for part in _rail(image.shape, rng):  # hollow or not: a canal in a bone it is not
                filling[part] = float(rng.uniform(air, air + 6.0))
    image = torch.where(unknown, filling, image)
    labels = torch.where(unknown & ~near, 0, labels)
    return image, labels


def _within(mask: Tensor, voxels: int) -> Tensor:
    """`mask` and all that is not further from it than so many voxels along any axis."""
    for axis in range(3):
        near = mask.clone()
        for shift in range(1, min(voxels + 1, mask.shape[axis])):
            n = mask.shape[axis] - shift
            near.narrow(axis, shift, n).logical_or_(mask.narrow(axis, 0, n))
            near.narrow(axis, 0, n).logical_or_(mask.narrow(axis, shift, n))
        mask = near
    return mask


def _couch(shape: torch.Size, rng: np.random.Generator) -> Tensor:
    """A slab across the patch, a little tilted: ``(Z, Y, X)`` mask."""
    y = torch.arange(shape[1], dtype=torch.float32)[:, None]
    x = torch.arange(shape[2], dtype=torch.float32)[None, :]
    top = float(rng.uniform(0.3, 1.0)) * shape[1] + float(rng.uniform(-0.1, 0.1)) * x
    slab = (y >= top) & (y < top + float(rng.uniform(1, 6)))
    return slab.expand(shape)


def _rail(shape: torch.Size, rng: np.random.Generator) -> Sequence[tuple[slice, ...]]:
    """A bar along the patient, as holds a mask to a couch: its box in the patch, and its core's."""
    along = slice(*np.sort(rng.integers(shape[0] + 1, size=2)).tolist())
    sides = rng.integers(2, 10, size=2)
    first = rng.integers(np.maximum(np.array(shape[1:]) - sides, 1))
    boxes = []
    for inset in (0, int(rng.integers(1, 3))):
        y, x = (slice(a + inset, a + n - inset) for a, n in zip(first, sides, strict=True))
        boxes.append((along, y, x))
    return boxes
