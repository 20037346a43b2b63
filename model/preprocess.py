"""Preprocessing: the only code that changes a grid, to the network's and back to the CT's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import highdicom as hd
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from model.volumes import TOUCHING, boxes_by_label

ORIENTATION = "FPL"
"""The network sees (z, y, x) growing towards the patient's feet, back and left."""

BODY_HU = -300.0
"""HU: what is denser may be patient; skin and lung borders lie above, air and foam below."""

BODY_MARGIN_MM = 10.0
"""How far around the body the network looks."""

PARALLEL_TOLERANCE = 1e-4
"""Largest sine of an angle between axes that still count as parallel."""


BLOCK = 32
"""Output voxels that are resampled together: fewer are no less work for the processor."""

SLICES = 16
"""Slices that go from plane to plane together: few enough for the processor's cache."""

Grid = TypeVar("Grid", hd.Volume, hd.VolumeGeometry)


WINDOW_HU = (-300.0, 1200.0)
"""What grey values are clipped to if nobody says otherwise."""


class NoBody(ValueError):
    """The volume shows nothing but air."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Saved beside the weights, because weights mean nothing without it."""

    spacing_mm: tuple[float, float, float] = (3.0, 1.0, 1.0)  # (z, y, x); the paper's grid
    window_hu: tuple[float, float] = WINDOW_HU  # clipped to this before standardising
    mean_hu: float = 0.0  # of the body in the training data, after clipping
    std_hu: float = 300.0

    def forward(self, ct: hd.Volume) -> hd.Volume:
        """HU on any grid, to float32 of about zero mean and unit spread on ours, around the body.

        Raises:
            NoBody: if there is none in the volume.
        """
        ct = ct.to_patient_orientation(ORIENTATION)
        # Metal is clipped before it is averaged with its neighbours, which would become bone. Air
        # is not: the body's edge would be another one.
        ct = crop_to_body(resample(ct, self.grid(ct), highest=self.window_hu[1]))
        values = np.clip(ct.array, *self.window_hu)
        return ct.with_array(((values - self.mean_hu) / self.std_hu).astype(np.float32))

    @property
    def air(self) -> float:
        """The grey value of ours that is no body yet; all that is denser lies above it."""
        return self._grey(max(BODY_HU, self.window_hu[0]))

    @property
    def least(self) -> float:
        """The least grey value of ours: what is as dark as the window ends, or darker."""
        return self._grey(self.window_hu[0])

    def _grey(self, hu: float) -> float:
        """The grey value of ours that `forward` gives, to the bit."""
        return float((np.float32(hu) - self.mean_hu) / self.std_hu)

    def grid(self, ct: hd.Volume | hd.VolumeGeometry) -> hd.VolumeGeometry:
        """Our spacing over the extent of `ct`, which is in our orientation; the centre is kept."""
        extent_mm = np.multiply(ct.spatial_shape, ct.spacing)
        shape = np.maximum(np.rint(extent_mm / self.spacing_mm), 1).astype(int)
        axes = ct.direction * np.asarray(self.spacing_mm)  # columns: one step along each axis
        affine = np.eye(4)
        affine[:3, :3] = axes
        affine[:3, 3] = np.asarray(ct.center_position) - axes @ ((shape - 1) / 2)
        return hd.VolumeGeometry(
            affine, tuple(shape.tolist()), "PATIENT", ct.frame_of_reference_uid
        )

    @staticmethod
    def backward(
        probabilities: Tensor,
        grid: hd.VolumeGeometry,
        ct: hd.Volume,
        *,
        labels: Sequence[int] | None = None,
    ) -> hd.Volume:
        """Class probabilities on our grid, to the most probable class of each voxel of `ct`.

        Probabilities are interpolated, not labels, so outlines are as smooth as the network was
        sure; one class at a time and only around its organ, which saves time and memory.

        Args:
            probabilities: ``(K, Z, Y, X)`` on `grid`, class 0 the background.
            grid: what `forward` returned, or its geometry.
            ct: the CT that `forward` was given.
            labels: what the classes are written as, the background, which is 0, left out; as
                1, 2 and so on by default.

        Returns:
            uint8 labels on the very grid of `ct`.
        """
        labels = labels or range(1, len(probabilities))
        target = ct.get_geometry().to_patient_orientation(ORIENTATION)
        found = np.zeros(target.spatial_shape, np.uint8)
        # Interpolated is a mean of neighbours: where none is likelier than background, that wins.
        likely = (probabilities[1:].amax(dim=0) > probabilities[0]).cpu().numpy()
        pieces, _ = ndimage.label(likely, TOUCHING)
        for piece in ndimage.find_objects(pieces):
            source_box, target_box = _boxes_around(piece, grid, target)
            source, here = _part(grid, source_box), _part(target, target_box)
            part = probabilities[(slice(None), *source_box)]
            best = _resample(part[0], source, here)
            winner = torch.zeros_like(best, dtype=torch.uint8)
            for label, one in zip(labels, part[1:], strict=True):
                likelier = one > part[0]
                if not likelier.any():
                    continue
                inner, outer = _boxes_around(_bounds(likelier), source, here)
                p = _resample(one[inner], _part(source, inner), _part(here, outer))
                winner[outer][p > best[outer]] = label
                torch.maximum(best[outer], p, out=best[outer])
            found[target_box] = winner.cpu().numpy()
        out = hd.Volume(found, target.affine, "PATIENT", ct.frame_of_reference_uid)
        return ct.with_array(out.match_geometry(ct.get_geometry()).array)


