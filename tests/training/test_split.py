"""The split of patients."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.cohort import tiny_run
from training.split import FOLDS, split_cases, split_fold, split_of

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
    with pytest.raises(ValueError, match=r"test_patients = 30 and .* all of 40 patients"):
        split_cases(CASES, 0, test=30, validation=10)


def test_each_patient_but_the_test_patients_validates_in_one_fold() -> None:
    folds = [split_fold(CASES, 0, test=8, fold=fold) for fold in range(FOLDS)]

    assert {fold.test for fold in folds} == {split_cases(CASES, 0, test=8, validation=5).test}
    validating = [name for fold in folds for name in fold.validation]
    assert sorted([*validating, *folds[0].test]) == sorted(CASES)
    for fold in folds:
        assert sorted(name for part in fold for name in part) == sorted(CASES)
        assert len(fold.validation) in (6, 7)


@pytest.mark.parametrize(
    ("test", "fold", "complaint"),
    [(36, 0, "36 test patients of 40 leave too few for 5 folds"), (8, 5, "folds are 0 to 4")],
)
def test_a_fold_that_cannot_be_is_refused(test: int, fold: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        split_fold(CASES, 0, test=test, fold=fold)


def test_a_patient_for_each_fold_is_enough() -> None:
    folds = [split_fold(CASES, 0, test=35, fold=fold) for fold in range(FOLDS)]

    assert {(len(fold.training), len(fold.validation)) for fold in folds} == {(4, 1)}


def test_a_run_that_names_a_fold_gets_that_fold() -> None:
    whole = replace(tiny_run(Path("a"), Path("b")), test_patients=8, validation_patients=5)

    assert split_of(whole, CASES) == split_cases(CASES, whole.seed, test=8, validation=5)
    assert split_of(replace(whole, fold=2), CASES) == split_fold(CASES, whole.seed, test=8, fold=2)
