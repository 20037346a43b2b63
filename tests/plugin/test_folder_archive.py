import errno
import os
import resource
from pathlib import Path

import pydicom
import pytest

from plugin.archive import ArchiveError, UnknownResource
from plugin.folder_archive import FolderArchive
from tests.phantoms import write_series


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


def test_the_other_half_of_a_ct_behind_a_link_is_not_left_out(small_phantom, ct, tmp_path):
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in write_series(small_phantom, folder)[: len(ct) // 2]:
        path.rename(elsewhere / path.name)
    (folder / "half").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)

    archive = FolderArchive(folder, results=tmp_path)

    [series] = archive.all_series()
    assert sorted(archive.sop_instance_uids(series)) == sorted(one.SOPInstanceUID for one in ct)
    assert archive.unread == []


def test_a_pipe_among_the_images_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")

    assert FolderArchive(tmp_path, results=tmp_path).unread == []


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


def test_slices_without_the_mark_of_a_dicom_file_are_not_passed_over_in_silence(
    small_phantom, tmp_path
):
    first, second, third, *_ = write_series(small_phantom, tmp_path)
    slices = pydicom.dcmread(first), pydicom.dcmread(second)
    first.unlink()
    second.unlink()
    (tmp_path / "IM0001").write_bytes(third.read_bytes()[132:])  # the preamble alone was cut off
    third.unlink()
    for name, image in zip(("IM0002", "IM0003"), slices, strict=True):
        implicit = name == "IM0003"
        del image.file_meta, image.preamble
        image.save_as(
            tmp_path / name, implicit_vr=implicit, little_endian=True, enforce_file_format=False
        )
    foreign = {
        "a.zip": b"PK\3\4",
        "a.png": b"\x89PNG",
        "a.ico": b"\0\0\1\0",
        "a.gz": b"\x1f\x8b\x08\0",
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content + bytes(200))

    archive = FolderArchive(tmp_path, results=tmp_path)

    assert [path.name for path in archive.unread] == ["IM0001", "IM0002", "IM0003"]


def test_a_file_that_is_gone_is_the_archives_fault(tmp_path):
    with pytest.raises(ArchiveError, match=r"No such file"):
        FolderArchive(tmp_path, results=tmp_path).file(str(tmp_path / "gone.dcm"))


def test_a_folder_keeps_a_result_under_its_modality(ct, tmp_path):
    stored = FolderArchive(tmp_path, results=tmp_path).store(ct[0])

    assert stored == str(tmp_path / "ct.dcm")
    assert pydicom.dcmread(stored).SOPInstanceUID == ct[0].SOPInstanceUID


def test_of_a_result_that_finds_no_room_nothing_is_left(ct, tmp_path):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        with pytest.raises(OSError, match="File too large"):
            FolderArchive(tmp_path, results=tmp_path).store(ct[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    assert [*tmp_path.iterdir()] == []
