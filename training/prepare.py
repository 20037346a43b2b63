"""Prepare labelled cases: `python -m training.prepare SOURCE --out DIR [--spacing 3 1 1]`.

SOURCE is one of
  - a folder of cases: a folder per patient with data.nii.gz (HU), label.nii.gz (label numbers in
    the order of model/organs.py, as in StructSeg 2019) and optionally labelled.json;
  - a folder of DICOM, at any depth: CTs with RTSTRUCT or SEG, of any number of patients;
  - the address of an Orthanc, such as http://physicist@pacs:8042, whose password is asked for or
    taken from --password-file or ~/.netrc.

Every CT goes through the code that the plugin uses. From DICOM and Orthanc, DIR/cases gets folders
of cases that `training.evaluate` reads too, with numbers for names and nothing of the headers; the
faces are still in the images. DIR-private gets report.md, which says what matched, what did not and
what looks wrong, and key.csv, which says whose each case is: it stays in the department.

A run that was stopped goes on with the same command; what came into SOURCE since is left for
another DIR, as is what was refused and is mended now. To leave out more than the report does, take
organs from labelled.json of a case and prepare the folder of cases anew. Research use only.
"""

import argparse
import logging
import shutil
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.progress import track

from model.preprocess import ORIENTATION, WINDOW_HU, Preprocessing, resample_labels
from plugin.drawn.structure_names import StructureNames
from plugin.rest_archive import RestArchive
from training.cases import UNKNOWN, Case, Dataset, in_table_order, twins
from training.checks import examine, nothing_left, without
from training.collect import Collector, Finished
from training.command_line import command, described_by, finite
from training.filling import filling_hu, not_called_unknown
from training.fingerprint import CaseFingerprint, Fingerprint, fingerprint_of
from training.journal import Journal, private_folder
from training.labelled import COLLECTED, LabelledCt, read_case
from training.report import CaseReport, Refusal, Report
from training.sources import Options, Source, open_source

CONTENT, MEASURED = "content", "measured"
"""Kinds of the journal's lines: what there was at the first start, and each case when measured."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A case folder that was read, or the reason why it is not used."""

    name: str
    fingerprint: CaseFingerprint | None = None
    labelled: tuple[str, ...] = ()  # the organs that are kept
    report: CaseReport | None = None  # if its labels were checked now
    filling_hu: float | None = None  # as `training.filling` has it
    refused: str = ""


def prepare(case: LabelledCt, preprocessing: Preprocessing) -> Case:
    """Bring a labelled CT to the network's grid and grey values."""
    image = preprocessing.forward(case.ct)
    grid = image.get_geometry()
    labels = resample_labels(case.labels.to_patient_orientation(ORIENTATION), grid).array
    if case.unknown is not None:
        unknown = case.unknown.to_patient_orientation(ORIENTATION)
        labels[resample_labels(unknown, grid).array == 1] = UNKNOWN
    return Case(
        name=case.name,
        image=image.array,
        labels=labels,
        labelled=case.labelled,
        ct_sha256=case.ct_sha256,
    )


def collect(
    source: Source, journal: Journal, cases: Path, options: Options, names: StructureNames
) -> list[Finished]:
    """Bring what was drawn in an archive into folders of cases, as far as it is not there yet."""
    if source.archive is None:
        return []
    collector = Collector(
        archive=source.archive,
        journal=journal,
        cases=cases,
        rules=options.series,
        names=names,
        unknown_hu=options.unknown_hu,
    )
    return collector.collect(at_first(source, journal, options))


def at_first(source: Source, journal: Journal, options: Options) -> list[str]:
    """What the source held when the preparation was begun: studies, or folders of cases.

    Raises:
        ValueError: it holds nothing now.
    """
    found = source.content(options.query)
    if not found:  # a share that is away, or a query with a mistake: not to be noted for good
        raise ValueError(f"{source.name} holds no study to prepare, or none that is asked for.")
    if not journal.of_kind(CONTENT):
        journal.add(CONTENT, found)
    [content] = journal.of_kind(CONTENT)
    return list(content)


