"""A colleague corrects what we made, and we learn how far off it was."""

import shutil
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from model.organs import BY_NAME
from model.segmenter import Cancelled
from plugin.archive import ArchiveError
from plugin.by_itself import ByItself
from plugin.catalogue import Catalogue
from plugin.drawn.corrections import latest_results
from plugin.drawn.drawings import Drawings
from plugin.drawn.quality import Quality
from plugin.jobs.job import Job, Outcome
from plugin.jobs.job_table import open_database
from plugin.model_rules import ModelRules
from plugin.orthanc_archive import OrthancArchive
from plugin.settings import Settings
from plugin.watch import Watch
from plugin.work import Work
from tests.fake_orthanc import FakeOrthanc, identifier
from tests.phantoms import Phantom, ct_slices, make_phantom
from tests.plugin.jobs.asking import RESULT, add
from tests.plugin.parts import new_intake, new_queue
from tests.structure_sets import outlines_of, rtstruct, seg

BRAINSTEM = BY_NAME["brainstem"]


class Clinic:
    """An archive with one CT that has its result, and all that happens to it by itself."""

    def __init__(self, orthanc: FakeOrthanc, database: str, weights: Path) -> None:
        self.orthanc = orthanc
        self.archive = OrthancArchive(orthanc)
        engine = open_database(database)
        self.jobs = new_queue(engine)
        self.quality = Quality(engine)
        self.catalogue = catalogue = Catalogue(default="quick", weights=weights, device="cpu")
        self.intake = new_intake(archive=self.archive, jobs=self.jobs, catalogue=catalogue)
        self.work = Work(
            archive=self.archive,
            jobs=self.jobs,
            catalogue=catalogue,
            quality=self.quality,
            settings=Settings(),
        )
        [self.study] = orthanc.last_update
        [self.ct] = self.archive.series_of_study(self.study)

    def stable(self) -> list[Job]:
        """What comes of it when the study is stable."""
        ended = []
        self.intake.take(self.study, asked_by="stable study")
        while (job := self.jobs.claim()) is not None:
            self.jobs.finish(job.id, self.work(job, Watch()))
            ended.append(self.jobs.get(job.id))
        return ended

    def ours(self) -> hd.Volume:
        """Our result on the CT's grid."""
        drawings = Drawings(self.archive, Settings().series)
        [job] = [one for one in self.jobs.find(kind="segment") if one.series == self.ct.id]
        return drawings.result(job, drawings.grid(self.ct))


@pytest.fixture
def clinic(ct: list[Dataset], database: str, weights: Path) -> Clinic:
    orthanc = FakeOrthanc()
    orthanc.receive(ct)
    one = Clinic(orthanc, database, weights)
    [job] = one.stable()
    assert job.state == "done"
    return one


def corrected(labels: hd.Volume) -> hd.Volume:
    """Without the lower half of its slices."""
    array = labels.array.copy()
    array[array.shape[0] // 2 :] = 0
    return labels.with_array(array)


def dice(a: hd.Volume, b: hd.Volume) -> float:
    both = np.count_nonzero((a.array > 0) & (b.array > 0))
    return 2 * both / (np.count_nonzero(a.array) + np.count_nonzero(b.array))


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_a_correction_is_compared_with_our_result(clinic, ct, kind):
    ours = clinic.ours()
    theirs = corrected(ours)
    if kind == "SEG":
        drawing = seg(ct, theirs, [BRAINSTEM])
    else:
        mask = theirs.with_array((theirs.array == BRAINSTEM.label).astype(np.uint8))
        drawing = rtstruct(ct, {"Brain Stem": outlines_of(mask), "PTV_70": outlines_of(mask)})
    clinic.orthanc.receive([drawing])

    [job] = clinic.stable()

    assert (job.kind, job.state, job.model) == ("compare", "done", "")
    [found] = clinic.quality.find()
    assert found.dice == pytest.approx(dice(ours, theirs), abs=1e-4)
    assert (found.organ, found.model, found.model_version) == ("brainstem", "quick", "1.0.0")
    assert (found.drawn_as, found.series, found.study) == (kind, clinic.ct.id, clinic.study)
    assert found.drawn_ml < found.volume_ml
    assert clinic.stable() == []  # once


def test_a_drawing_that_comes_again_corrected_under_its_old_uid_is_compared_anew(clinic, ct):
    """As some planning systems send it, to an Orthanc that overwrites."""
    ours = clinic.ours()
    first, again = seg(ct, ours, [BRAINSTEM]), seg(ct, corrected(ours), [BRAINSTEM])
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    again.SeriesInstanceUID = first.SeriesInstanceUID
    clinic.orthanc.series_update = "20260101T120000"
    clinic.orthanc.receive([first])
    [job] = clinic.stable()
    [found] = clinic.quality.find()
    assert found.dice == 1.0

    clinic.orthanc.series_update = "20260102T120000"
    clinic.orthanc.receive([again])
    [anew] = clinic.stable()

    assert (anew.kind, anew.state) == ("compare", "done")
    assert anew.id != job.id
    [found] = clinic.quality.find()  # in place of the first
    assert found.dice == pytest.approx(dice(ours, corrected(ours)), abs=1e-4)
    assert clinic.stable() == []


def test_what_was_drawn_before_our_result_is_compared_as_soon_as_it_is_there(ct, database, weights):
    orthanc = FakeOrthanc()
    orthanc.receive(ct)
    clinic = Clinic(orthanc, database, weights)
    labels = make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(22, 32, 32)).labels
    drawing = seg(ct, labels, [BRAINSTEM])
    orthanc.receive([drawing])

    assert [job.kind for job in clinic.stable()] == ["segment"]
    assert [job.kind for job in clinic.stable()] == ["compare"]  # our SEG made the study stable

    [found] = clinic.quality.find()
    assert found.organ == "brainstem"


