"""A department's DICOM becomes cases: the right organs, no patient, a reason for the rest."""

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread

from model.organs import BY_NAME
from model.preprocess import Preprocessing
from model.segmenter import Segmenter
from plugin.ct.series import read_series
from plugin.ct.series_rules import SeriesRules
from tests.phantoms import (
    Orientation,
    ct_slices,
    write_case,
)
from tests.structure_sets import Outline, rtstruct, seg
from tests.tiny_model import tiny_model
from tests.training.department import (
    DRAWN,
    contours,
    outlines,
    patient,
    reasons,
    report,
    run,
    write,
)
from training.cases import Case, Dataset


@pytest.mark.parametrize("orientation", ["flipped_rows", "oblique"])
def test_contours_segments_and_case_folders_give_the_same_case(
    tmp_path: Path, orientation: Orientation
) -> None:
    one = patient(1, orientation)
    images = ct_slices(one)
    write(tmp_path / "contours" / "deep" / "er", one, rtstruct(images, contours(one)))
    write(tmp_path / "segments", one, seg(images, one.labels, DRAWN))
    write_case(one, tmp_path / "cases" / "0001")
    found = []
    for source in ("contours", "segments", "cases"):
        assert run(tmp_path / source, tmp_path / f"out-{source}") == 0
        found.append(Case.read(tmp_path / f"out-{source}" / "0001"))
        names = tuple(organ.name for organ in DRAWN)
        assert Dataset.read(tmp_path / f"out-{source}").organs == names

    by_contours, by_segments, by_case = found
    for case in found:
        assert case.labelled == DRAWN
        np.testing.assert_array_equal(case.labels, by_contours.labels)
        assert np.unique(case.labels).tolist() == [0, *(organ.label for organ in DRAWN)]
    np.testing.assert_array_equal(by_contours.image, by_segments.image)
    np.testing.assert_allclose(by_case.image, by_contours.image, rtol=0, atol=2e-5)


