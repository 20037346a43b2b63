"""The fingerprint of a set of labelled CTs: fingerprint.json, from which the plan follows.

After nnU-Net's (Isensee et al., Nature Methods 18, 2021), and what matters here beside: how much of
each scan is the patient, and how small the organs are.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from math import pi
from pathlib import Path

import highdicom as hd
import numpy as np
from pydantic import TypeAdapter

from model.organs import ORGANS, Organ
from model.preprocess import BODY_HU, ORIENTATION, crop_to_body
from model.volumes import MM3_PER_ML, count_voxels
from training.json_file import write_json

FILE = "fingerprint.json"

SMALLEST_VOXELS = 64
"""The smallest organ should fill as many voxels of the grid, if the scans are so fine."""

ANISOTROPY = 3.0
"""An axis this much coarser than the finest takes the spacing of the finer scans, as in nnU-Net."""

FINE_PERCENTILE = 10
"""Of the spacings in the data: no finer grid is chosen, for it would only invent detail."""

Millimetres = tuple[float, float, float]  # (z, y, x)


@dataclass(frozen=True, kw_only=True)
class CaseFingerprint:
    """One case on its own grid, axes (z, y, x)."""

    name: str
    spacing_mm: Millimetres
    size: tuple[int, int, int]  # voxels
    body_mm: Millimetres  # sides of the box around the patient, which is all the network sees
    body_voxels: int  # denser than air
    body_hu: tuple[float, float]  # mean and standard deviation of those, clipped to the window
    percentiles_hu: tuple[float, float, float]  # 0.5, 50 and 99.5 of those, not clipped
    organs_ml: dict[str, float]  # of every labelled organ; 0 where it has no voxel


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """All cases of a data set."""

    window_hu: tuple[float, float]  # that `body_hu` is clipped to
    cases: tuple[CaseFingerprint, ...]

    def write(self, folder: Path) -> None:
        """Write fingerprint.json, whole or not at all."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Fingerprint":
        """Read fingerprint.json.

        Raises:
            FileNotFoundError: if there is none.
        """
        return TypeAdapter(cls).validate_json((folder / FILE).read_bytes())

    @cached_property
    def organs_ml(self) -> dict[str, float]:
        """Median volume of every organ over the cases that have it, in the table's order."""
        found = {
            organ.name: [ml for case in self.cases if (ml := case.organs_ml.get(organ.name))]
            for organ in ORGANS
        }
        return {name: float(np.median(values)) for name, values in found.items() if values}

    @property
    def smallest_mm(self) -> float:
        """Diameter of a ball as large as the smallest organ."""
        return float((6 * 1000 * min(self.organs_ml.values()) / pi) ** (1 / 3))

    @property
    def body_mm(self) -> Millimetres:
        """Median sides of the box around the patient."""
        z, y, x = np.median([case.body_mm for case in self.cases], axis=0).tolist()
        return z, y, x

    @property
    def body_hu(self) -> tuple[float, float]:
        """Mean and standard deviation over the voxels of all patients, clipped to the window."""
        voxels = np.array([case.body_voxels for case in self.cases], float)
        mean, std = np.array([case.body_hu for case in self.cases]).T
        total = np.average(mean, weights=voxels)
        spread = np.average(std**2 + (mean - total) ** 2, weights=voxels)
        return float(total), float(np.sqrt(spread))

    def spacing_mm(self) -> Millimetres:
        """The grid that the data ask for: their median, finer where the smallest organ needs it.

        Raises:
            ValueError: if no case has a labelled voxel.
        """
        if not self.organs_ml:
            raise ValueError("no case has a voxel of any organ: there is nothing to plan for")
        spacings = np.array([case.spacing_mm for case in self.cases])
        finest = np.percentile(spacings, FINE_PERCENTILE, axis=0)
        spacing = np.median(spacings, axis=0)
        coarse = spacing >= ANISOTROPY * spacing.min()
        spacing[coarse] = np.maximum(finest[coarse], spacing.min())
        smallest_mm3 = 1000 * min(self.organs_ml.values())
        shrink = min((smallest_mm3 / SMALLEST_VOXELS / spacing.prod()) ** (1 / 3), 1.0)
        z, y, x = np.maximum(spacing * shrink, np.minimum(spacing, finest)).round(2).tolist()
        return z, y, x


def fingerprint_of(
    name: str,
    ct: hd.Volume,
    labels: hd.Volume,
    labelled: tuple[Organ, ...],
    window_hu: tuple[float, float],
) -> CaseFingerprint:
    """The fingerprint of one case.

    Args:
        name: of the case.
        ct: in HU.
        labels: organ labels on the same grid.
        labelled: the organs that the case has labels for.
        window_hu: grey values are clipped to this before their mean is taken.

    Raises:
        NoBody: if there is no patient in the CT.
    """
    upright = ct.to_patient_orientation(ORIENTATION)
    box = crop_to_body(upright)
    body = ct.array[ct.array > BODY_HU]
    clipped = np.clip(body, *window_hu).astype(np.float64)
    ml = ct.voxel_volume / MM3_PER_ML
    voxels = count_voxels(labels)
    low, middle, high = np.percentile(body, (0.5, 50, 99.5)).round(1).tolist()
    return CaseFingerprint(
        name=name,
        spacing_mm=_three(np.round(upright.spacing, 4)),
        size=upright.spatial_shape,
        body_mm=_three(np.multiply(box.spatial_shape, box.spacing).round(1)),
        body_voxels=len(body),
        body_hu=(float(clipped.mean()), float(clipped.std())),
        percentiles_hu=(low, middle, high),
        organs_ml={organ.name: round(int(voxels[organ.label]) * ml, 4) for organ in labelled},
    )


def _three(values: np.ndarray) -> Millimetres:
    z, y, x = values.tolist()
    return z, y, x
