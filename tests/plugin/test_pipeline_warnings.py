"""What a person is told with a result, or instead of one."""

import math
from copy import copy
from dataclasses import replace
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from model.postprocess import OutOfOrder, clean
from plugin.settings import Settings
from tests.fake_orthanc import FakeOrthanc
from tests.plugin.test_pipeline import ALL, run


def test_a_model_that_learned_from_no_patient_says_so_first_and_wherever_a_system_looks(
    orthanc, quick
):
    made_up = copy(quick)
    made_up.card = replace(quick.card, synthetic=True)

    outcome = run(orthanc, made_up, settings=Settings(Rtstruct=True))

    assert outcome.warnings[0] == "quick learned from synthetic patients: of no use on a real one"
    found = [pydicom.dcmread(BytesIO(orthanc.files[one.orthanc_id])) for one in outcome.results]
    assert {one.Modality for one in found} == {"SEG", "RTSTRUCT"}
    for one in found:
        assert one.SeriesDescription.startswith("SYNTHETIC, not for patients, research use only")
    assert found[1].StructureSetLabel.startswith("NOT FOR USE ")


def test_what_is_doubted_is_told_everywhere(orthanc, quick):
    outcome = run(orthanc, quick, settings=ALL)

    said = " ".join(outcome.warnings)
    assert "Brainstem is larger than usual" in said
    assert "Brainstem is cut by" in said
    files = {result.kind: orthanc.files[result.orthanc_id] for result in outcome.results}
    for sentence in outcome.warnings:
        assert sentence.encode() in files["seg"]
        assert sentence.encode() in files["rtstruct"]
        assert sentence.encode() in files["sr"]


def test_a_pair_that_was_left_out_is_told_everywhere(orthanc, quick, monkeypatch):
    left_out = "Eye_L and Eye_R were left out: they were not found on their sides"

    def clean_and_leave_out(*given):
        labels, warnings = clean(*given)
        return labels, (*warnings, left_out)

    monkeypatch.setattr("model.segmenter.clean", clean_and_leave_out)

    outcome = run(orthanc, quick, settings=ALL)

    assert left_out in outcome.warnings
    files = {result.kind: orthanc.files[result.orthanc_id] for result in outcome.results}
    for kind in ("seg", "rtstruct", "sr"):
        assert left_out.encode() in files[kind], kind


def test_organs_that_lie_as_in_no_patient_are_the_studys_fault_and_nothing_is_stored(
    orthanc, quick, monkeypatch
):
    def upside_down(*given):
        raise OutOfOrder("Brainstem was not found above SpinalCord")

    monkeypatch.setattr("model.segmenter.clean", upside_down)

    outcome = run(orthanc, quick, settings=ALL)

    assert (outcome.state, outcome.results) == ("skipped", ())
    assert outcome.reason == "Brainstem was not found above SpinalCord"
    assert {one.Modality for one in orthanc.headers.values()} == {"CT"}


def turn(ct: list[Dataset], degrees: float) -> None:
    """About the patient's left-right axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    for one in ct:
        across, down = np.reshape(one.ImageOrientationPatient, (2, 3)).astype(float)
        cosines = np.concatenate([turned @ across, turned @ down])
        one.ImageOrientationPatient = cosines.round(9).tolist()
        one.ImagePositionPatient = (turned @ one.ImagePositionPatient).round(6).tolist()


@pytest.mark.parametrize(
    ("degrees", "rtstruct", "says"),
    [(20.0, True, True), (20.0, False, False), (0.8, True, True), (0.3, True, False)],
)
def test_contours_that_are_not_axial_say_so(quick, ct, degrees, rtstruct, says):
    turn(ct, degrees)
    orthanc = FakeOrthanc()
    orthanc.receive(ct)

    outcome = run(orthanc, quick, settings=Settings(Rtstruct=rtstruct))

    assert outcome.state == "done", outcome.reason
    said = [one for one in outcome.warnings if "degrees from axial, and so are" in one]
    assert [one.split()[3] for one in said] == ([f"{degrees}"] if says else [])