def test_a_drawing_is_filled_no_further_when_its_comparison_is_cancelled(clinic, ct, monkeypatch):
    mask = clinic.ours().with_array((clinic.ours().array > 0).astype(np.uint8))
    clinic.orthanc.receive([rtstruct(ct, {"Brainstem": outlines_of(mask)})])
    clinic.intake.take(clinic.study, asked_by="stable study")
    filled = []
    monkeypatch.setattr("plugin.drawn.structure_sets.fill_contours", lambda *_: filled.append(1))

    with pytest.raises(Cancelled):
        clinic.work(clinic.jobs.claim(), Watch(cancelled=lambda: True))

    assert filled == []


def test_of_each_ct_and_model_the_latest_result_is_compared(jobs):
    made = []
    for changes in ({}, {"force": True}, {"model": "next"}, {"series": "other"}):
        made.append(add(jobs, identity=repr(changes), **changes).id)
        jobs.claim()
        jobs.finish(made[-1], Outcome(state="done", results=(RESULT,)))

    assert {job.id for job in latest_results(jobs.find())} == set(made[1:])


def test_our_own_result_is_no_correction(clinic):
    assert clinic.stable() == []


def test_a_result_whose_job_has_not_ended_is_no_correction_and_what_people_drew_waits_for_it(
    clinic, ct, weights, tmp_path
):
    theirs = seg(ct, corrected(clinic.ours()), [BRAINSTEM])
    trial = shutil.copytree(weights / "quick", tmp_path / "trial")
    rules = ModelRules(default="quick", shadow_model=clinic.catalogue.configured(str(trial)))
    clinic.intake = new_intake(
        archive=clinic.archive, jobs=clinic.jobs, catalogue=clinic.catalogue, rules=rules
    )
    clinic.intake.request(clinic.ct, force=True)
    first = clinic.jobs.claim()
    clinic.jobs.finish(first.id, clinic.work(first, Watch()))
    shadow = clinic.jobs.claim()
    outcome = clinic.work(shadow, Watch())  # its SEG is there, and makes the study stable
    clinic.orthanc.receive([theirs])
    assert clinic.stable() == []
    clinic.intake.take_put_off()
    assert clinic.jobs.find(kind="compare") == []

    clinic.jobs.finish(shadow.id, outcome)
    clinic.intake.take_put_off()

    drawn = identifier(theirs.SOPInstanceUID)
    [compare] = clinic.jobs.find(kind="compare")
    assert drawn in clinic.archive.series(compare.series).instances
    assert clinic.stable() == [clinic.jobs.get(compare.id)]
    assert {one.kind for one in clinic.quality.find()} == {"segment", "shadow"}
    clinic.intake.take_put_off()
    assert len(clinic.jobs.find(kind="compare")) == 1


def test_corrections_are_looked_for_until_the_archive_answers(clinic, ct):
    clinic.orthanc.receive([seg(ct, corrected(clinic.ours()), [BRAINSTEM])])
    clinic.intake.request(clinic.ct, force=True)
    job = clinic.jobs.claim()
    clinic.stable()
    clinic.jobs.finish(job.id, clinic.work(job, Watch()))
    clinic.orthanc.broken = True
    with pytest.raises(ArchiveError):
        clinic.intake.take_put_off()
    clinic.orthanc.broken = False

    clinic.intake.take_put_off()

    assert [one.kind for one in clinic.stable()] == ["compare"]


