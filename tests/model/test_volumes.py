"""Where the organs are, and how much there is of each."""

import highdicom as hd
import numpy as np
import pytest
from scipy import ndimage

from model.organs import BY_NAME, ORGANS
from model.volumes import boxes_by_label, centre_mm, count_voxels, labelled_box, volumes_ml


def labels_with(*voxels: tuple[int, int, int]) -> np.ndarray:
    labels = np.zeros((5, 6, 7), np.uint8)
    for number, voxel in enumerate(voxels, start=1):
        labels[voxel] = number
    return labels


def test_the_box_around_all_organs_is_the_smallest() -> None:
    box = labelled_box(labels_with((1, 2, 3), (4, 2, 6)))
    assert box == (slice(1, 5), slice(2, 3), slice(3, 7))


def test_there_is_no_box_around_nothing() -> None:
    empty = labels_with()
    assert empty[labelled_box(empty)].size == 0
    assert boxes_by_label(empty) == {}


@pytest.mark.parametrize("seed", range(5))
def test_the_boxes_are_those_that_scipy_finds_in_the_whole_volume(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.zeros((9, 10, 11), np.uint8)
    labels[2:8, 1:9, 3:] = random.integers(0, 23, (6, 8, 8)) * (random.random((6, 8, 8)) < 0.1)
    labels[2, 1, 3] = 255
    found = enumerate(ndimage.find_objects(labels), start=1)
    assert boxes_by_label(labels) == {label: box for label, box in found if box is not None}


def test_every_voxel_is_counted_once() -> None:
    labels = labels_with((1, 1, 1), (3, 4, 5))
    counts = count_voxels(
        hd.Volume.from_attributes(
            array=labels,
            image_position=(0, 0, 0),
            image_orientation=(1, 0, 0, 0, 1, 0),
            pixel_spacing=(1, 1),
            spacing_between_slices=1,
            coordinate_system="PATIENT",
        )
    )
    assert (counts[0], counts[1], counts[2]) == (labels.size - 2, 1, 1)
    assert counts.sum() == labels.size


def test_volumes_are_in_millilitres() -> None:
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[:5] = BY_NAME["brainstem"].label
    labels[9, :5, :5] = BY_NAME["lens_left"].label
    volume = hd.Volume.from_attributes(
        array=labels,
        image_position=(0, 0, 0),
        image_orientation=(1, 0, 0, 0, 1, 0),
        pixel_spacing=(1, 2),
        spacing_between_slices=3,
        coordinate_system="PATIENT",
    )
    assert volumes_ml(volume, ORGANS) == {"brainstem": 3.0, "lens_left": 0.15}


def test_the_centre_of_an_organ_in_its_box_is_where_it_lies_in_the_patient() -> None:
    labels = labels_with((1, 2, 3), (3, 4, 5))
    affine = np.diag([3.0, 2.0, 1.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    box = labelled_box(labels)

    centre = centre_mm(labels[box] > 0, box, hd.Volume(labels, affine, "PATIENT"))

    np.testing.assert_allclose(centre, [10 + 3 * 2, 20 + 2 * 3, 30 + 4])