def examine_cases(
    folders: Sequence[Path], journal: Journal, options: Options, *, checked: bool
) -> list[Examined]:
    """Read every case once: check its labels, unless they are `checked` already, and measure it."""
    adapter = TypeAdapter(Examined)
    done = {one.name: one for one in map(adapter.validate_python, journal.of_kind(MEASURED))}
    todo = [folder for folder in folders if folder.name not in done]
    for folder in track(todo, "Measuring", disable=not sys.stderr.isatty()):
        try:
            case, report = read_case(folder, options.unknown_hu), None
            if not checked:
                case, findings = examine(case)
                report = CaseReport(case=case.name, findings=findings)
            if not case.labelled:
                left_out = {} if report is None else report.findings.left_out
                raise ValueError(f"{case.name}: {nothing_left(left_out)}")
            one = Examined(
                name=case.name,
                fingerprint=fingerprint_of(
                    case.name, case.ct, case.labels, case.labelled, options.window_hu
                ),
                labelled=tuple(organ.name for organ in case.labelled),
                report=report,
                filling_hu=filling_hu(case.ct),
            )
        except ValueError as why:
            if not folder.is_dir():  # a share that is away: not to be refused for good
                raise FileNotFoundError(
                    f"{folder} is not there any more; the same command goes on."
                ) from why
            one = Examined(name=folder.name, refused=str(why))
        journal.add(MEASURED, adapter.dump_python(one, mode="json"))
        done[one.name] = one
    return [done[folder.name] for folder in folders]


def prepare_cases(
    folders: dict[str, Path], examined: Sequence[Examined], out: Path, options: Options
) -> Dataset:
    """Prepare the cases that are not in `out` yet, each whole or not at all."""
    used = [one for one in examined if one.fingerprint is not None]
    fingerprint = Fingerprint(
        window_hu=options.window_hu,
        cases=tuple(one.fingerprint for one in used if one.fingerprint is not None),
    )
    fingerprint.write(out)
    mean, std = fingerprint.body_hu
    preprocessing = options.like or Preprocessing(
        spacing_mm=options.spacing_mm or fingerprint.spacing_mm(),
        window_hu=options.window_hu,
        mean_hu=round(mean, 1),
        std_hu=round(std, 1),
    )
    organs = {name for one in used for name in one.labelled}
    if options.organs is not None:
        organs &= set(options.organs)
    part = out / ".part"
    todo = [one for one in used if not (out / one.name).exists()]
    for one in track(todo, "Preparing", disable=not sys.stderr.isatty()):
        case = read_case(folders[one.name], options.unknown_hu)
        case = without(case, [organ for organ in case.labelled if organ.name not in one.labelled])
        prepare(case, preprocessing).write(part)
        (part / one.name).rename(out / one.name)
    shutil.rmtree(part, ignore_errors=True)
    dataset = Dataset(
        preprocessing=preprocessing,
        organs=in_table_order(organs),
        cases=tuple(sorted(one.name for one in used)),
    )
    dataset.write(out)
    return dataset


def run(args: argparse.Namespace) -> Report:
    """Do what the command line says, as far as it is not done yet.

    Raises:
        Unusable, OSError, ValueError: what is wrong, in one sentence.
    """
    names = StructureNames.read(args.names)
    with ExitStack() as stack:
        source = open_source(args.source, password_file=args.password_file, ca_file=args.ca_file)
        if isinstance(source.archive, RestArchive):
            stack.enter_context(source.archive)
        elif args.query:
            raise ValueError(f"--query asks an Orthanc, and {source.name} is a folder.")
        options = Options.asked(args, source.name)
        values = TypeAdapter(Options).dump_python(options, mode="json")
        journal = stack.enter_context(Journal(args.out, values))
        finished = collect(source, journal, args.out / COLLECTED, options, names)
        if source.archive is None:
            folders = [Path(source.name) / n for n in at_first(source, journal, options)]
        else:
            folders = [
                args.out / COLLECTED / case.report.case for one in finished for case in one.cases
            ]
        examined = examine_cases(folders, journal, options, checked=source.archive is not None)
        fillings = [one.filling_hu for one in examined if one.fingerprint is not None]
        if sentence := not_called_unknown(fillings, options.unknown_hu):
            print(f"training.prepare: {sentence}", file=sys.stderr)
        report = report_on(journal, source, finished, examined)
        if any(one.fingerprint is not None for one in examined):
            by_name = {folder.name: folder for folder in folders}
            dataset = prepare_cases(by_name, examined, args.out, options)
            if sentence := twins(args.out, dataset.cases):  # nothing trains on them
                print(f"training.prepare: {sentence}", file=sys.stderr)
        return report


