"""The table of organs agrees with SNOMED CT, TG-263 and StructSeg, and with itself."""

import pytest
from pydicom.sr._concepts_dict import concepts

from model.organs import BY_NAME, ORGANS, Organ, opposite

STRUCTSEG_ORDER = (
    "brainstem",
    *("eye_left", "eye_right", "lens_left", "lens_right"),
    *("optic_nerve_left", "optic_nerve_right", "optic_chiasm"),
    *("temporal_lobe_left", "temporal_lobe_right", "pituitary"),
    *("parotid_left", "parotid_right", "inner_ear_left", "inner_ear_right"),
    *("middle_ear_left", "middle_ear_right", "tmj_left", "tmj_right"),
    *("spinal_cord", "mandible_left", "mandible_right"),
)


def by_name(organ: Organ) -> str:
    return organ.name


def meanings_in_dicom(snomed_ct: str) -> set[str]:
    """What DICOM's own tables, as pydicom carries them, call a concept; in lower case."""
    return {entry[snomed_ct][0].lower() for entry in concepts["SCT"].values() if snomed_ct in entry}


def test_labels_follow_the_order_of_structseg() -> None:
    assert tuple(organ.name for organ in ORGANS) == STRUCTSEG_ORDER
    assert [organ.label for organ in ORGANS] == list(range(1, 23))
    assert BY_NAME["spinal_cord"].label == 20


@pytest.mark.parametrize("organ", ORGANS, ids=by_name)
def test_the_code_means_the_organ(organ: Organ) -> None:
    assert organ.meaning.lower() in meanings_in_dicom(organ.snomed_ct)
    assert len(organ.meaning) <= 64


def test_the_side_is_no_part_of_the_code() -> None:
    codes = {(organ.snomed_ct, organ.side) for organ in ORGANS}
    assert len(codes) == len(ORGANS)


def test_tg263_names_are_unique_and_short() -> None:
    names = {organ.tg263 for organ in ORGANS}
    assert len(names) == len(ORGANS)
    assert max(map(len, names)) <= 16


@pytest.mark.parametrize("organ", ORGANS, ids=by_name)
def test_names_end_with_their_side(organ: Organ) -> None:
    endings = {"left": ("_left", "_L"), "right": ("_right", "_R")}
    if organ.side is None:
        assert not organ.name.endswith(("_left", "_right"))
        assert not organ.tg263.endswith(("_L", "_R"))
    else:
        name, tg263 = endings[organ.side]
        assert organ.name.endswith(name)
        assert organ.tg263.endswith(tg263)


@pytest.mark.parametrize("organ", ORGANS, ids=by_name)
def test_every_left_organ_has_its_right_one(organ: Organ) -> None:
    other = opposite(organ)
    if organ.side is None:
        assert other is None
        return
    assert other is not None
    assert {organ.side, other.side} == {"left", "right"}
    assert organ.snomed_ct == other.snomed_ct
    assert organ.tg263[:-1] == other.tg263[:-1]
    assert opposite(other) == organ


def test_colours_are_unique_and_the_right_side_is_darker() -> None:
    assert BY_NAME["brainstem"].rgb == (0xE6, 0x9F, 0x00)
    assert len({organ.rgb for organ in ORGANS}) == len(ORGANS)
    for organ in ORGANS:
        other = opposite(organ)
        if organ.side == "left" and other is not None:
            assert sum(other.rgb) < sum(organ.rgb)
