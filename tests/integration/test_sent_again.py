"""A CT that is sent again under its old UIDs: its contours are those of what is there now."""

import json
from collections.abc import Callable
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from model.organs import BY_NAME
from plugin.objects.seg import read_seg
from tests.integration.conftest import Orthanc, wait_until
from tests.phantoms import Phantom, ct_slices, make_phantom
from tests.structure_sets import seg

SHIFT_MM = 50.0


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(shape=(30, 96, 112), spacing_mm=(6.0, 2.7, 2.3), seed=4)


@pytest.fixture(scope="module")
def ct(phantom: Phantom) -> list[Dataset]:
    return ct_slices(phantom)


def moved(ct: list[Dataset]) -> list[Dataset]:
    """The same slices, UIDs and all, with another table position to the patient's left."""
    others = deepcopy(ct)
    for one in others:
        x, y, z = one.ImagePositionPatient
        one.ImagePositionPatient = [x + SHIFT_MM, y, z]
    return others


def overwrites(orthanc: Orthanc) -> None:
    """What comes again takes the place of what is there; not so by Orthanc's default."""
    file = orthanc.folder / "orthanc.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"OverwriteInstances": True}))


def middle_of_contours(orthanc: Orthanc) -> float:
    """Along x in mm, of the one SEG that there is."""
    [seg] = orthanc.segs()
    labels = read_seg(orthanc.file(seg))
    voxels = np.argwhere(labels.array > 0)
    return float(labels.map_indices_to_reference(voxels)[:, 0].mean())


def delete_ct(orthanc: Orthanc) -> None:
    for series in orthanc.get("/series?expand"):
        if series["MainDicomTags"]["Modality"] == "CT":
            orthanc.request("DELETE", f"/series/{series['ID']}")


@pytest.mark.parametrize("overwrite", [False, True], ids=["deleted", "overwritten"])
def test_a_corrected_ct_gets_contours_of_its_own_and_the_wrong_ones_go(
    new_orthanc: Callable[..., Orthanc], quick_model: Path, ct: list[Dataset], overwrite: bool
) -> None:
    orthanc = new_orthanc(quick_model)
    if overwrite:
        overwrites(orthanc)
    orthanc.start()
    orthanc.push(ct)
    first = orthanc.wait_for_job("done")
    before = middle_of_contours(orthanc)
    orthanc.wait_until_quiet()

    if not overwrite:
        delete_ct(orthanc)
    orthanc.push(moved(ct))
    wait_until(lambda: len(orthanc.jobs()) == 2, "a second job")
    second = orthanc.wait_for_job("done", job=orthanc.jobs()[0]["id"])
    orthanc.wait_until_quiet()

    assert middle_of_contours(orthanc) == pytest.approx(before + SHIFT_MM, abs=0.5)
    replaced = orthanc.get(f"/oar/jobs/{first['id']}")
    assert replaced["state"] == "skipped"
    assert "came again with the same UIDs and another content" in replaced["reason"]
    assert orthanc.post(f"/oar/studies/{orthanc.study()}/jobs")["jobs"] == [second]


def test_a_new_queue_does_not_take_the_contours_of_the_ct_as_it_was_for_those_of_the_corrected(
    new_orthanc: Callable[..., Orthanc], quick_model: Path, ct: list[Dataset]
) -> None:
    orthanc = new_orthanc(quick_model, Rtstruct=True, CatchUpDays=0)
    orthanc.start()
    orthanc.push(ct)
    orthanc.wait_for_job("done")
    before = middle_of_contours(orthanc)
    orthanc.wait_until_quiet()
    orthanc.stop()
    for file in orthanc.folder.rglob("oar-jobs.db*"):
        file.unlink()
    orthanc.start()
    assert orthanc.jobs() == []

    delete_ct(orthanc)
    orthanc.push(moved(ct))
    orthanc.wait_for_job("done")

    assert middle_of_contours(orthanc) == pytest.approx(before + SHIFT_MM, abs=0.5)


