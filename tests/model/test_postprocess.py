"""Postprocessing: one piece an organ, everything on its side."""

import highdicom as hd
import numpy as np
import pytest
from scipy import ndimage

from model.organs import BY_NAME, Organ
from model.postprocess import OutOfOrder, clean, on_wrong_sides

BRAINSTEM, LEFT, RIGHT = (BY_NAME[n] for n in ("brainstem", "parotid_left", "parotid_right"))
CORD = BY_NAME["spinal_cord"]
ALL = (BRAINSTEM, LEFT, RIGHT)


def volume(*, columns_grow_to: str = "L", pixel_mm: float = 2.0) -> hd.Volume:
    """An empty label volume of 10 slices, every 2 mm, of 20 x 30 pixels."""
    right_to_left = pixel_mm if columns_grow_to == "L" else -pixel_mm
    affine = np.diag([-2.0, pixel_mm, right_to_left, 1.0])[[2, 1, 0, 3]]
    return hd.Volume(np.zeros((10, 20, 30), np.uint8), affine, "PATIENT")


def tissue(like: hd.Volume) -> hd.Volume:
    """A CT of soft tissue on the grid of `like`."""
    return like.with_array(np.full(like.spatial_shape, 40, np.float32))


def test_a_smaller_second_piece_is_removed() -> None:
    labels = volume()
    labels.array[2:6, 5:9, 12:16] = BRAINSTEM.label
    labels.array[8:, 15:17, 20:22] = BRAINSTEM.label

    cleaned, warnings = clean(labels, ALL, tissue(labels))

    assert warnings == ()
    assert (cleaned.array == BRAINSTEM.label).sum() == 64
    assert cleaned.array[2:6, 5:9, 12:16].all()


@pytest.mark.parametrize(("planes", "ml"), [(2, 0.3), (1, 0.1)])
def test_a_large_second_piece_is_removed_and_spoken_of(planes: int, ml: float) -> None:
    """Half or a quarter of the first: a gap in the organ."""
    labels = volume()
    labels.array[:4, 5:9, 12:16] = BRAINSTEM.label
    labels.array[6 : 6 + planes, 5:9, 12:16] = BRAINSTEM.label

    cleaned, warnings = clean(labels, ALL, tissue(labels))

    assert warnings == (f"Brainstem was found in pieces, and one of {ml} ml was left out",)
    assert not cleaned.array[6:].any()


@pytest.mark.parametrize("side", [2, 4])
def test_pieces_that_touch_at_a_corner_are_one_however_large_they_are(side: int) -> None:
    labels = volume()
    labels.array[2:4, 5 : 5 + side, 12 : 12 + side] = BRAINSTEM.label
    labels.array[4, 5 + side, 12 + side] = BRAINSTEM.label

    cleaned, _ = clean(labels, ALL, tissue(labels))

    assert (cleaned.array == BRAINSTEM.label).sum() == 2 * side**2 + 1


def test_a_piece_is_removed_without_harm_to_its_neighbour() -> None:
    labels = volume()
    labels.array[2:6, 5:9, 20:26] = LEFT.label
    labels.array[3:5, 6:8, 22:24] = BRAINSTEM.label
    labels.array[0, 0, 0] = BRAINSTEM.label

    cleaned, _ = clean(labels, ALL, tissue(labels))

    expected = labels.array.copy()
    expected[0, 0, 0] = 0
    np.testing.assert_array_equal(cleaned.array, expected)


@pytest.mark.parametrize("columns_grow_to", ["L", "R"])
def test_a_pair_on_its_sides_stays_however_the_ct_is_stored(columns_grow_to: str) -> None:
    labels = volume(columns_grow_to=columns_grow_to)
    to_the_left = np.s_[2:6, 5:9, 22:26] if columns_grow_to == "L" else np.s_[2:6, 5:9, 4:8]
    to_the_right = np.s_[2:6, 5:9, 4:8] if columns_grow_to == "L" else np.s_[2:6, 5:9, 22:26]
    labels.array[to_the_left] = LEFT.label
    labels.array[to_the_right] = RIGHT.label

    cleaned, warnings = clean(labels, ALL, tissue(labels))

    assert warnings == ()
    np.testing.assert_array_equal(cleaned.array, labels.array)


