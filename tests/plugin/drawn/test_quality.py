import csv
import io
from datetime import UTC, datetime, timedelta

import highdicom as hd
import numpy as np
import pytest

from model.organs import BY_NAME
from plugin.drawn.quality import (
    ComparedPair,
    Comparison,
    OrganAgreement,
    Quality,
    agree,
    as_csv,
    trends,
)
from plugin.jobs.job_table import open_database

BRAINSTEM, CORD, LENS = (BY_NAME[name] for name in ("brainstem", "spinal_cord", "lens_left"))

DRAWING = ComparedPair(
    study="study",
    series="ct",
    job="job",
    kind="segment",
    model="quick",
    model_version="1.0.0",
    drawn="drawing",
    drawn_as="RTSTRUCT",
    drawn_at="20260101080000",
)
GOOD = OrganAgreement(
    organ="brainstem",
    dice=0.9,
    surface_dice=0.95,
    hd95_mm=2.0,
    added_path_length_mm=100.0,
    volume_ml=20.0,
    drawn_ml=21.0,
)
MISSED = GOOD.model_copy(update={"dice": 0.0, "surface_dice": 0.0, "hd95_mm": None})


def volume(*boxes: tuple[int, slice, slice, slice]) -> hd.Volume:
    """Labels on a grid of 3 x 1 x 1 mm; a later box covers an earlier one."""
    array = np.zeros((12, 20, 20), np.uint8)
    for label, *box in boxes:
        array[tuple(box)] = label
    return hd.Volume.from_attributes(
        array=array,
        image_position=(0, 0, 0),
        image_orientation=(1, 0, 0, 0, 1, 0),
        pixel_spacing=(1.0, 1.0),
        spacing_between_slices=3.0,
        coordinate_system="PATIENT",
    )


def cube(label: int, first_slice: int) -> tuple[int, slice, slice, slice]:
    return (label, slice(first_slice, first_slice + 4), slice(5, 15), slice(5, 15))


def test_an_organ_moved_by_a_slice_agrees_as_computed_by_hand():
    ours = volume(cube(BRAINSTEM.label, 2))
    theirs = volume(cube(BRAINSTEM.label, 3))  # 3 of 4 slices are in both

    [found] = agree(ours, theirs, [BRAINSTEM, LENS])

    assert found.organ == "brainstem"
    assert found.dice == 0.75
    assert found.hd95_mm == 3.0
    # One slice of theirs is not in ours: 36 pixels of outline of 1 mm.
    assert found.added_path_length_mm == 36.0
    assert found.volume_ml == found.drawn_ml == 1.2  # 400 voxels of 3 mm3


def test_an_organ_that_our_result_lacks_is_all_left_to_draw():
    [found] = agree(volume(), volume(cube(CORD.label, 0)), [CORD])

    assert (found.dice, found.surface_dice, found.hd95_mm) == (0.0, 0.0, None)
    assert found.added_path_length_mm == 4 * 36.0
    assert (found.volume_ml, found.drawn_ml) == (0.0, 1.2)


@pytest.fixture
def quality(database: str) -> Quality:
    times = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(100))
    return Quality(open_database(database), now=lambda: next(times))


def test_what_is_compared_is_kept_once(quality):
    assert not quality.has(drawn="drawing", job="job")
    quality.keep(DRAWING, [GOOD])
    quality.keep(DRAWING, [MISSED])

    [kept] = quality.find()

    assert (kept.dice, kept.hd95_mm) == (0.0, None)
    assert quality.has(drawn="drawing", job="job")
    assert not quality.has(drawn="drawing", job="other")


def test_comparisons_are_found_by_study_model_and_organ(quality):
    quality.keep(DRAWING, [GOOD])
    other = DRAWING.model_copy(update={"job": "two", "model": "next", "study": "another"})
    quality.keep(other, [GOOD, GOOD.model_copy(update={"organ": "spinal_cord"})])

    assert [one.model for one in quality.find(limit=2)] == ["next", "next"]  # the newest first
    assert [one.job for one in quality.find(model="quick")] == ["job"]
    assert [one.organ for one in quality.find(organ="spinal_cord")] == ["spinal_cord"]
    assert quality.find(study="nobody") == []


def test_a_trend_has_one_point_for_each_ct_the_latest_drawing(quality):
    quality.keep(DRAWING.model_copy(update={"drawn": "late", "drawn_at": "20260301"}), [GOOD])
    quality.keep(DRAWING.model_copy(update={"drawn": "early", "drawn_at": "20260201"}), [MISSED])
    for number, dice in enumerate((0.5, 0.8)):
        another = DRAWING.model_copy(update={"series": f"ct{number}", "drawn": f"d{number}"})
        quality.keep(another, [GOOD.model_copy(update={"dice": dice})])
    shadow = DRAWING.model_copy(update={"kind": "shadow", "model": "next", "job": "j"})
    quality.keep(shadow, [MISSED])

    by_model = {one.model: one for one in trends(quality.find())}

    assert [point.dice for point in by_model["quick"].points] == [0.9, 0.5, 0.8]
    assert [point.dice for point in trends(quality.find(), last=1)[0].points] == [0.8]
    assert by_model["quick"].cases == 3
    assert by_model["quick"].dice_median == 0.8
    assert by_model["next"].kind == "shadow"
    assert by_model["next"].hd95_mm_median is None


def test_the_tenth_version_of_a_model_stands_behind_the_ninth(quality):
    versions = ["0.9.0", "0.10.0", "0.10.0-rc2", "1.0.0", "first", "0.9.0+site"]
    for version in versions:
        drawing = DRAWING.model_copy(update={"model_version": version, "job": version})
        quality.keep(drawing, [GOOD])

    order = [one.model_version for one in trends(quality.find())]

    assert order == ["0.9.0", "0.9.0+site", "0.10.0", "0.10.0-rc2", "1.0.0", "first"]


def test_the_table_has_a_line_for_each_organ(quality):
    quality.keep(DRAWING, [GOOD, MISSED.model_copy(update={"organ": "lens_left"})])

    rows = {row["organ"]: row for row in csv.DictReader(io.StringIO(as_csv(quality.find())))}

    assert set(rows["brainstem"]) == set(Comparison.model_fields)
    assert rows["brainstem"]["added_path_length_mm"] == "100.0"
    assert rows["lens_left"]["hd95_mm"] == ""
    assert as_csv([]).count("\n") == 1
