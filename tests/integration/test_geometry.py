"""An organ comes back through Orthanc at its place in the patient, whichever way the slices lie."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import ArrayLike
from scipy import ndimage

from model.checkpoint import Card, save
from model.organs import BY_NAME
from model.preprocess import Preprocessing
from model.unet import UNet, UNetConfig
from tests.integration.conftest import PLUGINS, Orthanc, wait_until
from tests.phantoms import COSINES, Orientation, Phantom, ct_slices, make_phantom

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

ORIENTATIONS: tuple[Orientation, ...] = tuple(COSINES)

SIDES = {"parotid_left": 1, "parotid_right": -1}
"""The organs, and how many times the contrast each is brighter than the rest of the patient."""

REST_HU, CONTRAST_HU = 100.0, 800.0


@cache
def phantom(orientation: Orientation) -> Phantom:
    """The patient with one bright parotid, the left, one dark one, and nothing else to see."""
    real = make_phantom(
        spacing_mm=(5.0, 4.0, 4.5), shape=(44, 63, 61), orientation=orientation, noise_hu=0
    )
    hu = np.full(real.ct.shape, REST_HU)
    for name, brighter in SIDES.items():
        hu[real.labels.array == BY_NAME[name].label] += brighter * CONTRAST_HU
    return replace(real, ct=real.ct.with_array(hu.astype(np.int16)))


def save_contrast_model(folder: Path) -> None:
    """Save weights that take what is bright for a left organ and what is dark for a right one.

    The first and the last block pass their input on, and the head weighs it. The network's grid is
    not the phantom's, so that the result is resampled there and back.
    """
    config = UNetConfig(num_classes=3, widths=(2, 2), strides=((1, 2, 2),), attention="plain")
    network = UNet(config)
    with torch.no_grad():
        for weights in network.parameters():
            weights.zero_()
        network.encoder[0].skip.weight[0, 0] = 1.0
        network.decoder[0].skip.weight[0, 2] = 1.0  # behind what comes from the level below
        for channel, brighter in enumerate(SIDES.values(), start=1):
            network.heads[0].weight[channel, 0] = 8.0 * brighter
            network.heads[0].bias[channel] = -4.0  # as likely as the background half way
    card = Card(
        name="contrast",
        version="1.0.0",
        description="For tests alone.",
        organs=tuple(SIDES),
        network=config,
        preprocessing=Preprocessing(
            spacing_mm=(4.0, 3.0, 3.0),
            window_hu=(REST_HU - CONTRAST_HU, REST_HU + CONTRAST_HU),
            mean_hu=REST_HU,
            std_hu=CONTRAST_HU,
        ),
        tile=(16, 32, 32),
        training={},
        measured={name: {"dice_mean": 0.5, "dice_sd": 0.0, "patients": 1} for name in SIDES},
    )
    save(folder, network, card)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")
    folder = tmp_path_factory.mktemp("geometry")
    save_contrast_model(folder / "contrast")
    one = Orthanc(folder, folder / "contrast")
    one.start()
    yield one
    one.kill()


@pytest.fixture(scope="module", params=ORIENTATIONS)
def orientation(request: pytest.FixtureRequest) -> Orientation:
    return request.param


@pytest.fixture(scope="module")
def file(orthanc: Orthanc, orientation: Orientation) -> bytes:
    """The SEG that Orthanc holds after the phantom was pushed."""
    images = ct_slices(phantom(orientation), shuffle_seed=1)
    orthanc.push(images)
    uid = images[0].SeriesInstanceUID
    [series] = orthanc.post("/tools/find", {"Level": "Series", "Query": {"SeriesInstanceUID": uid}})

    def ended() -> list[str]:
        jobs = orthanc.get("/oar/jobs?state=done")["jobs"]
        return [job["results"][0]["orthanc_id"] for job in jobs if job["series"] == series]

    [seg] = wait_until(ended, "the series is segmented")
    return orthanc.file(seg)


def label_points(seg: hd.seg.Segmentation) -> dict[str, np.ndarray]:
    """Centres of the voxels of each segment, ``(N, 3)`` in LPS mm, by its label."""
    points = {}
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
        name = seg.get_segment_description(number).segment_label
        points[name] = volume.map_indices_to_reference(np.argwhere(volume.array > 0))
    return points


@pytest.mark.parametrize("name", SIDES)
def test_an_organ_lies_at_its_place_within_half_a_voxel(file, orientation, name):
    truth = phantom(orientation).labels
    there = truth.array == BY_NAME[name].label

    points_mm = label_points(hd.seg.segread(BytesIO(file)))[BY_NAME[name].tg263]

    indices = truth.map_reference_to_indices(points_mm)
    voxels = np.rint(indices).astype(int)
    np.testing.assert_allclose(indices, voxels, atol=1e-3)  # each at the centre of one of the CT's
    centre = np.argwhere(there).mean(axis=0)
    assert np.abs(indices.mean(axis=0) - centre).max() < 0.5
    found = np.zeros(there.shape, bool)
    found[tuple(voxels.T)] = True
    assert not (found & ~ndimage.binary_dilation(there)).any()
    assert not (ndimage.binary_erosion(there) & ~found).any()


def test_left_is_the_patients_left(file):
    seg = hd.seg.segread(BytesIO(file))
    points_mm = label_points(seg)

    by_side = {}
    for segment in seg.SegmentSequence:
        [kind] = segment.SegmentedPropertyTypeCodeSequence
        [side] = kind.SegmentedPropertyTypeModifierCodeSequence
        by_side[side.CodeMeaning] = points_mm[segment.SegmentLabel][:, 0]

    assert by_side["Left"].min() > 20 > -20 > by_side["Right"].max()  # x grows to the left


def test_dciodvfy_finds_no_error_in_what_orthanc_holds(file, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy, of Debian's dicom3tools")
    (tmp_path / "seg.dcm").write_bytes(file)

    report = subprocess.run(
        ["dciodvfy", "seg.dcm"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    said = report.stdout + report.stderr
    assert "Segmentation" in said  # it recognised the kind of object
    assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_dcmqi_reads_the_same_voxels(file, tmp_path):
    dcmqi = Path(sys.executable).parent / "segimage2itkimage"
    if not dcmqi.exists():
        pytest.skip("needs segimage2itkimage, of the dcmqi package")
    (tmp_path / "seg.dcm").write_bytes(file)
    command = [dcmqi, "--inputDICOM", "seg.dcm", "--outputDirectory", ".", "-t", "nrrd"]

    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)

    seg = hd.seg.segread(BytesIO(file))
    for number, (name, ours_mm) in enumerate(label_points(seg).items(), start=1):
        image = sitk.ReadImage(str(tmp_path / f"{number}.nrrd"))
        voxels = np.argwhere(sitk.GetArrayFromImage(image) > 0)[:, ::-1]
        theirs_mm = [image.TransformIndexToPhysicalPoint(voxel.tolist()) for voxel in voxels]
        assert len(theirs_mm) == len(ours_mm) > 0, name
        np.testing.assert_allclose(in_order(theirs_mm), in_order(ours_mm), atol=0.01)


def in_order(points_mm: ArrayLike) -> np.ndarray:
    """Points sorted, so that two sets can be compared."""
    points = np.asarray(points_mm).round(2)
    return points[np.lexsort(points.T)]
