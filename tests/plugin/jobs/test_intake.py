from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from plugin.catalogue import Catalogue, UnknownModel
from plugin.jobs.intake import Intake
from plugin.jobs.job import Outcome, Result
from plugin.jobs.jobs import Jobs
from plugin.model_rules import ModelRules
from plugin.objects.results import description
from plugin.orthanc_archive import OrthancArchive
from plugin.settings import Settings
from plugin.slice_files import SliceFiles
from tests.fake_orthanc import FakeOrthanc, identifier
from tests.phantoms import ct_slices, make_phantom
from tests.plugin.jobs.asking import MADE_OF
from tests.plugin.parts import new_intake


@pytest.fixture
def orthanc() -> FakeOrthanc:
    return FakeOrthanc()


@pytest.fixture
def intake(orthanc: FakeOrthanc, jobs: Jobs, weights: Path) -> Intake:
    catalogue = Catalogue(default="quick", weights=weights)
    return new_intake(archive=OrthancArchive(orthanc), jobs=jobs, catalogue=catalogue)


def finish(jobs: Jobs, outcome: Outcome) -> None:
    job = jobs.claim()
    assert job is not None
    jobs.finish(job.id, outcome)


def stored(orthanc: FakeOrthanc) -> Outcome:
    """A job done, with something in the archive for its result."""
    instance = next(iter(orthanc.headers))
    orthanc.origins[instance] = "Plugins"
    uid = str(orthanc.headers[instance].SOPInstanceUID)
    return Outcome(
        state="done", results=(Result(kind="seg", sop_instance_uid=uid, orthanc_id=instance),)
    )


def test_every_ct_series_of_a_stable_study_becomes_a_job_and_others_do_not(
    orthanc, intake, jobs, ct, small_phantom
):
    second = ct_slices(small_phantom, series_number=2)
    mr = ct_slices(small_phantom, series_number=3)
    for image in mr:
        image.Modality = "MR"
    study = orthanc.receive([*ct, *second, *mr])

    taken = intake.take_study(study, asked_by="stable study")

    assert len(taken) == 2
    assert {job.model for job in taken} == {"quick"}
    assert {job.study for job in taken} == {study}


@pytest.mark.parametrize("end", ["done", "skipped", "cancelled"])
def test_a_study_that_becomes_stable_again_is_not_taken_again(orthanc, intake, jobs, ct, end):
    study = orthanc.receive(ct)
    [job] = intake.take_study(study, asked_by="stable study")
    if end == "cancelled":
        jobs.cancel(job.id)
    else:
        finish(jobs, Outcome(state=end, reason="why"))

    assert intake.take_study(study, asked_by="stable study") == []
    assert jobs.get(job.id).state == end


FIRST, AGAIN = "20260101T120000", "20260102T120000"


def done(jobs: Jobs, orthanc: FakeOrthanc, outcome: Outcome) -> None:
    """The next job is done, and its result says of which files it was made."""
    archive = OrthancArchive(orthanc)
    [series] = archive.series_of_study(*orthanc.last_update)
    made_of = SliceFiles(series, archive).blake3_now()
    provenance = MADE_OF.model_copy(update={"files_blake3": made_of})
    finish(jobs, outcome.model_copy(update={"provenance": provenance}))


def correct(
    orthanc: FakeOrthanc, ct: list[Dataset], *, by_mm: float = 50.0, received: str = AGAIN
) -> None:
    """The CT comes again under its old UIDs, with another table position."""
    for image in ct:
        x, y, z = image.ImagePositionPatient
        image.ImagePositionPatient = [x + by_mm, y, z]
    orthanc.receive(ct)
    orthanc.series_update = received


def test_the_same_files_once_more_are_read_once_and_no_new_model_redoes_them(
    orthanc, jobs, weights, ct
):
    archive = OrthancArchive(orthanc)
    old = new_intake(
        archive=archive, jobs=jobs, catalogue=Catalogue(default="quick", weights=weights)
    )
    new = new_intake(
        archive=archive, jobs=jobs, catalogue=Catalogue(default="blind", weights=weights)
    )
    orthanc.series_update = FIRST
    study = orthanc.receive(ct)
    old.take_study(study, asked_by="stable study")
    done(jobs, orthanc, Outcome(state="done"))

    orthanc.series_update = AGAIN
    assert new.take_study(study, asked_by="stable study") == []
    orthanc.files = dict.fromkeys(orthanc.files, b"not to be read")
    assert new.take_study(study, asked_by="stable study") == []


