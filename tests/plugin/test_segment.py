import json
from pathlib import Path

import pydicom
import pytest
import torch

from model.unet import UNet
from plugin.segment import UNSUITABLE, main
from tests.phantoms import ct_slices, write_series


@pytest.fixture
def folder(tmp_path, small_phantom):
    write_series(small_phantom, tmp_path / "in" / "1")
    return tmp_path / "in"


def test_a_folder_becomes_a_seg_and_a_report(folder, tmp_path, weights, ct, capsys):
    out = tmp_path / "new" / "out"

    assert main([str(folder), "--out", str(out), "--model", str(weights / "quick")]) == 0

    seg = pydicom.dcmread(out / "seg.dcm")
    report = json.loads((out / "report.json").read_text())
    assert seg.Modality == "SEG"
    assert seg.StudyInstanceUID == ct[0].StudyInstanceUID
    assert report["state"] == "done"
    assert report["results"] == [{"kind": "seg", "sop_instance_uid": seg.SOPInstanceUID}]
    assert report["notice"].startswith("Research use only")
    assert report["model"] == "quick"
    assert report["volumes_ml"].keys() == {"brainstem"}
    assert {"reading", "segmenting", "writing", "storing"} <= report["seconds"].keys()
    assert ct[0].PatientID not in (out / "report.json").read_text()
    printed = capsys.readouterr()
    assert "brainstem" in printed.out
    assert printed.out.endswith(
        f"{out / 'seg.dcm'}: quick {report['model_version']}, research use only\n"
    )
    assert "segmenting" in printed.err


def test_the_same_folder_twice_has_the_same_uids(folder, tmp_path, weights):
    uids = []
    for out in (tmp_path / "a", tmp_path / "b"):
        main([str(folder), "--out", str(out), "--model", str(weights / "quick")])
        uids.append(pydicom.dcmread(out / "seg.dcm").SOPInstanceUID)

    assert uids[0] == uids[1]


def test_no_organ_is_said_and_reported_and_no_older_seg_passes_for_a_result(
    folder, tmp_path, weights, capsys
):
    main([str(folder), "--out", str(tmp_path / "out"), "--model", str(weights / "quick")])
    assert (tmp_path / "out" / "seg.dcm").exists()

    status = main([str(folder), "--out", str(tmp_path / "out"), "--model", str(weights / "blind")])

    assert status == UNSUITABLE
    assert "No organ was found" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["state"] == "skipped"
    assert not (tmp_path / "out" / "seg.dcm").exists()


