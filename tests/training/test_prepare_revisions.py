"""Of a patient's many CTs and structure sets one is taken, or none: never one by chance."""

from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from tests.phantoms import Phantom, ct_slices
from tests.structure_sets import rtstruct
from tests.training.department import DRAWN, contours, patient, reasons, report, run, write
from training.cases import Case, Dataset

IN_ALREADY = "Another CT of this patient, study or frame of reference is in already, as 0001."


def write_as(folder: Path, one: Phantom, *, series_number: int = 1, **changes: Any) -> None:
    """A patient who was drawn, with other attributes in every header."""
    images = ct_slices(one, series_number=series_number)
    write(folder, one, rtstruct(images, contours(one)), series_number=series_number)
    for file in folder.iterdir():
        dataset = dcmread(file)
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(file)


def test_the_newest_structure_set_counts_and_our_own_results_never_do(tmp_path: Path) -> None:
    one = patient(5)
    images = ct_slices(one)
    old = rtstruct(images, contours(one, DRAWN[:1]), StructureSetDate="20200101")
    new = rtstruct(images, contours(one, DRAWN[1:3]), StructureSetDate="20200301")
    points = rtstruct(images, {"ISO": []}, StructureSetDate="20200401")
    ours = rtstruct(images, contours(one), StructureSetDate="20200501", Manufacturer="orthanc-oar")
    write(tmp_path / "in", one, old, new, new, points, ours)  # of one there are two copies

    run(tmp_path / "in", tmp_path / "out")

    assert Case.read(tmp_path / "out" / "0001").labelled == DRAWN[1:3]
    assert reasons(tmp_path / "out") == ["A CT has a newer structure set than this RTSTRUCT."]


def test_which_of_two_structure_sets_is_newer_is_not_guessed(tmp_path: Path) -> None:
    one = patient(5)
    images = ct_slices(one)
    both = [rtstruct(images, contours(one, organs)) for organs in (DRAWN[:1], DRAWN[1:])]
    write(tmp_path / "in", one, *both)
    run(tmp_path / "in", tmp_path / "out")
    [reason] = reasons(tmp_path / "out")
    assert reason.startswith("2 structure sets were drawn on the CT at one time")


@pytest.mark.parametrize(
    "when", [{"StructureSetDate": ""}, {"StructureSetTime": ""}, {"StructureSetTime": "12"}]
)
def test_contours_that_do_not_say_their_time_are_not_taken_for_the_older_ones(
    tmp_path: Path, when: dict[str, str]
) -> None:
    one = patient(5)
    images = ct_slices(one)
    vague = rtstruct(images, contours(one, DRAWN[:1]), **when)
    write(tmp_path / "in", one, vague, rtstruct(images, contours(one, DRAWN[1:])))
    run(tmp_path / "in", tmp_path / "out")
    [reason] = reasons(tmp_path / "out")
    assert reason.startswith("2 structure sets were drawn on the CT at one time, or at none")


def test_contours_that_somebody_rejected_teach_nothing(tmp_path: Path) -> None:
    one = patient(5)
    images = ct_slices(one)
    good = rtstruct(images, contours(one, DRAWN[:2]), ApprovalStatus="APPROVED")
    bad = {"ApprovalStatus": "REJECTED", "StructureSetDate": "20200301"}
    write(tmp_path / "in", one, good, rtstruct(images, contours(one), **bad))

    run(tmp_path / "in", tmp_path / "out")

    assert Case.read(tmp_path / "out" / "0001").labelled == DRAWN[:2]
    assert reasons(tmp_path / "out") == ["Who reviewed it rejected it (Approval Status REJECTED)."]