@pytest.mark.parametrize("columns_grow_to", ["L", "R"])
def test_a_pair_on_the_wrong_sides_is_left_out_with_a_sentence(columns_grow_to: str) -> None:
    labels = volume(columns_grow_to=columns_grow_to)
    to_the_left = np.s_[2:6, 5:9, 22:26] if columns_grow_to == "L" else np.s_[2:6, 5:9, 4:8]
    to_the_right = np.s_[2:6, 5:9, 4:8] if columns_grow_to == "L" else np.s_[2:6, 5:9, 22:26]
    labels.array[to_the_right] = LEFT.label
    labels.array[to_the_left] = RIGHT.label
    labels.array[2:6, 5:9, 14:16] = BRAINSTEM.label

    cleaned, warnings = clean(labels, ALL, tissue(labels))

    assert set(np.unique(cleaned.array)) == {0, BRAINSTEM.label}
    (sentence,) = warnings
    assert LEFT.tg263 in sentence
    assert RIGHT.tg263 in sentence


def test_a_pair_in_one_place_is_left_out() -> None:
    labels = volume()
    labels.array[2:6, 5:9, 14] = RIGHT.label
    labels.array[2:6, 5:9, 15:17] = LEFT.label  # 3 mm apart

    cleaned, warnings = clean(labels, ALL, tissue(labels))

    assert not cleaned.array.any()
    assert len(warnings) == 1


def test_a_pair_whose_halves_nearly_meet_stays() -> None:
    labels = volume()
    labels.array[2:6, 5:9, 14] = RIGHT.label
    labels.array[2:6, 5:9, 17] = LEFT.label  # 6 mm apart

    cleaned, warnings = clean(labels, ALL, tissue(labels))

    assert warnings == ()
    np.testing.assert_array_equal(cleaned.array, labels.array)


def test_one_of_a_pair_alone_stays() -> None:
    labels = volume()
    labels.array[2:6, 5:9, 22:26] = LEFT.label

    cleaned, warnings = clean(labels, ALL, tissue(labels))

    np.testing.assert_array_equal(cleaned.array, labels.array)
    assert warnings == ()


def test_the_side_is_judged_by_the_piece_that_is_kept() -> None:
    labels = volume()
    labels.array[2:6, 5:9, 22:26] = LEFT.label
    labels.array[2:6, 5:9, 4:8] = RIGHT.label
    labels.array[8, 15, 0:9] = LEFT.label

    cleaned, warnings = clean(labels, ALL, tissue(labels))

    assert warnings == ()
    assert set(np.unique(cleaned.array)) == {0, LEFT.label, RIGHT.label}


def test_what_was_given_is_not_modified_and_the_place_is_kept() -> None:
    labels = volume()
    labels.array[2:6, 5:9, 12:16] = BRAINSTEM.label
    labels.array[8, 15, 20] = BRAINSTEM.label
    before = labels.array.copy()

    cleaned, _ = clean(labels, ALL, tissue(labels))

    np.testing.assert_array_equal(labels.array, before)
    assert cleaned.geometry_equal(labels)


def test_nothing_found_is_nothing_cleaned() -> None:
    cleaned, warnings = clean(volume(), ALL, tissue(volume()))

    assert not cleaned.array.any()
    assert warnings == ()


