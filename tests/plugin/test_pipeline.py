import numpy as np
import pytest
from pydicom.dataset import Dataset

from model.segmenter import Cancelled, Segmenter
from plugin.archive import ArchiveError, OrthancArchive
from plugin.job import Outcome
from plugin.pipeline import PROGRESS_AT_END, Watch, segment_series
from plugin.settings import Settings
from tests.fake_orthanc import FakeOrthanc


def run(
    orthanc: FakeOrthanc, segmenter: Segmenter, *, run: str = "", watch: Watch | None = None
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
        settings=Settings(),
        run=run,
        watch=watch or Watch(),
    )


@pytest.fixture
def orthanc(ct: list[Dataset]) -> FakeOrthanc:
    one = FakeOrthanc()
    one.receive(ct)
    return one


@pytest.fixture(scope="module")
def quick(weights) -> Segmenter:
    return Segmenter.load(weights / "quick", device="cpu")


@pytest.fixture(scope="module")
def blind(weights) -> Segmenter:
    return Segmenter.load(weights / "blind", device="cpu")


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


def test_a_result_that_exists_is_not_made_again_but_told_of(orthanc, quick):
    first = run(orthanc, quick)
    files = set(orthanc.files)

    def never(image: object, **_: object) -> None:
        raise AssertionError("segmented again")

    quick_that_must_not_run = type("Carded", (), {"__call__": never, "card": quick.card})()
    second = run(orthanc, quick_that_must_not_run)

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
def test_a_cancelled_job_stores_nothing(orthanc, quick, stage):
    reached: list[str] = []
    watch = Watch(
        report=lambda now, progress: reached.append(now),
        cancelled=lambda: bool(reached) and reached[-1] == stage,
    )

    with pytest.raises(Cancelled):
        run(orthanc, quick, watch=watch)

    assert orthanc.segs() == []


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
