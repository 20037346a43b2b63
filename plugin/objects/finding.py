"""What was found in one CT: all that the objects of its result are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import highdicom as hd
import numpy as np
from pydicom import Dataset

from model.organs import Organ
from model.plausibility import Doubt
from model.volumes import count_voxels
from plugin.ct.series import CtSeries


class NoOrganFound(Exception):
    """The label volume is all background, so there is nothing to write."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Finding:
    """Each slice has its plane of labels: one that has not is our mistake, and a ValueError.

    The slices' headers are not altered, and may lack type 2 attributes.
    """

    ct: CtSeries
    labels: hd.Volume  # uint8, `Organ.label` or 0, on the grid of the CT
    organs: Sequence[Organ]  # those that the model knows
    warnings: Sequence[str] = ()  # all sentences for the person who reviews
    doubts: Sequence[Doubt] = ()  # those of the warnings that are about one organ

    def __post_init__(self) -> None:
        grid = self.ct.volume
        if grid.spatial_shape != self.labels.spatial_shape or not np.allclose(
            grid.affine, self.labels.affine
        ):
            raise ValueError("the labels are not on the grid of the CT")
        _check_planes(self.slices, grid)

    @property
    def slices(self) -> tuple[Dataset, ...]:
        """Headers of the CT, one for each plane of the labels and in their order."""
        return self.ct.slices

    @cached_property
    def present(self) -> list[Organ]:
        """Those of the organs that have a voxel, in the order of the table.

        Raises:
            NoOrganFound: no voxel is labelled.
            ValueError: a label belongs to none of the organs.
        """
        counts = count_voxels(self.labels)
        known = {organ.label for organ in self.organs}
        if unknown := set(counts.nonzero()[0].tolist()) - {0} - known:
            raise ValueError(f"labels {sorted(unknown)} are not among the organs of the model")
        present = sorted((o for o in self.organs if counts[o.label]), key=lambda organ: organ.label)
        if not present:
            raise NoOrganFound("No organ was found in the series.")
        return present

    def doubts_about(self, organ: Organ) -> list[str]:
        """What the object says where it says the organ."""
        return [doubt.sentence for doubt in self.doubts if doubt.organ == organ]

    def about_none_present(self) -> list[str]:
        """The warnings that are no doubt about an organ present: of what was left out or missed."""
        about = {doubt.sentence for doubt in self.doubts if doubt.organ in self.present}
        return [sentence for sentence in self.warnings if sentence not in about]


def _check_planes(slices: Sequence[Dataset], grid: hd.Volume) -> None:
    """Check that the planes of a grid are those of the slices, one by one."""
    if grid.spatial_shape[0] != len(slices):
        raise ValueError(f"{grid.spatial_shape[0]} planes of labels for {len(slices)} slices")
    corners = np.zeros((len(slices), 3))  # of the planes, as indices
    corners[:, 0] = np.arange(len(slices))
    places_mm = np.array([header.ImagePositionPatient for header in slices], float)
    offsets_mm = np.linalg.norm(places_mm - grid.map_indices_to_reference(corners), axis=1)
    if offsets_mm.max() > grid.spacing[0] / 2:
        raise ValueError("the slices are not in the order and place of the planes of labels")
