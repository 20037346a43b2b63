"""What is found in a CT is of its planes and of the model's organs, or it is our mistake."""

import copy
from collections.abc import Callable

import highdicom as hd
import numpy as np
import pytest

from model.organs import BY_NAME
from plugin.objects.finding import NoOrganFound
from tests.results import finding_of, headers, phantom


def elsewhere(column: int, volume: hd.Volume) -> hd.Volume:
    """The same with one column of its affine the other way round, or, of the last, its place."""
    affine = volume.affine.copy()
    affine[:3, column] *= -1
    return hd.Volume(volume.array, affine, "PATIENT")


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: labels.crop_to_spatial_shape((43, 63, 61)),
        lambda labels: elsewhere(2, labels),
        lambda labels: elsewhere(3, labels),
    ],
    ids=["smaller", "left for right", "elsewhere"],
)
def test_labels_of_another_grid_than_the_cts_are_our_mistake(
    change: Callable[[hd.Volume], hd.Volume],
) -> None:
    labels = phantom().labels
    with pytest.raises(ValueError, match="not on the grid of the CT"):
        finding_of(change(labels), hu=labels)


def test_slices_in_another_order_than_the_labels_are_our_mistake() -> None:
    first, second, *others = headers()
    for slices in (headers()[::-1], [second, first, *others]):
        with pytest.raises(ValueError, match="not in the order and place"):
            finding_of(slices=slices)
    with pytest.raises(ValueError, match="44 planes of labels for 43 slices"):
        finding_of(slices=headers()[1:])


@pytest.mark.parametrize(("off_mm", "fits"), [(2.4, True), (2.6, False)])  # slices every 5 mm
def test_a_slice_belongs_to_the_plane_that_it_is_nearest_to(off_mm: float, fits: bool) -> None:
    slices = copy.deepcopy(headers())
    x, y, z = slices[20].ImagePositionPatient
    slices[20].ImagePositionPatient = [x, y, z + off_mm]
    if fits:
        assert finding_of(slices=slices).present
        return
    with pytest.raises(ValueError, match="not in the order and place"):
        finding_of(slices=slices)


def test_a_label_of_no_organ_of_the_model_is_our_mistake() -> None:
    labels = phantom().labels
    one = labels.with_array(np.zeros_like(labels.array))
    one.array[3, 4, 5] = BY_NAME["parotid_left"].label
    with pytest.raises(ValueError, match=r"labels \[12\] are not among the organs"):
        _ = finding_of(one, organs=[BY_NAME["brainstem"]]).present


def test_no_organ_at_all_is_an_outcome_of_its_own() -> None:
    empty = phantom().labels.with_array(np.zeros_like(phantom().labels.array))
    with pytest.raises(NoOrganFound):
        _ = finding_of(empty).present
