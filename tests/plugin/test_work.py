import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from plugin.archive import ArchiveError
from plugin.catalogue import Catalogue
from plugin.drawn.quality import Quality
from plugin.jobs.job import Job, Outcome
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import Jobs
from plugin.orthanc_archive import OrthancArchive
from plugin.settings import Settings
from plugin.watch import Watch
from plugin.work import Work
from tests.fake_orthanc import FakeOrthanc
from tests.plugin.jobs.asking import add


@pytest.fixture
def orthanc(ct: list[Dataset]) -> FakeOrthanc:
    one = FakeOrthanc()
    one.receive(ct)
    return one


class Clinic:
    """A queue and what its worker does."""

    def __init__(self, orthanc: FakeOrthanc, jobs: Jobs, weights: Path, **settings: object) -> None:
        self.archive = OrthancArchive(orthanc)
        self.jobs = jobs
        self.work = Work(
            archive=self.archive,
            jobs=jobs,
            catalogue=Catalogue(default="quick", weights=weights, device="cpu"),
            quality=Quality(open_database("sqlite://")),
            settings=Settings.from_orthanc({"Oar": settings}),
        )
        [self.series] = self.archive.series_of_study(*orthanc.last_update)

    def do(self, **changes: Any) -> Job:
        """Do the next job, a new one of the only series if there are changes."""
        if changes:
            self.add(**changes)
        job = self.jobs.claim()
        assert job is not None
        self.jobs.finish(job.id, self.work(job, Watch()))
        return self.jobs.get(job.id)

    def add(self, **changes: Any) -> Job:
        series = self.series
        where = {"study": series.study, "series": series.id, "instances": series.instances}
        return add(self.jobs, **where, **changes)


def test_a_result_says_what_it_was_made_of_and_what_the_file_is(orthanc, jobs, weights, ct):
    job = Clinic(orthanc, jobs, weights).do(model="quick")

    uids = "\n".join(sorted(str(image.SOPInstanceUID) for image in ct))
    assert job.provenance.instances == len(ct)
    assert job.provenance.instances_sha256 == hashlib.sha256(uids.encode()).hexdigest()
    assert job.provenance.model_version == "1.0.0"
    [result] = job.results
    file = orthanc.files[result.orthanc_id]
    assert result.sha256 == hashlib.sha256(file).hexdigest()


def test_a_series_without_organs_says_what_was_looked_at_and_is_sent_nowhere(
    orthanc, jobs, weights
):
    job = Clinic(orthanc, jobs, weights, Routes=[{"To": ["modality:PACS"]}]).do(model="blind")

    assert job.state == "skipped"
    assert job.provenance.weights_sha256
    assert job.deliveries == ()


def test_an_archive_that_cannot_say_where_a_series_came_from_costs_no_result(
    orthanc, jobs, weights
):
    clinic = Clinic(orthanc, jobs, weights, Routes=[{"To": ["sender"]}])
    clinic.add()
    job = jobs.claim()
    orthanc.broken = True

    with pytest.raises(ArchiveError):
        clinic.work(job, Watch())

    assert orthanc.segs() == []


def test_a_shadow_is_another_seg_that_says_so_and_is_compared(orthanc, jobs, weights):
    clinic = Clinic(orthanc, jobs, weights, Routes=[{"To": ["sender"]}])
    first = clinic.do(model="quick", shadow_model="quick")
    shadow = clinic.do()

    assert (shadow.kind, shadow.of, shadow.state) == ("shadow", first.id, "done")
    assert shadow.dice == {"brainstem": 1.0}  # the same model once more
    assert shadow.deliveries == ()
    seg, marked = sorted(orthanc.segs(), key=lambda one: "SHADOW" in one.SeriesDescription)
    assert marked.SeriesDescription.startswith("SHADOW, not for use, research use only")
    assert seg.SOPInstanceUID != marked.SOPInstanceUID
    assert seg.SeriesInstanceUID != marked.SeriesInstanceUID
    assert len(jobs.find()) == 2  # a shadow casts none


def test_a_shadow_whose_first_result_was_deleted_is_kept_and_says_so(orthanc, jobs, weights):
    clinic = Clinic(orthanc, jobs, weights)
    [result] = clinic.do(model="quick", shadow_model="quick").results
    orthanc.RestApiDelete(f"/instances/{result.orthanc_id}")

    shadow = clinic.do()

    assert (shadow.state, shadow.dice, len(orthanc.segs())) == ("done", {}, 1)
    assert "no longer in the archive" in shadow.warnings[-1]


def test_a_shadow_whose_first_job_has_no_result_any_more_is_kept_and_says_so(
    orthanc, jobs, weights
):
    clinic = Clinic(orthanc, jobs, weights)
    first = clinic.do(model="quick", shadow_model="quick")
    jobs.replaced(first.id, "Further slices came.")

    shadow = clinic.do()

    assert (shadow.state, shadow.dice) == ("done", {})
    assert "no longer in the archive" in shadow.warnings[-1]


def test_a_shadow_that_finds_nothing_says_so(orthanc, jobs, weights):
    clinic = Clinic(orthanc, jobs, weights)
    clinic.do(model="quick", shadow_model="blind")

    shadow = clinic.do()

    assert (shadow.state, shadow.dice) == ("skipped", {})
    assert len(orthanc.segs()) == 1


def test_every_series_gets_its_result_before_any_shadow_runs(jobs):
    add(jobs, series="one", shadow_model="next")
    [first] = jobs.find()
    jobs.claim()
    add(jobs, series="two")
    jobs.finish(first.id, Outcome(state="done"))

    assert [jobs.claim().kind for _ in range(2)] == ["segment", "shadow"]


def test_a_job_that_is_done_again_casts_no_second_shadow(jobs):
    job = add(jobs, shadow_model="next")
    for _ in range(2):
        jobs.claim()
        jobs.finish(job.id, Outcome(state="done"))
        jobs.redo(job.id)

    assert len(jobs.find(kind="shadow")) == 1
