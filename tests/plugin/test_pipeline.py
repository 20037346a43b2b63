from copy import deepcopy
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from model.segmenter import Cancelled, Segmenter
from plugin.archive import ArchiveError
from plugin.jobs.job import Outcome
from plugin.orthanc_archive import OrthancArchive
from plugin.pipeline import segment_series
from plugin.settings import Settings
from plugin.watch import PROGRESS_AT_END, Watch
from tests.fake_orthanc import FakeOrthanc, OrthancException


def run(
    orthanc: FakeOrthanc,
    segmenter: Segmenter,
    *,
    settings: Settings | None = None,
    run: str = "",
    shadow: bool = False,
    watch: Watch | None = None,
) -> Outcome:
    archive = OrthancArchive(orthanc)
    [series] = [
        archive.series(one)
        for study in orthanc.last_update
        for one in orthanc.series_ids(study)
        if archive.series(one).modality == "CT"
    ]
    return segment_series(
        series,
        archive=archive,
        segmenter=segmenter,
        settings=settings or Settings(),
        run=run,
        shadow=shadow,
        watch=watch or Watch(),
    )


@pytest.fixture(scope="module")
def blind(weights) -> Segmenter:
    return Segmenter.load(weights / "blind", device="cpu")


@pytest.fixture
def no_network(quick) -> Segmenter:
    """A model whose result is there already."""

    def never(self: object, image: object, **_: object) -> None:
        raise AssertionError("segmented again")

    return type("Carded", (), {"__call__": never, "card": quick.card, "organs": quick.organs})()


def test_a_ct_series_becomes_a_seg_in_its_study(orthanc, quick, ct):
    outcome = run(orthanc, quick)

    [seg] = orthanc.segs()
    assert outcome.state == "done"
    assert seg.StudyInstanceUID == ct[0].StudyInstanceUID
    [result] = outcome.results
    assert result.sop_instance_uid == seg.SOPInstanceUID
    assert result.orthanc_id in orthanc.files


def test_the_millilitres_are_those_of_the_stored_seg(orthanc, quick, small_phantom):
    outcome = run(orthanc, quick)

    [seg] = orthanc.segs()
    voxel_ml = np.prod(small_phantom.ct.spacing) / 1000
    assert outcome.volumes_ml["brainstem"] == pytest.approx(
        seg.pixel_array.sum() * voxel_ml, abs=1e-3
    )


def test_a_result_that_exists_is_not_made_again_but_told_of(orthanc, quick, no_network):
    first = run(orthanc, quick)
    files = set(orthanc.files)

    second = run(orthanc, no_network)

    assert second.results == first.results
    assert second.volumes_ml == pytest.approx(first.volumes_ml, abs=0.01)
    assert set(orthanc.files) == files


def test_a_forced_run_is_another_result_and_the_same_forced_run_is_not(orthanc, quick):
    run(orthanc, quick)
    forced = run(orthanc, quick, run="job1")
    again = run(orthanc, quick, run="job1")

    assert len(orthanc.segs()) == 2
    assert again.results == forced.results


def test_no_organ_at_all_is_said_and_nothing_is_stored(orthanc, blind):
    outcome = run(orthanc, blind)

    assert (outcome.state, outcome.reason) == ("skipped", "No organ was found in the series.")
    assert {"reading", "segmenting"} <= outcome.seconds.keys()
    assert orthanc.segs() == []


def test_an_unsuitable_series_is_skipped_with_the_reason(quick, ct):
    orthanc = FakeOrthanc()
    orthanc.receive(ct[:3])

    outcome = run(orthanc, quick)

    assert outcome.state == "skipped"
    assert "3 slices" in outcome.reason
    assert orthanc.segs() == []


def test_progress_only_grows_and_names_the_stages_in_order(orthanc, quick):
    seen: list[tuple[str, float]] = []

    outcome = run(orthanc, quick, watch=Watch(report=lambda *news: seen.append(news)))

    values = [progress for _, progress in seen]
    assert values == sorted(values)
    assert 0 <= values[0] <= values[-1] <= 1
    assert list(dict.fromkeys(stage for stage, _ in seen)) == list(PROGRESS_AT_END)
    assert outcome.seconds.keys() >= PROGRESS_AT_END.keys()


@pytest.mark.parametrize("stage", ["reading", "segmenting", "writing"])
def test_a_cancelled_job_stops_at_once_and_stores_nothing(orthanc, quick, stage):
    reached: list[str] = []
    watch = Watch(
        report=lambda now, progress: reached.append(now),
        cancelled=lambda: bool(reached) and reached[-1] == stage,
    )

    with pytest.raises(Cancelled):
        run(orthanc, quick, watch=watch)

    assert orthanc.segs() == []
    assert reached.count(stage) == 1, "it went on"


