"""The split of patients."""

import pytest

from training.split import split_cases

CASES = [f"pt_{n}" for n in range(40)]


def test_every_patient_is_in_one_part_and_nobody_in_two() -> None:
    split = split_cases(CASES, 0, test=8, validation=5)

    assert [len(part) for part in split] == [27, 5, 8]
    assert sorted(name for part in split for name in part) == sorted(CASES)


def test_the_split_does_not_depend_on_the_order_of_the_folders() -> None:
    assert split_cases(CASES[::-1], 3, test=8, validation=5) == split_cases(
        CASES, 3, test=8, validation=5
    )


def test_another_seed_holds_out_others() -> None:
    parts = {split_cases(CASES, seed, test=8, validation=5).test for seed in range(5)}

    assert len(parts) == 5


def test_the_test_patients_stay_the_same_when_more_validate() -> None:
    few, many = (split_cases(CASES, 1, test=8, validation=n) for n in (2, 9))

    assert few.test == many.test


def test_nobody_left_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="30 \\+ 10 patients held out of 40 leaves none"):
        split_cases(CASES, 0, test=30, validation=10)
