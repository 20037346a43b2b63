from dataclasses import replace

from plugin.archive import Series
from plugin.orthanc_archive import OrthancArchive
from plugin.slice_files import SliceFiles, slices_sha256
from tests.fake_orthanc import FakeOrthanc


def ct_series(orthanc: FakeOrthanc) -> tuple[OrthancArchive, Series]:
    archive = OrthancArchive(orthanc)
    [series] = archive.series_of_study(*orthanc.last_update)
    return archive, series


def test_what_a_result_was_made_of_does_not_depend_on_the_order_of_the_slices(orthanc):
    archive, series = ct_series(orthanc)
    backwards = replace(series, instances=series.instances[::-1])

    assert slices_sha256(["1.2", "1.10"]) == slices_sha256(["1.10", "1.2"])
    assert SliceFiles(series, archive).blake3_now() == SliceFiles(backwards, archive).blake3_now()


def test_of_a_ct_that_changed_between_two_looks_only_the_second_counts(orthanc, ct):
    archive, series = ct_series(orthanc)
    files = SliceFiles(series, archive)
    before = files.blake3_now()
    ct[5].ImagePositionPatient[0] += 10
    orthanc.receive(ct)

    read = list(files.read())

    assert len(read) == len(ct)
    assert files.blake3() == SliceFiles(series, archive).blake3_now() != before