def test_a_result_of_ours_that_the_queue_does_not_know_is_no_correction_either(clinic):
    [mine] = [one for one in clinic.archive.series_of_study(clinic.study) if one.modality == "SEG"]
    where = {"study": clinic.study, "series": mine.id, "instances": mine.instances}
    add(clinic.jobs, kind="compare", model="", identity="compare", **where)

    [job] = clinic.stable()

    assert job.state == "skipped"
    assert job.reason == "It is our own result, and nobody has approved it."
    assert clinic.quality.find() == []


def test_a_drawing_on_another_ct_of_the_study_is_not_compared(clinic, small_phantom):
    other = ct_slices(small_phantom, series_number=2)
    drawing = seg(other, small_phantom.labels, [BRAINSTEM])
    clinic.orthanc.receive([drawing])

    [job] = clinic.stable()

    assert job.state == "skipped"
    assert job.reason == "It was drawn on a series that has no result of ours."


def put_into_frame(drawing: Dataset, name: str) -> None:
    """Say of an RTSTRUCT that it was drawn in the frame of reference of this name."""
    frame = generate_uid(entropy_srcs=[name])
    drawing.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = frame
    drawing.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = frame


def test_another_frame_of_reference_is_refused_with_the_reason(clinic, ct):
    mask = clinic.ours().with_array((clinic.ours().array > 0).astype(np.uint8))
    drawing = rtstruct(ct, {"Brainstem": outlines_of(mask)})
    put_into_frame(drawing, "elsewhere")
    clinic.orthanc.receive([drawing])

    [job] = clinic.stable()

    assert job.state == "skipped"
    assert "another frame of reference" in job.reason


@pytest.fixture
def elsewhere(clinic: Clinic, small_phantom: Phantom) -> list[Dataset]:
    """A second CT of the study with a result of ours, in another frame of reference."""
    other = ct_slices(small_phantom, series_number=2)
    for image in other:
        image.FrameOfReferenceUID = generate_uid(entropy_srcs=["elsewhere"])
    clinic.orthanc.receive(other)
    assert [job.state for job in clinic.stable()] == ["done"]
    return other


def brainstem_without_series(clinic: Clinic, ct: list[Dataset]) -> Dataset:
    """An RTSTRUCT that names the frame of reference of a CT and not its series."""
    ours = clinic.ours()
    mask = ours.with_array((ours.array == BRAINSTEM.label).astype(np.uint8))
    drawing = rtstruct(ct, {"Brainstem": outlines_of(mask)})
    del drawing.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    return drawing


@pytest.mark.usefixtures("elsewhere")
def test_a_drawing_that_names_no_series_finds_its_ct_among_those_of_the_study(clinic, ct):
    clinic.orthanc.receive([brainstem_without_series(clinic, ct)])

    [job] = clinic.stable()

    assert (job.state, job.warnings) == ("done", ())
    assert [one.series for one in clinic.quality.find()] == [clinic.ct.id]


@pytest.mark.usefixtures("elsewhere")
def test_a_drawing_that_names_no_series_and_is_of_no_ct_is_refused_with_the_reason(clinic, ct):
    drawing = brainstem_without_series(clinic, ct)
    put_into_frame(drawing, "nowhere")
    clinic.orthanc.receive([drawing])

    [job] = clinic.stable()

    assert job.state == "skipped"
    assert job.reason.count("another frame of reference") == 1
    assert clinic.quality.find() == []


def test_a_drawing_that_names_two_cts_says_which_of_them_it_was_not_compared_with(
    clinic, ct, elsewhere
):
    drawing = brainstem_without_series(clinic, ct)
    study = Dataset()
    study.RTReferencedSeriesSequence = [Dataset(), Dataset()]
    for series, images in zip(study.RTReferencedSeriesSequence, (ct, elsewhere), strict=True):
        series.SeriesInstanceUID = images[0].SeriesInstanceUID
    drawing.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence = [study]
    clinic.orthanc.receive([drawing])

    [job] = clinic.stable()

    assert job.state == "done"
    [warning] = job.warnings
    assert "another frame of reference" in warning
    assert [one.series for one in clinic.quality.find()] == [clinic.ct.id]


def test_a_result_of_ours_that_cannot_be_read_is_not_taken_for_missing_organs(
    clinic, ct, monkeypatch
):
    ours = clinic.ours()
    outlines = outlines_of(ours.with_array((ours.array == BRAINSTEM.label).astype(np.uint8)))
    clinic.orthanc.receive([rtstruct(ct, {"Brainstem": outlines})])
    monkeypatch.setattr("plugin.drawn.segment_masks.SMALL", 1000)
    monkeypatch.setattr("plugin.drawn.segment_masks.FINER", 0)

    [job] = clinic.stable()

    assert job.state == "skipped"
    assert "Our result cannot be compared: Brainstem: its frames span far more" in job.reason
    assert clinic.quality.find() == []


