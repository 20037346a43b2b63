"""All that a clinic may want of a CT comes back to a real Orthanc, in its study, and only once."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.integration.conftest import Orthanc
from tests.phantoms import ct_slices, make_phantom

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

EVERYTHING = {"Rtstruct": True, "VolumeReport": True, "ReviewPages": True}


@pytest.fixture(scope="module")
def ct() -> list[Dataset]:
    return ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64)))


def objects(orthanc: Orthanc, job: dict[str, Any]) -> dict[str, list[Dataset]]:
    """What a job says it has stored, read from Orthanc, by kind."""
    found: dict[str, list[Dataset]] = {}
    for result in job["results"]:
        dataset = pydicom.dcmread(BytesIO(orthanc.file(result["orthanc_id"])))
        assert dataset.SOPInstanceUID == result["sop_instance_uid"]
        found.setdefault(result["kind"], []).append(dataset)
    return found


def instances(orthanc: Orthanc) -> set[str]:
    """The identifiers of everything in Orthanc."""
    return set(orthanc.get("/instances"))


def references(dataset: Dataset) -> set[str]:
    """Every SOP Instance UID that an object refers to, however deep; not that of the study."""
    return {
        str(element.value)
        for element in dataset.iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    } - {str(dataset.StudyInstanceUID)}


def test_seg_rtstruct_report_and_pages_come_back_once_and_refer_to_what_is_there(
    new_orthanc: Callable[..., Orthanc], quick_model: Path, ct: list[Dataset]
) -> None:
    orthanc = new_orthanc(quick_model, **EVERYTHING)
    orthanc.start()
    orthanc.push(ct)
    job = orthanc.wait_for_job("done")
    orthanc.wait_until_quiet()  # our own objects make the study stable once more

    assert [one["id"] for one in orthanc.jobs()] == [job["id"]]
    found = objects(orthanc, job)
    assert {kind: len(those) for kind, those in found.items() if kind != "review"} == {
        "seg": 1,
        "rtstruct": 1,
        "sr": 1,
    }
    ours = [dataset for those in found.values() for dataset in those]
    assert len(instances(orthanc)) == len(ct) + len(ours)
    here = {str(dataset.SOPInstanceUID) for dataset in [*ct, *ours]}
    for dataset in ours:
        assert dataset.StudyInstanceUID == ct[0].StudyInstanceUID
        assert dataset.PatientID == ct[0].PatientID
        assert dataset.Manufacturer == "orthanc-oar"
        assert references(dataset) <= here
    [seg], [rtstruct], [report] = found["seg"], found["rtstruct"], found["sr"]
    assert str(seg.SOPInstanceUID) in references(report)
    assert references(rtstruct) == {str(image.SOPInstanceUID) for image in ct}
    [roi] = rtstruct.StructureSetROISequence
    assert float(roi.ROIVolume) == pytest.approx(job["volumes_ml"]["brainstem"], abs=1e-3)
    assert any("Brainstem is larger than usual" in warning for warning in job["warnings"])
    pages = sorted(found["review"], key=lambda page: int(page.InstanceNumber))
    assert [page.InstanceNumber for page in pages] == list(range(1, len(pages) + 1))


def test_an_rtstruct_wanted_later_joins_the_seg_that_is_there(
    new_orthanc: Callable[..., Orthanc], quick_model: Path, ct: list[Dataset]
) -> None:
    orthanc = new_orthanc(quick_model)
    orthanc.start()
    orthanc.push(ct)
    first = orthanc.wait_for_job("done")
    orthanc.wait_until_quiet()
    before = instances(orthanc)
    orthanc.stop()
    settings = json.loads((orthanc.folder / "orthanc.json").read_text())["Oar"]
    orthanc.configure({**settings, "Rtstruct": True})
    orthanc.start()
    orthanc.wait_until_quiet()
    assert instances(orthanc) == before, "a setting alone redoes no study"

    [asked] = orthanc.post(f"/oar/studies/{orthanc.study()}/jobs")["jobs"]
    second = orthanc.wait_for_job("done", job=asked["id"])
    orthanc.wait_until_quiet()

    [seg], [rtstruct] = objects(orthanc, second)["seg"], objects(orthanc, second)["rtstruct"]
    assert seg == objects(orthanc, first)["seg"][0]
    assert second["volumes_ml"] == pytest.approx(first["volumes_ml"])
    assert len(instances(orthanc) - before) == 1
    assert rtstruct.Modality == "RTSTRUCT"
    assert orthanc.post(f"/oar/studies/{orthanc.study()}/jobs")["jobs"] == [second]
    assert len(orthanc.jobs()) == 2
