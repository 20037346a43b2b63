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
    colour: str  # sRGB as #rrggbb; the right one of a pair is the darker

    @property
    def label(self) -> int:
        """Number of this organ in every label volume, 1 to 22."""
        return ORGANS.index(self) + 1

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Display colour, sRGB, 0 to 255."""
        red, green, blue = bytes.fromhex(self.colour[1:])
        return red, green, blue


ORGANS: tuple[Organ, ...] = (
    Organ("brainstem", "Brainstem", "119238007", "Brain stem", None, "#e69f00"),
    Organ("eye_left", "Eye_L", "81745001", "Eye", "left", "#56b4e9"),
    Organ("eye_right", "Eye_R", "81745001", "Eye", "right", "#005aa0"),
    Organ("lens_left", "Lens_L", "78076003", "Lens", "left", "#f0e442"),
    Organ("lens_right", "Lens_R", "78076003", "Lens", "right", "#aa9b00"),
    Organ("optic_nerve_left", "OpticNrv_L", "18234004", "Optic nerve", "left", "#00c88c"),
    Organ("optic_nerve_right", "OpticNrv_R", "18234004", "Optic nerve", "right", "#007850"),
    Organ("optic_chiasm", "OpticChiasm", "244453006", "Optic chiasm", None, "#d55e00"),
    Organ("temporal_lobe_left", "Lobe_Temporal_L", "78277001", "Temporal lobe", "left", "#cc79a7"),
    Organ(
        "temporal_lobe_right", "Lobe_Temporal_R", "78277001", "Temporal lobe", "right", "#873c6e"
    ),
    Organ("pituitary", "Pituitary", "56329008", "Pituitary", None, "#ff69b4"),
    Organ("parotid_left", "Parotid_L", "45289007", "Parotid gland", "left", "#78dc50"),
    Organ("parotid_right", "Parotid_R", "45289007", "Parotid gland", "right", "#328c1e"),
    Organ("inner_ear_left", "Ear_Internal_L", "22945000", "Inner ear", "left", "#ffa07a"),
    Organ("inner_ear_right", "Ear_Internal_R", "22945000", "Inner ear", "right", "#be5032"),
    Organ("middle_ear_left", "Ear_Middle_L", "25342003", "Middle ear", "left", "#af9bff"),
    Organ("middle_ear_right", "Ear_Middle_R", "25342003", "Middle ear", "right", "#6450be"),
    Organ("tmj_left", "Joint_TM_L", "53620006", "Temporomandibular joint", "left", "#00dcdc"),
    Organ("tmj_right", "Joint_TM_R", "53620006", "Temporomandibular joint", "right", "#008c8c"),
    Organ("spinal_cord", "SpinalCord", "2748008", "Spinal cord", None, "#ffdc00"),
    Organ("mandible_left", "Bone_Mandible_L", "91609006", "Mandible", "left", "#f5c896"),
    Organ("mandible_right", "Bone_Mandible_R", "91609006", "Mandible", "right", "#a07341"),
)

BY_NAME: dict[str, Organ] = {organ.name: organ for organ in ORGANS}


def opposite(organ: Organ) -> Organ | None:
    """The same organ on the other side of the patient, or None for one on the midline."""
    if organ.side is None:
        return None
    stem = organ.name.removesuffix(organ.side)
    return BY_NAME[stem + ("right" if organ.side == "left" else "left")]
