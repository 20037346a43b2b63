"""What cannot be the organ that it is called is left out; what is only odd is said."""

from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest

from model.organs import BY_NAME, Organ
from tests.phantoms import COSINES, Orientation, Phantom, make_phantom
from training.checks import Findings, examine, nothing_left
from training.labelled import LabelledCt

NAMES = ("brainstem", "eye_left", "eye_right", "parotid_left", "parotid_right", "middle_ear_left")


def phantom(orientation: Orientation = "axial") -> Phantom:
    return make_phantom(
        spacing_mm=(4.0, 2.1, 2.0), shape=(60, 124, 104), noise_hu=0, orientation=orientation
    )


def case_of(one: Phantom, *names: str) -> LabelledCt:
    organs = tuple(BY_NAME[name] for name in names)
    array = one.labels.array
    labels = np.where(np.isin(array, [organ.label for organ in organs]), array, 0)
    return LabelledCt(
        name="0001",
        ct=one.ct.astype(np.float32),
        labels=one.labels.with_array(labels.astype(np.uint8)),
        labelled=organs,
    )


def kept(case: LabelledCt) -> set[str]:
    return {organ.name for organ in case.labelled}


def place(labels: hd.Volume, organ: Organ, where: np.ndarray) -> None:
    labels.array[labels.array == organ.label] = 0
    labels.array[where] = organ.label


@pytest.mark.parametrize("orientation", COSINES)
def test_organs_at_their_places_are_kept_as_they_are(orientation: Orientation) -> None:
    case = case_of(phantom(orientation), *NAMES)

    same, findings = examine(case)

    assert same.labelled == case.labelled
    np.testing.assert_array_equal(same.labels.array, case.labels.array)
    assert findings.left_out == {}
    assert findings.volumes_ml.keys() == set(NAMES)
    assert findings.volumes_ml["brainstem"] == pytest.approx(
        (case.labels.array == 1).sum() * 4.0 * 2.1 * 2.0 / 1000, abs=1e-3
    )


@pytest.mark.parametrize("orientation", COSINES)
def test_swapped_sides_are_found_whatever_the_axes(orientation: Orientation) -> None:
    case = case_of(phantom(orientation), "parotid_left", "parotid_right", "brainstem")
    left, right = BY_NAME["parotid_left"], BY_NAME["parotid_right"]
    array = case.labels.array.copy()
    array[case.labels.array == left.label] = right.label
    array[case.labels.array == right.label] = left.label

    found, findings = examine(replace(case, labels=case.labels.with_array(array)))

    assert kept(found) == {"brainstem"}
    assert findings.left_out.keys() == {"parotid_left", "parotid_right"}
    assert np.unique(found.labels.array).tolist() == [0, 1]


def test_of_a_patient_whose_position_is_registered_wrongly_nothing_is_learned() -> None:
    """Feet first, registered as head first: a mandible drawn whole was halved the wrong way."""
    case = case_of(phantom(), "brainstem", "spinal_cord", "mandible_left", "mandible_right")
    turned = np.diag([-1.0, 1.0, -1.0, 1.0]) @ case.ct.affine
    left, right = BY_NAME["mandible_left"].label, BY_NAME["mandible_right"].label
    other = np.arange(256, dtype=np.uint8)
    other[[left, right]] = right, left
    wrong = replace(
        case,
        ct=hd.Volume(case.ct.array, turned, "PATIENT"),
        labels=hd.Volume(other[case.labels.array], turned, "PATIENT"),
    )

    found, findings = examine(wrong)

    assert found.labelled == ()
    assert not found.labels.array.any()
    assert set(findings.left_out.values()) == {
        "Brainstem was not found above SpinalCord, where it is in every patient: the position of "
        "the patient may be registered wrongly, and left and right with it"
    }
    assert examine(case)[0].labelled == case.labelled


