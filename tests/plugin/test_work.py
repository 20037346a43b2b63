import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from pydicom.dataset import Dataset

from model.checkpoint import save
from plugin.archive import ArchiveError
from plugin.catalogue import Catalogue
from plugin.drawn.quality import Quality
from plugin.jobs.job import Job, Outcome
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import Jobs
from plugin.orthanc_archive import OrthancArchive
from plugin.settings import Settings, settings_digest
from plugin.watch import Watch
from plugin.work import Work
from tests.fake_orthanc import FakeOrthanc
from tests.plugin.jobs.asking import add
from tests.tiny_model import tiny_model


@pytest.fixture
def orthanc(ct: list[Dataset]) -> FakeOrthanc:
    one = FakeOrthanc()
    one.receive(ct)
    return one


class Clinic:
    """A queue and what its worker does."""

    def __init__(
        self,
        orthanc: FakeOrthanc,
        jobs: Jobs,
        weights: Path,
        default: str = "quick",
        **settings: object,
    ) -> None:
        self.archive = OrthancArchive(orthanc)
        self.jobs = jobs
        self.work = Work(
            archive=self.archive,
            jobs=jobs,
            catalogue=Catalogue(default=default, weights=weights, device="cpu"),
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
    clinic = Clinic(orthanc, jobs, weights)
    job = clinic.do(model="quick")

    uids = "\n".join(sorted(str(image.SOPInstanceUID) for image in ct))
    assert job.provenance.instances == len(ct)
    assert job.provenance.instances_sha256 == hashlib.sha256(uids.encode()).hexdigest()
    each = [blake3(clinic.archive.file(one)).hexdigest() for one in clinic.series.instances]
    files = hashlib.sha256("\n".join(sorted(each)).encode()).hexdigest()
    assert job.provenance.files_blake3 == files
    assert job.provenance.settings_sha256 == settings_digest(Settings())
    assert job.provenance.model_version == "1.0.0"
    [result] = job.results
    file = orthanc.files[result.orthanc_id]
    assert result.sha256 == hashlib.sha256(file).hexdigest()


def test_a_result_that_is_there_already_says_all_the_same_what_it_was_made_of(
    orthanc, jobs, weights
):
    clinic = Clinic(orthanc, jobs, weights)
    first = clinic.do(model="quick")
    jobs.redo(first.id)

    again = clinic.do()

    assert (again.provenance, again.results) == (first.provenance, first.results)


def test_a_series_without_organs_says_what_was_looked_at_and_is_sent_nowhere(
    orthanc, jobs, weights
):
    job = Clinic(orthanc, jobs, weights, Routes=[{"To": ["modality:PACS"]}]).do(model="blind")

    assert job.state == "skipped"
    assert job.provenance.weights_sha256
    assert job.deliveries == ()


def test_a_result_goes_where_the_rules_for_the_model_that_made_it_say(orthanc, jobs, weights):
    routes = [{"To": [f"modality:{model}"], "Models": [model]} for model in ("quick", "blind")]
    clinic = Clinic(orthanc, jobs, weights, default="blind", Routes=routes)
    clinic.add(model="quick")

    outcome = clinic.work(jobs.claim(), Watch())

    [parcel] = outcome.parcels
    assert parcel.target == "quick"
    assert parcel.instances == tuple(one.orthanc_id for one in outcome.results)


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
    first = clinic.do(model="quick", shadow_model="quick")
    orthanc.RestApiDelete(f"/instances/{first.results[0].orthanc_id}")

    shadow = clinic.do()

    assert (shadow.state, shadow.dice, len(orthanc.segs())) == ("done", {}, 1)
    *its_own, last = shadow.warnings
    assert "no longer in the archive" in last
    assert tuple(its_own) == first.warnings != ()


def test_a_shadow_whose_first_result_cannot_be_read_is_kept_and_says_so(
    orthanc, jobs, weights, monkeypatch
):
    clinic = Clinic(orthanc, jobs, weights)
    clinic.do(model="quick", shadow_model="quick")
    monkeypatch.setattr("plugin.drawn.segment_masks.SMALL", 1000)
    monkeypatch.setattr("plugin.drawn.segment_masks.FINER", 0)

    shadow = clinic.do()

    assert (shadow.state, shadow.dice) == ("done", {})
    assert "Our result cannot be compared: Brainstem" in shadow.warnings[-1]


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
    assert shadow.warnings == ("Not found, or left out: Brainstem",)
    assert len(orthanc.segs()) == 1


def test_a_shadow_is_not_compared_by_organs_that_one_of_the_two_models_does_not_know(
    orthanc, jobs, tmp_path
):
    save(tmp_path / "quick", *tiny_model("quick"))
    network, card = tiny_model("next")
    cord = {"spinal_cord": card.measured["brainstem"]}
    save(tmp_path / "next", network, replace(card, organs=("spinal_cord",), measured=cord))
    clinic = Clinic(orthanc, jobs, tmp_path)
    clinic.do(model="quick", shadow_model="next")

    shadow = clinic.do()

    assert (shadow.state, shadow.dice) == ("done", {})
    assert "spinal_cord" in shadow.volumes_ml


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
