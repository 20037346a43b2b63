"""Names from clinics mean the organs that people meant, and nothing else is taken for one."""

from pathlib import Path

import pytest

from model.organs import BY_NAME, ORGANS
from plugin.drawn.structure_names import BadNames, StructureNames

SHIPPED = StructureNames.read()

SEEN = {  # as planning systems of several countries have them
    "brainstem": ["Brain Stem", "BRAINSTEM_", "B Stem", "Tronc_Cerebral", "Hirnstamm", "脑干"],
    "spinal_cord": ["Spinal Cord", "SPINAL_CORD", "cord", "moelle", "Rueckenmark", "MEDULA"],
    "optic_chiasm": ["Chiasm", "Optic Chiasma", "Opt chiasma", "Quiasma Óptico"],
    "pituitary": ["Pituitary Gland", "Hypophyse", "Glnd_Pituitary"],
    "parotid_left": [
        "Parotid (L)",
        "PAROTID LT",
        "LeftParotid",
        "Parotide_G",
        "Parotis li",
        "左腮腺",
    ],
    "parotid_right": ["R PAROTID", "Rt. Parotid", "Parotide D", "Glnd_Parotid_R", "dx parotide"],
    "optic_nerve_left": ["L Optic Nerve", "L ON", "LON", "Opt Nerve L", "Nervo ottico sx"],
    "optic_nerve_right": ["OPTIC NERVE RIGHT", "OpticNrv_R", "N.opticus rechts"],
    "eye_left": ["Eye Lt", "GLOBE_L", "Left eye", "Œil gauche", "Oeil G"],
    "lens_right": ["Lens Rt", "R  lens", "Rlens", "Linse_re", "Lens-R"],
    "temporal_lobe_left": ["L temp lobe", "TemporalLobe_L", "Lobe_L_Temporal"],
    "inner_ear_right": ["Ear_Internal_R", "Ear_R_Internal", "Innenohr re."],
    "middle_ear_left": ["Mid ear L", "Mittelohr links"],
    "tmj_left": ["TMJ_L", "TM joint L", "ATM gauche"],
    "mandible_left": ["Mandible (L)", "Bone_Mandible_L"],
}

NOT_AN_ORGAN = [
    "PAROTID_L-PTV",
    "L parotid - PTV54",
    "Parotid_L_SP",
    "PAROTID_L1",
    "L lens Opt",
    "Lens Lt prv",
    "SpinalCord_PRV05",
    "PRV CORD",
    "Cord b",
    "SpinalCord+5",
    "Brainstem_old",
    "Brainstem~",  # TG-263's mark of a partial structure
    "COCHLEA_L",
    "SpinalCanal",
    "Parotid",
    "Optic Nerves PRV",
    "MANDIBLE in PTV54",
    "Brain",
    "L Submandibular",
    "Ear_L",
    "Ron Miller",
    "",
    "L",
]


@pytest.mark.parametrize("organ", ORGANS, ids=lambda organ: organ.name)
def test_every_organ_is_known_by_its_names(organ):
    for name in (organ.tg263, organ.tg263.upper(), *SEEN.get(organ.name, [])):
        assert SHIPPED.organs(name) == (organ,), name


@pytest.mark.parametrize("name", NOT_AN_ORGAN)
def test_what_only_resembles_an_organ_is_none(name):
    assert SHIPPED.organs(name) == ()


def test_a_whole_mandible_is_both_halves():
    halves = (BY_NAME["mandible_left"], BY_NAME["mandible_right"])
    for name in ("Bone_Mandible", "Mandibule", "MANDIBLE", "Unterkiefer"):
        assert SHIPPED.organs(name) == halves


def own(folder: Path, text: str) -> Path:
    path = folder / "names.toml"
    path.write_text(text)
    return path


def test_a_clinic_adds_names_sides_and_exceptions(tmp_path):
    names = StructureNames.read(
        own(
            tmp_path,
            """
            [names]
            parotid = ["OSD"]
            lens_left = ["Gucker"]
            brainstem = ["Cord"]
            [sides]
            left = ["hüben"]
            [ignored]
            names = ["Chiasm"]
            """,
        )
    )
    assert names.organs("OSD hüben") == (BY_NAME["parotid_left"],)
    assert names.organs("Linse hüben") == (BY_NAME["lens_left"],)
    assert names.organs("gucker") == (BY_NAME["lens_left"],)
    assert names.organs("L gucker") == ()
    assert names.organs("CORD") == (BY_NAME["brainstem"],)
    assert names.organs("Chiasm") == ()
    assert names.organs("Optic Chiasm") == (BY_NAME["optic_chiasm"],)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[names]\nliver = ['Liver']", "'liver' is no organ; the organs are brainstem,"),
        ("[names]\nbrainstem = ['X']\nspinal_cord = ['x']", "'x' means brainstem and spinal_cord"),
        ("[name]\n", "name: there is no such key"),
        ("[names]\nbrainstem = 'X'", r"names\.brainstem: Input should be a valid list"),
        ("[names", "is not TOML"),
    ],
)
def test_a_wrong_file_of_names_is_refused_in_one_sentence(tmp_path, text, reason):
    with pytest.raises(BadNames, match=reason) as refusal:
        StructureNames.read(own(tmp_path, text))
    assert str(tmp_path / "names.toml") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadNames, match=r"names\.toml cannot be read: No such file"):
        StructureNames.read(tmp_path / "names.toml")
