"""Scores: what one evaluation wrote, others average."""

import os
from math import inf, isnan, nan
from pathlib import Path

import pytest

from training.scores import Row, dice_by_organ, mean_dice, read_rows, summary, write_rows


def row(organ: str, dice: float, *, case: str = "pt_1", hd95_mm: float = 1.0) -> Row:
    return Row(
        case=case,
        organ=organ,
        dice=dice,
        surface_dice=dice,
        hd95_mm=hd95_mm,
        volume_ml=1 / 3,
        reference_ml=2.0,
    )


def test_what_was_written_is_read_again_to_the_last_digit(tmp_path: Path) -> None:
    rows = [row("brainstem", 2 / 3), row("parotid_left", 0.0, hd95_mm=inf)]

    write_rows(rows, tmp_path / "metrics.csv")

    assert read_rows(tmp_path / "metrics.csv") == rows


def test_scores_are_on_the_disk_before_they_take_the_place_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, there = tmp_path / "metrics.csv", []
    write_rows([row("brainstem", 0.5)], path)
    monkeypatch.setattr(os, "fsync", lambda _: there.append(read_rows(path)))

    write_rows([row("brainstem", 0.7)], path)

    assert there == [[row("brainstem", 0.5)]]  # as a power cut would leave them
    assert read_rows(path) == [row("brainstem", 0.7)]


def test_an_organ_that_says_nothing_stays_in_the_file(tmp_path: Path) -> None:
    write_rows([row("brainstem", nan)], tmp_path / "metrics.csv")

    (found,) = read_rows(tmp_path / "metrics.csv")

    assert isnan(found.dice)


def test_the_summary_leaves_out_patients_without_the_organ() -> None:
    rows = [
        row("brainstem", 0.8),
        row("brainstem", 0.6),
        row("brainstem", nan),
        row("tmj_left", nan),
    ]

    assert summary(rows) == {"brainstem": {"dice_mean": 0.7, "dice_sd": 0.1, "patients": 2}}


def test_organs_come_in_the_tables_order() -> None:
    rows = [row("parotid_left", 0.5), row("brainstem", 0.8)]

    assert list(dice_by_organ(rows)) == ["brainstem", "parotid_left"]


def test_every_organ_counts_as_much_as_another() -> None:
    rows = [row("brainstem", 0.8), row("brainstem", 0.6), row("lens_left", 0.1)]

    assert mean_dice(rows) == pytest.approx(0.4)
    assert isnan(mean_dice([]))