@pytest.mark.parametrize("eyes", [(), ("eye_left", "eye_right")], ids=["no eyes", "eyes"])
def test_a_mandible_is_halved_by_sides_that_another_pair_has_too(
    eyes: tuple[str, ...],
) -> None:
    """Glands on the wrong sides may be a slip, or the whole patient lies the other way round."""
    halves, glands = ("mandible_left", "mandible_right"), ("parotid_left", "parotid_right")
    case = case_of(phantom(), "spinal_cord", *halves, *glands, *eyes)
    left, right = (BY_NAME[name].label for name in glands)
    other = np.arange(256, dtype=np.uint8)
    other[[left, right]] = right, left
    swapped = case.labels.with_array(other[case.labels.array])

    found, _ = examine(replace(case, labels=swapped))

    assert kept(found) == {"spinal_cord", *eyes, *(halves if eyes else ())}
    assert examine(case)[0].labelled == case.labelled


def test_an_organ_that_is_left_out_does_not_say_where_the_others_should_be() -> None:
    case = case_of(phantom(), "brainstem", "parotid_left", "spinal_cord")
    cord = np.zeros(case.labels.array.shape, bool)
    cord[2:12, 40:44, -4:] = True  # in the air beside the head, and above it
    place(case.labels, BY_NAME["spinal_cord"], cord)

    found, findings = examine(case)

    assert findings.left_out.keys() == {"spinal_cord"}
    assert kept(found) == {"brainstem", "parotid_left"}


@pytest.mark.parametrize(
    ("there", "said"), [("parotid_right", "parotid_left"), ("parotid_left", "parotid_right")]
)
def test_a_single_gland_on_the_wrong_side_is_found_by_the_body_alone(there: str, said: str) -> None:
    """Wherever the scanner has its origin."""
    one = case_of(phantom(), there)
    far = one.ct.affine.copy()
    far[:2, 3] += 300, -700
    ct, labels = (hd.Volume(v.array, far, "PATIENT") for v in (one.ct, one.labels))
    case = replace(one, ct=ct, labels=labels)
    array = case.labels.array.copy()
    array[array > 0] = BY_NAME[said].label
    wrong = replace(case, labels=case.labels.with_array(array), labelled=(BY_NAME[said],))

    found, findings = examine(wrong)

    assert found.labelled == ()
    assert findings.left_out == {said: "it does not lie on its side of the patient"}
    assert examine(case)[0].labelled == case.labelled


def test_a_body_contour_called_cord_is_no_cord() -> None:
    one = phantom()
    case = case_of(one, "spinal_cord")
    body = np.zeros(one.ct.array.shape, bool)
    body[10:50, 50:80, 40:64] = True
    place(case.labels, BY_NAME["spinal_cord"], body)

    found, findings = examine(case)

    assert found.labelled == ()
    assert findings.left_out == {"spinal_cord": "it has 30.2 ml per cm, usually 0.5 to 3"}


def test_a_cord_that_is_drawn_too_thick_is_kept_and_said() -> None:
    one = phantom()
    case = case_of(one, "spinal_cord")
    canal = np.zeros(one.ct.array.shape, bool)
    canal[35:50, 60:72, 44:56] = True
    place(case.labels, BY_NAME["spinal_cord"], canal)

    found, findings = examine(case)

    assert kept(found) == {"spinal_cord"}
    [said] = [each for each in findings.doubts["spinal_cord"] if "larger than usual" in each]
    assert "ml per cm, usually 0.5 to 3" in said


def test_air_within_the_patient_is_not_outside() -> None:
    """As in the middle of a brainstem after an operation, or a joint beside its ear."""
    case = case_of(phantom(), "brainstem")
    where = np.argwhere(case.labels.array == BY_NAME["brainstem"].label)
    k, row, column = np.rint(where.mean(axis=0)).astype(int)
    case.ct.array[k - 8 : k + 9, row - 6 : row + 7, column - 6 : column + 7] = -1000

    found, findings = examine(case)

    assert kept(found) == {"brainstem"}
    assert not any("outside" in each for each in findings.doubts.get("brainstem", []))