def crop_to_body(ct: hd.Volume) -> hd.Volume:
    """The box around the largest connected thing denser than `BODY_HU`, with a margin.

    Raises:
        NoBody: if nothing is.
    """
    parts, count = ndimage.label(ct.array > BODY_HU)
    if count == 0:
        raise NoBody(f"The images show no patient: nothing is denser than {BODY_HU:.0f} HU.")
    largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
    box = ndimage.find_objects(parts, max_label=largest)[largest - 1]
    return _part(ct, _grow(box, BODY_MARGIN_MM / np.asarray(ct.spacing), ct.spatial_shape))


def resample(volume: hd.Volume, grid: hd.VolumeGeometry, *, highest: float = np.inf) -> hd.Volume:
    """`volume` on another grid with parallel axes: linear, averaging where the new grid is coarser.

    Args:
        volume: of any numbers.
        grid: the other one.
        highest: what is above it counts as this.

    Raises:
        ValueError: if the axes are not parallel.
    """
    along = _weights(volume.get_geometry(), grid)
    planes = [
        _along(1, along[1], _along(2, along[2], _tensor(np.minimum(slices, highest))))
        for slices in np.split(volume.array, range(SLICES, len(volume.array), SLICES))
    ]
    values = _along(0, along[0], torch.cat(planes))
    return hd.Volume(values.numpy(), grid.affine, "PATIENT", volume.frame_of_reference_uid)


def _tensor(values: np.ndarray) -> Tensor:
    # Flat: of an axis of one voxel numpy keeps a negative stride, which PyTorch refuses.
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    return torch.from_numpy(flat).reshape(values.shape)


def resample_labels(labels: hd.Volume, grid: hd.VolumeGeometry) -> hd.Volume:
    """Labels on another grid with parallel axes: each voxel takes the label that fills it most."""
    source = labels.get_geometry()
    best = _resample(_tensor(labels.array == 0), source, grid).numpy()  # of what has no label
    out = np.zeros(grid.spatial_shape, np.uint8)
    for value, box in boxes_by_label(labels.array).items():
        inner, outer = _boxes_around(box, source, grid)
        is_value = _tensor(labels.array[inner] == value)
        share = _resample(is_value, _part(source, inner), _part(grid, outer)).numpy()
        wins = share > best[outer]
        out[outer][wins] = value
        best[outer][wins] = share[wins]
    return hd.Volume(out, grid.affine, "PATIENT", labels.frame_of_reference_uid)


def _resample(values: Tensor, source: hd.VolumeGeometry, target: hd.VolumeGeometry) -> Tensor:
    """``(Z, Y, X)`` on `source` to ``(Z, Y, X)`` on `target`, one axis after the other."""
    along = _weights(source, target)
    values = values.float()
    shrinks = np.prod(target.spatial_shape) < values.numel()
    for axis in (2, 1, 0) if shrinks else (0, 1, 2):  # the axis of long rows while there are few
        values = _along(axis, along[axis], values)
    return values