def test_a_study_that_was_deleted_and_is_sent_again_gets_its_result_again(
    new_orthanc: Callable[..., Orthanc], quick_model: Path, ct: list[Dataset]
) -> None:
    orthanc = new_orthanc(quick_model)
    orthanc.start()
    orthanc.push(ct)
    orthanc.wait_for_job("done")
    segs = orthanc.segs()
    orthanc.wait_until_quiet()
    orthanc.request("DELETE", f"/studies/{orthanc.study()}")

    orthanc.push(ct)
    wait_until(lambda: orthanc.segs(), "the result")
    orthanc.wait_until_quiet()

    assert orthanc.segs() == segs
    [job] = orthanc.jobs()
    assert job["state"] == "done"


def test_a_study_deleted_while_it_was_segmented_gets_a_result_when_it_is_sent_again(
    new_orthanc: Callable[..., Orthanc], slow_model: Path, ct: list[Dataset]
) -> None:
    orthanc = new_orthanc(slow_model)
    orthanc.start()
    orthanc.push(ct)
    orthanc.wait_for_job("running")
    orthanc.request("DELETE", f"/studies/{orthanc.study()}")
    orthanc.wait_for_job("skipped")

    orthanc.push(ct)
    wait_until(lambda: orthanc.segs(), "the result")

    orthanc.wait_until_quiet()
    assert orthanc.jobs()[0]["state"] == "done"


def test_a_ct_that_is_sent_again_as_it_was_is_not_done_again(
    new_orthanc: Callable[..., Orthanc], quick_model: Path, ct: list[Dataset]
) -> None:
    orthanc = new_orthanc(quick_model)
    overwrites(orthanc)
    orthanc.start()
    orthanc.push(ct)
    first = orthanc.wait_for_job("done")
    orthanc.wait_until_quiet()

    orthanc.push(ct)
    orthanc.wait_until_quiet()

    [job] = orthanc.jobs()
    assert job == first | {"received": job["received"]}
    assert len(orthanc.segs()) == 1


def test_a_result_that_a_person_removed_stays_away(
    new_orthanc: Callable[..., Orthanc], quick_model: Path, ct: list[Dataset]
) -> None:
    orthanc = new_orthanc(quick_model)
    orthanc.start()
    orthanc.push(ct)
    orthanc.wait_for_job("done")
    orthanc.wait_until_quiet()
    [seg] = orthanc.segs()
    orthanc.request("DELETE", f"/instances/{seg}")
    orthanc.push(ct[:1])  # which the study has: it becomes stable once more
    orthanc.wait_until_quiet()

    assert orthanc.segs() == []


def test_a_structure_set_that_was_corrected_under_its_old_uid_is_compared_anew(
    new_orthanc: Callable[..., Orthanc], quick_model: Path, ct: list[Dataset], phantom: Phantom
) -> None:
    orthanc = new_orthanc(quick_model)
    overwrites(orthanc)
    orthanc.start()
    orthanc.push(ct)
    orthanc.wait_for_job("done")
    [ours] = orthanc.segs()
    labels = read_seg(orthanc.file(ours), on=phantom.ct)
    drawing = seg(ct, labels, [BY_NAME["brainstem"]])

    store(orthanc, drawing)
    wait_until(lambda: dice(orthanc) == [1.0], "the structure set is compared")
    labels.array[: len(labels.array) // 2] = 0
    corrected = seg(ct, labels, [BY_NAME["brainstem"]])
    corrected.SOPInstanceUID = drawing.SOPInstanceUID
    corrected.file_meta.MediaStorageSOPInstanceUID = drawing.SOPInstanceUID
    corrected.SeriesInstanceUID = drawing.SeriesInstanceUID
    store(orthanc, corrected)

    wait_until(lambda: dice(orthanc) != [1.0], "it is compared anew")
    [anew] = dice(orthanc)
    assert 0 < anew < 1


def dice(orthanc: Orthanc) -> list[float]:
    return [one["dice"] for one in orthanc.get("/oar/quality")["comparisons"]]


def store(orthanc: Orthanc, drawing: Dataset) -> None:
    file = BytesIO()
    drawing.save_as(file, enforce_file_format=True)
    status, _, _ = orthanc.request("POST", "/instances", file.getvalue())
    assert status == 200