@pytest.mark.parametrize("orientation", ["axial", "feet_first"])
def test_training_and_clinic_show_the_network_the_same(
    tmp_path: Path, orientation: Orientation, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = patient(2, orientation)
    write(tmp_path / "in", one, rtstruct(ct_slices(one), contours(one)))
    run(tmp_path / "in", tmp_path / "out")
    network, card = tiny_model("quick")
    preprocessing = Dataset.read(tmp_path / "out").preprocessing
    segmenter = Segmenter(network, replace(card, preprocessing=preprocessing), "cpu")
    seen = []
    forward = Preprocessing.forward

    def look(self: Preprocessing, ct: hd.Volume) -> hd.Volume:
        seen.append(forward(self, ct))
        return seen[-1]

    monkeypatch.setattr(Preprocessing, "forward", look)
    files = [f for f in (tmp_path / "in").iterdir() if f.name.startswith("ct")]
    segmenter(read_series(files, SeriesRules.model_validate({})).volume)

    [in_clinic] = seen
    np.testing.assert_array_equal(Case.read(tmp_path / "out" / "0001").image, in_clinic.array)


def test_nothing_that_is_prepared_leads_to_the_patient(tmp_path: Path) -> None:
    one = patient(3)
    images = ct_slices(one)
    structures = contours(one) | {"PTV PHANTOM^SYNTHETIC": outlines(one, DRAWN[0])}
    dataset = rtstruct(images, structures)
    write(tmp_path / "in", one, dataset)

    run(tmp_path / "in", tmp_path / "out")

    header = images[0]
    traces = [
        header.PatientName,
        header.PatientID,
        header.StudyInstanceUID,
        header.SeriesInstanceUID,
        header.FrameOfReferenceUID,
        header.StudyDate,
        dataset.SOPInstanceUID,
        "dicom",
        str(tmp_path),
    ]
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert {file.parent.name for file in files} == {"out", "0001"}
    for file in files:
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rb") as stream:
            content = stream.read()
        for trace in traces:
            assert str(trace).encode() not in content, f"{trace} in {file.name}"
    private = tmp_path / "out-private"
    assert private.stat().st_mode & 0o077 == 0
    with (private / "key.csv").open() as key:
        [row] = csv.DictReader(key)
    assert row == {
        "case": "0001",
        "study": header.StudyInstanceUID,
        "series": header.SeriesInstanceUID,
        "structure_set": dataset.SOPInstanceUID,
    }
    assert "PHANTOM-3" not in "".join(file.read_text() for file in private.iterdir())


def test_what_cannot_be_used_is_refused_with_a_reason_and_the_others_go_on(tmp_path: Path) -> None:
    good, elsewhere, tilted, undrawn, strange = map(patient, range(5))
    write(tmp_path / "in" / "0", good, rtstruct(ct_slices(good), contours(good)))
    moved = rtstruct(ct_slices(elsewhere), contours(elsewhere))
    moved.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"
    for region in moved.StructureSetROISequence:
        region.ReferencedFrameOfReferenceUID = "1.2.3"
    write(tmp_path / "in" / "1", elsewhere, moved)
    images = ct_slices(tilted, gantry_tilt_degrees=12)
    drawn = rtstruct(images, contours(tilted))
    write(tmp_path / "in" / "2", tilted, drawn, gantry_tilt_degrees=12)
    write(tmp_path / "in" / "3", undrawn)
    targets = rtstruct(ct_slices(strange), {"PTV_54": outlines(strange, DRAWN[0])})
    write(tmp_path / "in" / "4", strange, targets)
    (tmp_path / "in" / "notes.txt").write_text("not DICOM")

    assert run(tmp_path / "in", tmp_path / "out") == 0

    assert Dataset.read(tmp_path / "out").cases == ("0001",)
    ct = ct_slices(undrawn)[0]
    assert report(tmp_path / "out")["undrawn"] == [
        f"study {ct.StudyInstanceUID}: CT {ct.SeriesInstanceUID}"
    ]
    found = " ".join(sorted(reasons(tmp_path / "out")))
    assert len(reasons(tmp_path / "out")) == 3
    assert "None of the structures drawn on the CT is an organ of the table: PTV_54." in found
    assert "The RTSTRUCT was drawn in another frame of reference than the CT's" in found
    assert "gantry tilt" in found


def test_a_file_of_an_archive_that_cannot_be_read_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = patient(1)
    write(tmp_path / "in", one, rtstruct(ct_slices(one), contours(one)))
    (tmp_path / "in" / "short.dcm").write_bytes(b"cut short")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert f"{tmp_path / 'in' / 'short.dcm'} cannot be read" in caplog.messages


def test_if_nothing_can_be_used_the_command_fails_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = patient(1)
    write(tmp_path / "in", one, rtstruct(ct_slices(one), {"Brainstem": None}))
    assert run(tmp_path / "in", tmp_path / "out") == 1
    assert "0 cases, 0 organs; 1 refused" in capsys.readouterr().out
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_swapped_sides_and_labels_in_the_air_are_left_out_and_reported(tmp_path: Path) -> None:
    one = patient(4)
    structures = contours(one)
    left, right = structures["Parotid_L"], structures["Parotid_R"]
    structures["Parotid_L"], structures["Parotid_R"] = right, left
    beside_mm = (92, 0, 0)
    structures["Brainstem"] = [
        Outline(np.add(outline.points_mm, beside_mm)) for outline in structures["Brainstem"]
    ]
    write(tmp_path / "in", one, rtstruct(ct_slices(one), structures))

    run(tmp_path / "in", tmp_path / "out")

    [case] = report(tmp_path / "out")["cases"]
    assert case["findings"]["left_out"] == {
        "parotid_left": "it does not lie on its side of the patient",
        "parotid_right": "it does not lie on its side of the patient",
        "brainstem": "95% of it lies outside the body",
    }
    found = Case.read(tmp_path / "out" / "0001")
    assert found.labelled == (BY_NAME["spinal_cord"],)
    assert np.unique(found.labels).tolist() == [0, BY_NAME["spinal_cord"].label]
    text = (tmp_path / "out-private" / "report.md").read_text()
    assert "| 0001 | Parotid_L | it does not lie on its side of the patient |" in text


def test_what_a_cropped_ct_does_not_show_is_not_outside_the_patient(tmp_path: Path) -> None:
    one = patient(4, noise_hu=0.0)
    _, _, columns = np.nonzero(one.labels.array == BY_NAME["parotid_left"].label)
    one.ct.array[:, :, columns.min() :] = -1024
    write(tmp_path / "in", one, rtstruct(ct_slices(one), contours(one)))

    run(tmp_path / "in", tmp_path / "air")
    run(tmp_path / "in", tmp_path / "unknown", "--unknown-hu", "-1024")

    assert BY_NAME["parotid_left"] not in Case.read(tmp_path / "air" / "0001").labelled
    assert BY_NAME["parotid_left"] in Case.read(tmp_path / "unknown" / "0001").labelled


def test_of_a_ct_whose_organs_are_all_left_out_the_reasons_are_said(tmp_path: Path) -> None:
    one = patient(4)
    left, right = outlines(one, DRAWN[1]), outlines(one, DRAWN[2])
    stray = {"Brainstem": [replace(left[0], points_mm=left[0].points_mm + 1000)]}
    drawn = stray | {"Parotid_L": right, "Parotid_R": left}
    write(tmp_path / "in", one, rtstruct(ct_slices(one), drawn))

    assert run(tmp_path / "in", tmp_path / "out") == 1

    assert reasons(tmp_path / "out") == [
        "Of a CT no organ is left of those that were drawn: Brainstem: it does not fill a voxel of "
        "the CT; Parotid_L, Parotid_R: it does not lie on its side of the patient."
    ]


def test_structures_on_images_that_are_not_there_are_refused(tmp_path: Path) -> None:
    one = patient(7)
    images = ct_slices(one)
    stranger = rtstruct(images, contours(one), StructureSetDate="20200301")
    frame = stranger.ReferencedFrameOfReferenceSequence[0]
    frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"
    silent = rtstruct(images, contours(one, DRAWN[:2]))
    del silent.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    write(tmp_path / "in", one, stranger, silent)
    (tmp_path / "in" / "structures2.dcm").write_bytes(
        (tmp_path / "in" / "structures0.dcm").read_bytes()[:2000]
    )

    run(tmp_path / "in", tmp_path / "out")

    assert Case.read(tmp_path / "out" / "0001").labelled == DRAWN[:2]  # by frame of reference
    refused = {one["reason"]: one["what"] for one in report(tmp_path / "out")["refused"]}
    reason = "The RTSTRUCT was drawn on images that are no CT of its study."
    file = tmp_path / "in" / "structures0.dcm"
    assert refused[reason] == f"study {images[0].StudyInstanceUID}: RTSTRUCT {file}"


def test_a_clinics_own_names_and_rules_are_used(tmp_path: Path) -> None:
    one = patient(8)
    structures = {"Hirn unten": outlines(one, DRAWN[0]), "Brainstem": outlines(one, DRAWN[3])}
    write(tmp_path / "in", one, rtstruct(ct_slices(one), structures))
    (tmp_path / "names.toml").write_text(
        '[names]\nbrainstem = ["Hirn unten"]\n[ignored]\nnames = ["Brainstem"]\n'
    )
    (tmp_path / "orthanc.json").write_text(
        '{"Oar": {"Series": {"MinSlices": 37}}}  // more than there are'
    )

    run(tmp_path / "in", tmp_path / "out", "--names", str(tmp_path / "names.toml"))
    run(tmp_path / "in", tmp_path / "none", "--configuration", str(tmp_path / "orthanc.json"))

    [case] = report(tmp_path / "out")["cases"]
    assert case["matched"] == {"Hirn unten": ["brainstem"]}
    assert case["unmatched"] == ["Brainstem"]
    assert reasons(tmp_path / "none") == ["The series has 36 slices, expected 37 to 1000."]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"oar": {"Series": {"MinSlices": 37}}}', "write Oar instead of oar"),
        ('{"Oar": {"Series": {"MinSlice": 37}}}', "Oar.Series.MinSlice: there is no such key"),
        ('{"Oar": 3}', "Oar: Input should be"),
        ('{"Series": {"MinSlices": 37}}', "orthanc.json has no section Oar"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused_and_not_passed_over(
    content: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "orthanc.json").write_text(content)

    code = run(tmp_path / "in", tmp_path / "out", "--configuration", str(tmp_path / "orthanc.json"))

    assert code == 1
    assert reason in capsys.readouterr().err


def test_a_case_folder_that_cannot_be_read_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    for name in ("pt_1", "pt_2", "pt_3", "pt_4", "pt_5", "pt_6"):
        write_case(patient(1), tmp_path / "in" / name)
    (tmp_path / "in" / "pt_2" / "label.nii.gz").write_text("no image")
    (tmp_path / "in" / "pt_3" / "labelled.json").write_text('["liver"]')
    (tmp_path / "in" / "pt_4" / "labelled.json").write_text("3")
    (tmp_path / "in" / "pt_5" / "labelled.json").write_text("[]")
    ct = tmp_path / "in" / "pt_6" / "data.nii.gz"
    ct.write_bytes(ct.read_bytes()[:-9])  # read without a look at its end, the last slices are 0 HU

    assert run(tmp_path / "in", tmp_path / "out") == 0

    assert Dataset.read(tmp_path / "out").cases == ("pt_1",)
    assert reasons(tmp_path / "out") == [
        "pt_2: label.nii.gz is missing, cut short or not compressed",
        "pt_3: labelled.json lists ['liver'], which are no organs",
        "pt_4: labelled.json is no list of names of organs",
        "pt_5: no organ is labelled",
        "pt_6: data.nii.gz is missing, cut short or not compressed",
    ]


def test_files_that_cannot_be_read_stand_in_the_report(tmp_path: Path) -> None:
    """The CT that lacks its first slice is even, and nothing else says that it was longer."""
    one = patient(1)
    write(tmp_path / "in", one, rtstruct(ct_slices(one), contours(one)))
    first = next(
        path for path in sorted((tmp_path / "in").glob("ct*")) if dcmread(path).InstanceNumber == 1
    )
    first.write_bytes(b"")

    assert run(tmp_path / "in", tmp_path / "out") == 0

    [refused] = report(tmp_path / "out")["refused"]
    assert refused["what"] == str(first)
    assert refused["reason"].startswith("It may be of a CT or be drawn, but is unreadable,")


def test_an_rtstruct_that_was_cut_short_is_refused_and_loses_no_organ_in_silence(
    tmp_path: Path,
) -> None:
    one = patient(1)
    write(tmp_path / "in", one, rtstruct(ct_slices(one), contours(one)))
    drawn = tmp_path / "in" / "structures0.dcm"
    drawn.write_bytes(drawn.read_bytes()[:-2000])

    assert run(tmp_path / "in", tmp_path / "out") == 1

    assert reasons(tmp_path / "out") == [
        "It is cut short: its last element has fewer bytes than it says."
    ]


def test_a_ct_that_nobody_drew_on_is_said_in_the_terminal_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in", patient(1))

    assert run(tmp_path / "in", tmp_path / "out") == 1

    assert "Nobody drew on 1 CT series" in capsys.readouterr().out