def finer(volume: hd.Volume, rows: int, columns: int) -> hd.Volume:
    """The same with so many pixels in place of each."""
    affine = volume.affine @ np.diag([1, 1 / rows, 1 / columns, 1])
    affine[:3, 3] += volume.affine[:3, 1:3] @ [(1 / rows - 1) / 2, (1 / columns - 1) / 2]
    return hd.Volume(volume.array.repeat(rows, 1).repeat(columns, 2), affine, "PATIENT")


def outside(share: float, pixels: tuple[int, int]) -> Findings:
    """Of an eye of which a share lies in front of the face; in place of each pixel so many."""
    one = phantom()
    case = case_of(one, "eye_left", "eye_right", "brainstem")
    eye = BY_NAME["eye_left"]
    voxels = np.argwhere(case.labels.array == eye.label)
    k, column = np.rint(voxels[:, [0, 2]].mean(axis=0)).astype(int)
    skin = int((one.ct.array[k, :, column] > -300).argmax())
    where = np.zeros(one.ct.array.shape, bool)
    rows = round(10 * share)
    where[k - 2 : k + 3, skin - rows : skin + 10 - rows, column - 3 : column + 4] = True
    place(case.labels, eye, where)
    ct, labels = finer(case.ct, *pixels), finer(case.labels, *pixels)
    return examine(replace(case, ct=ct, labels=labels))[1]


@pytest.mark.parametrize("pixels", [(1, 1), (2, 3)])
def test_an_organ_in_front_of_the_face_is_left_out_and_one_at_the_skin_is_looked_at(
    pixels: tuple[int, int],
) -> None:
    far, near, inside = (outside(share, pixels) for share in (0.8, 0.4, -0.3))
    assert far.left_out["eye_left"].endswith("% of it lies outside the body")
    assert near.left_out == {}
    assert any("outside the body" in sentence for sentence in near.doubts["eye_left"])
    assert inside.left_out == {}
    assert not any("outside" in sentence for sentence in inside.doubts.get("eye_left", []))


@pytest.mark.parametrize("orientation", COSINES)
def test_what_a_cropped_ct_does_not_show_is_not_outside(orientation: Orientation) -> None:
    one = phantom(orientation)
    left = np.argwhere(one.labels.array == BY_NAME["parotid_left"].label)
    x_mm = one.ct.map_indices_to_reference(left)[:, 0].min()
    everywhere = np.argwhere(np.ones(one.ct.array.shape, bool))
    cut = one.ct.map_indices_to_reference(everywhere)[:, 0] >= x_mm
    one.ct.array[tuple(everywhere[cut].T)] = -1024
    case = case_of(one, "parotid_left", "parotid_right", "brainstem")

    assert "parotid_left" in examine(case)[1].left_out
    unknown = case.ct.with_array((case.ct.array == -1024).astype(np.uint8))
    assert examine(replace(case, unknown=unknown))[1].left_out == {}


def test_a_small_organ_is_kept_and_said() -> None:
    case = case_of(phantom(), "brainstem")
    voxels = np.argwhere(case.labels.array == 1)
    few = np.zeros(case.labels.array.shape, bool)
    few[tuple(voxels[:: len(voxels) // 40].T)] = True
    place(case.labels, BY_NAME["brainstem"], few)

    found, findings = examine(case)

    assert kept(found) == {"brainstem"}
    assert any("smaller than usual" in sentence for sentence in findings.doubts["brainstem"])


def test_an_organ_that_is_labelled_and_not_there_stays_so() -> None:
    case = replace(case_of(phantom()), labelled=(BY_NAME["pituitary"],))
    found, findings = examine(case)
    assert kept(found) == {"pituitary"}
    assert findings.volumes_ml == {}


def test_of_a_case_that_is_left_with_no_organ_each_reason_is_said_of_its_own_organs() -> None:
    assert nothing_left({"lens_left": "no", "eye_left": "it is air", "lens_right": "no"}) == (
        "no organ is left of those that were drawn: Lens_L, Lens_R: no; Eye_L: it is air"
    )
