from copy import deepcopy

import pytest

from plugin.archive import ArchiveError, UnknownResource
from plugin.orthanc_archive import OrthancArchive
from tests.fake_orthanc import FakeOrthanc, identifier


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
    monkeypatch.setattr("plugin.orthanc_archive.MARGIN", 2**60)

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