def test_a_corrected_ct_is_taken_though_the_result_of_the_wrong_one_is_there(
    orthanc, intake, jobs, ct
):
    orthanc.series_update = FIRST
    study = orthanc.receive(ct)
    [wrong] = intake.take_study(study, asked_by="stable study")
    done(jobs, orthanc, stored(orthanc))
    correct(orthanc, ct)

    [job] = intake.take_study(study, asked_by="stable study")

    assert job.id != wrong.id
    assert job.run
    finish(jobs, stored(orthanc))
    [series] = OrthancArchive(orthanc).series_of_study(study)
    assert intake.request(series).id == job.id


def test_a_corrected_ct_is_taken_though_a_person_has_tried_another_model_on_it(
    orthanc, intake, jobs, ct
):
    orthanc.series_update = FIRST
    study = orthanc.receive(ct)
    intake.take_study(study, asked_by="stable study")
    done(jobs, orthanc, stored(orthanc))
    correct(orthanc, ct)
    [series] = OrthancArchive(orthanc).series_of_study(study)
    intake.request(series, model="blind", force=True)
    done(jobs, orthanc, Outcome(state="skipped", reason="No organ was found."))

    [job] = intake.take_study(study, asked_by="stable study")

    assert job.model == "quick"


def test_a_corrected_ct_is_taken_though_a_model_on_trial_has_run_since(orthanc, jobs, weights, ct):
    catalogue = Catalogue(default="quick", weights=weights)
    rules = ModelRules(default="quick", shadow_model="blind")
    archive = OrthancArchive(orthanc)
    intake = new_intake(archive=archive, jobs=jobs, catalogue=catalogue, rules=rules)
    orthanc.series_update = FIRST
    study = orthanc.receive(ct)
    intake.take_study(study, asked_by="stable study")
    done(jobs, orthanc, stored(orthanc))
    done(jobs, orthanc, Outcome(state="skipped", reason="No organ was found."))
    assert [job.kind for job in jobs.find()] == ["shadow", "segment"]
    correct(orthanc, ct)

    [job] = intake.take_study(study, asked_by="stable study")

    assert job.kind == "segment"


def test_a_ct_that_changes_to_and_fro_is_taken_each_time(orthanc, intake, jobs, ct):
    orthanc.series_update = FIRST
    study = orthanc.receive(ct)
    taken = intake.take_study(study, asked_by="stable study")
    done(jobs, orthanc, stored(orthanc))
    for day, by_mm in enumerate((50.0, -50.0, 50.0), start=2):
        correct(orthanc, ct, by_mm=by_mm, received=f"2026010{day}T120000")

        [job] = intake.take_study(study, asked_by="stable study")

        assert job.state == "queued"
        done(jobs, orthanc, stored(orthanc))
        jobs.replaced(taken[-1].id, "Its slices came again, changed.")
        taken.append(job)
    assert taken[1].id == taken[3].id  # the same files, the same result


def test_a_ct_whose_job_does_not_say_when_it_came_is_not_taken_again(orthanc, intake, jobs, ct):
    """As jobs of an older version."""
    study = orthanc.receive(ct)
    intake.take_study(study, asked_by="stable study")
    done(jobs, orthanc, stored(orthanc))
    correct(orthanc, ct)

    assert intake.take_study(study, asked_by="stable study") == []


def test_a_ct_that_comes_again_while_its_job_waits_is_segmented_once(orthanc, intake, ct):
    orthanc.series_update = FIRST
    study = orthanc.receive(ct)
    intake.take_study(study, asked_by="stable study")
    correct(orthanc, ct)

    assert intake.take_study(study, asked_by="stable study") == []


def test_a_study_that_was_deleted_and_is_sent_again_is_done_again(orthanc, intake, jobs, ct):
    orthanc.series_update = FIRST
    study = orthanc.receive(ct)
    [job] = intake.take_study(study, asked_by="stable study")
    lost = Result(kind="seg", sop_instance_uid="2.25.404", orthanc_id="lost")
    done(jobs, orthanc, Outcome(state="done", results=(lost,)))

    orthanc.series_update = AGAIN
    [again] = intake.take_study(study, asked_by="stable study")

    assert (again.id, again.state) == (job.id, "queued")


