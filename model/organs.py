"""The organs at risk: the one table that every other module reads.

Row order is the contract. It is the order of Table 1 of Lin and Zhang, Advances in Clinical
Medicine 16(3), 2026, 2644-2650, and of the StructSeg 2019 files: label 0 is background and row
``i`` is label ``i + 1`` in every label volume of this project.
"""

from typing import Literal, NamedTuple

Side = Literal["left", "right"]


class Organ(NamedTuple):
    """One organ at risk. Left and right are the patient's own and are different organs."""

    name: str  # lower_snake_case, as in file names and metrics
    tg263: str  # AAPM TG-263 name, at most 16 characters
    snomed_ct: str  # concept identifier, scheme SCT; the side is a separate modifier
    meaning: str  # the concept's own words, at most 64 characters
    side: Side | None  # None: the organ lies on the midline
    colour: tuple[int, int, int]  # sRGB, 0 to 255; the right one of a pair is the darker

    @property
    def label(self) -> int:
        """Number of this organ in every label volume, 1 to 22."""
        return ORGANS.index(self) + 1


ORGANS: tuple[Organ, ...] = (
    Organ("brainstem", "Brainstem", "119238007", "Brain stem", None, (230, 159, 0)),
    Organ("eye_left", "Eye_L", "81745001", "Eye", "left", (86, 180, 233)),
    Organ("eye_right", "Eye_R", "81745001", "Eye", "right", (0, 90, 160)),
    Organ("lens_left", "Lens_L", "78076003", "Lens", "left", (240, 228, 66)),
    Organ("lens_right", "Lens_R", "78076003", "Lens", "right", (170, 155, 0)),
    Organ("optic_nerve_left", "OpticNrv_L", "18234004", "Optic nerve", "left", (0, 200, 140)),
    Organ("optic_nerve_right", "OpticNrv_R", "18234004", "Optic nerve", "right", (0, 120, 80)),
    Organ("optic_chiasm", "OpticChiasm", "244453006", "Optic chiasm", None, (213, 94, 0)),
    Organ("temporal_lobe_left", "Lobe_Temporal_L", "78277001", "Temporal lobe", "left", (204, 121, 167)),
    Organ("temporal_lobe_right", "Lobe_Temporal_R", "78277001", "Temporal lobe", "right", (135, 60, 110)),
    Organ("pituitary", "Pituitary", "56329008", "Pituitary", None, (255, 105, 180)),
    Organ("parotid_left", "Parotid_L", "45289007", "Parotid gland", "left", (120, 220, 80)),
    Organ("parotid_right", "Parotid_R", "45289007", "Parotid gland", "right", (50, 140, 30)),
    Organ("inner_ear_left", "Ear_Internal_L", "22945000", "Inner ear", "left", (255, 160, 122)),
    Organ("inner_ear_right", "Ear_Internal_R", "22945000", "Inner ear", "right", (190, 80, 50)),
    Organ("middle_ear_left", "Ear_Middle_L", "25342003", "Middle ear", "left", (175, 155, 255)),
    Organ("middle_ear_right", "Ear_Middle_R", "25342003", "Middle ear", "right", (100, 80, 190)),
    Organ("temporomandibular_joint_left", "Joint_TM_L", "53620006", "Temporomandibular joint", "left", (0, 220, 220)),
    Organ("temporomandibular_joint_right", "Joint_TM_R", "53620006", "Temporomandibular joint", "right", (0, 140, 140)),
    Organ("spinal_cord", "SpinalCord", "2748008", "Spinal cord", None, (255, 220, 0)),
    Organ("mandible_left", "Bone_Mandible_L", "91609006", "Mandible", "left", (245, 200, 150)),
    Organ("mandible_right", "Bone_Mandible_R", "91609006", "Mandible", "right", (160, 115, 65)),
)

BY_NAME: dict[str, Organ] = {organ.name: organ for organ in ORGANS}


def opposite(organ: Organ) -> Organ | None:
    """The same organ on the other side of the patient, or None for one on the midline."""
    if organ.side is None:
        return None
    stem = organ.name.removesuffix(organ.side)
    return BY_NAME[stem + ("right" if organ.side == "left" else "left")]