def _weights(source: hd.VolumeGeometry, target: hd.VolumeGeometry) -> list[Tensor]:
    """For each axis ``(n_out, n_in)``, from one grid to the other."""
    step, start = _index_map(source, target)
    shapes = zip(target.spatial_shape, source.spatial_shape, step, start, strict=True)
    return [_linear_weights(*each) for each in shapes]


def _along(axis: int, weights: Tensor, values: Tensor) -> Tensor:
    """One axis resampled by ``(n_out, n_in)`` weights, which are 0 but for a band.

    Block by block of the output, so that the most of what is 0 is not multiplied.
    """
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    rows = values.reshape(before.numel(), values.shape[axis], after.numel())
    blocks = []
    for block in weights.split(BLOCK):
        used = block.any(dim=0).nonzero()
        band = slice(int(used.min()), int(used.max()) + 1)
        block = block[:, band].to(values.device)
        if axis == values.ndim - 1:
            blocks.append((rows[:, band, 0] @ block.T)[..., None])
        else:
            blocks.append(block @ rows[:, band])
    return torch.cat(blocks, dim=1).reshape(*before, len(weights), *after)


def _index_map(
    source: hd.VolumeGeometry, target: hd.VolumeGeometry
) -> tuple[np.ndarray, np.ndarray]:
    """Per axis, how a target index becomes a source index: ``start + step * index``."""
    matrix = np.linalg.inv(source.affine) @ target.affine
    step = np.diag(matrix)[:3]
    skew = matrix[:3, :3] - np.diag(step)
    if np.abs(skew).max() > PARALLEL_TOLERANCE * np.abs(step).max() or step.min() <= 0:
        raise ValueError("the two grids do not have parallel axes")
    return step, matrix[:3, 3]


def _linear_weights(n_out: int, n_in: int, step: float, start: float) -> Tensor:
    """``(n_out, n_in)`` weights of a triangle around each output voxel, as wide as it is.

    Outside the input its border continues.
    """
    centre = (start + step * torch.arange(n_out, dtype=torch.float64)).clamp(0, n_in - 1)
    distance = (torch.arange(n_in, dtype=torch.float64) - centre[:, None]).abs()
    weights = (1 - distance / max(step, 1.0)).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _boxes_around(
    box: tuple[slice, ...], source: hd.VolumeGeometry, target: hd.VolumeGeometry
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What of `target` a box of `source` has a part in, and all of `source` it is made of.

    Returns:
        A box on `source`, and one on `target`.
    """
    step, start = _index_map(source, target)
    reach = np.maximum(step, 1)  # of the triangle around a voxel of `target`, voxels of `source`
    inside = []
    for axis, s in enumerate(box):
        first = np.ceil((s.start - reach[axis] - start[axis]) / step[axis])
        last = np.floor((s.stop - 1 + reach[axis] - start[axis]) / step[axis])
        n = target.spatial_shape[axis]
        inside.append(slice(int(np.clip(first, 0, n - 1)), int(np.clip(last, 0, n - 1)) + 1))
    return _grow(box, 2 * reach, source.spatial_shape), tuple(inside)


def _bounds(mask: Tensor) -> tuple[slice, ...]:
    """The smallest box around what is true in a ``(Z, Y, X)`` mask."""
    flat = mask.any(dim=0)
    ends = (mask.flatten(1).any(dim=1), flat.any(dim=1), flat.any(dim=0))
    there = [end.nonzero()[:, 0] for end in ends]
    return tuple(slice(int(one[0]), int(one[-1]) + 1) for one in there)


def _part(volume: Grid, box: tuple[slice, ...]) -> Grid:
    """The part of a volume inside a box, with its own affine."""
    return volume[box]  # type: ignore[index]  # its annotation says a tuple of one


def _grow(box: tuple[slice, ...], voxels: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """`box` made larger on every side, within `shape`."""
    return tuple(
        slice(max(s.start - int(np.ceil(v)), 0), min(s.stop + int(np.ceil(v)), n))
        for s, v, n in zip(box, voxels, shape, strict=True)
    )
