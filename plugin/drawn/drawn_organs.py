"""The organs that somebody drew on a CT, as labels on its own grid, and what could not be taken."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from model.organs import ORGANS, Organ
from model.sliding_window import Cancelled, never
from plugin.drawn.contour_fill import UnusableStructure
from plugin.drawn.structure_names import HALVED, StructureNames
from plugin.drawn.structure_sets import Structure, StructureSet, check_frame_of_reference

SAYS_NOTHING = re.compile(r"\s*(segment|label|roi|structure)?[\s_#-]*\d*\s*", re.IGNORECASE)
"""A name that a program gives by itself."""


@dataclass(frozen=True, kw_only=True)
class DrawnOrgans:
    """An organ that is not in `organs` is not drawn; that does not mean that it is not there."""

    labels: hd.Volume  # uint8 organ labels on the CT's own grid
    organs: tuple[Organ, ...]  # in the order of the table
    matched: Mapping[str, tuple[Organ, ...]]  # by the name of the structure
    unmatched: tuple[str, ...]  # names that mean no organ
    left_out: Mapping[Organ, str]  # drawn, but not usable: the reason


def draw_organs(
    structure_set: StructureSet,
    ct: hd.VolumeGeometry,
    names: StructureNames,
    cancelled: Callable[[], bool] = never,
) -> DrawnOrgans:
    """Label the organs of an RTSTRUCT or SEG.

    Where two organs overlap, the smaller has the voxel: a lens is drawn within its eye. Two
    structures of one organ leave it out. A mandible drawn whole is halved, unless its halves are
    drawn too.

    Args:
        structure_set: what was drawn on the CT.
        ct: the grid of the CT that it was drawn on.
        names: what the structures may be called.
        cancelled: asked before every structure.

    Raises:
        Cancelled: as soon as `cancelled` says so.
        UnusableStructureSet: it belongs to another frame of reference.
    """
    check_frame_of_reference(structure_set, ct)
    meant = [(structure, organs_of(structure, names)) for structure in structure_set.structures]
    chosen, left_out = _choose(meant)
    labels = np.zeros(ct.spatial_shape, np.uint8)
    voxels = {0: np.inf}  # by label; background is larger than any organ
    for structure, organs in meant:
        wanted = [organ for organ in organs if chosen.get(organ) is structure]
        if not wanted:
            continue
        if cancelled():
            raise Cancelled
        try:
            mask = structure.fill(ct).array != 0  # numpy finds true bits much faster than numbers
        except UnusableStructure as why:
            left_out |= {organ: str(why) for organ in wanted}
            continue
        for organ in wanted:
            inside = np.flatnonzero(mask)
            if len(organs) > 1:
                inside = _half(inside, ct, organ)
            voxels[organ.label] = len(inside)
            smaller = [label for label in voxels if voxels[label] < voxels[organ.label]]
            labels.flat[inside[~np.isin(labels.flat[inside], smaller)]] = organ.label
    present = np.unique(labels)
    for organ in chosen.keys() - left_out.keys():
        if organ.label not in present:
            left_out[organ] = "it lies wholly within smaller organs"
    drawn = chosen.keys() - left_out.keys()
    return DrawnOrgans(
        labels=hd.Volume(labels, ct.affine, "PATIENT", ct.frame_of_reference_uid),
        organs=tuple(organ for organ in ORGANS if organ in drawn),
        matched={structure.name: organs for structure, organs in meant if organs},
        unmatched=tuple(structure.name for structure, organs in meant if not organs),
        left_out=left_out,
    )


def organs_of(structure: Structure, names: StructureNames) -> tuple[Organ, ...]:
    """What a structure is: by its name, and if that says nothing at all, by its code.

    Who copies a segment and names it "SpinalCord_PRV5" leaves the code of the cord on it.
    """
    if not SAYS_NOTHING.fullmatch(structure.name):
        return names.organs(structure.name)
    concept = structure.concept
    if len(concept) > 1 and not concept[0].name.startswith(tuple(HALVED)):
        return ()  # a gland of unknown side
    return concept


def _choose(
    meant: Sequence[tuple[Structure, tuple[Organ, ...]]],
) -> tuple[dict[Organ, Structure], dict[Organ, str]]:
    """The one structure of each organ, and the organs that have several."""
    halves = {organ for _, organs in meant if len(organs) == 1 for organ in organs}
    chosen: dict[Organ, list[Structure]] = {}
    for structure, organs in meant:
        if len(organs) > 1 and halves.intersection(organs):
            continue
        for organ in organs:
            chosen.setdefault(organ, []).append(structure)
    several = {
        organ: "several structures are this organ: " + ", ".join(s.name for s in structures)
        for organ, structures in chosen.items()
        if len(structures) > 1
    }
    return {o: s[0] for o, s in chosen.items() if o not in several}, several


def _half(inside: NDArray[np.intp], ct: hd.VolumeGeometry, organ: Organ) -> NDArray[np.intp]:
    """Those of some voxels, by flat index, that lie on the organ's side of the middle of all."""
    voxels = np.stack(np.unravel_index(inside, ct.spatial_shape), axis=1)
    x = ct.map_indices_to_reference(voxels)[:, 0]  # LPS mm, grows to the patient's left
    middle = (x.min() + x.max()) / 2
    return inside[x > middle if organ.side == "left" else x <= middle]
