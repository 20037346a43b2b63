"""Every series that can be used is read right, wherever its slices lie."""

import random
import tracemalloc
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from plugin.ct.series import read_series
from plugin.ct.series_rules import SeriesRules, UnsuitableSeries
from tests.phantoms import COSINES, Orientation, ct_slices
from tests.plugin.ct.series_files import RULES, as_file, phantom, read, real, slices

# What is accepted


@pytest.mark.parametrize("orientation", COSINES)
def test_every_voxel_is_at_its_place_in_the_patient(orientation: Orientation) -> None:
    made = phantom(orientation)
    shuffled = ct_slices(made, shuffle_seed=1)
    series = read(shuffled)
    np.testing.assert_allclose(series.volume.affine, made.ct.affine, atol=1e-5)
    np.testing.assert_array_equal(series.volume.array, made.ct.array)
    assert series.volume.frame_of_reference_uid == made.ct.frame_of_reference_uid
    for index, header in enumerate(series.slices):
        corner = series.volume.map_indices_to_reference(np.array([[index, 0, 0]]))[0]
        np.testing.assert_allclose(corner, header.ImagePositionPatient, atol=1e-5)


def test_the_headers_come_back_without_pixels() -> None:
    assert all("PixelData" not in header for header in read(slices()).slices)


def test_the_order_of_the_files_does_not_matter() -> None:
    files = [as_file(dataset) for dataset in slices()]
    in_order = read_series(files, RULES)
    random.Random(0).shuffle(files)
    shuffled = read_series(files, RULES)
    np.testing.assert_array_equal(in_order.volume.array, shuffled.volume.array)
    assert in_order.slices == shuffled.slices


def test_files_are_read_from_disk_too(tmp_path: Path) -> None:
    for number, dataset in enumerate(slices()):
        (tmp_path / str(number)).write_bytes(as_file(dataset))
    assert read_series(tmp_path.iterdir(), RULES).volume.shape == (30, 32, 40)


def test_an_instance_that_arrived_twice_counts_once() -> None:
    datasets = slices()
    assert len(read([*datasets, datasets[7]]).slices) == 30
    no_more = SeriesRules(MaxSlices=30)
    assert len(read([*datasets, datasets[7]], no_more).slices) == 30


def test_a_series_with_too_many_slices_is_refused_before_it_fills_the_memory() -> None:
    """Perfusion CTs have thousands of images; one file here is small, and its pixels are not."""
    [file, *_] = [as_file(dataset) for dataset in slices()]
    rules = RULES.model_copy(update={"max_slices": 40})

    def perfusion(images: int) -> Iterator[bytes]:
        dataset = pydicom.dcmread(BytesIO(file))
        dataset.Rows = dataset.Columns = 512
        dataset.PixelData = bytes(2 * 512 * 512)
        for number in range(images):
            dataset.SOPInstanceUID = f"2.25.{number}"
            yield as_file(dataset)

    tracemalloc.start()
    try:
        with pytest.raises(UnsuitableSeries, match="The series has 300 slices"):
            read_series(perfusion(300), rules)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 60 * 2 * 512 * 512 + 2**25


def test_a_series_of_large_images_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = [as_file(dataset) for dataset in slices()]
    for number, file in enumerate(files):
        (tmp_path / str(number)).write_bytes(file)
    size = sum(map(len, files))

    monkeypatch.setattr("plugin.ct.series.LARGEST_SERIES", size)
    assert len(read_series(files, RULES).slices) == 30

    monkeypatch.setattr("plugin.ct.series.LARGEST_SERIES", size - 1)
    for given in (iter(files), tmp_path.iterdir()):
        with pytest.raises(UnsuitableSeries, match="more may not fit in the memory"):
            read_series(given, RULES)
        assert not list(given)  # each was asked for: a hash of all is one of all


def test_slices_thicker_than_their_distance_are_fine() -> None:
    datasets = slices()
    for dataset in datasets:
        dataset.SliceThickness = "6"
    assert read(datasets).volume.spacing[0] == pytest.approx(4.0)


def test_missing_and_empty_type_2_attributes_are_not_needed() -> None:
    datasets = slices()
    for dataset in datasets:
        for keyword in (
            *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientPosition"),
            *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
            *("KVP", "SliceThickness", "PositionReferenceIndicator", "InstanceNumber"),
        ):
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.SeriesNumber = None
        dataset.AcquisitionNumber = None
    assert read(datasets).volume.shape == (30, 32, 40)


def test_rounding_in_the_header_is_tolerated() -> None:
    datasets = slices()
    noise = np.random.default_rng(0)
    for dataset in datasets:
        position = np.array(dataset.ImagePositionPatient, float) + noise.uniform(-0.04, 0.04, 3)
        dataset.ImagePositionPatient = [f"{value:.4f}" for value in position]
    volume = read(datasets).volume
    np.testing.assert_allclose(volume.affine, phantom().ct.affine, atol=0.1)


# Real series


@pytest.mark.slow
def test_a_real_planning_ct_is_read_as_highdicom_reads_it() -> None:
    paths = real("head_neck_planning_ct")
    series = read_series(paths, RULES)
    reference = hd.get_volume_from_series([pydicom.dcmread(p) for p in paths], dtype=np.float32)
    assert series.volume.geometry_equal(reference)
    np.testing.assert_array_equal(series.volume.array, np.maximum(reference.array, -1024))


def test_a_real_tilted_series_is_refused_with_its_angle() -> None:
    with pytest.raises(UnsuitableSeries, match=r"slanted by 18\.5 degrees \(gantry tilt\)"):
        read_series(real("head_ct_gantry_tilt"), RULES)


def test_a_real_series_without_uids_is_refused_by_name() -> None:
    with pytest.raises(UnsuitableSeries, match="SOPClassUID is missing or not one value"):
        read_series(real("body_ct_jpeg2000"), RULES)


@pytest.mark.slow
def test_real_jpeg_2000_slices_are_decoded_once_they_have_uids() -> None:
    datasets = [pydicom.dcmread(path) for path in real("body_ct_jpeg2000")]
    for dataset in datasets:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    with pytest.raises(UnsuitableSeries, match="cover 40 mm, expected 100"):
        read(datasets)
    volume = read(datasets, SeriesRules(MinLengthMm=20)).volume
    assert volume.spacing[0] == pytest.approx(2.0)
    assert volume.array.max() == max(int(ds.pixel_array.max()) for ds in datasets) - 1024
