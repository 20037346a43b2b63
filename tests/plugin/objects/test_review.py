"""What is seen on the review pages is where it is in the patient, and no name is there."""

import copy
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.uid import RLELossless, SecondaryCaptureImageStorage

from model.organs import BY_NAME, ORGANS, Organ
from plugin.objects import drawing, review_pages
from plugin.objects.drawing import AXIAL, CORONAL, SAGITTAL, VIEWS, View, letters
from plugin.objects.review import build_review, review_uid
from plugin.objects.review_pages import side_by_side
from plugin.objects.scene import Scene
from tests.phantoms import COSINES, Orientation
from tests.results import finding_of, headers, origin_of, phantom, stored

ORIENTATIONS: tuple[Orientation, ...] = tuple(COSINES)
FEW = [BY_NAME[name] for name in ("brainstem", "parotid_left", "parotid_right")]
SIZE = 200


def only(labels: hd.Volume, organs: Sequence[Organ]) -> hd.Volume:
    kept = np.isin(labels.array, [organ.label for organ in organs])
    return labels.with_array(np.where(kept, labels.array, 0).astype(np.uint8))


def pages_of(
    labels: hd.Volume | None = None,
    slices: Sequence[Dataset] | None = None,
    *,
    organs: Sequence[Organ] = FEW,
    warnings: Sequence[str] = (),
    run: str = "",
) -> list[Dataset]:
    slices = slices or headers()
    labels = only(phantom().labels, organs) if labels is None else labels
    finding = finding_of(labels, slices, hu=phantom().ct, organs=organs, warnings=warnings)
    return build_review(finding, origin_of(slices, run=run))


@cache
def plain_pages() -> list[Dataset]:
    return pages_of()


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that is written on the pages that the test makes."""
    seen: list[str] = []
    write = drawing.write

    def noted(draw, at, text, *style, **more):  # type: ignore[no-untyped-def]
        seen.append(text)
        write(draw, at, text, *style, **more)

    monkeypatch.setattr(drawing, "write", noted)
    monkeypatch.setattr(review_pages, "write", noted)
    return seen


# Place


def outline_of(picture: Image.Image, organ: Organ) -> np.ndarray:
    """Rows and columns of the pixels in exactly the organ's colour."""
    return np.argwhere((np.asarray(picture) == organ.rgb).all(axis=2))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_patients_left_is_on_the_right_whichever_way_the_slices_lie(
    orientation: Orientation,
) -> None:
    scene = Scene.of(
        phantom(orientation).ct, only(phantom(orientation).labels, FEW), FEW, range(1, 45)
    )
    front, _ = scene.projections(SIZE)
    left, right = (outline_of(front, BY_NAME[f"parotid_{side}"]) for side in ("left", "right"))
    brainstem = outline_of(front, BY_NAME["brainstem"])
    assert right[:, 1].max() < brainstem[:, 1].mean() < left[:, 1].min()
    assert brainstem[:, 0].mean() < left[:, 0].mean(), "the head is on top"
    for view in (AXIAL, CORONAL):
        picture = scene.picture(BY_NAME["brainstem"], view, SIZE)
        stem = outline_of(picture, BY_NAME["brainstem"])[:, 1].mean()
        for side, sign in (("left", 1), ("right", -1)):
            parotid = outline_of(picture, BY_NAME[f"parotid_{side}"])
            assert not len(parotid) or sign * (parotid[:, 1].mean() - stem) > 0