def test_a_late_slice_is_taken_as_new_work(orthanc, intake, ct):
    study = orthanc.receive(ct[:-1])
    intake.take_study(study, asked_by="stable study")
    orthanc.receive(ct[-1:])

    assert len(intake.take_study(study, asked_by="stable study")) == 1


def test_a_new_model_does_not_redo_old_studies_by_itself_but_a_person_can(
    orthanc, jobs, weights, ct
):
    archive = OrthancArchive(orthanc)
    study = orthanc.receive(ct)
    old = new_intake(
        archive=archive, jobs=jobs, catalogue=Catalogue(default="quick", weights=weights)
    )
    new = new_intake(
        archive=archive, jobs=jobs, catalogue=Catalogue(default="blind", weights=weights)
    )
    [first] = old.take_study(study, asked_by="stable study")

    assert new.take_study(study, asked_by="start") == []
    [series] = archive.series_of_study(study)
    assert new.request(series).id != first.id


def test_a_person_who_asks_for_what_is_done_gets_it(orthanc, intake, jobs, ct):
    orthanc.receive(ct)
    [series] = OrthancArchive(orthanc).series_of_study(*orthanc.last_update)
    job = intake.request(series)
    finish(jobs, stored(orthanc))

    assert intake.request(series).state == "done"
    assert intake.request(series).id == job.id
    orthanc.origins.clear()  # the archive was filled anew from another one, by DICOM
    assert intake.request(series).state == "done"


def test_a_person_who_asks_after_a_forced_run_gets_what_there_was_before(orthanc, intake, jobs, ct):
    orthanc.receive(ct)
    [series] = OrthancArchive(orthanc).series_of_study(*orthanc.last_update)
    first = intake.request(series)
    finish(jobs, stored(orthanc))
    intake.request(series, model="blind", force=True)
    finish(jobs, Outcome(state="skipped", reason="No organ was found."))

    assert intake.request(series).id == first.id


def test_a_person_who_asks_for_a_result_that_is_gone_gets_it_made_again(orthanc, intake, jobs, ct):
    orthanc.receive(ct)
    [series] = OrthancArchive(orthanc).series_of_study(*orthanc.last_update)
    job = intake.request(series)
    lost = Result(kind="seg", sop_instance_uid="2.25.404", orthanc_id="lost")
    finish(jobs, Outcome(state="done", results=(lost,)))

    again = intake.request(series)

    assert (again.id, again.state, again.results) == (job.id, "queued", ())


def test_a_person_who_asks_for_what_failed_gets_another_try(orthanc, intake, jobs, ct):
    orthanc.receive(ct)
    [series] = OrthancArchive(orthanc).series_of_study(*orthanc.last_update)
    job = intake.request(series)
    finish(jobs, Outcome(state="skipped", reason="The rules did not allow it."))

    assert intake.request(series).state == "queued"
    forced = intake.request(series, force=True)
    assert forced.id != job.id
    assert intake.request(series, model="blind").model == "blind"
    with pytest.raises(UnknownModel, match="there are: blind, quick"):
        intake.request(series, model="../quick")


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_who_asks_again_for_what_has_no_result_stands_in_the_job(orthanc, intake, jobs, ct, end):
    orthanc.receive(ct)
    [series] = OrthancArchive(orthanc).series_of_study(*orthanc.last_update)
    job = intake.request(series)
    if end == "cancelled":
        jobs.cancel(job.id)
    while jobs.claim() is not None:
        jobs.fail(job.id, "why")
    assert jobs.get(job.id).state == end

    again = intake.request(series, user="physicist")

    assert (again.id, again.state, again.user) == (job.id, "queued", "physicist")


def test_what_is_wanted_later_is_a_new_job_when_a_person_asks_and_not_before(
    orthanc, jobs, weights, ct
):
    archive = OrthancArchive(orthanc)
    study = orthanc.receive(ct)
    catalogue = Catalogue(default="quick", weights=weights)
    before = new_intake(archive=archive, jobs=jobs, catalogue=catalogue)
    after = new_intake(
        archive=archive,
        jobs=jobs,
        catalogue=catalogue,
        result=description(Settings(Rtstruct=True)),
    )
    [first] = before.take_study(study, asked_by="stable study")

    assert after.take_study(study, asked_by="stable study") == []
    [series] = archive.series_of_study(study)
    second = after.request(series)
    assert second.id != first.id
    assert after.request(series).id == second.id
    assert before.request(series).id == first.id


