"""An Orthanc whose own configuration does not keep what it is given."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from tests.integration.conftest import Orthanc
from tests.phantoms import ct_slices, make_phantom

ONLY_CT = """
function ReceivedInstanceFilter(dicom, origin, info)
  return dicom.Modality == 'CT'
end
"""

JPEG_WITH_LOSS = "1.2.840.10008.1.2.4.51"


@pytest.fixture(scope="module")
def ct() -> list[Dataset]:
    return ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64)))


def segmented(orthanc: Orthanc, ct: list[Dataset], **settings: Any) -> dict[str, Any]:
    """The job of a CT that was sent to an Orthanc with these settings of its own."""
    file = orthanc.folder / "orthanc.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    orthanc.start()
    orthanc.push(ct)
    return orthanc.wait_for_job("failed", "done", "skipped")


@pytest.mark.parametrize("more", [{}, {"Rtstruct": True}], ids=["SEG", "SEG and RTSTRUCT"])
def test_a_filter_that_lets_no_result_pass_is_named(
    new_orthanc: Callable[..., Orthanc], quick_model: Path, ct: list[Dataset], more: dict[str, bool]
) -> None:
    orthanc = new_orthanc(quick_model, MaxAttempts=1, **more)
    (orthanc.folder / "filter.lua").write_text(ONLY_CT)

    job = segmented(orthanc, ct, LuaScripts=[str(orthanc.folder / "filter.lua")])

    assert job["state"] == "failed"
    assert "FilteredOut: a ReceivedInstanceFilter" in job["reason"]
    assert orthanc.segs() == []


def test_labels_that_would_be_changed_by_lossy_compression_are_taken_back(
    new_orthanc: Callable[..., Orthanc], quick_model: Path, ct: list[Dataset]
) -> None:
    orthanc = new_orthanc(quick_model, MaxAttempts=1, SegmentationType="LABELMAP")

    job = segmented(orthanc, ct, IngestTranscoding=JPEG_WITH_LOSS)

    assert job["state"] == "failed"
    assert "IngestTranscoding must be without loss" in job["reason"]
    assert {one["MainDicomTags"]["Modality"] for one in orthanc.get("/series?expand")} == {"CT"}
