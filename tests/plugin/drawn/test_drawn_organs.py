"""What a colleague drew arrives as labels on the CT's grid, or with the reason why not."""

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless

from model.organs import BY_NAME, ORGANS, Organ
from plugin.drawn.contour_fill import UnusableStructure
from plugin.drawn.drawn_organs import DrawnOrgans, draw_organs
from plugin.drawn.segment_masks import on_grid
from plugin.drawn.structure_names import StructureNames
from plugin.drawn.structure_sets import UnusableStructureSet, read_structure_set
from tests.phantoms import COSINES, Orientation, Phantom, ct_slices, make_phantom
from tests.structure_sets import Outline, as_read, ellipse, outlines_of, rtstruct, seg

NAMES = StructureNames.read()
LEFT, RIGHT = BY_NAME["parotid_left"], BY_NAME["parotid_right"]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(spacing_mm=(4.0, 3.1, 2.9), shape=(60, 70, 72), noise_hu=0)


@pytest.fixture(scope="module")
def slices(phantom: Phantom) -> list[Dataset]:
    return ct_slices(phantom)


def mask_of(phantom: Phantom, *organs: str) -> hd.Volume:
    labels = [BY_NAME[organ].label for organ in organs]
    return phantom.labels.with_array(np.isin(phantom.labels.array, labels).astype(np.uint8))


def outlines(phantom: Phantom, *organs: str) -> list[Outline]:
    return outlines_of(mask_of(phantom, *organs))


def drawn(dataset: Dataset, phantom: Phantom) -> DrawnOrgans:
    return draw_organs(read_structure_set(dataset), phantom.ct.get_geometry(), NAMES)


def present(phantom: Phantom) -> list[Organ]:
    return [organ for organ in ORGANS if (phantom.labels.array == organ.label).any()]


@pytest.mark.parametrize("orientation", COSINES)
def test_contours_and_segments_come_back_as_the_masks_they_were_drawn_from(
    orientation: Orientation,
) -> None:
    one = make_phantom(
        spacing_mm=(5.0, 3.1, 2.9), shape=(48, 72, 74), noise_hu=0, orientation=orientation
    )
    images, organs = ct_slices(one), present(one)

    by_contours = drawn(rtstruct(images, {o.tg263: outlines(one, o.name) for o in organs}), one)
    by_segments = drawn(seg(images, one.labels, organs), one)

    for found in (by_contours, by_segments):
        assert list(found.organs) == organs
        assert found.labels.geometry_equal(one.ct)
        np.testing.assert_array_equal(found.labels.array, one.labels.array)
        assert found.unmatched == ()
        assert found.left_out == {}


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_other_kinds_of_segmentation_are_read(
    phantom: Phantom, slices: list[Dataset], kind: str
) -> None:
    found = drawn(seg(slices, phantom.labels, present(phantom), segmentation_type=kind), phantom)

    assert list(found.organs) == present(phantom)
    np.testing.assert_array_equal(found.labels.array, phantom.labels.array)


def test_a_segmentation_on_another_grid_is_brought_to_the_cts(slices: list[Dataset]) -> None:
    fine = make_phantom(spacing_mm=(2.0, 1.55, 1.45), shape=(80, 140, 144), noise_hu=0)
    coarse = make_phantom(spacing_mm=(4.0, 3.1, 2.9), shape=(60, 70, 72), noise_hu=0)
    dataset = seg(ct_slices(fine), fine.labels, [BY_NAME["brainstem"]])
    dataset.FrameOfReferenceUID = coarse.ct.frame_of_reference_uid

    found = drawn(dataset, coarse)

    ours, theirs = found.labels.array == 1, coarse.labels.array == 1
    assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.93
    volume_mm3 = fine.labels.voxel_volume * (fine.labels.array == 1).sum()
    assert found.labels.voxel_volume * ours.sum() == pytest.approx(volume_mm3, rel=0.05)