@pytest.mark.parametrize("orientation", ["flipped_rows", "feet_first"])
def test_the_same_patient_gives_the_same_pictures_however_the_slices_lie(
    orientation: Orientation,
) -> None:
    pictures = []
    for lying in ("axial", orientation):
        p = phantom(lying)
        heights_mm = p.ct.map_indices_to_reference(np.array([[i, 0, 0] for i in range(44)]))[:, 2]
        from_the_head = (-heights_mm).argsort().argsort().tolist()
        scene = Scene.of(p.ct, only(p.labels, FEW), FEW, from_the_head)
        pictures.append([scene.picture(organ, view, SIZE) for organ in FEW for view in VIEWS])
    for straight, other in zip(*pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(straight), np.asarray(other))


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_an_organ_has_its_own_millimetres_on_the_scale_bar(view: View, texts: list[str]) -> None:
    labels = np.zeros((44, 63, 61), np.uint8)
    labels[15:25, 20:35, 30:38] = BY_NAME["parotid_left"].label
    size_mm = (10 * 5.0, 15 * 4.0, 8 * 4.5)  # foot, back, left
    air = phantom().ct.with_array(np.full(labels.shape, -1000, np.int16))
    scene = Scene.of(air, air.with_array(labels), FEW, range(1, 45))

    picture = scene.picture(BY_NAME["parotid_left"], view, 300)

    [bar_mm] = [int(text.split()[0]) for text in texts if re.fullmatch(r"\d+ mm", text)]
    bar = (np.asarray(picture)[300 - 9] == drawing.TEXT).all(axis=1)  # the row it lies on
    pixels_per_mm = bar[5:].argmin() / bar_mm
    extent = np.ptp(outline_of(picture, BY_NAME["parotid_left"]), axis=0)
    expected = np.array([size_mm[view.down], size_mm[view.across]]) * pixels_per_mm
    np.testing.assert_allclose(extent, expected, atol=3)


