from copy import deepcopy
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from plugin.archive import UnknownResource
from plugin.jobs.job import Job, Outcome
from plugin.jobs.jobs import Jobs
from plugin.slice_files import SliceFiles, slices_sha256
from plugin.watch import PROGRESS_AT_END, Watch
from tests.fake_orthanc import FakeOrthanc
from tests.plugin.jobs.asking import MADE_OF
from tests.plugin.test_work import Clinic

EARLY = 20
"""So many slices come in time."""


class LateClinic(Clinic):
    """Has segmented the slices that came in time; the others have come since."""

    def __init__(self, jobs: Jobs, weights: Path, ct: list[Dataset], late_slices: str) -> None:
        self.orthanc = FakeOrthanc()
        self.orthanc.receive(ct[:EARLY])
        super().__init__(self.orthanc, jobs, weights, LateSlices=late_slices)
        self.first = self.do(model="quick")
        self.orthanc.receive(ct[EARLY:])
        self.series = self.archive.series(self.series.id)

    def sizes(self) -> list[int]:
        """Number of slices that each SEG was made of."""
        series = [seg.ReferencedSeriesSequence[0] for seg in self.orthanc.segs()]
        return sorted(len(one.ReferencedInstanceSequence) for one in series)


def test_a_result_of_more_slices_joins_the_one_of_fewer(jobs, weights, ct):
    clinic = LateClinic(jobs, weights, ct, "join")

    second = clinic.do(model="quick")

    assert (second.state, jobs.get(clinic.first.id).state) == ("done", "done")
    assert clinic.sizes() == [EARLY, len(ct)]


def test_by_setting_it_takes_the_place_of_the_one_of_fewer(jobs, weights, ct):
    clinic = LateClinic(jobs, weights, ct, "replace")

    second = clinic.do(model="quick")

    first = jobs.get(clinic.first.id)
    assert (second.state, second.provenance.instances) == ("done", len(ct))
    assert (first.state, first.results, first.volumes_ml) == ("skipped", (), {})
    assert first.reason == (
        f"Replaced by the result of job {second.id}: the series has other slices now."
    )
    assert clinic.sizes() == [len(ct)]


def test_another_result_of_the_same_slices_stays(jobs, weights, ct):
    clinic = LateClinic(jobs, weights, ct, "replace")
    clinic.do(model="quick")

    clinic.do(model="quick", force=True)

    assert clinic.sizes() == [len(ct), len(ct)]


def test_a_worker_that_was_slower_than_the_late_slices_takes_its_own_result_back(jobs, weights, ct):
    clinic = LateClinic(jobs, weights, ct[:-1], "replace")
    slow = clinic.add(model="quick")
    assert jobs.claim().id == slow.id

    def report(stage: str, progress: float) -> None:
        if stage == "storing":
            clinic.orthanc.receive(ct[-1:])
            clinic.series = clinic.archive.series(clinic.series.id)
            clinic.do(model="quick")

    outcome = clinic.work(slow, Watch(report=report))
    jobs.finish(slow.id, outcome)

    assert jobs.get(slow.id).state == "skipped"
    assert jobs.get(slow.id).reason.startswith("Replaced by the result of job")
    assert clinic.sizes() == [len(ct)]


def test_what_a_result_was_made_of_is_told_also_if_slices_come_while_it_is_made(jobs, weights, ct):
    clinic = LateClinic(jobs, weights, ct[:-1], "join")
    clinic.add(model="quick")
    job = jobs.claim()

    def report(stage: str, progress: float) -> None:
        clinic.orthanc.receive(ct[-1:])

    outcome = clinic.work(job, Watch(report=report))

    assert outcome.provenance.instances == len(ct) - 1
    assert clinic.sizes() == [EARLY, len(ct) - 1]


def test_a_study_that_is_deleted_while_it_runs_is_not_made_anew_by_its_result(jobs, weights, ct):
    clinic = LateClinic(jobs, weights, ct, "join")
    clinic.add(model="quick")
    job = jobs.claim()

    def report(stage: str, progress: float) -> None:
        if stage == "storing":
            for instance in list(clinic.orthanc.files):
                clinic.orthanc.RestApiDelete(f"/instances/{instance}")

    with pytest.raises(UnknownResource):
        clinic.work(job, Watch(report=report))

    assert clinic.orthanc.files == {}


def test_a_comparison_of_fewer_slices_is_no_result_that_more_of_them_replace(jobs, weights, ct):
    clinic = LateClinic(jobs, weights, ct, "replace")
    comparison = clinic.add(kind="compare", identity="what was drawn")
    jobs.claim()
    jobs.finish(comparison.id, Outcome(state="done"))

    clinic.do(model="quick")

    assert jobs.get(comparison.id).state == "done"
    assert jobs.get(clinic.first.id).state == "skipped"


