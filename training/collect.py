"""From an archive to folders of cases: patients numbered, nothing of their headers written.

One CT of each patient is taken, so that a split of cases is a split of patients. CTs of one Patient
ID, study or frame of reference are of one patient. Each finished study is a line in the journal; a
killed run does the study again that it was killed in.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter
from rich.progress import track

from plugin.archive import Archive, UnknownResource
from plugin.ct.series_rules import SeriesRules
from plugin.drawn.structure_names import StructureNames
from training.archive_cases import DrawnCt, Refused, look_at_study, read_drawn_ct
from training.checks import examine, nothing_left
from training.journal import Journal
from training.labelled import voxels_of, write_case
from training.report import CaseReport, Refusal

STUDY = "study"
"""Kind of the journal's lines about finished studies."""

KEY = "key.csv"
"""Which case came from where; in the journal's folder, not in that of the cases."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """One case, and where it came from."""

    named: bool  # there is a Patient ID
    series: str  # the archive's identifier of the CT
    structure_set: str  # SOP Instance UID
    report: CaseReport


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What became of one study."""

    study: str  # the archive's identifier
    cases: tuple[Collected, ...] = ()
    refused: tuple[Refusal, ...] = ()
    undrawn: tuple[str, ...] = ()  # the archive's identifiers of CT series that nobody drew on
    known: dict[str, str] = field(default_factory=dict)  # pseudonym of what tells a patient to case


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Fills a folder of cases from an archive."""

    archive: Archive
    journal: Journal
    cases: Path
    rules: SeriesRules
    names: StructureNames
    unknown_hu: float | None = None  # voxels of exactly this value hold no information

    def collect(self, studies: Sequence[str]) -> list[Finished]:
        """Read every study that the journal does not know yet; return what became of each.

        Raises:
            ArchiveError: the archive does not answer; the same call later goes on.
        """
        adapter = TypeAdapter(Finished)
        done = [adapter.validate_python(value) for value in self.journal.of_kind(STUDY)]
        known = {one.study for one in done}
        todo = [study for study in studies if study not in known]
        for study in track(todo, "Collecting", disable=not sys.stderr.isatty()):
            done.append(self._study(study, done))
            self.journal.add(STUDY, adapter.dump_python(done[-1], mode="json"))
        self._write_key(done)
        return done

    def _study(self, study: str, before: Sequence[Finished]) -> Finished:
        try:
            found = look_at_study(self.archive, study, self.names)
        except UnknownResource as why:  # deleted since it was listed
            return Finished(study=study, refused=(Refusal(what=f"study {study}", reason=str(why)),))
        known = {key: case for one in before for key, case in one.known.items()}
        number = sum(len(one.cases) for one in before)
        cases, new = list[Collected](), dict[str, str]()
        refused = [
            Refusal(what=f"study {study}: {which}", reason=reason)
            for which, reason in found.refused
        ]
        for drawn in found.drawn:
            keys = [self.journal.pseudonym(key) for key in drawn.known_by]
            taken = sorted({known[key] for key in keys if key in known})
            try:
                cases.append(self._take(drawn, f"{number + len(cases) + 1:04d}", taken))
                taken = [cases[-1].report.case]
            except (Refused, UnknownResource) as why:
                what = f"study {study}: CT {drawn.series.id}"
                refused.append(Refusal(what=what, reason=str(why)))
            if taken:
                theirs = dict.fromkeys(keys, taken[0])
                known |= theirs
                new |= theirs
        return Finished(
            study=study,
            cases=tuple(cases),
            refused=tuple(refused),
            undrawn=found.undrawn,
            known=new,
        )

    def _take(self, drawn: DrawnCt, name: str, taken: Sequence[str]) -> Collected:
        """Write a case, unless its patient is one already: `taken`.

        Raises:
            Refused: there is none to write.
        """
        if taken:
            raise Refused(
                "Another CT of this patient, study or frame of reference is in already, as "
                f"{' and '.join(taken)}."
            )
        case, organs = read_drawn_ct(self.archive, drawn, name, rules=self.rules, names=self.names)
        if self.unknown_hu is not None:
            case = replace(case, unknown=voxels_of(self.unknown_hu, case.ct))
        case, findings = examine(case)
        left_out = {organ.name: why for organ, why in organs.left_out.items()}
        if not case.labelled:
            raise Refused(f"Of a CT {nothing_left(left_out | findings.left_out)}.")
        write_case(case, self.cases)
        return Collected(
            named=bool(drawn.patient),
            series=drawn.series.id,
            structure_set=drawn.sop_instance_uid,
            report=CaseReport(
                case=name,
                findings=findings,
                matched={n: [organ.name for organ in found] for n, found in organs.matched.items()},
                unmatched=list(organs.unmatched),
                left_out=left_out,
            ),
        )

    def _write_key(self, done: Sequence[Finished]) -> None:
        with (self.journal.folder / KEY).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("case", "study", "series", "structure_set"))
            for one in done:
                for case in one.cases:
                    writer.writerow((case.report.case, one.study, case.series, case.structure_set))