def test_a_result_that_was_deleted_is_not_compared(clinic, ct):
    clinic.orthanc.receive([seg(ct, clinic.ours(), [BRAINSTEM])])
    [first] = clinic.jobs.find(kind="segment")
    instance = first.results[0].orthanc_id
    del clinic.orthanc.files[instance], clinic.orthanc.headers[instance]

    [job] = clinic.stable()

    assert (job.state, clinic.quality.find()) == ("skipped", [])
    assert job.reason == "Our result of the model quick was deleted."


def test_another_ct_that_was_deleted_is_no_hindrance(clinic, ct, small_phantom):
    ours, other = clinic.ours(), ct_slices(small_phantom, series_number=2)
    clinic.orthanc.receive(other)
    clinic.stable()
    for image in other:
        instance = identifier(image.SOPInstanceUID)
        del clinic.orthanc.files[instance], clinic.orthanc.headers[instance]
    clinic.orthanc.receive([seg(ct, ours, [BRAINSTEM])])

    [job] = clinic.stable()

    assert job.state == "done"
    assert [one.series for one in clinic.quality.find()] == [clinic.ct.id]


def test_a_result_of_a_model_that_is_no_longer_there_is_not_compared(clinic, ct, weights):
    clinic.orthanc.receive([seg(ct, clinic.ours(), [BRAINSTEM])])
    clinic.work = Work(
        archive=clinic.archive,
        jobs=clinic.jobs,
        catalogue=Catalogue(default=str(weights / "blind"), weights=weights / "none"),
        quality=clinic.quality,
        settings=Settings(),
    )

    [job] = clinic.stable()

    assert (job.state, clinic.quality.find()) == ("skipped", [])
    assert job.reason == ("The model quick is no longer there, and with it which organs it knows.")


def test_organs_that_the_model_does_not_know_say_nothing(clinic, ct):
    mask = clinic.ours().with_array((clinic.ours().array > 0).astype(np.uint8))
    clinic.orthanc.receive([rtstruct(ct, {"Pituitary": outlines_of(mask)})])

    [job] = clinic.stable()

    assert (job.state, clinic.quality.find()) == ("skipped", [])
    assert job.reason == "The model quick knows none of these organs."


def test_what_was_drawn_and_not_compared_is_said(clinic, ct):
    ours = clinic.ours()
    outlines = outlines_of(ours.with_array((ours.array == BRAINSTEM.label).astype(np.uint8)))
    names = ("Brainstem", "Parotid_L", "Left parotid", "PTV of Mrs Miller")
    clinic.orthanc.receive([rtstruct(ct, dict.fromkeys(names, outlines))])

    [job] = clinic.stable()

    assert job.state == "done"
    assert job.warnings == (
        "Parotid_L was not compared: several structures are this organ: Parotid_L, Left parotid.",
        "Not compared, as no organ is known by its name: 1 structure.",
    )


def test_a_drawing_of_unknown_names_alone_says_so(clinic, ct):
    ours = clinic.ours()
    outlines = outlines_of(ours.with_array((ours.array > 0).astype(np.uint8)))
    clinic.orthanc.receive([rtstruct(ct, {"PTV": outlines, "Body": outlines})])

    [job] = clinic.stable()

    assert job.state == "skipped"
    assert job.reason == "Not compared, as no organ is known by its name: 2 structures."


def test_a_service_that_does_not_want_it_compares_nothing(clinic, ct, weights):
    clinic.orthanc.receive([seg(ct, clinic.ours(), [BRAINSTEM])])
    clinic.intake = new_intake(
        archive=clinic.archive,
        jobs=clinic.jobs,
        catalogue=Catalogue(default="quick", weights=weights),
        corrections=False,
    )

    assert clinic.stable() == []


def test_a_service_that_is_not_automatic_still_compares(clinic, ct, weights, small_phantom):
    clinic.orthanc.receive([seg(ct, clinic.ours(), [BRAINSTEM])])
    clinic.orthanc.receive(ct_slices(small_phantom, series_number=2))
    clinic.intake = new_intake(
        archive=clinic.archive,
        jobs=clinic.jobs,
        catalogue=Catalogue(default="quick", weights=weights),
        by_itself=ByItself(automatic=False, rules=()),
    )

    assert [job.kind for job in clinic.stable()] == ["compare"]