def test_each_choice_of_objects_is_described_in_words_of_its_own() -> None:
    assert description(Settings()) == "BINARY"  # the keys of jobs that are done hold this
    choices = [
        Settings(SegmentationType="LABELMAP"),
        Settings(Rtstruct=True),
        Settings(Rtstruct=True, RtstructHoles="xor"),
        Settings(VolumeReport=True),
        Settings(ReviewPages=True),
        Settings(Rtstruct=True, VolumeReport=True, ReviewPages=True),
    ]
    assert len({description(one) for one in [Settings(), *choices]}) == 7
    assert description(Settings(RtstructHoles="xor")) == "BINARY", "there are no holes to write"


def test_catching_up_takes_recent_stable_studies_that_have_no_job(
    orthanc, intake, jobs, monkeypatch
):
    monkeypatch.setattr("plugin.jobs.intake.PAGE", 1)
    orthanc.last_update["deleted"] = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    studies = {}
    for seed, name in enumerate(("known", "missed", "arriving", "old")):
        patient = make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(22, 32, 32), seed=seed)
        studies[name] = orthanc.receive(ct_slices(patient))
    intake.take_study(studies["known"], asked_by="stable study")
    orthanc.unstable.add(studies["arriving"])
    eight_days_ago = datetime.now(UTC) - timedelta(days=8)
    orthanc.last_update[studies["old"]] = eight_days_ago.strftime("%Y%m%dT%H%M%S")

    intake.catch_up(days=7)

    taken = [job for job in jobs.find() if job.asked_by == "start"]
    assert [job.study for job in taken] == [studies["missed"]]


def test_a_default_model_may_lie_anywhere_but_must_be_there(weights, tmp_path):
    elsewhere = Catalogue(default=str(weights / "quick"), weights=tmp_path)
    assert elsewhere.default == "quick"
    assert elsewhere.get("quick") is elsewhere.get("quick")  # loaded once

    with pytest.raises(UnknownModel, match="there are: none"):
        Catalogue(default="quick", weights=tmp_path)


def test_a_damaged_card_hides_its_model_alone(weights, tmp_path, caplog):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "card.json").write_text("{}")

    cards = Catalogue(default=str(weights / "quick"), weights=tmp_path).cards()

    assert list(cards) == ["quick"]
    assert "card.json is not a model card" in caplog.text


def drawn(ct: list[Dataset], *, number: int) -> Dataset:
    """A SEG of the study, as far as the queue looks at it; all of one series."""
    one = deepcopy(ct[0])
    one.Modality = "SEG"
    one.SeriesInstanceUID = generate_uid(entropy_srcs=["seg"])
    one.SOPInstanceUID = generate_uid(entropy_srcs=["seg", str(number)])
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    return one


def result(seg: Dataset) -> Outcome:
    """A job done, whose result this is."""
    uid = str(seg.SOPInstanceUID)
    made = Result(kind="seg", sop_instance_uid=uid, orthanc_id=identifier(uid))
    return Outcome(state="done", results=(made,))


def test_a_correction_in_the_series_of_our_own_result_is_compared_and_again_with_a_further_one(
    orthanc, intake, jobs, ct
):
    first, second, theirs = (drawn(ct, number=number) for number in range(3))
    study = orthanc.receive([*ct, first])
    intake.take_study(study, asked_by="stable study")
    finish(jobs, result(first))
    assert intake.take_corrections(study, asked_by="stable study") == []

    orthanc.receive([theirs])
    [compared] = intake.take_corrections(study, asked_by="stable study")
    finish(jobs, Outcome(state="done"))
    [series] = [
        one for one in OrthancArchive(orthanc).series_of_study(study) if len(one.instances) > 2
    ]
    intake.request(series, force=True)
    orthanc.receive([second])
    finish(jobs, result(second))

    [again] = intake.take_corrections(study, asked_by="stable study")
    assert again.id != compared.id


def test_a_study_that_is_deleted_before_its_corrections_are_looked_for_holds_up_nothing(
    orthanc, intake, jobs, ct
):
    seg = drawn(ct, number=1)
    study = orthanc.receive([*ct, seg])
    [job] = intake.take_study(study, asked_by="stable study")
    jobs.claim()
    assert intake.take_corrections(study, asked_by="stable study") == []  # put off
    jobs.finish(job.id, result(seg))
    orthanc.headers.clear()

    intake.take_put_off()
