"""Preprocessing: there and back, everything stays at its place in the patient."""

from functools import cache

import highdicom as hd
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from model.organs import ORGANS
from model.preprocess import (
    BODY_MARGIN_MM,
    ORIENTATION,
    NoBody,
    Preprocessing,
    resample,
    resample_labels,
)
from tests.phantoms import COSINES, Orientation, Phantom, make_phantom

LARGE_VOXELS = 200
"""Of a smaller organ, rounding to another grid moves a good part of the voxels."""


@cache
def phantom(orientation: Orientation = "axial") -> Phantom:
    return make_phantom(
        orientation=orientation, shape=(64, 96, 88), spacing_mm=(3.0, 2.2, 2.2), noise_hu=0, seed=2
    )


def one_hot(labels: np.ndarray, classes: int = len(ORGANS) + 1) -> Tensor:
    return F.one_hot(torch.from_numpy(labels.astype(np.int64)), classes).movedim(-1, 0).float()


def block_of_tissue(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], air_hu: float = -1000.0
) -> hd.Volume:
    """Soft tissue in the middle half of a volume of air, axes towards the feet, back and left."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = -spacing_mm[0], *spacing_mm[1:], 1
    affine[:3, 3] = (-40.0, 25.0, 300.0)
    array = np.full(shape, air_hu, np.float32)
    array[tuple(slice(n // 4, n - n // 4) for n in shape)] = 40.0
    return hd.Volume(array, affine, "PATIENT")


@pytest.mark.parametrize("orientation", COSINES)
@pytest.mark.parametrize("spacing_mm", [(3.0, 2.0, 2.0), (2.5, 1.7, 1.7)])
def test_labels_come_back_at_their_place_in_the_patient(
    orientation: Orientation, spacing_mm: tuple[float, float, float]
) -> None:
    ct, truth = phantom(orientation).ct, phantom(orientation).labels
    image = Preprocessing(spacing_mm=spacing_mm).forward(ct)
    grid = image.get_geometry()
    ours = resample_labels(truth.to_patient_orientation(ORIENTATION), grid)

    back = Preprocessing.backward(one_hot(ours.array), grid, ct)

    assert back.array.dtype == np.uint8
    assert back.geometry_equal(ct)
    assert back.frame_of_reference_uid == ct.frame_of_reference_uid
    for organ in ORGANS:
        a, b = back.array == organ.label, truth.array == organ.label
        dice = 2 * (a & b).sum() / (a.sum() + b.sum())
        large = b.sum() > LARGE_VOXELS
        assert dice > (0.9 if large else 0.75), f"{organ.name} {dice:.2f}"
        moved_mm = np.linalg.norm(centre_mm(back, organ.label) - centre_mm(truth, organ.label))
        half_a_voxel_mm = min(ct.spacing) / 2 if large else np.linalg.norm(ct.spacing) / 2
        assert moved_mm < half_a_voxel_mm, f"{organ.name} {moved_mm:.2f} mm"


def centre_mm(labels: hd.Volume, label: int) -> np.ndarray:
    voxels = np.argwhere(labels.array == label)
    assert len(voxels), f"label {label} is gone"
    return labels.map_indices_to_reference(voxels).mean(axis=0)


@pytest.mark.parametrize("orientation", COSINES)
def test_on_the_networks_own_grid_every_label_comes_back_exactly(orientation: Orientation) -> None:
    ct, truth = phantom(orientation).ct, phantom(orientation).labels
    image = Preprocessing(spacing_mm=(3.0, 2.2, 2.2)).forward(ct)
    grid = image.get_geometry()
    ours = resample_labels(truth.to_patient_orientation(ORIENTATION), grid)

    back = Preprocessing.backward(one_hot(ours.array), grid, ct)

    np.testing.assert_array_equal(back.array, truth.array)


@pytest.mark.parametrize("orientation", COSINES)
def test_a_marker_keeps_its_place_in_millimetres(orientation: Orientation) -> None:
    ct = make_phantom(
        orientation=orientation, shape=(20, 30, 34), spacing_mm=(9.0, 7.0, 6.5), noise_hu=0
    ).ct.astype(np.float32)
    marker = (9, 15, 17)
    place_mm = ct.map_indices_to_reference(np.array([marker]))
    spacing_mm = (3.0, 3.5, 3.25)
    preprocessing = Preprocessing(spacing_mm=spacing_mm, window_hu=(-1000, 9000), mean_hu=0)
    before = preprocessing.forward(ct)
    marked = ct.array.copy()
    marked[marker] += 5000

    image = preprocessing.forward(ct.with_array(marked))

    np.testing.assert_allclose(image.spacing, spacing_mm)
    feet_back_left = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]])  # LPS, a row each
    assert (np.diag(feet_back_left @ image.direction) > 0.7).all()
    difference = image.array - before.array
    voxels = np.argwhere(difference > 0)
    weights = difference[difference > 0]
    found_mm = image.map_indices_to_reference(np.average(voxels, axis=0, weights=weights)[None])
    np.testing.assert_allclose(found_mm, place_mm, atol=0.15)  # a twentieth of a voxel


def test_a_coarser_grid_averages_and_does_not_alias() -> None:
    ct = block_of_tissue((16, 64, 64), (3.0, 1.0, 1.0))
    stripes = np.where(np.arange(64) % 2, 200.0, 0.0)  # one voxel wide
    ct = ct.with_array(np.broadcast_to(stripes, ct.array.shape).astype(np.float32))

    image = Preprocessing(spacing_mm=(3.0, 4.0, 4.0), mean_hu=100.0, std_hu=100.0).forward(ct)

    assert np.abs(image.array[:, 1:-1, 1:-1]).max() < 1e-4


def test_values_are_clipped_and_standardised() -> None:
    ct = block_of_tissue((12, 12, 12), (3.0, 3.0, 3.0))
    ct.array[6, 6, 6] = 5000

    image = Preprocessing(
        spacing_mm=(3.0, 3.0, 3.0), window_hu=(-200.0, 500.0), mean_hu=20.0, std_hu=100.0
    ).forward(ct)

    assert image.array.dtype == np.float32
    assert sorted(set(np.unique(image.array))) == pytest.approx([-2.2, 0.2, 4.8])


@pytest.mark.parametrize("metal_hu", [3071.0, 20_000.0])
def test_a_filling_of_metal_becomes_no_larger_than_one_as_bright_as_the_window_ends(
    metal_hu: float,
) -> None:
    ct = block_of_tissue((12, 64, 64), (3.0, 1.0, 1.0))
    preprocessing = Preprocessing(spacing_mm=(3.0, 3.9, 3.9))
    bright, metal = ct.array.copy(), ct.array.copy()
    bright[5:7, 30:34, 30:34], metal[5:7, 30:34, 30:34] = preprocessing.window_hu[1], metal_hu

    image = preprocessing.forward(ct.with_array(metal))

    np.testing.assert_array_equal(image.array, preprocessing.forward(ct.with_array(bright)).array)
    assert 0 < (image.array > 1).sum() <= 16


@pytest.mark.parametrize("window_hu", [(-1000.0, 1500.0), (-300.0, 1200.0), (-200.0, 500.0)])
def test_air_is_told_from_the_body_after_preprocessing(window_hu: tuple[float, float]) -> None:
    ct = block_of_tissue((12, 12, 12), (3.0, 3.0, 3.0))
    preprocessing = Preprocessing(
        spacing_mm=(3.0, 3.0, 3.0), window_hu=window_hu, mean_hu=43.4, std_hu=229.6
    )

    image = preprocessing.forward(ct).array
    assert image.min() == preprocessing.least
    body = image > preprocessing.air

    assert body.sum() == (ct.array > -200).sum()


@pytest.mark.parametrize("padding_hu", [-1024.0, -2000.0, -32768.0])
def test_the_padding_around_the_reconstruction_makes_no_difference(padding_hu: float) -> None:
    ct = block_of_tissue((12, 24, 24), (3.0, 3.0, 3.0))
    padded = ct.array.copy()
    padded[:, :2] = padded[:, :, -2:] = padding_hu
    preprocessing = Preprocessing(spacing_mm=(3.0, 3.0, 3.0))

    image = preprocessing.forward(ct.with_array(padded))

    np.testing.assert_array_equal(image.array, preprocessing.forward(ct).array)
    assert image.geometry_equal(preprocessing.forward(ct))


@pytest.mark.parametrize("spacing_mm", [(3.0, 3.0, 3.0), (5.0, 2.0, 1.5)])
def test_the_body_stays_whole_with_its_margin_and_the_air_goes(
    spacing_mm: tuple[float, float, float],
) -> None:
    ct = block_of_tissue((40, 80, 80), spacing_mm)
    ct.array[:, 60:] = -500  # foam that the head lies on
    ct.array[0, 0, 0] = 1000  # a marker on the couch

    image = Preprocessing(spacing_mm=spacing_mm).forward(ct)

    z, y, x = (int(np.ceil(BODY_MARGIN_MM / mm)) for mm in spacing_mm)
    assert image.array.shape == (20 + 2 * z, 40 + 2 * y, 40 + 2 * x)
    assert (image.array > 0).sum() == 20 * 40 * 40
    inside = tuple(slice(margin, -margin) for margin in (z, y, x))
    assert (image.array[inside] > 0).all()


def test_the_crop_ends_where_the_ct_ends() -> None:
    ct = block_of_tissue((8, 12, 12), (3.0, 3.0, 3.0))
    ct.array[:] = 40.0

    image = Preprocessing(spacing_mm=(3.0, 3.0, 3.0)).forward(ct)

    assert image.geometry_equal(ct)


def test_nothing_but_air_is_no_patient() -> None:
    air = block_of_tissue((8, 8, 8), (3.0, 2.0, 2.0))
    air.array[:] = -1000

    with pytest.raises(NoBody, match="nothing is denser than -300 HU"):
        Preprocessing().forward(air)


@pytest.mark.parametrize("shape", [(7, 31, 29), (8, 30, 33), (5, 37, 41)])
@pytest.mark.parametrize("spacing_mm", [(3.0, 1.0, 1.0), (2.3, 1.7, 1.1), (5.0, 4.0, 4.0)])
def test_the_grid_shares_its_centre_with_the_ct_and_covers_it(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    ct = block_of_tissue(shape, (3.3, 1.3, 1.9))

    grid = Preprocessing(spacing_mm=spacing_mm).grid(ct)

    np.testing.assert_allclose(grid.spacing, spacing_mm)
    np.testing.assert_allclose(grid.center_position, ct.center_position)
    short_mm = np.multiply(shape, ct.spacing) - np.multiply(grid.spatial_shape, spacing_mm)
    assert (np.abs(short_mm) <= np.array(spacing_mm) / 2 + 1e-9).all()


@pytest.mark.parametrize("ct_spacing_mm", [(3.0, 4.1, 4.1), (6.5, 2.3, 2.3), (9.9, 5.0, 7.3)])
def test_a_find_smaller_than_a_voxel_of_the_ct_does_no_harm(
    ct_spacing_mm: tuple[float, float, float],
) -> None:
    ct = block_of_tissue((12, 12, 12), ct_spacing_mm)
    image = Preprocessing(spacing_mm=(3.0, 1.0, 1.0)).forward(ct)
    rng = np.random.default_rng(0)
    corners = [np.zeros(3, int), np.array(image.array.shape) - 1]
    for place in [*corners, *(rng.integers(image.array.shape) for _ in range(30))]:
        classes = np.zeros(image.array.shape, np.uint8)
        classes[tuple(place)] = 1

        back = Preprocessing.backward(one_hot(classes, 2), image.get_geometry(), ct)

        assert back.geometry_equal(ct)
        assert back.array.sum() <= 1


def test_a_coarse_voxel_takes_what_fills_most_of_it() -> None:
    ct = block_of_tissue((8, 12, 12), (3.0, 4.0, 4.0))
    ct.array[:] = 40.0
    grid = Preprocessing(spacing_mm=(3.0, 1.0, 1.0)).forward(ct).get_geometry()
    # A voxel of the CT averages a triangle of 8 by 8 voxels of the network's grid.
    for side, found in ((3, 0), (7, 1)):
        classes = np.zeros(grid.spatial_shape, np.uint8)
        middle = slice(22 - side // 2, 22 - side // 2 + side)
        classes[:, middle, middle] = 1
        back = Preprocessing.backward(one_hot(classes, 2), grid, ct)
        assert back.array[:, 5, 5].tolist() == [found] * 8, f"{side} mm"


def test_the_most_probable_organ_wins_in_every_voxel() -> None:
    ct = block_of_tissue((6, 10, 10), (3.0, 2.0, 2.0))
    ct.array[:] = 40.0
    grid = Preprocessing(spacing_mm=(3.0, 2.0, 2.0)).forward(ct).get_geometry()
    p = torch.rand(5, 6, 10, 10, generator=torch.Generator().manual_seed(0)).softmax(dim=0)

    back = Preprocessing.backward(p, grid, ct)

    np.testing.assert_array_equal(back.array, p.argmax(0).numpy())


def test_values_of_one_row_that_runs_backwards_are_resampled() -> None:
    ct = block_of_tissue((6, 1, 10), (3.0, 2.0, 2.0)).flip_spatial([0, 1, 2])
    grid = Preprocessing(spacing_mm=(3.0, 5.0, 1.0)).grid(ct)

    assert grid.spatial_shape == (6, 1, 20)
    assert resample(ct, grid).array.shape == grid.spatial_shape


def test_beyond_the_ct_its_border_continues() -> None:
    ct = block_of_tissue((6, 8, 8), (3.0, 2.0, 2.0), air_hu=40.0)

    wider = resample(ct, ct.pad(3).get_geometry())

    assert (wider.array == 40).all()


def test_classes_are_written_as_the_labels_that_are_asked_for_and_others_not_at_all() -> None:
    ct = block_of_tissue((6, 10, 10), (3.0, 2.0, 2.0))
    ct.array[:] = 40.0
    grid = Preprocessing(spacing_mm=(3.0, 2.0, 2.0)).forward(ct).get_geometry()
    p = torch.rand(4, 6, 10, 10, generator=torch.Generator().manual_seed(0)).softmax(dim=0)

    back = Preprocessing.backward(p, grid, ct, labels=[22, 0, 5])

    np.testing.assert_array_equal(back.array, np.array([0, 22, 0, 5])[p.argmax(0).numpy()])


@pytest.mark.parametrize(
    ("of_network_mm", "blur"),
    [((2.0, 3.1, 3.1), 0.0), ((3.0, 1.2, 1.2), 0.0), ((1.5, 0.8, 0.8), 1.0)],
)
def test_scattered_organs_come_back_as_if_the_whole_volume_were_interpolated(
    of_network_mm: tuple[float, float, float], blur: float
) -> None:
    ct = block_of_tissue((14, 30, 30), (3.0, 2.0, 2.0))
    ct.array[:] = 40.0
    grid = Preprocessing(spacing_mm=of_network_mm).forward(ct).get_geometry()
    rng = np.random.default_rng(3)
    logits = ndimage.gaussian_filter(
        rng.normal(size=(4, *grid.spatial_shape)), (0, blur, blur, blur)
    )
    logits /= logits.std()
    logits[0] += 2.5  # so that few voxels are of an organ
    p = torch.from_numpy(logits).float().softmax(dim=0)

    back = Preprocessing.backward(p, grid, ct)

    target = ct.get_geometry().to_patient_orientation(ORIENTATION)
    whole = [resample(hd.Volume(one.numpy(), grid.affine, "PATIENT"), target).array for one in p]
    expected = np.argmax(whole, axis=0)
    assert 0 < np.count_nonzero(expected) < expected.size / 4
    same = hd.Volume(expected, target.affine, "PATIENT")
    same = same.to_patient_orientation(ct.get_closest_patient_orientation())
    np.testing.assert_array_equal(back.array, same.array)


def test_a_label_is_not_invented_between_two_others() -> None:
    labels = block_of_tissue((6, 12, 12), (3.0, 2.0, 2.0), air_hu=0).astype(np.uint8)
    labels.array[:] = 1
    labels.array[:, :, 6:] = 7
    grid = Preprocessing(spacing_mm=(2.0, 1.3, 1.3)).grid(labels)

    finer = resample_labels(labels, grid)

    assert set(np.unique(finer.array)) == {1, 7}


@pytest.mark.parametrize(
    "spacing_mm", [(3.0, 1.0, 1.0), (3.0, 2.2, 2.2), (3.0, 5.0, 5.0), (7.0, 1.5, 3.1)]
)
def test_labels_are_resampled_as_if_each_were_looked_for_in_the_whole_volume(
    spacing_mm: tuple[float, float, float],
) -> None:
    labels = phantom().labels.to_patient_orientation(ORIENTATION)
    labels.array[:2, :2, :2] = 255  # far from all others, and at a corner
    filled = labels.with_array(np.maximum(labels.array, 9))  # no voxel is without a label
    for each in (labels, filled):
        grid = Preprocessing(spacing_mm=spacing_mm).grid(each)

        ours = resample_labels(each, grid)

        present = np.unique(each.array)
        masks = [each.with_array((each.array == value).astype(np.float32)) for value in present]
        shares = np.array([resample(mask, grid).array for mask in masks])
        best, second = np.sort(shares, axis=0)[[-1, -2]]
        decided = best - second > 1e-6  # else rounding decides
        np.testing.assert_array_equal(
            ours.array[decided], present[np.argmax(shares, axis=0)][decided]
        )
        taken = np.take_along_axis(shares, np.searchsorted(present, ours.array)[None], axis=0)[0]
        assert (taken >= best - 1e-6).all()


def test_grids_that_are_turned_against_each_other_are_refused() -> None:
    ct = block_of_tissue((6, 8, 8), (3.0, 2.0, 2.0))
    turned = phantom("oblique").ct.get_geometry().to_patient_orientation(ORIENTATION)

    with pytest.raises(ValueError, match="parallel"):
        resample(ct, turned)


@pytest.mark.parametrize(
    "turn",
    [
        np.diag([1.0, 1.0, -1.0, 1.0]),
        np.array([[1, 0, 0, 0], [0, 1, -0.002, 0], [0, 0.002, 1, 0], [0, 0, 0, 1]]),
    ],
    ids=["left becomes right", "a tenth of a degree"],
)
def test_a_grid_that_is_mirrored_or_a_little_turned_is_refused_too(turn: np.ndarray) -> None:
    ct = block_of_tissue((6, 8, 8), (3.0, 2.0, 2.0))
    turned = hd.VolumeGeometry(ct.affine @ turn, ct.spatial_shape, "PATIENT")

    with pytest.raises(ValueError, match="parallel"):
        resample(ct, turned)
