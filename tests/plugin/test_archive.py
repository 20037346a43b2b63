import errno
import os
from copy import deepcopy
from pathlib import Path

import pydicom
import pytest

from plugin.archive import ArchiveError, FolderArchive, OrthancArchive, UnknownResource
from tests.fake_orthanc import FakeOrthanc, identifier
from tests.phantoms import write_series


def test_orthanc_lists_the_series_of_a_study_and_gives_their_files(ct):
    orthanc = FakeOrthanc()
    archive = OrthancArchive(orthanc)
    study = orthanc.receive(ct)

    [series] = archive.series_of_study(study)

    assert (series.study, series.modality) == (study, "CT")
    assert len(series.instances) == len(ct)
    assert list(series.instances) == sorted(series.instances)
    assert set(archive.sop_instance_uids(series)) == {image.SOPInstanceUID for image in ct}
    assert archive.series(series.id) == series
    assert archive.file(series.instances[0])[128:132] == b"DICM"


def test_a_stored_result_is_found_by_its_uid(ct):
    archive = OrthancArchive(FakeOrthanc())
    study = identifier(ct[0].StudyInstanceUID)
    assert archive.find_instance(ct[0].SOPInstanceUID, study=study) is None

    stored = archive.store(ct[0])

    assert archive.find_instance(ct[0].SOPInstanceUID, study=study) == stored
    assert archive.find_instance(ct[0].SOPInstanceUID, study="another patient's") is None


def test_what_came_by_dicom_is_there_and_yet_no_result_of_ours_and_is_replaced(ct):
    orthanc = FakeOrthanc()
    archive = OrthancArchive(orthanc)
    study = orthanc.receive(ct[:1])
    uid = ct[0].SOPInstanceUID
    assert archive.find_instance(uid, study=study) is None
    assert archive.find_instance(uid, study=study, ours=False) == identifier(uid)

    ours = deepcopy(ct[0])
    ours.ContentTime = "235959"
    stored = archive.store_once(ours)

    assert archive.find_instance(uid, study=study) == stored
    assert b"235959" in archive.file(stored)


def test_orthanc_is_not_asked_to_store_what_its_disk_has_no_room_for(ct, tmp_path, monkeypatch):
    orthanc = FakeOrthanc()
    archive = OrthancArchive(orthanc, storage=tmp_path)
    monkeypatch.setattr("plugin.archive.MARGIN", 2**60)

    with pytest.raises(ArchiveError, match="Orthanc's storage takes no result: "):
        archive.store(ct[0])

    assert orthanc.files == {}
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert archive.store(ct[0]) in orthanc.files


def test_what_orthanc_does_not_hold_is_told_from_what_it_cannot_do_now():
    orthanc = FakeOrthanc()
    archive = OrthancArchive(orthanc)
    with pytest.raises(UnknownResource, match="Orthanc holds no study nobody"):
        archive.series_of_study("nobody")
    with pytest.raises(UnknownResource, match="Orthanc holds no instance nobody"):
        archive.file("nobody")
    orthanc.broken = True
    with pytest.raises(ArchiveError, match="Internal error") as error:
        archive.series_of_study("nobody")
    assert not isinstance(error.value, UnknownResource)


def test_a_page_of_somebody_between_is_no_answer(monkeypatch):
    orthanc = FakeOrthanc()
    monkeypatch.setattr(orthanc, "RestApiGet", lambda uri: b"<html>Please sign in</html>")

    with pytest.raises(ArchiveError, match="asked for study a, gives no JSON"):
        OrthancArchive(orthanc).series_of_study("a")


def test_an_older_result_that_goes_by_itself_is_no_fault(ct, monkeypatch):
    """The answer to its removal was lost, so it was asked for twice."""
    orthanc = FakeOrthanc()
    archive = OrthancArchive(orthanc)
    archive.store(ct[0])
    remove = orthanc.RestApiDelete

    def twice(uri: str) -> bytes:
        remove(uri)
        return remove(uri)

    monkeypatch.setattr(orthanc, "RestApiDelete", twice)

    assert archive.store(ct[0]) in orthanc.files


def test_labels_of_other_people_stay_on_a_study():
    orthanc = FakeOrthanc()
    archive = OrthancArchive(orthanc)
    orthanc.labels["a"] = {"teaching", "oar-queued"}

    archive.set_study_labels("a", {"oar-done"}, among={"oar-queued", "oar-done"})

    assert orthanc.labels["a"] == {"teaching", "oar-done"}


def test_a_folder_lists_its_series_and_leaves_other_files_alone(small_phantom, ct, tmp_path):
    write_series(small_phantom, tmp_path / "in" / "deep")
    (tmp_path / "in" / "readme.txt").write_text("not DICOM")
    archive = FolderArchive(tmp_path / "in", results=tmp_path)

    [series] = archive.all_series()

    assert series.id == ct[0].SeriesInstanceUID
    assert archive.series_of_study(ct[0].StudyInstanceUID) == [series]
    assert set(archive.sop_instance_uids(series)) == {image.SOPInstanceUID for image in ct}
    assert all(archive.file(one)[128:132] == b"DICM" for one in series.instances)
    for ask in (archive.series, archive.series_of_study):
        with pytest.raises(UnknownResource):
            ask("nobody")


def test_a_large_file_that_is_no_dicom_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "disc.iso").write_bytes(bytes(1000))
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))

    assert FolderArchive(tmp_path, results=tmp_path).all_series() == []


def test_a_folder_names_what_may_be_a_slice_and_cannot_be_read(
    small_phantom, tmp_path, monkeypatch
):
    folder, closed = tmp_path / "in", tmp_path / "in" / "closed"
    first, *_ = write_series(small_phantom, folder)
    closed.mkdir()
    within_header, within_meta = first.read_bytes()[:500], first.read_bytes()[:141]
    damaged = {"empty": b"", "text.DCM": b"text", "meta": within_meta, "header": within_header}
    foreign = {
        "readme.txt": b"text",
        "DICOMDIR": within_header,
        "._1.dcm": b"Mac",
        "a.pdf": b"%PDF",
    }
    for name, content in (damaged | foreign).items():
        (folder / name).write_bytes(content)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    scandir = os.scandir

    def refuse(path):  # as chmod 000 does, unless root asks
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    archive = FolderArchive(folder, results=tmp_path)

    assert {path.name for path in archive.unread} == {"closed", "gone", *damaged}
    assert len(archive.all_series()) == 1


def test_a_file_that_is_gone_is_the_archives_fault(tmp_path):
    with pytest.raises(ArchiveError, match=r"No such file"):
        FolderArchive(tmp_path, results=tmp_path).file(str(tmp_path / "gone.dcm"))


def test_a_folder_keeps_a_result_under_its_modality(ct, tmp_path):
    stored = FolderArchive(tmp_path, results=tmp_path).store(ct[0])

    assert stored == str(tmp_path / "ct.dcm")
    assert pydicom.dcmread(stored).SOPInstanceUID == ct[0].SOPInstanceUID