def test_an_archive_that_fails_is_not_the_studys_fault(orthanc, quick):
    def report(stage: str, progress: float) -> None:
        orthanc.broken = stage == "storing"

    with pytest.raises(ArchiveError):
        run(orthanc, quick, watch=Watch(report=report))


def test_nothing_that_is_logged_names_the_patient(orthanc, quick, blind, ct, caplog):
    caplog.set_level("DEBUG", logger="plugin")
    run(orthanc, quick)
    run(orthanc, blind)

    assert len(caplog.records) >= 2
    assert str(ct[0].PatientName) not in caplog.text
    assert ct[0].PatientID not in caplog.text


def test_a_ct_that_came_again_changed_is_not_told_the_contours_of_before(orthanc, quick, ct):
    """A new queue does not know what the SEG in the archive was made of; the SEG does."""
    run(orthanc, quick, settings=ALL)
    [before] = orthanc.segs()
    for one in ct:
        one.ImagePositionPatient = [one.ImagePositionPatient[0] + 50, *one.ImagePositionPatient[1:]]
    orthanc.receive(ct)

    outcome = run(orthanc, quick)

    [seg] = orthanc.segs()
    assert seg.SOPInstanceUID == before.SOPInstanceUID
    assert first_position(seg)[0] == pytest.approx(first_position(before)[0] + 50)
    assert set(stored_uids(orthanc)) == {one.sop_instance_uid for one in outcome.results}


def test_a_seg_that_came_by_dicom_is_not_taken_for_ours_though_it_has_its_uid(orthanc, quick):
    """Whoever reaches the DICOM port can reckon that UID, and draw what he likes."""
    [result] = run(orthanc, quick).results
    forged = pydicom.dcmread(BytesIO(orthanc.files[result.orthanc_id]))
    forged.SegmentSequence[0].SegmentLabel = "forged"
    del orthanc.files[result.orthanc_id], orthanc.origins[result.orthanc_id]
    orthanc.receive([forged])

    outcome = run(orthanc, quick)

    assert outcome.results == (result,)
    assert outcome.seconds["segmenting"] > 0
    [seg] = orthanc.segs()
    assert seg.SegmentSequence[0].SegmentLabel == "Brainstem"


def first_position(seg: Dataset) -> list[float]:
    [place] = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    return place.ImagePositionPatient


# What is wanted beside the SEG


ALL = Settings(Rtstruct=True, VolumeReport=True, ReviewPages=True)


def uids_by_kind(outcome: Outcome) -> dict[str, set[str]]:
    kinds: dict[str, set[str]] = {}
    for result in outcome.results:
        kinds.setdefault(result.kind, set()).add(result.sop_instance_uid)
    return kinds


def stored_uids(orthanc: FakeOrthanc) -> list[str]:
    """Of all that is not CT, in the order in which it came."""
    return [str(one.SOPInstanceUID) for one in orthanc.headers.values() if one.Modality != "CT"]


def test_all_that_is_wanted_is_stored_and_the_seg_last(orthanc, quick):
    outcome = run(orthanc, quick, settings=ALL)

    kinds = uids_by_kind(outcome)
    assert outcome.results[0].kind == "seg"
    assert kinds.keys() == {"seg", "rtstruct", "sr", "review"}
    assert len(kinds["review"]) > 1
    assert set().union(*kinds.values()) == set(stored_uids(orthanc))
    assert stored_uids(orthanc)[-1] in kinds["seg"]


def test_asked_again_all_of_it_is_told_of_and_nothing_is_made(orthanc, quick, no_network):
    first = run(orthanc, quick, settings=ALL)
    before = dict(orthanc.files)

    again = run(orthanc, no_network, settings=ALL)

    assert uids_by_kind(again) == uids_by_kind(first)
    assert again.warnings == first.warnings
    assert orthanc.files == before


def test_what_is_wanted_later_is_made_of_the_seg_that_is_there(orthanc, quick, no_network):
    first = run(orthanc, quick)
    seg = orthanc.files[first.results[0].orthanc_id]

    later = run(orthanc, no_network, settings=ALL)

    kinds = uids_by_kind(later)
    assert kinds.keys() == {"seg", "rtstruct", "sr", "review"}
    assert orthanc.files[first.results[0].orthanc_id] == seg
    assert len(orthanc.segs()) == 1
    assert later.volumes_ml == pytest.approx(first.volumes_ml)
    assert later.warnings == first.warnings


def test_made_later_is_what_would_have_been_made_at_once(orthanc, quick, ct):
    run(orthanc, quick)
    later = run(orthanc, quick, settings=ALL)
    other = FakeOrthanc()
    other.receive(ct)
    at_once = run(other, quick, settings=ALL)

    assert uids_by_kind(later) == uids_by_kind(at_once)
    [a], [b] = (
        [pydicom.dcmread(BytesIO(file)) for file in one.files.values() if b"RTSTRUCT" in file]
        for one in (orthanc, other)
    )
    assert a.ROIContourSequence == b.ROIContourSequence
    assert a.StructureSetROISequence == b.StructureSetROISequence