@pytest.mark.parametrize("name", ["middle_ear_left", "middle_ear_right"])
def test_no_organ_reaches_into_air_but_those_that_hold_it(name: str) -> None:
    middle_ear = BY_NAME[name]
    labels = volume()
    labels.array[2:6, 5:9, 12:16] = BRAINSTEM.label
    at_its_side = np.s_[22:26] if middle_ear.side == "left" else np.s_[4:8]
    labels.array[2:6, 5:9, at_its_side] = middle_ear.label
    ct = tissue(labels)
    ct.array[:, 7] = -800  # between air and tissue: both in one voxel
    ct.array[:, 8:] = -1024

    cleaned, warnings = clean(labels, (BRAINSTEM, middle_ear), ct)

    assert warnings == ()
    assert (cleaned.array == BRAINSTEM.label).sum() == 48
    assert not (cleaned.array[:, 8:] == BRAINSTEM.label).any()
    assert (cleaned.array == middle_ear.label).sum() == 64


def test_an_organ_of_which_all_is_in_air_is_not_there() -> None:
    labels = volume()
    labels.array[2:6, 5:9, 12:16] = BRAINSTEM.label
    ct = tissue(labels)
    ct.array[:] = -1000

    cleaned, warnings = clean(labels, ALL, ct)

    assert not cleaned.array.any()
    assert warnings == ()


@pytest.mark.parametrize(
    ("organ", "column", "stays"),
    [
        (LEFT, 24, True),
        (RIGHT, 24, False),
        (RIGHT, 16, True),  # 3 mm to the left of the midline
        (RIGHT, 18, False),  # 7 mm
        (LEFT, 11, False),
    ],
)
def test_one_of_a_pair_alone_is_judged_by_the_midline_but_not_to_the_millimetre(
    organ: Organ, column: int, stays: bool
) -> None:
    labels = volume()
    labels.array[2:6, 5:9, 14:16] = BRAINSTEM.label
    labels.array[2:6, 5:9, column] = organ.label

    cleaned, warnings = clean(labels, ALL, tissue(labels))

    assert (cleaned.array == organ.label).any() == stays
    assert len(warnings) == (0 if stays else 1)
    assert (cleaned.array == BRAINSTEM.label).any()


def test_the_midline_is_that_of_its_organs_and_not_of_a_body_that_lies_askew() -> None:
    centres_mm = {BRAINSTEM: 30.0, LEFT: 60.0}

    assert on_wrong_sides(centres_mm, body_mm=80.0) == ([], [])


def test_where_no_organ_of_the_midline_is_known_the_middle_of_the_body_is_taken() -> None:
    assert on_wrong_sides({LEFT: 60.0}, body_mm=80.0)[0] == [LEFT]
    assert on_wrong_sides({LEFT: 60.0}) == ([], [])


def test_organs_of_the_midline_that_lie_askew_have_their_middle_between_them() -> None:
    assert on_wrong_sides({BRAINSTEM: 20.0, CORD: 40.0, LEFT: 34.0}) == ([], [])