class SentAgain(Clinic):
    """Has segmented all slices."""

    def __init__(self, jobs: Jobs, weights: Path, ct: list[Dataset]) -> None:
        self.orthanc = FakeOrthanc()
        self.orthanc.receive(ct)
        super().__init__(self.orthanc, jobs, weights)

    def run_of_the_slices(self) -> str:
        """What a job is told from others by that was asked for because they changed."""
        return SliceFiles(self.series, self.archive).blake3_now()


def test_contours_of_a_ct_that_was_corrected_are_those_of_the_corrected_alone(jobs, weights, ct):
    clinic = SentAgain(jobs, weights, ct)
    first = clinic.do(model="quick")
    for one in ct:
        one.ImagePositionPatient[0] += 10
    clinic.orthanc.receive(ct)

    second = clinic.do(model="quick", run=clinic.run_of_the_slices())

    assert (second.state, jobs.get(first.id).state) == ("done", "skipped")
    assert jobs.get(first.id).reason.startswith(f"Replaced by the result of job {second.id}: ")
    [seg] = clinic.orthanc.segs()
    assert seg.SOPInstanceUID == second.results[0].sop_instance_uid


@pytest.mark.parametrize("refused", [False, True])
def test_a_worker_that_was_slower_than_a_correction_does_not_take_the_right_contours_away(
    jobs, weights, ct, refused
):
    """It has read the CT as it was; another worker has done the corrected one meanwhile."""
    corrected = deepcopy(ct)
    for one in corrected:
        one.ImagePositionPatient[0] += 10
    if refused:
        ct[5].ImagePositionPatient[0] += 10
    clinic = SentAgain(jobs, weights, ct)
    slow = clinic.add(model="quick")
    assert jobs.claim().id == slow.id
    fast: list[Job] = []

    def report(stage: str, progress: float) -> None:
        if stage == "reading" and progress == PROGRESS_AT_END["reading"]:
            clinic.orthanc.receive(corrected)
            fast.append(clinic.do(model="quick", run=clinic.run_of_the_slices()))

    jobs.finish(slow.id, clinic.work(slow, Watch(report=report)))

    assert (jobs.get(slow.id).state, jobs.get(fast[0].id)) == ("skipped", fast[0])
    assert jobs.get(slow.id).reason == (
        f"Replaced by the result of job {fast[0].id}: the slices came again with the same UIDs and "
        "another content."
    )
    [seg] = clinic.orthanc.segs()
    assert seg.SOPInstanceUID == fast[0].results[0].sop_instance_uid


def test_a_ct_that_changed_to_and_fro_keeps_the_result_that_it_has(jobs, weights, ct):
    clinic = SentAgain(jobs, weights, ct)
    first = clinic.do(model="quick")

    again = clinic.do(model="quick", run=clinic.run_of_the_slices())

    assert (again.state, again.results) == ("skipped", ())
    assert again.reason == f"Job {first.id} has the result of these slices."
    assert jobs.get(first.id) == first
    [seg] = clinic.orthanc.segs()
    assert seg.SOPInstanceUID == first.results[0].sop_instance_uid


def test_a_result_of_which_nobody_has_noted_the_files_is_not_taken_for_a_wrong_one(
    jobs, weights, ct
):
    clinic = SentAgain(jobs, weights, ct)
    before = clinic.add(identity="of another version")
    jobs.claim()
    slices = slices_sha256(str(one.SOPInstanceUID) for one in ct)
    made_of = MADE_OF.model_copy(update={"instances_sha256": slices})
    jobs.finish(before.id, Outcome(state="done", provenance=made_of))

    clinic.do(model="quick")

    assert jobs.get(before.id).state == "done"


def test_a_forced_result_is_not_taken_for_that_of_the_study(jobs, weights, ct):
    clinic = SentAgain(jobs, weights, ct)
    clinic.do(model="quick", force=True)

    own = clinic.do(model="quick", run=clinic.run_of_the_slices())

    assert own.state == "done"
    assert len(clinic.orthanc.segs()) == 2


def test_the_result_of_a_model_on_trial_is_not_taken_for_that_of_the_study(jobs, weights, ct):
    clinic = SentAgain(jobs, weights, ct)
    first = clinic.do(model="quick", shadow_model="quick")
    assert clinic.do().kind == "shadow"
    jobs.replaced(first.id, "The slices changed.")

    own = clinic.do(model="quick", run=clinic.run_of_the_slices())

    assert own.state == "done"


def test_contours_of_a_ct_that_was_changed_go_also_if_it_is_refused_as_it_is_now(jobs, weights, ct):
    clinic = SentAgain(jobs, weights, ct)
    first = clinic.do(model="quick")
    changed = deepcopy(ct)
    changed[5].ImagePositionPatient[0] += 10  # sent again under its old UID
    clinic.orthanc.receive(changed)

    second = clinic.do(model="quick", force=True)

    assert (second.state, clinic.orthanc.segs()) == ("skipped", [])
    assert "beside each other" in second.reason or "shifted" in second.reason
    assert jobs.get(first.id).state == "skipped"
    assert jobs.get(first.id).reason == (
        f"Removed because of job {second.id}: the slices came again with the same UIDs and another "
        "content."
    )