def test_contours_that_were_changed_under_their_old_uid_are_not_mixed_up(tmp_path: Path) -> None:
    """Copies of one file are one, whatever the archive that sent them wrote in front of it."""
    one = patient(5)
    images = ct_slices(one)
    before = rtstruct(images, contours(one, DRAWN[:1]))
    after = rtstruct(images, contours(one, DRAWN[1:]), SOPInstanceUID=before.SOPInstanceUID)
    again = rtstruct(images, contours(one, DRAWN[:1]))
    again.file_meta.SourceApplicationEntityTitle = "PACS"
    write(tmp_path / "copies", one, before, again)
    write(tmp_path / "changed", one, before, after)

    run(tmp_path / "copies", tmp_path / "out")
    run(tmp_path / "changed", tmp_path / "none")

    assert Case.read(tmp_path / "out" / "0001").labelled == DRAWN[:1]
    assert reasons(tmp_path / "out") == []
    [reason] = reasons(tmp_path / "none")
    assert reason.startswith("2 structure sets were drawn on the CT at one time")


def test_on_which_of_two_cts_contours_were_drawn_is_not_guessed(tmp_path: Path) -> None:
    """A plain CT and one with contrast, without a move between them."""
    one = patient(6)
    silent = rtstruct(ct_slices(one), contours(one))
    del silent.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    write(tmp_path / "in" / "plain", one, silent, series_number=1)
    write(tmp_path / "in" / "contrast", one, series_number=2)

    assert run(tmp_path / "in", tmp_path / "out") == 1

    assert reasons(tmp_path / "out") == ["The RTSTRUCT may have been drawn on any of 2 CT series."]


def test_a_patient_is_one_case_however_many_cts_there_are(tmp_path: Path) -> None:
    one = patient(6)
    for number in (1, 2):
        images = ct_slices(one, series_number=number)
        write(
            tmp_path / "in" / str(number),
            one,
            rtstruct(images, contours(one)),
            series_number=number,
        )
    again = patient(6, noise_hu=3.0)  # another study of the same patient
    assert ct_slices(again)[0].StudyInstanceUID != ct_slices(one)[0].StudyInstanceUID
    write(tmp_path / "in" / "again", again, rtstruct(ct_slices(again), contours(again)))

    run(tmp_path / "in", tmp_path / "out")

    assert Dataset.read(tmp_path / "out").cases == ("0001",)
    assert reasons(tmp_path / "out") == [IN_ALREADY] * 2


def test_blanks_around_an_identifier_make_no_other_patient(tmp_path: Path) -> None:
    for number, identifier in enumerate(("P1", " P1", "P1 ")):
        one = patient(6, noise_hu=float(number))
        write(tmp_path / "in" / str(number), one, rtstruct(ct_slices(one), contours(one)))
        for file in (tmp_path / "in" / str(number)).iterdir():
            dataset = dcmread(file)
            dataset.PatientID = identifier
            dataset.save_as(file)

    run(tmp_path / "in", tmp_path / "out")

    assert Dataset.read(tmp_path / "out").cases == ("0001",)
    assert reasons(tmp_path / "out") == [IN_ALREADY] * 2


def test_a_patient_with_two_identifiers_does_not_train_what_he_measures(tmp_path: Path) -> None:
    """The second CT joins the identifiers, so that the third is known to be his too."""
    one = patient(6)
    write_as(tmp_path / "in" / "0", one, PatientID="P1", StudyInstanceUID="1.1")
    other = {"PatientID": "RESEARCH-7", "StudyInstanceUID": "2.1"}
    write_as(tmp_path / "in" / "1", one, series_number=2, **other)
    later = patient(6, noise_hu=3.0)
    assert later.ct.frame_of_reference_uid != one.ct.frame_of_reference_uid
    write_as(tmp_path / "in" / "2", later, PatientID="RESEARCH-7", StudyInstanceUID="3.1")

    run(tmp_path / "in", tmp_path / "out")

    assert Dataset.read(tmp_path / "out").cases == ("0001",)
    assert reasons(tmp_path / "out") == [IN_ALREADY] * 2


def test_whoever_has_no_identifier_may_be_in_twice_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        one = patient(6, noise_hu=3.0 * (number + 1))
        write_as(tmp_path / "in" / str(number), one, PatientID="")

    run(tmp_path / "in", tmp_path / "out")

    assert report(tmp_path / "out")["nameless"] == 2
    assert "2 cases are of CTs without a Patient ID" in capsys.readouterr().out