def report_on(
    journal: Journal, source: Source, finished: Sequence[Finished], examined: Sequence[Examined]
) -> Report:
    """Write report.md and report.json beside the journal."""
    report = Report(
        source=source.name,
        cases=[
            *(case.report for one in finished for case in one.cases),
            *(one.report for one in examined if one.report is not None),
        ],
        refused=[
            *(refusal for one in finished for refusal in one.refused),
            *(Refusal(what=one.name, reason=one.refused) for one in examined if one.refused),
            *source.passed_over(),
        ],
        undrawn=[f"study {one.study}: CT {ct}" for one in finished for ct in one.undrawn],
        nameless=sum(not case.named for one in finished for case in one.cases),
    )
    (journal.folder / "report.md").write_text(report.markdown())
    (journal.folder / "report.json").write_bytes(report.json())
    return report


def attribute(text: str) -> tuple[str, str]:
    """A part of --query."""
    keyword, equals, value = text.partition("=")
    if not (keyword and equals):
        raise argparse.ArgumentTypeError(f"expected Keyword=value, got {text!r}")
    return keyword, value


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = described_by(__doc__)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar="MM",
        help="of the network's grid, z y x (default: what the data ask for, see training.plan)",
    )
    parser.add_argument(
        "--window",
        type=finite,
        nargs=2,
        metavar="HU",
        help="clip to (default: {:g} {:g})".format(*WINDOW_HU),
    )
    parser.add_argument(
        "--like",
        type=Path,
        metavar="MODEL",
        help="grid, grey values and organs of this model's folder, to train it further (`start`)",
    )
    parser.add_argument(
        "--unknown-hu", type=finite, help="voxels of exactly this value hold no information"
    )
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="TOML of structure names, as plugin/drawn/structure_names.toml, that override its",
    )
    parser.add_argument(
        "--configuration",
        type=Path,
        metavar="FILE",
        help="Orthanc's, whose Oar.Series says which CTs are suitable",
    )
    parser.add_argument(
        "--query",
        type=attribute,
        nargs="+",
        default=[],
        metavar="KEYWORD=VALUE",
        help="only studies with these DICOM attributes, such as StudyDate=20240101- "
        "SeriesDescription=*neck*; of an Orthanc",
    )
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="of the user at Orthanc")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="certificates, for https")
    return parser.parse_args(argv)


@command("training.prepare", stopped="the same command goes on")
def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    for library in ("pydicom", "highdicom"):  # their remarks quote headers
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # as above
        report = run(args)
    print(f"{report.summary()}: {private_folder(args.out.resolve()) / 'report.md'}")
    if report.undrawn:
        print(
            f"Nobody drew on {len(report.undrawn)} CT series, or not in their study; the report "
            "says on which."
        )
    if report.nameless > 1:
        print(
            f"{report.nameless} cases are of CTs without a Patient ID: if two of them are of one "
            "patient, he may train what he measures. See key.csv."
        )
    if report.refused or report.undrawn:
        print("What is not taken stays so in this DIR: mend it and prepare into another one.")
    return 0 if report.cases else 1


if __name__ == "__main__":
    sys.exit(main())