def test_an_outline_runs_along_the_border_of_its_voxels() -> None:
    mask = np.zeros((20, 20), bool)
    mask[5:9, 10:16] = True
    frame = drawing.Frame(
        view=AXIAL, centre=(9.5, 9.5), spacing_mm=(2.0, 1.0), field_mm=40.0, size=400
    )
    picture = np.zeros((400, 400, 3), np.float32)
    frame.paint_outline(picture, mask, (255, 0, 0), 1)
    rows, columns = (picture[..., 0] > 127).nonzero()
    # 10 pixels a millimetre; the plane's middle, index 9.5, lies at pixel 200
    assert (rows.min(), rows.max()) == pytest.approx((200 - 5 * 20, 200 - 1 * 20), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((200 + 0.5 * 10 - 5, 200 + 60), abs=1)
    inside = picture[120:160, 220:240]
    assert not inside.any()


def test_a_single_voxel_still_has_an_outline() -> None:
    labels = np.zeros((44, 63, 61), np.uint8)
    labels[20, 30, 30] = BY_NAME["parotid_left"].label
    scene = Scene.of(phantom().ct, phantom().ct.with_array(labels), FEW, range(1, 45))
    for view in VIEWS:
        picture = scene.picture(BY_NAME["parotid_left"], view, SIZE)
        assert len(outline_of(picture, BY_NAME["parotid_left"])) > 10


def test_every_plane_passes_through_an_organ_that_is_bent() -> None:
    labels = np.zeros((44, 63, 61), np.uint8)
    labels[10, 10:50, 10], labels[10, 10:50, 50], labels[10, 10, 10:51] = (21, 21, 21)  # a U
    organ = BY_NAME["mandible_left"]
    scene = Scene.of(phantom().ct, phantom().ct.with_array(labels), [organ], range(1, 45))
    for axis, plane in enumerate(scene.middle(organ)):
        assert (np.take(scene.labels.array, plane, axis) == organ.label).any()


def test_ticks_stand_where_the_other_planes_cut() -> None:
    frame = drawing.Frame(
        view=AXIAL, centre=(10, 10), spacing_mm=(1.0, 1.0), field_mm=20.0, size=100
    )
    image = Image.new("RGB", (100, 100))

    drawing.tick(image, frame, down=12, across=5)

    marked = [image.getpixel(place) == drawing.TICK for place in ((0, 60), (25, 0), (0, 25))]
    assert marked == [True, True, False]


def test_letters_say_where_a_direction_leads() -> None:
    assert [letters(axis) for axis in np.eye(3)] == ["L", "P", "H"]
    assert [letters(-axis) for axis in np.eye(3)] == ["R", "A", "F"]
    assert letters((0.99, 0.1, 0.1)) == "L"
    assert letters((-0.3, 0.9, -0.31)) == "PFR"


def test_an_image_is_called_as_the_viewer_calls_it(texts: list[str]) -> None:
    slices = copy.deepcopy(headers())
    for index, header in enumerate(slices):
        header.InstanceNumber = 500 - index
    pages_of(slices=slices)
    labels = phantom().labels.array
    planes = np.flatnonzero((labels == BY_NAME["brainstem"].label).any(axis=(1, 2)))
    assert f"{500 - planes[-1]} to {500 - planes[0]}" in texts
    plane = Scene.of(phantom().ct, phantom().labels, ORGANS, range(44)).middle(FEW[0])[0]
    assert any(text.endswith(f"image {500 - plane}") for text in texts)


@pytest.mark.parametrize("numbers", [[1] * 44, [*range(1, 44, 2), *range(2, 45, 2)]])
def test_images_whose_numbers_do_not_run_with_the_table_are_counted(
    texts: list[str], numbers: list[int]
) -> None:
    slices = copy.deepcopy(headers())
    for header, number in zip(slices, numbers, strict=True):
        header.InstanceNumber = number
    pages_of(slices=slices)
    planes = (phantom().labels.array == FEW[0].label).any(axis=(1, 2)).nonzero()[0] + 1
    assert f"{planes[0]} to {planes[-1]}" in texts


def test_a_right_organ_stands_to_the_left_of_its_left_one() -> None:
    rows = side_by_side([BY_NAME[n] for n in ("eye_left", "eye_right", "lens_right", "pituitary")])
    named = [tuple(organ and organ.name for organ in row) for row in rows]
    assert named == [("pituitary", None), ("eye_right", "eye_left"), ("lens_right", None)]


def test_left_out_organs_are_not_passed_over(texts: list[str]) -> None:
    pages_of(only(phantom().labels, FEW[:2]))
    assert texts.count("not found") == 1
    assert "Parotid_R" in texts


# What stands there


def test_every_page_says_research_use_only(texts: list[str]) -> None:
    pages = pages_of(warnings=["a long one " * 200])
    assert len(pages) == 3
    assert sum(text.startswith("Research use only") for text in texts) == len(pages)
    for page in pages:
        assert "research use only" in page.SeriesDescription
        assert page.ImageComments == "Research use only"
        assert page.ContentQualification == "RESEARCH"


def test_millilitres_are_those_of_the_voxels(texts: list[str]) -> None:
    pages_of()
    voxels = int((phantom().labels.array == BY_NAME["parotid_left"].label).sum())
    assert f"{voxels * 5 * 4 * 4.5 / 1000:.2f}" in texts


def test_no_warning_is_lost_however_many_there_are(texts: list[str]) -> None:
    warnings = [
        f"Warning {n}: {'this sentence is long enough for two lines ' * 5}" for n in range(20)
    ]
    pages = pages_of(warnings=[*warnings, "Parotid_L is very large"])
    said = " ".join(text.strip() for text in texts if text.startswith(("- ", "  ")))
    for n, warning in enumerate(warnings):
        assert f"- {warning.strip()}" in said, n
    assert texts.count("Parotid_L is very large") == 1, "beside its pictures"
    assert "- Parotid_L is very large" in texts
    assert len(pages) > len(plain_pages())


def test_the_patient_is_not_drawn() -> None:
    other = copy.deepcopy(headers())
    for header in other:
        header.PatientName, header.PatientID = "Other^Person", "4711"
        header.PatientBirthDate, header.PatientSex = "19700101", "F"
        header.StudyDescription = header.SeriesDescription = "of Other Person"
        header.InstitutionName, header.StudyDate = "Elsewhere", "19991231"
    first, second = plain_pages(), pages_of(slices=other)
    assert [page.PixelData for page in first] == [page.PixelData for page in second]
    assert second[0].PatientName == "Other^Person"


def test_nothing_found_is_still_shown() -> None:
    nothing = phantom().labels.with_array(np.zeros((44, 63, 61), np.uint8))
    [page] = pages_of(nothing)
    assert page.Rows == review_pages.PAGE_SIZE[1]


def test_letters_that_the_font_lacks_do_not_become_boxes() -> None:
    assert drawing.drawable("modèle-頭頸 1") == "mod?le-?? 1"


# The objects


def test_the_pages_stand_in_the_patient_and_study_of_the_ct() -> None:
    pages, source = plain_pages(), headers()[0]
    for number, page in enumerate(pages, 1):
        for keyword in (
            *("PatientName", "PatientID", "PatientSex", "StudyInstanceUID", "StudyID"),
            *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
        ):
            assert page[keyword].value == source[keyword].value, keyword
        assert page.InstanceNumber == number
        assert page.SOPClassUID == SecondaryCaptureImageStorage
        assert page.Modality == "OT", "a page must not be taken for a CT image"
        assert page.BurnedInAnnotation == "YES"
        assert len(page.SourceImageSequence) == len(headers())
    assert len({page.SeriesInstanceUID for page in pages} | {source.SeriesInstanceUID}) == 2
    assert len({page.SOPInstanceUID for page in pages}) == len(pages)


def test_pages_of_a_ct_that_was_compressed_with_losses_say_so() -> None:
    lossy = [copy.deepcopy(header) for header in headers()]
    for header in lossy:
        header.LossyImageCompression = "01"
        header.LossyImageCompressionRatio = "8"
        header.LossyImageCompressionMethod = "ISO_10918_1"

    for page, expected in ((plain_pages()[0], "00"), (pages_of(slices=lossy)[0], "01")):
        assert page.LossyImageCompression == expected
        assert page.get("LossyImageCompressionRatio") == (8 if expected == "01" else None)
        assert ("LossyImageCompressionMethod" in page) == (expected == "01")


def test_losses_of_one_slice_are_said_and_no_answer_is_none() -> None:
    slices = [copy.deepcopy(header) for header in headers()]
    for header in slices:
        header.LossyImageCompression = ""
    assert pages_of(slices=slices)[0].LossyImageCompression == "00"
    slices[20].LossyImageCompression = "01"
    assert pages_of(slices=slices)[0].LossyImageCompression == "01"


def test_the_same_input_gives_the_same_bytes_and_a_forced_run_new_uids() -> None:
    first, again, forced = plain_pages(), pages_of(), pages_of(run="2")
    assert [stored(page) for page in first] == [stored(page) for page in again]
    uids = [{page.SOPInstanceUID for page in pages} for pages in (first, forced)]
    assert not uids[0] & uids[1]
    assert first[0].SOPInstanceUID == review_uid(origin_of(headers()), 1)


def test_the_pages_are_small_and_lose_nothing() -> None:
    page = pydicom.dcmread(BytesIO(stored(plain_pages()[1])))
    assert page.file_meta.TransferSyntaxUID == RLELossless
    assert len(page.PixelData) < page.Rows * page.Columns * 3 / 4
    scene = Scene.of(phantom().ct, only(phantom().labels, FEW), FEW, range(1, 45))
    drawn = np.asarray(scene.picture(FEW[0], SAGITTAL, review_pages.PICTURE))
    y = review_pages.TITLE_HEIGHT + review_pages.CELL_TITLE_HEIGHT
    x = review_pages.GAP + 2 * (review_pages.PICTURE + review_pages.GAP)
    shown = page.pixel_array[y : y + review_pages.PICTURE, x : x + review_pages.PICTURE]
    np.testing.assert_array_equal(shown, drawn)


@pytest.mark.parametrize("bare", [False, True], ids=["whole header", "type 2 missing"])
def test_dciodvfy_finds_no_error(bare: bool, tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy, of Debian's dicom3tools")
    slices = copy.deepcopy(headers())
    if bare:
        for header in slices:
            del header.PatientName, header.PatientBirthDate, header.AccessionNumber, header.StudyID
    for page in pages_of(slices=slices):
        (tmp_path / "page.dcm").write_bytes(stored(page))
        report = subprocess.run(
            ["dciodvfy", "page.dcm"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        said = report.stdout + report.stderr
        assert "SCImage" in said, "it recognised the kind of object"
        assert [line for line in said.splitlines() if line.startswith("Error")] == []