def test_what_was_deleted_is_made_again_alone(orthanc, quick, no_network):
    first = run(orthanc, quick, settings=ALL)
    for one in first.results:
        if one.kind in ("sr", "review"):
            del orthanc.files[one.orthanc_id], orthanc.headers[one.orthanc_id]

    again = run(orthanc, no_network, settings=ALL)

    assert uids_by_kind(again) == uids_by_kind(first)
    assert set(stored_uids(orthanc)) == set().union(*uids_by_kind(first).values())


@pytest.mark.parametrize("stored_before_the_end", range(1, 4))
def test_what_a_crash_left_is_replaced(orthanc, quick, monkeypatch, stored_before_the_end):
    post = FakeOrthanc.RestApiPost
    uploads = 0

    def crash(self: FakeOrthanc, uri: str, body: str | bytes) -> bytes:
        nonlocal uploads
        uploads += uri == "/instances"
        if uploads > stored_before_the_end:
            raise OrthancException(-1, "the power went")
        return post(self, uri, body)

    def away(self: FakeOrthanc, uri: str) -> bytes:
        raise OrthancException(-1, "the power went")

    with monkeypatch.context() as patch:
        patch.setattr(FakeOrthanc, "RestApiPost", crash)
        patch.setattr(FakeOrthanc, "RestApiDelete", away)
        with pytest.raises(ArchiveError):
            run(orthanc, quick, settings=ALL)
    assert orthanc.segs() == []
    left = {
        one: file for one, file in orthanc.files.items() if orthanc.headers[one].Modality != "CT"
    }
    assert len(left) == stored_before_the_end
    for one in left:
        orthanc.files[one] = left[one] + b"old"

    outcome = run(orthanc, quick, settings=ALL)

    assert len(stored_uids(orthanc)) == len(set(stored_uids(orthanc))) == len(outcome.results)
    assert not any(file.endswith(b"old") for file in orthanc.files.values())


@pytest.mark.parametrize("ours", [True, False])
def test_contours_do_not_stay_when_their_seg_cannot_be_stored(orthanc, quick, monkeypatch, ours):
    def full(self: OrthancArchive, dataset: Dataset) -> str:
        raise ArchiveError("No space left on device")

    monkeypatch.setattr(OrthancArchive, "store_once", full)
    with pytest.raises(ArchiveError, match="No space left"):
        run(orthanc, quick, settings=ALL, watch=Watch(ours=lambda: ours))

    left = {one.Modality for one in orthanc.headers.values()}
    assert left == ({"CT"} if ours else {"CT", "RTSTRUCT", "SR", "OT"})  # its new worker's


def test_a_result_that_another_worker_has_stored_meanwhile_stays(orthanc, quick, monkeypatch):
    """This worker was silent for so long that its job was handed on."""
    mine = OrthancArchive.store_once
    theirs: list[bytes] = []

    def store_once(self: OrthancArchive, dataset: Dataset) -> str:
        other = deepcopy(dataset)
        other.ContentTime = "000000"
        identifier = mine(self, other)
        theirs.append(self.file(identifier))
        return mine(self, dataset)

    monkeypatch.setattr(OrthancArchive, "store_once", store_once)
    outcome = run(orthanc, quick)

    assert [orthanc.files[one.orthanc_id] for one in outcome.results] == theirs


def test_a_job_that_is_lost_while_it_stores_stores_nothing_more(orthanc, quick):
    def lost() -> bool:
        return any(one.Modality == "RTSTRUCT" for one in orthanc.headers.values())

    with pytest.raises(Cancelled):
        run(
            orthanc,
            quick,
            settings=Settings(Rtstruct=True),
            watch=Watch(cancelled=lost, ours=lambda: False),
        )

    assert lost()  # what is there may be its new worker's
    assert orthanc.segs() == []


def test_contours_of_a_job_that_is_cancelled_before_its_seg_do_not_stay(orthanc, quick):
    stored: list[str] = []

    def wanted_no_more() -> bool:
        stored.extend(one.Modality for one in orthanc.headers.values())
        return "RTSTRUCT" in stored

    with pytest.raises(Cancelled):
        run(orthanc, quick, settings=Settings(Rtstruct=True), watch=Watch(cancelled=wanted_no_more))

    assert {one.Modality for one in orthanc.headers.values()} == {"CT"}


def test_a_model_in_the_shadow_makes_nothing_but_its_seg(orthanc, quick):
    outcome = run(orthanc, quick, settings=ALL, shadow=True)

    assert [result.kind for result in outcome.results] == ["seg"]
    assert len(stored_uids(orthanc)) == 1