def test_a_full_disk_is_said_with_the_folder_and_leaves_no_half_report_that_none_knows(
    folder, tmp_path, weights, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json.new").symlink_to("/dev/full")
    command = [str(folder), "--out", str(out), "--model", str(weights / "quick")]

    assert main(command) == UNSUITABLE
    assert f"{out}: No space left on device" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["seg.dcm"]
    assert main(command) == 0


def test_a_configuration_decides_as_in_orthanc_and_the_command_line_over_it(
    folder, tmp_path, weights, capsys
):
    out, file = tmp_path / "out", tmp_path / "orthanc.json"
    command = [str(folder), "--out", str(out), "--configuration", str(file)]
    asked = {"Model": str(weights / "quick"), "Rtstruct": True, "SegmentationType": "LABELMAP"}

    file.write_text(json.dumps({"Oar": asked}) + "  // as Orthanc reads it")
    assert main(command) == 0
    assert pydicom.dcmread(out / "seg.dcm").SegmentationType == "LABELMAP"
    assert (out / "rtstruct.dcm").exists()
    assert main([*command, "--model", str(weights / "blind")]) == UNSUITABLE
    assert "No organ was found" in capsys.readouterr().err

    file.write_text(json.dumps({"Oar": asked | {"Series": {"MinSlices": 400}}}))
    assert main(command) == UNSUITABLE
    assert "expected 400" in capsys.readouterr().err

    file.write_text(json.dumps({"Oar": {"Modell": "quick"}}))
    assert main(command) == UNSUITABLE
    assert "Oar.Modell" in capsys.readouterr().err

    file.write_text(json.dumps({"Oars": asked}))
    assert main(command) == UNSUITABLE
    assert f"{file} has no section Oar: a copy of that of Orthanc's" in capsys.readouterr().err


def test_one_of_several_series_is_chosen_by_its_uid(
    folder, tmp_path, small_phantom, weights, capsys
):
    second = write_series(small_phantom, folder / "2", series_number=2)
    uid = pydicom.dcmread(second[0]).SeriesInstanceUID
    command = [str(folder), "--out", str(tmp_path / "out"), "--model", str(weights / "quick")]

    assert main(command) == UNSUITABLE
    said = capsys.readouterr().err
    assert "--series" in said
    assert uid in said
    assert main([*command, "--series", uid]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["series"] == uid


def test_bad_input_is_a_sentence_and_never_a_traceback(tmp_path, small_phantom, weights, capsys):
    out = tmp_path / "out"
    empty, few, text = tmp_path / "empty", tmp_path / "few", tmp_path / "text"
    for each in (empty, few, text):
        each.mkdir()
    for number, image in enumerate(ct_slices(small_phantom)[:3]):
        image.save_as(few / f"{number}.dcm", enforce_file_format=True)
    (text / "readme.txt").write_text("not DICOM")
    (tmp_path / "file").write_text("")
    model = ["--model", str(weights / "quick")]

    for command, sentence in (
        ([str(tmp_path / "nowhere"), "--out", str(out), *model], "is not a folder"),
        ([str(empty), "--out", str(out), *model], "holds no DICOM file"),
        ([str(text), "--out", str(out), *model], "holds no DICOM file"),
        ([str(few), "--out", str(out), *model], "3 slices"),
        ([str(few), "--out", str(out), *model, "--series", "1.2.3"], "no series 1.2.3"),
        ([str(few), "--out", str(tmp_path / "file"), *model], "File exists"),
    ):
        assert main(command) == UNSUITABLE
        assert sentence in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said_in_a_sentence(folder, tmp_path, weights, capsys):
    command = [str(folder), "--out", str(tmp_path / "out"), "--model", str(weights / "quick")]

    assert main([*command, "--device", "cuda"]) == UNSUITABLE
    assert capsys.readouterr().err == "The device is cuda, but PyTorch sees no GPU.\n"


def test_a_gpu_that_fails_is_said_in_a_sentence(folder, tmp_path, weights, capsys, monkeypatch):
    def fail(network: UNet, tile: torch.Tensor) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nSearch for")

    monkeypatch.setattr(UNet, "features", fail)
    command = [str(folder), "--out", str(tmp_path / "out"), "--model", str(weights / "quick")]

    assert main(command) == UNSUITABLE
    said = capsys.readouterr().err
    assert said.endswith("the GPU failed: CUDA error: unspecified launch failure\n")


def test_an_unknown_model_is_named(folder, tmp_path, capsys):
    assert main([str(folder), "--out", str(tmp_path / "out"), "--model", "best"]) == UNSUITABLE
    assert "There is no model 'best'" in capsys.readouterr().err


def test_what_is_wished_is_written_beside_the_seg_and_no_older_file_passes_for_it(
    folder, tmp_path, weights, capsys
):
    out = tmp_path / "out"
    command = [str(folder), "--out", str(out), "--model", str(weights / "quick")]
    wishes = ["--rtstruct", "--holes", "xor", "--volume-report", "--review-pages"]

    assert main([*command, *wishes]) == 0

    report = json.loads((out / "report.json").read_text())
    uids = {result["sop_instance_uid"]: result["kind"] for result in report["results"]}
    pages = sorted(path.name for path in out.glob("review*.dcm"))
    for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm", *pages):
        kind = uids.pop(pydicom.dcmread(out / name).SOPInstanceUID)
        assert name.startswith(kind)
    assert uids == {}
    assert pages[0] == "review01.dcm"
    assert any("Brainstem is larger than usual" in warning for warning in report["warnings"])
    assert "warning: Brainstem is larger than usual" in capsys.readouterr().out

    assert main(command) == 0
    assert {path.name for path in out.iterdir()} == {"seg.dcm", "report.json"}


def test_results_do_not_go_among_the_images(folder, weights, capsys):
    images = {path: path.read_bytes() for path in folder.rglob("*.dcm")}
    (folder.parent / "link").symlink_to(folder)
    for out in (folder, folder / "1", folder / "new", folder.parent / "link" / "new"):
        status = main([str(folder), "--out", str(out), "--model", str(weights / "quick")])

        assert status == UNSUITABLE
        assert "--out must not be" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == images


@pytest.mark.parametrize("name", ["rtstruct.dcm", "review01.dcm", "report.json"])
def test_somebody_elses_file_is_neither_removed_nor_written_over(
    folder, tmp_path, weights, ct, capsys, name
):
    out = tmp_path / "out"
    command = [str(folder), "--out", str(out), "--model", str(weights / "quick")]
    assert main(command) == 0
    if name == "report.json":
        (out / name).write_text("{}")
    else:
        ct[0].save_as(out / name, enforce_file_format=True)
    before = {path: path.read_bytes() for path in out.iterdir()}

    assert main(command) == UNSUITABLE

    assert f"{out / name} was not made by orthanc-oar" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_an_older_result_stays_until_there_can_be_a_new_one(folder, tmp_path, weights):
    out = tmp_path / "out"
    command = [str(folder), "--out", str(out), "--model"]
    main([*command, str(weights / "quick")])

    assert main([*command, "unknown"]) == UNSUITABLE
    assert main([*command, str(weights / "quick"), "--series", "1.2.3"]) == UNSUITABLE

    assert (out / "seg.dcm").exists()


def cut_short(slice_file: Path) -> None:
    slice_file.write_bytes(slice_file.read_bytes()[:500])


def robbed_of_its_uid(slice_file: Path) -> None:
    image = pydicom.dcmread(slice_file)
    image.SOPInstanceUID = ""
    image.save_as(slice_file)


@pytest.mark.parametrize("harm", [cut_short, robbed_of_its_uid])
def test_a_ct_whose_last_slice_is_damaged_is_not_segmented_as_if_whole(
    folder, tmp_path, weights, capsys, harm
):
    last = max(folder.rglob("*.dcm"))
    harm(last)

    status = main([str(folder), "--out", str(tmp_path / "out"), "--model", str(weights / "quick")])

    assert status == UNSUITABLE
    said = capsys.readouterr().err
    assert f"of a DICOM file or without its UIDs:\n  {last}\n" in said
    assert said.count(str(last)) == 1
    assert not any((tmp_path / "out").iterdir())
