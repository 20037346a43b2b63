"""The report says in tables what a physicist asks of a preparation."""

import json

from training.checks import Findings
from training.report import CaseReport, Refusal, Report

REPORT = Report(
    source="http://pacs:8042",
    cases=[
        CaseReport(
            case="0001",
            findings=Findings(
                left_out={"lens_left": "it does not lie on its side of the patient"},
                doubts={"brainstem": ["Brainstem is cut by the upper end of the scan"]},
                volumes_ml={"brainstem": 20.0, "spinal_cord": 8.0},
            ),
            matched={"Brain | Stem\n": ["brainstem"], "Cord": ["spinal_cord"]},
            unmatched=["PTV", "PTV", "GTV"],
            left_out={"parotid_left": "several structures are this organ: A, B"},
        ),
        CaseReport(
            case="0002",
            findings=Findings(left_out={}, doubts={}, volumes_ml={"brainstem": 30.0}),
            matched={"Brain | Stem\n": ["brainstem"], "M": ["mandible_left", "mandible_right"]},
            unmatched=["PTV"],
        ),
    ],
    refused=[Refusal(what="study-9", reason="Another frame of reference.")],
    undrawn=["study-8: CT series-1"],
)


def test_the_report_counts_names_organs_and_what_was_left_out() -> None:
    lines = REPORT.markdown().splitlines()
    for line in (
        "- source: http://pacs:8042",
        "- CT series that nobody drew on: 1",
        "| Brainstem | 2 | 25 | 20 to 30 |",
        "| 0001 | Parotid_L | several structures are this organ: A, B |",
        "| 0001 | Lens_L | it does not lie on its side of the patient |",
        "| 0001 | Brainstem is cut by the upper end of the scan |",
        "| study-8: CT series-1 |",
        "| study-9 | Another frame of reference. |",
        "| M | Bone_Mandible_L and Bone_Mandible_R | 1 |",
        "| PTV | 2 |",
    ):
        assert line in lines, line
    assert any("Research use only" in line for line in lines)


def test_a_name_cannot_leave_its_cell() -> None:
    assert "| Brain \\| Stem | Brainstem | 2 |" in REPORT.markdown().splitlines()


def test_the_summary_is_one_line_and_the_json_is_all() -> None:
    assert REPORT.summary() == (
        "2 cases, 2 organs; 1 refused, 2 times an organ left out, 1 to look at"
    )
    values = json.loads(REPORT.json())
    assert values["cases"][0]["unmatched"] == ["PTV", "PTV", "GTV"]
    assert values["refused"] == [{"what": "study-9", "reason": "Another frame of reference."}]
