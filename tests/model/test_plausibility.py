"""A person is told of organs that are unlike organs, and of no others."""

from functools import cache

import highdicom as hd
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from model.organs import BY_NAME, ORGANS, opposite
from model.plausibility import amount_of, find_doubts
from model.usual_volumes import USUAL_VOLUME_ML, usual_volume
from tests.phantoms import Orientation, make_phantom


@cache
def patient(orientation: Orientation = "axial", seed: int = 0) -> hd.Volume:
    return make_phantom(
        spacing_mm=(3.0, 3.0, 3.0), shape=(92, 84, 76), orientation=orientation, seed=seed
    ).labels


def sentences(labels: hd.Volume, name: str | None = None) -> list[str]:
    return [d.sentence for d in find_doubts(labels, ORGANS) if name in (None, d.organ.name)]


def changed(labels: hd.Volume, name: str, keep: np.ndarray) -> hd.Volume:
    """Without the part of an organ that is not to be kept."""
    array = labels.array.copy()
    array[(array == BY_NAME[name].label) & ~keep] = 0
    return labels.with_array(array)


def swapped(labels: hd.Volume, name: str) -> hd.Volume:
    """An organ and its partner under each other's name."""
    partner = opposite(BY_NAME[name])
    assert partner is not None
    array = labels.array.copy()
    array[labels.array == BY_NAME[name].label] = partner.label
    array[labels.array == partner.label] = BY_NAME[name].label
    return labels.with_array(array)


@pytest.mark.parametrize("orientation", ["axial", "flipped_rows", "feet_first", "oblique"])
def test_an_ordinary_patient_raises_no_doubt(orientation: Orientation) -> None:
    assert sentences(patient(orientation)) == []


@pytest.mark.parametrize("seed", range(1, 7))
def test_no_ordinary_patient_does(seed: int) -> None:
    assert sentences(patient(seed=seed)) == []


@pytest.mark.parametrize("orientation", ["axial", "feet_first", "oblique"])
def test_swapped_sides_are_seen_in_any_orientation(orientation: Orientation) -> None:
    labels = swapped(patient(orientation), "parotid_left")
    assert sentences(labels) == [
        "Parotid_L lies by 100% on the other side",
        "Parotid_R lies by 100% on the other side",
    ]