def test_pixels_a_fiftieth_wider_than_the_cts_are_not_taken_for_its_own() -> None:
    ct = hd.VolumeGeometry(np.diag([3.0, 1.0, 1.0, 1.0]), (4, 120, 120), "PATIENT")
    array = np.zeros((4, 100, 100), np.uint8)
    array[1:3, 90:98, 90:98] = 1
    drawn_mask = hd.Volume(array, np.diag([3.0, 1.02, 1.02, 1.0]), "PATIENT")

    found = on_grid(drawn_mask, ct)

    places_mm = [
        one.map_indices_to_reference(np.argwhere(one.array)).mean(axis=0)
        for one in (found, drawn_mask)
    ]
    np.testing.assert_allclose(*places_mm, atol=0.5)


@pytest.mark.parametrize("orientation", ["FPL", "LAH", "PRF", "HLA"])
@pytest.mark.parametrize("border", [0, 2])
def test_an_organ_that_reaches_every_face_of_the_ct_stays_whole_however_its_mask_is_stored(
    orientation: str, border: int
) -> None:
    affine = np.diag([3.0, 1.0, 0.9, 1.0])[[2, 1, 0, 3]]
    array = np.random.default_rng(0).integers(0, 2, (4, 5, 6), np.uint8)
    array[0, 0, 0] = array[-1, -1, -1] = 1
    ct = hd.VolumeGeometry(affine, array.shape, "PATIENT")

    mask = hd.Volume(array, affine, "PATIENT").pad(border).to_patient_orientation(orientation)

    np.testing.assert_array_equal(on_grid(mask, ct).array, array)


def test_a_mask_that_lies_beside_the_ct_is_not_one_of_nothing() -> None:
    mask = hd.Volume(np.ones((2, 2, 2), np.uint8), np.eye(4), "PATIENT")
    for beside_mm in (100.0, 100.5):  # on the CT's own voxels, and between them
        affine = np.eye(4)
        affine[:3, 3] = beside_mm
        with pytest.raises(UnusableStructure, match="it does not fill a voxel of the CT"):
            on_grid(mask, hd.VolumeGeometry(affine, (4, 5, 6), "PATIENT"))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_frames_that_lie_as_unevenly_as_the_slices_of_a_ct_may_are_read(
    phantom: Phantom, slices: list[Dataset], kind: str
) -> None:
    organs = [BY_NAME["brainstem"], LEFT]
    drawing = as_read(seg(slices, phantom.labels, organs, segmentation_type=kind))
    for frame in drawing.PerFrameFunctionalGroupsSequence:
        [place] = frame.PlanePositionSequence
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [x, y, z + 0.09 * (-1) ** round(z / 4)]

    found = drawn(drawing, phantom)

    assert found.left_out == {}
    assert found.organs == tuple(organs)


def test_segments_that_overlap_are_each_read_whole(phantom: Phantom, slices: list[Dataset]) -> None:
    """A lens is drawn within its eye."""
    eye, lens = BY_NAME["eye_left"], BY_NAME["lens_left"]
    both = np.isin(phantom.labels.array, [eye.label, lens.label])
    one = phantom.labels.array == lens.label

    found = drawn(seg(slices, phantom.labels, [eye, lens], masks=[both, one]), phantom)

    assert found.left_out == {}
    expected = np.where(both, np.where(one, lens.label, eye.label), 0)
    np.testing.assert_array_equal(found.labels.array, expected)


