"""What is read of a structure set before anybody asks what its names mean."""

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from model.organs import BY_NAME, Organ
from plugin.drawn.contour_fill import UnusableStructure
from plugin.drawn.structure_sets import UnusableStructureSet, read_structure_set
from tests.corpus.case import write_raw
from tests.phantoms import Phantom
from tests.structure_sets import as_read, outlines_of, rtstruct, seg

BRAINSTEM = BY_NAME["brainstem"]


def mask_of(phantom: Phantom) -> hd.Volume:
    labels = phantom.labels
    return labels.with_array((labels.array == BRAINSTEM.label).astype(np.uint8))


def test_a_date_that_is_none_is_not_repeated(small_phantom: Phantom, ct: list[Dataset]) -> None:
    drawing = as_read(seg(ct, small_phantom.labels, [BRAINSTEM]))
    for keyword in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
        write_raw(drawing, keyword, b'=HYPERLINK("http://x","DOE^JANE")')

    assert read_structure_set(drawing).drawn_at == ""


def test_a_sequence_that_is_none_is_refused(ct: list[Dataset]) -> None:
    strange = rtstruct(ct, {"Parotid_L": []})
    write_raw(strange, "StructureSetROISequence", b"\\", "SQ")
    with pytest.raises(UnusableStructureSet, match="It is not as DICOM wants a structure set"):
        read_structure_set(strange)


def test_what_is_no_structure_set_is_refused(ct: list[Dataset]) -> None:
    with pytest.raises(UnusableStructureSet, match="neither an RT Structure Set nor"):
        read_structure_set(ct[0])
    strange = rtstruct(ct, {"Parotid_L": []})
    strange.ROIContourSequence[0].ReferencedROINumber = [1, 2]
    with pytest.raises(UnusableStructureSet, match="It is not as DICOM wants a structure set"):
        read_structure_set(strange)
    twice = rtstruct(ct, {"Parotid_L": [], "Parotid_R": []})
    twice.StructureSetROISequence[1].ROINumber = 1
    with pytest.raises(UnusableStructureSet, match=r"Two structures .* have one number"):
        read_structure_set(twice)


def test_a_structure_set_says_when_and_on_what_it_was_drawn_and_by_whom(
    small_phantom: Phantom, ct: list[Dataset]
) -> None:
    found = read_structure_set(rtstruct(ct, {}))
    segments = read_structure_set(seg(ct, small_phantom.labels, [BRAINSTEM]))
    for one in (found, segments):
        assert one.series == {ct[0].SeriesInstanceUID}
        assert one.frames_of_reference == {small_phantom.ct.frame_of_reference_uid}
        assert not one.ours
    assert found.drawn_at == "20200102080000"
    assert len(segments.drawn_at) == 14
    mine = {"Manufacturer": "orthanc-oar"}
    assert read_structure_set(rtstruct(ct, {}, **mine)).ours
    assert not read_structure_set(rtstruct(ct, {}, ApprovalStatus="APPROVED", **mine)).ours


def test_blanks_around_a_name_are_no_part_of_it(small_phantom: Phantom, ct: list[Dataset]) -> None:
    """Of LO they mean nothing, and a report would count one name as two."""
    name = "  Brainstem "
    drawn = rtstruct(ct, {name: outlines_of(mask_of(small_phantom))})
    segments = seg(ct, small_phantom.labels, [BRAINSTEM], names={BRAINSTEM: name})

    for one in (drawn, segments):
        assert [each.name for each in read_structure_set(one).structures] == ["Brainstem"]


def test_a_segmentation_in_rle_is_read_as_it_was_drawn(
    small_phantom: Phantom, ct: list[Dataset]
) -> None:
    options = {"segmentation_type": "LABELMAP", "transfer_syntax_uid": RLELossless}
    drawing = seg(ct, small_phantom.labels, [BRAINSTEM], **options)

    [structure] = read_structure_set(drawing).structures

    mask = structure.fill(small_phantom.ct.get_geometry())
    np.testing.assert_array_equal(mask.array, mask_of(small_phantom).array)


def test_a_structure_that_does_not_say_in_which_of_two_frames_of_reference_it_is_is_in_none(
    small_phantom: Phantom, ct: list[Dataset]
) -> None:
    drawing = rtstruct(ct, {"Brainstem": outlines_of(mask_of(small_phantom))})
    other = Dataset()
    other.FrameOfReferenceUID = "1.2.3"
    drawing.ReferencedFrameOfReferenceSequence.append(other)
    del drawing.StructureSetROISequence[0].ReferencedFrameOfReferenceUID

    found = read_structure_set(as_read(drawing))

    assert len(found.frames_of_reference) == 2
    [structure] = found.structures
    grid = small_phantom.ct.get_geometry()
    for frame in found.frames_of_reference:
        on_it = hd.VolumeGeometry(
            grid.affine,
            grid.spatial_shape,
            coordinate_system="PATIENT",
            frame_of_reference_uid=frame,
        )
        with pytest.raises(UnusableStructure, match="another frame of reference"):
            structure.fill(on_it)


def test_a_frame_of_reference_that_stands_with_the_structures_alone_is_known(
    small_phantom: Phantom, ct: list[Dataset]
) -> None:
    drawing = rtstruct(ct, {"Brainstem": outlines_of(mask_of(small_phantom))})
    del drawing.ReferencedFrameOfReferenceSequence

    found = read_structure_set(as_read(drawing))

    assert found.frames_of_reference == {small_phantom.ct.frame_of_reference_uid}
    assert found.series == set()


@pytest.mark.parametrize(("scheme", "organs"), [("SCT", (BRAINSTEM,)), ("99LOCAL", ())])
def test_a_number_means_an_organ_in_its_own_scheme_alone_and_whatever_modifies_it(
    small_phantom: Phantom, ct: list[Dataset], scheme: str, organs: tuple[Organ, ...]
) -> None:
    drawing = seg(ct, small_phantom.labels, [BRAINSTEM])
    [code] = drawing.SegmentSequence[0].SegmentedPropertyTypeCodeSequence
    code.CodeValue, code.CodingSchemeDesignator = BRAINSTEM.snomed_ct, scheme
    modifier = Dataset()
    modifier.CodeValue, modifier.CodingSchemeDesignator = "7771000", "SCT"  # left
    modifier.CodeMeaning = "Left"
    code.SegmentedPropertyTypeModifierCodeSequence = [modifier]

    [structure] = read_structure_set(as_read(drawing)).structures

    assert structure.concept == organs


def test_a_code_without_a_side_means_both_organs_of_a_pair(
    small_phantom: Phantom, ct: list[Dataset]
) -> None:
    both = BY_NAME["parotid_left"], BY_NAME["parotid_right"]
    drawing = seg(ct, small_phantom.labels, [BRAINSTEM])
    [code] = drawing.SegmentSequence[0].SegmentedPropertyTypeCodeSequence
    code.CodeValue, code.CodingSchemeDesignator = both[0].snomed_ct, "SCT"

    [structure] = read_structure_set(as_read(drawing)).structures

    assert structure.concept == both