@pytest.mark.parametrize("seed", range(6))
def test_the_piece_that_is_kept_is_the_largest_wherever_others_lie(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = volume()
    labels.array[...] = random.choice(
        [0, BRAINSTEM.label, LEFT.label], 6000, p=[0.9, 0.08, 0.02]
    ).reshape(10, 20, 30)

    cleaned, _ = clean(labels, (BRAINSTEM,), tissue(labels))

    pieces, _ = ndimage.label(labels.array == BRAINSTEM.label, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    kept = pieces[cleaned.array == BRAINSTEM.label]
    assert len(set(kept)) == 1
    assert len(kept) == sizes.max()


def test_a_dark_streak_does_not_part_an_organ() -> None:
    labels = volume()
    labels.array[2:6, 5:9, 12:20] = BRAINSTEM.label
    ct = tissue(labels)
    ct.array[:, :, 15] = -1024  # beside dental metal

    cleaned, warnings = clean(labels, ALL, ct)

    assert (cleaned.array == BRAINSTEM.label).sum() == 4 * 4 * 7
    assert warnings == ()


def test_a_long_piece_that_is_left_out_is_spoken_of_however_thin_it_is() -> None:
    labels = volume(pixel_mm=1.0)
    labels.array[0:9, 2:9, 12:16] = BRAINSTEM.label
    labels.array[0:6, 15, 20] = BRAINSTEM.label  # 12 mm, a fortieth of it

    _, [sentence] = clean(labels, ALL, tissue(labels))

    assert sentence == "Brainstem was found in pieces, and one of 0.0 ml was left out"


def test_a_crumb_beside_a_long_organ_is_not_spoken_of() -> None:
    labels = volume(pixel_mm=1.0)
    labels.array[:, 2:9, 12:16] = BRAINSTEM.label  # 20 mm
    labels.array[0:4, 15, 20] = BRAINSTEM.label  # 8 mm

    cleaned, warnings = clean(labels, ALL, tissue(labels))

    assert warnings == ()
    assert not cleaned.array[:, 15].any()


def test_a_piece_that_is_the_largest_by_its_air_alone_is_not_kept() -> None:
    labels = volume()
    labels.array[2:6, 5:9, 12:16] = BRAINSTEM.label
    labels.array[2:6, 14:16, 12:16] = BRAINSTEM.label
    ct = tissue(labels)
    ct.array[:, :8] = -1024

    cleaned, _ = clean(labels, ALL, ct)

    assert not cleaned.array[:, :9].any()
    assert cleaned.array[2:6, 14:16, 12:16].all()


def test_many_small_pieces_that_are_left_out_are_added_up() -> None:
    labels = volume()
    labels.array[2:4, 5:9, 12:16] = BRAINSTEM.label
    labels.array[2:4, 15:19:2, 4:29:4] = BRAINSTEM.label

    _, [sentence] = clean(labels, ALL, tissue(labels))

    assert sentence == "Brainstem was found in pieces, and 14 were left out, 0.2 ml in all"


EYE, MANDIBLE = (BY_NAME[n] for n in ("eye_left", "mandible_left"))
RIGHT_EYE, RIGHT_MANDIBLE = (BY_NAME[n] for n in ("eye_right", "mandible_right"))
LENSES = [BY_NAME[n] for n in ("lens_left", "lens_right")]


@pytest.mark.parametrize(
    ("organ", "place", "other", "other_place", "says"),
    [
        (BRAINSTEM, (8, 10, 15), CORD, (1, 10, 15), "Brainstem was not found above SpinalCord"),
        (EYE, (8, 3, 20), MANDIBLE, (1, 3, 20), "Eye_L was not found above Bone_Mandible_L"),
        (RIGHT_EYE, (8, 3, 9), RIGHT_MANDIBLE, (1, 3, 9), "Eye_R was not found above"),
        *(
            (lens, (8, 3, 20), MANDIBLE, (1, 3, 20), f"{lens.tg263} was not found above")
            for lens in LENSES
        ),
        (MANDIBLE, (5, 15, 20), CORD, (5, 5, 15), "Bone_Mandible_L was not found in front of"),
        (EYE, (5, 15, 20), BRAINSTEM, (5, 5, 15), "Eye_L was not found in front of Brainstem"),
    ],
)
def test_organs_that_lie_as_in_no_patient_are_refused_as_a_whole(
    organ: Organ,
    place: tuple[int, int, int],
    other: Organ,
    other_place: tuple[int, int, int],
    says: str,
) -> None:
    """As when a patient who lay with the feet first, or prone, was registered otherwise."""
    labels = volume()
    labels.array[place] = organ.label
    labels.array[other_place] = other.label

    with pytest.raises(OutOfOrder, match=f"{says}.*left and right with it"):
        clean(labels, (organ, other), tissue(labels))

    labels.array[place], labels.array[other_place] = other.label, organ.label
    clean(labels, (organ, other), tissue(labels))


def test_centres_that_are_a_little_out_of_order_are_those_of_parts_of_organs() -> None:
    labels = volume()
    labels.array[5, 10, 15] = BRAINSTEM.label
    labels.array[2, 10, 15] = CORD.label  # 6 mm above it

    cleaned, _ = clean(labels, (BRAINSTEM, CORD), tissue(labels))

    np.testing.assert_array_equal(cleaned.array, labels.array)