@pytest.mark.parametrize("part", [3, 8])
def test_an_organ_that_reaches_far_over_the_middle_is_seen(part: int) -> None:
    labels = patient()
    array = labels.array.copy()
    right = np.argwhere(array == BY_NAME["parotid_right"].label)
    array[tuple(right[: len(right) // part].T)] = BY_NAME["parotid_left"].label
    said = sentences(labels.with_array(array), "parotid_left")
    assert "on the other side" in said[0]


@pytest.mark.parametrize(
    ("shape", "says"), [((5, 5, 4), "smaller than usual: 0.0996"), ((12, 12, 11), "larger")]
)
def test_a_volume_just_beyond_the_usual_is_not_said_to_be_the_usual(
    shape: tuple[int, int, int], says: str
) -> None:
    affine = patient().affine.copy()
    affine[:3, :3] *= 0.996 ** (1 / 3) / 3  # to voxels of 0.996 mm3
    array = np.zeros((20, 20, 20), np.uint8)
    array[tuple(slice(5, 5 + side) for side in shape)] = BY_NAME["pituitary"].label

    [said] = sentences(hd.Volume(array, affine, "PATIENT"), "pituitary")

    assert says in said
    assert said.endswith(" ml, usually 0.1 to 1.5")


def test_an_organ_without_its_partner_is_judged_by_the_organs_in_the_middle() -> None:
    labels = swapped(patient(), "eye_left")
    labels = changed(labels, "eye_right", np.zeros(labels.shape, bool))
    assert sentences(labels) == [
        "Not found, or left out: Eye_R",
        "Eye_L lies by 100% on the other side",
    ]


def test_all_that_was_looked_for_and_not_found_is_said() -> None:
    labels = patient()
    gone = ("brainstem", "parotid_left", "parotid_right")
    for name in gone:
        labels = changed(labels, name, np.zeros(labels.shape, bool))

    assert sentences(labels, "brainstem") == [
        "Not found, or left out: " + ", ".join(o.tg263 for o in ORGANS if o.name in gone)
    ]


def test_a_pair_on_one_side_of_the_brainstem_and_cord_is_seen() -> None:
    labels = patient()
    right = labels.array == BY_NAME["eye_right"].label
    along = int(np.argmax(np.abs(labels.affine[0, :3])))  # the axis from side to side
    left = np.argwhere(labels.array == BY_NAME["eye_left"].label)[:, along].mean()
    shift = round(0.7 * (left - np.argwhere(right)[:, along].mean()))

    moved = changed(labels, "eye_right", np.zeros(labels.shape, bool))
    moved.array[np.roll(right, shift, axis=along)] = BY_NAME["eye_right"].label

    assert "Eye_R lies on the other side of the organs on the midline" in sentences(moved)


def in_columns(**columns: int) -> hd.Volume:
    """Organs of one voxel, so many millimetres to the patient's left."""
    array = np.zeros((3, 3, 60), np.uint8)
    for name, column in columns.items():
        array[1, 1, column] = BY_NAME[name].label
    return hd.Volume(array, np.eye(4)[[2, 1, 0, 3]], "PATIENT")


@pytest.mark.parametrize(("off_mm", "says"), [(3, False), (7, True)])
def test_a_pair_may_lie_a_little_askew_to_the_brainstem(off_mm: int, says: bool) -> None:
    labels = in_columns(brainstem=40, eye_left=40 - off_mm, eye_right=10)

    said = sentences(labels, "eye_left")

    assert ("Eye_L lies on the other side of the organs on the midline" in said) == says


def test_a_pair_in_a_patient_without_brainstem_and_cord_is_judged_by_itself() -> None:
    assert not any("side" in one for one in sentences(in_columns(eye_left=40, eye_right=10)))
    assert any("side" in one for one in sentences(in_columns(eye_left=10, eye_right=40)))


def test_organs_of_the_midline_that_lie_askew_have_their_middle_between_them() -> None:
    labels = in_columns(brainstem=30, spinal_cord=40, eye_left=33)

    assert not any("other side" in one for one in sentences(labels, "eye_left"))


@pytest.mark.parametrize("about", ["z", "y"])
@pytest.mark.parametrize("turned", [-1, 1])
def test_a_head_that_is_turned_or_leans_is_said_once(about: str, turned: int) -> None:
    def lying(degrees: int) -> list[str]:
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler(about, turned * degrees, degrees=True).as_matrix()
        labels = patient()
        moved = hd.Volume(labels.array, turn @ labels.affine, "PATIENT")
        return [one for one in sentences(moved) if "askew" in one]

    assert lying(5) == []
    [said] = lying(20)
    assert said in {
        f"Left and right organs lie askew by {degrees} degrees, usually at most 10: the head is "
        "turned or leans"
        for degrees in range(18, 23)
    }


def test_a_pair_under_each_others_name_does_not_make_a_head_askew() -> None:
    assert not any("askew" in one for one in sentences(swapped(patient(), "parotid_left")))


def test_an_organ_of_a_model_that_knows_no_partner_lacks_none() -> None:
    alone = [BY_NAME["eye_left"], BY_NAME["brainstem"]]
    assert find_doubts(patient(), alone) == ()


def test_what_is_too_small_and_too_large_is_said_with_the_numbers() -> None:
    labels = patient()
    few = np.zeros(labels.shape, bool)
    few[tuple(np.argwhere(labels.array == BY_NAME["parotid_right"].label)[:100].T)] = True
    assert "Parotid_R is smaller than usual: 2.7 ml, usually 8 to 60" in sentences(
        changed(labels, "parotid_right", few), "parotid_right"
    )
    array = labels.array.copy()
    array[20:60, 20:60, 20:40] = BY_NAME["pituitary"].label
    assert "Pituitary is larger than usual: 864.0 ml, usually 0.1 to 1.5" in sentences(
        labels.with_array(array), "pituitary"
    )


def test_the_cord_is_judged_by_its_length() -> None:
    labels = patient()
    cord = np.argwhere(labels.array == BY_NAME["spinal_cord"].label)
    half = np.indices(labels.shape)[0] > np.median(cord[:, 0])
    assert sentences(changed(labels, "spinal_cord", half)) == []
    array = labels.array.copy()
    slices = np.unique(cord[:, 0])
    array[slices.min() : slices.max() + 1, 40:52, 26:38] = BY_NAME["spinal_cord"].label
    assert any(
        sentence.startswith("SpinalCord is larger than usual: 13")
        for sentence in sentences(labels.with_array(array), "spinal_cord")
    )


@pytest.mark.parametrize("orientation", ["axial", "feet_first"])
def test_an_organ_that_the_scan_cuts_is_seen_and_not_called_small(orientation: Orientation) -> None:
    labels = patient(orientation)
    eye = np.argwhere(labels.array == BY_NAME["eye_left"].label)
    middle = int(np.median(eye[:, 0]))
    below = labels[middle:] if labels.affine[2, 0] < 0 else labels[: middle + 1]
    assert sentences(below, "eye_left") == ["Eye_L is cut by the upper end of the scan"]
    above = labels[: middle + 1] if labels.affine[2, 0] < 0 else labels[middle:]
    assert sentences(above, "eye_left") == ["Eye_L is cut by the lower end of the scan"]


def test_the_cord_leaves_every_scan_by_the_feet_and_none_by_the_head() -> None:
    labels = patient()
    cord = np.argwhere(labels.array == BY_NAME["spinal_cord"].label)
    assert cord[:, 0].max() == labels.shape[0] - 1, "the phantom's does"
    assert sentences(labels, "spinal_cord") == []
    top = labels[int(cord[:, 0].min()) + 5 :]
    assert sentences(top, "spinal_cord") == ["SpinalCord is cut by the upper end of the scan"]


def test_a_cord_that_the_scan_cuts_may_still_be_too_thin() -> None:
    labels = patient()
    cord = np.argwhere(labels.array == BY_NAME["spinal_cord"].label)
    thin = np.zeros(labels.shape, bool)
    thin[tuple(cord[np.unique(cord[:, 0], return_index=True)[1]].T)] = True  # a voxel a slice
    top = changed(labels, "spinal_cord", thin)[int(cord[:, 0].min()) + 5 :]
    assert any("SpinalCord is smaller than usual: 0.09 ml per cm" in one for one in sentences(top))


def test_millilitres_per_centimetre_are_along_the_patient() -> None:
    labels = hd.Volume(np.ones((10, 2, 2), np.uint8), np.diag([3.0, 1.0, 1.0, 1.0]), "PATIENT")

    amount = amount_of(BY_NAME["spinal_cord"], labels.array == 1, labels)

    assert amount == (pytest.approx(0.04), "ml per cm")


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("far", [True, False])
def test_an_organ_at_any_edge_of_the_images_is_seen(axis: int, far: bool) -> None:
    labels = patient()
    along = np.argwhere(labels.array == BY_NAME["parotid_left"].label)[:, axis]
    kept = slice(int(along.max())) if far else slice(int(along.min()) + 1, None)
    part = labels[(slice(None), kept) if axis == 1 else (slice(None), slice(None), kept)]
    assert "Parotid_L is cut by the edge of the images" in sentences(part)


def test_pieces_are_counted() -> None:
    labels = patient()
    cord = np.argwhere(labels.array == BY_NAME["spinal_cord"].label)
    gap = np.abs(np.indices(labels.shape)[0] - np.median(cord[:, 0])) > 2
    assert sentences(changed(labels, "spinal_cord", gap)) == ["SpinalCord is in 2 pieces"]


def test_every_organ_has_a_usual_volume_and_its_source() -> None:
    assert {usual_volume(organ) for organ in ORGANS} == set(USUAL_VOLUME_ML.values())
    for usual in USUAL_VOLUME_ML.values():
        assert 0 < usual.low < usual.high
        assert usual.source
