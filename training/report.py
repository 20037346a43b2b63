"""The report of a preparation: what became a case, what did not and why, and what looks wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import TypeAdapter

from model.checkpoint import NOTICE
from model.organs import BY_NAME, ORGANS
from training.checks import Findings
from training.markdown import markdown_table


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """What is to be said about one case. Names of structures are as people wrote them."""

    case: str
    findings: Findings
    matched: dict[str, list[str]] = field(default_factory=dict)  # structure to organs
    unmatched: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # organ drawn but not usable: why


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something that did not become a case."""

    what: str  # "study" and the archive's identifier, or a file's or folder's name
    reason: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Of a whole preparation."""

    source: str
    cases: list[CaseReport]
    refused: list[Refusal]
    undrawn: list[str] = field(default_factory=list)  # CT series that nobody drew on
    nameless: int = 0  # cases of CTs without a Patient ID

    def json(self) -> bytes:
        """All of it, for machines."""
        return TypeAdapter(Report).dump_json(self, indent=1)

    def summary(self) -> str:
        """One line for the terminal."""
        organs = {name for case in self.cases for name in case.findings.volumes_ml}
        left_out = sum(len(_left_out(case)) for case in self.cases)
        doubts = sum(len(case.findings.doubts) for case in self.cases)
        return (
            f"{len(self.cases)} cases, {len(organs)} organs; {len(self.refused)} refused, "
            f"{left_out} times an organ left out, {doubts} to look at"
        )

    def markdown(self) -> str:
        """All of it, for people."""
        parts = [
            "# What was prepared\n",
            f"{NOTICE} Names of structures stand here as people wrote them: this file stays in "
            "the department.\n",
            f"- source: {self.source}\n- {self.summary()}\n"
            f"- CT series that nobody drew on: {len(self.undrawn)}\n"
            f"- cases without a Patient ID: {self.nameless}\n",
            "## Organs\n",
            markdown_table(
                ("organ", "cases", "ml, median", "ml, lowest to highest"), self._organs()
            ),
            "## Left out: the organ counts as unlabelled\n",
            markdown_table(
                ("case", "organ", "why"),
                [
                    (case.case, _tg263(organ), why)
                    for case in self.cases
                    for organ, why in _left_out(case).items()
                ],
            ),
            "## To look at: these are kept\n",
            markdown_table(
                ("case", "what"),
                [
                    (case.case, sentence)
                    for case in self.cases
                    for sentences in case.findings.doubts.values()
                    for sentence in sentences
                ],
            ),
            "## Refused\n",
            markdown_table(("what", "why"), [(one.what, one.reason) for one in self.refused]),
            "## CT series that nobody drew on, or whose structure set is not in their study\n",
            markdown_table(("what",), [(one,) for one in self.undrawn]),
            "## Names that mean an organ\n",
            markdown_table(("name", "organ", "cases"), self._matched()),
            "## Names that mean none: list any that are organs in a file for --names\n",
            markdown_table(("name", "cases"), self._unmatched()),
        ]
        return "\n".join(parts)

    def _organs(self) -> list[Sequence[object]]:
        rows: list[Sequence[object]] = []
        for organ in ORGANS:
            volumes = [case.findings.volumes_ml.get(organ.name) for case in self.cases]
            if ml := [volume for volume in volumes if volume is not None]:
                extent = f"{min(ml):.3g} to {max(ml):.3g}"
                rows.append((organ.tg263, len(ml), f"{np.median(ml):.3g}", extent))
        return rows

    def _matched(self) -> list[Sequence[object]]:
        found = Counter(
            (name, " and ".join(map(_tg263, organs)))
            for case in self.cases
            for name, organs in case.matched.items()
        )
        return [(*key, count) for key, count in found.most_common()]

    def _unmatched(self) -> list[Sequence[object]]:
        found = Counter(name for case in self.cases for name in set(case.unmatched))
        return list(found.most_common())


def _left_out(case: CaseReport) -> Mapping[str, str]:
    return case.left_out | case.findings.left_out


def _tg263(organ: str) -> str:
    return BY_NAME[organ].tg263