def test_a_segmentation_that_would_not_fit_into_the_memory_is_not_decoded(
    phantom: Phantom, slices: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compressed, it may be a thousandth of what it becomes."""
    drawing = as_read(seg(slices, phantom.labels, [LEFT]))
    monkeypatch.setattr("plugin.drawn.segment_masks.SMALL", 1000)
    monkeypatch.setattr("plugin.drawn.segment_masks.FINER", 0)

    found = drawn(drawing, phantom)

    assert found.organs == ()
    assert found.left_out == {LEFT: "its frames span far more voxels than the CT has"}


def test_a_frame_far_from_the_others_is_not_reached_through_all_that_lies_between(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    drawing = as_read(seg(slices, phantom.labels, [LEFT]))
    first, *_, last = (f.PlanePositionSequence[0] for f in drawing.PerFrameFunctionalGroupsSequence)
    x, y, z = first.ImagePositionPatient
    last.ImagePositionPatient = [x, y, z + 4_000_000]  # 20 GB of nothing from a few kilobytes

    found = drawn(drawing, phantom)

    assert found.left_out == {LEFT: "its frames span far more voxels than the CT has"}


def test_a_segmentation_in_jpeg_2000_is_not_given_to_its_decoder(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    drawing = as_read(seg(slices, phantom.labels, [LEFT]))
    drawing.file_meta.TransferSyntaxUID = JPEG2000Lossless

    with pytest.raises(UnusableStructureSet, match=r"compressed .JPEG 2000 .*expected none or RLE"):
        read_structure_set(drawing)


def test_a_segmentation_in_tiles_is_no_stack_of_slices(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    drawing = as_read(seg(slices, phantom.labels, [LEFT]))
    drawing.TotalPixelMatrixRows = drawing.TotalPixelMatrixColumns = 100_000

    found = drawn(drawing, phantom)

    assert found.left_out == {LEFT: "its frames are not an even stack of slices"}


def test_a_segment_is_known_by_its_code_if_its_name_says_nothing(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    dataset = seg(slices, phantom.labels, [LEFT, RIGHT], {LEFT: "Segment_1", RIGHT: "Segment_2"})
    for item, side in zip(dataset.SegmentSequence, ("7771000", None), strict=True):
        code = item.SegmentedPropertyTypeCodeSequence[0]
        code.CodeValue = LEFT.snomed_ct
        if side is not None:
            modifier = Dataset()
            modifier.CodeValue, modifier.CodingSchemeDesignator = side, "SCT"
            modifier.CodeMeaning = "Left"
            code.SegmentedPropertyTypeModifierCodeSequence = [modifier]

    found = drawn(as_read(dataset), phantom)

    assert found.organs == (LEFT,)
    assert found.unmatched == ("Segment_2",)  # a parotid of unknown side


def test_a_tumour_in_an_organ_is_not_the_organ(phantom: Phantom, slices: list[Dataset]) -> None:
    dataset = seg(slices, phantom.labels, [LEFT], {LEFT: "Segment_1"})
    region, side = Dataset(), Dataset()
    region.CodeValue, region.CodingSchemeDesignator = LEFT.snomed_ct, "SCT"
    region.CodeMeaning = "Parotid gland"
    side.CodeValue, side.CodingSchemeDesignator, side.CodeMeaning = "7771000", "SCT", "Left"
    region.AnatomicRegionModifierSequence = [side]
    [segment] = dataset.SegmentSequence
    segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "108369006"  # neoplasm
    segment.AnatomicRegionSequence = [region]

    found = drawn(as_read(dataset), phantom)

    assert found.organs == ()
    assert found.unmatched == ("Segment_1",)


@pytest.mark.parametrize("name", ["Parotid_L_old", "Parotid_L+3", "GTV", "Ignored"])
def test_a_name_that_says_something_else_goes_before_the_code(
    phantom: Phantom, slices: list[Dataset], name: str, tmp_path: Path
) -> None:
    dataset = seg(slices, phantom.labels, [BY_NAME["brainstem"]], {BY_NAME["brainstem"]: name})
    code = dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    code.CodeValue = BY_NAME["brainstem"].snomed_ct
    own = tmp_path / "names.toml"
    own.write_text('[ignored]\nnames = ["Ignored"]\n')

    found = draw_organs(
        read_structure_set(as_read(dataset)),
        phantom.ct.get_geometry(),
        StructureNames.read(own),
    )

    assert found.organs == ()
    assert found.unmatched == (name,)


def test_a_mandible_drawn_whole_is_halved_at_its_middle(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    whole = outlines(phantom, "mandible_left", "mandible_right")

    found = drawn(rtstruct(slices, {"Mandible": whole}), phantom)

    halves = tuple(BY_NAME[name] for name in ("mandible_left", "mandible_right"))
    assert found.organs == halves
    for organ in halves:
        ours, theirs = (v.array == organ.label for v in (found.labels, phantom.labels))
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.95


def test_halves_that_are_drawn_go_before_the_whole(phantom: Phantom, slices: list[Dataset]) -> None:
    structures = {
        "Mandible": outlines(phantom, "mandible_left", "mandible_right", "spinal_cord"),
        "Mandible_L": outlines(phantom, "mandible_left"),
        "Mandible_R": outlines(phantom, "mandible_right"),
    }

    found = drawn(rtstruct(slices, structures), phantom)

    for organ in (BY_NAME["mandible_left"], BY_NAME["mandible_right"]):
        np.testing.assert_array_equal(
            found.labels.array == organ.label, phantom.labels.array == organ.label
        )


def test_two_structures_of_one_organ_leave_it_out_and_empty_ones_do_not_count(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    left, right = outlines(phantom, "parotid_left"), outlines(phantom, "parotid_right")
    point = Outline(ellipse((0, 0, 0), (1, 1), points=2).points_mm)
    marker = Outline(left[0].points_mm[:1], "POINT")
    line = Outline(np.array([[0, 0, 0], [1, 0.5, 0], [2, 1, 0], [0, 0, 0]]))

    found = drawn(
        rtstruct(
            slices,
            {
                "Parotid_L": left,
                "L parotid": left[1:],
                "Parotid_R": right,
                "R Parotid": None,
                "PAROTID RT": [],
                "Rt parotid": [point, marker, line],
                "PTV_66": left,
            },
        ),
        phantom,
    )

    assert found.organs == (RIGHT,)
    assert found.left_out == {LEFT: "several structures are this organ: Parotid_L, L parotid"}
    assert found.unmatched == ("PTV_66",)
    assert "PTV_66" not in found.matched
    assert not (found.labels.array == LEFT.label).any()


def test_a_lens_within_its_eye_stays_a_lens_in_whichever_order_they_were_drawn(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    eye, lens = outlines(phantom, "eye_left", "lens_left"), outlines(phantom, "lens_left")

    for structures in ({"Eye_L": eye, "Lens_L": lens}, {"Lens_L": lens, "Eye_L": eye}):
        found = drawn(rtstruct(slices, structures), phantom)
        expected = np.where(
            np.isin(phantom.labels.array, [BY_NAME[n].label for n in ("eye_left", "lens_left")]),
            phantom.labels.array,
            0,
        )
        np.testing.assert_array_equal(found.labels.array, expected)


def test_an_organ_drawn_within_a_smaller_one_has_no_voxel_of_its_own(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    same = outlines(phantom, "pituitary")
    found = drawn(rtstruct(slices, {"Pituitary": same, "Chiasm": same}), phantom)
    assert len(found.organs) == 1
    assert list(found.left_out.values()) == ["it lies wholly within smaller organs"]


def broken(contour: Any) -> Any:
    contour.ContourData = contour.ContourData[:-1]
    return contour


def test_one_bad_structure_does_not_spoil_the_others(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    upright = Outline(outlines(phantom, "brainstem")[0].points_mm[:, [0, 2, 1]])
    dataset = rtstruct(
        slices,
        {
            "Parotid_L": outlines(phantom, "parotid_left"),
            "Parotid_R": outlines(phantom, "parotid_right"),
            "Brainstem": [upright],
            "SpinalCord": outlines(phantom, "spinal_cord"),
        },
    )
    broken(dataset.ROIContourSequence[1].ContourSequence[2])
    dataset.StructureSetROISequence[3].ReferencedFrameOfReferenceUID = "1.2.3"

    found = drawn(as_read(dataset), phantom)

    assert found.organs == (LEFT,)
    assert {organ.name: why for organ, why in found.left_out.items()} == {
        "parotid_right": "a contour is not a list of points",
        "brainstem": "its contours are not parallel to the slices of the CT",
        "spinal_cord": "it was drawn in another frame of reference than the CT's",
    }


def test_an_organ_in_two_lists_of_contours_is_left_out_and_not_halved(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    left, right = outlines(phantom, "parotid_left"), outlines(phantom, "parotid_right")
    dataset = rtstruct(slices, {"L": left[:3], "Parotid_L": left[3:], "Parotid_R": right, "R": []})
    dataset.ROIContourSequence[0].ReferencedROINumber = 2
    dataset.ROIContourSequence[3].ReferencedROINumber = 3  # a second list, but an empty one

    found = drawn(as_read(dataset), phantom)

    assert found.organs == (RIGHT,)
    assert found.left_out == {LEFT: "its contours stand in 2 items of the RTSTRUCT, expected one"}


@pytest.mark.parametrize(("offset_mm", "organs"), [((0, 0, 0), (LEFT,)), ((0, 0, 30), ())])
def test_contours_that_are_meant_elsewhere_than_their_points_are_left_out(
    phantom: Phantom, slices: list[Dataset], offset_mm: tuple[float, ...], organs: tuple[Organ, ...]
) -> None:
    dataset = rtstruct(slices, {"Parotid_L": outlines(phantom, "parotid_left")})
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        contour.ContourOffsetVector = list(offset_mm)

    found = drawn(as_read(dataset), phantom)

    assert found.organs == organs
    assert found.left_out.keys() == {LEFT} - set(organs)
    assert all("an offset from its points" in why for why in found.left_out.values())


def test_a_stray_line_far_from_an_organ_does_not_cost_it(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    x, y, z = slices[0].ImagePositionPatient
    line = Outline(np.array([[x, y, z], [x + 1, y + 0.33, z], [x + 2, y + 0.67, z]]))
    left = outlines(phantom, "parotid_left")

    found = drawn(rtstruct(slices, {"Parotid_L": [*left, line]}), phantom)

    assert found.organs == (LEFT,)
    np.testing.assert_array_equal(
        found.labels.array == LEFT.label, phantom.labels.array == LEFT.label
    )


@pytest.mark.parametrize("number", [b"nan", b"1e30"])
def test_a_number_that_is_none_or_of_no_place_is_not_drawn(
    phantom: Phantom, slices: list[Dataset], number: bytes
) -> None:
    dataset = rtstruct(slices, {"Parotid_L": outlines(phantom, "parotid_left")})
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    raw = contour.get_item("ContourData")
    assert isinstance(raw, RawDataElement)
    contour[raw.tag] = raw._replace(value=b"\\".join([number] * 12))

    found = drawn(dataset, phantom)

    assert found.left_out == {LEFT: "a contour is not a list of points"}


def test_structures_of_another_frame_of_reference_are_refused(
    phantom: Phantom, slices: list[Dataset]
) -> None:
    contours = rtstruct(slices, {"Parotid_L": outlines(phantom, "parotid_left")})
    frame = contours.ReferencedFrameOfReferenceSequence[0]
    frame.FrameOfReferenceUID = "1.2.3"
    contours.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"
    segments = seg(slices, phantom.labels, [LEFT])
    segments.FrameOfReferenceUID = "1.2.3"
    silent = as_read(contours)
    del silent.ReferencedFrameOfReferenceSequence
    del silent.StructureSetROISequence[0].ReferencedFrameOfReferenceUID

    for dataset in (contours, segments):
        with pytest.raises(UnusableStructureSet, match="another frame of reference than the CT's"):
            drawn(as_read(dataset), phantom)
    with pytest.raises(UnusableStructureSet, match="does not say its frame of reference"):
        drawn(silent, phantom)
