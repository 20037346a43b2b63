"""`training.prepare` stopped, asked again or asked for what cannot be."""

import errno
import gzip
import re
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.phantoms import ct_slices, write_case
from tests.structure_sets import rtstruct
from tests.training.department import contours, patient, reasons, report, run, write
from training import collect, prepare
from training.cases import Dataset
from training.journal import Journal, OtherRun


def three_patients(folder: Path) -> Path:
    for seed in (1, 2, 3):
        one = patient(seed)
        write(folder / str(seed), one, rtstruct(ct_slices(one), contours(one)))
    return folder


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def everything(out: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file() and not file.name.endswith(".gz")  # gzip notes the time
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "step"),
    [(collect, "write_case"), (prepare, "fingerprint_of"), (prepare, "prepare")],
    ids=["collecting", "measuring", "preparing"],
)
def test_a_killed_run_goes_on_where_it_stopped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: Any,
    step: str,
) -> None:
    source = three_patients(tmp_path / "in")
    run(source, tmp_path / "whole")
    whole = getattr(module, step)
    calls = 0

    def killed_at_second(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(module, step, killed_at_second)
    assert run(source, tmp_path / "out") == 130
    assert "stopped; the same command goes on" in capsys.readouterr().err
    with (tmp_path / "out-private" / "journal.jsonl").open("a") as journal:
        journal.write('{"kind": "study", "val')  # a line that was being written
    assert run(source, tmp_path / "out") == 0

    assert calls == 4  # the first is not done again
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")
    assert report(tmp_path / "out") == report(tmp_path / "whole")


def test_a_finished_run_does_nothing_again_and_takes_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, late = patient(1), patient(2)
    write(tmp_path / "in" / "1", one, rtstruct(ct_slices(one), contours(one)))
    run(tmp_path / "in", tmp_path / "out")
    before = everything(tmp_path / "out")
    write(tmp_path / "in" / "2", late, rtstruct(ct_slices(late), contours(late)))
    for module, step in ((collect, "read_drawn_ct"), (prepare, "read_case")):
        monkeypatch.setattr(module, step, None)

    assert run(tmp_path / "in", tmp_path / "out") == 0

    assert everything(tmp_path / "out") == before


def test_runs_with_other_options_do_not_mix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = patient(1)
    write_case(one, tmp_path / "in" / "pt_1")
    run(tmp_path / "in", tmp_path / "out")
    before = everything(tmp_path / "out")

    assert run(tmp_path / "in", tmp_path / "out", "--unknown-hu", "-1024") == 1
    assert re.search(r"out was begun with other options \(unknown_hu\)", capsys.readouterr().err)
    assert everything(tmp_path / "out") == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert run(tmp_path / "in", tmp_path / "full") == 1
    assert "is not empty, and nothing says how it was made" in capsys.readouterr().err
    with Journal(tmp_path / "busy", {}), pytest.raises(OtherRun, match="Another run is at work"):
        Journal(tmp_path / "busy", {})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((".", "--query", "Modality=CT"), " is a folder."),
        (("nowhere",), "nowhere is no folder, and no address of an Orthanc either."),
        (("ftp://pacs",), "That is no address of an Orthanc, such as http://pacs:8042."),
        ((".", "--names", "no.toml"), "no.toml cannot be read: No such file or directory."),
        ((".", "--configuration", "no.json"), "no.json cannot be read: No such file or directory."),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments[0], tmp_path / "out", *arguments[1:]) == 1
    said = capsys.readouterr().err
    assert said.startswith("training.prepare: ")
    assert said.endswith(f"{sentence}\n")
    assert said.count("\n") == 1


def test_a_share_that_is_away_for_a_moment_costs_no_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    for seed in (1, 2, 3):
        write_case(patient(seed), source / f"pt_{seed}")
    fingerprint_of = prepare.fingerprint_of

    def goes_away(*arguments: Any) -> Any:
        if source.exists():
            source.rename(tmp_path / "away")
        return fingerprint_of(*arguments)

    monkeypatch.setattr(prepare, "fingerprint_of", goes_away)
    assert run(source, tmp_path / "out") == 1
    assert "pt_2 is not there any more" in capsys.readouterr().err
    monkeypatch.undo()
    (tmp_path / "away").rename(source)

    assert run(source, tmp_path / "out") == 0

    assert Dataset.read(tmp_path / "out").cases == ("pt_1", "pt_2", "pt_3")
    assert reasons(tmp_path / "out") == []


def test_a_share_that_fails_while_a_file_is_read_costs_no_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    for seed in (1, 2):
        write_case(patient(seed), source / f"pt_{seed}")
    whole = gzip.open

    def fails(path: Path, *rest: Any) -> Any:
        if path == source / "pt_2" / "label.nii.gz":
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return whole(path, *rest)

    monkeypatch.setattr("training.labelled.gzip.open", fails)
    assert run(source, tmp_path / "out") == 1
    assert "Stale file handle" in capsys.readouterr().err
    monkeypatch.undo()

    assert run(source, tmp_path / "out") == 0

    assert Dataset.read(tmp_path / "out").cases == ("pt_1", "pt_2")


def test_a_share_that_is_empty_when_a_run_goes_on_costs_no_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    three_patients(tmp_path / "in")
    with monkeypatch.context() as patched:
        patched.setattr(collect, "look_at_study", killed)
        assert run(tmp_path / "in", tmp_path / "out") == 130
    (tmp_path / "in").rename(tmp_path / "away")
    (tmp_path / "in").mkdir()
    assert run(tmp_path / "in", tmp_path / "out") == 1
    assert "holds no study to prepare" in capsys.readouterr().err
    (tmp_path / "in").rmdir()
    (tmp_path / "away").rename(tmp_path / "in")

    assert run(tmp_path / "in", tmp_path / "out") == 0

    assert reasons(tmp_path / "out") == []


def test_a_case_that_a_full_disk_cut_short_is_not_kept(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: ITK says nothing about either."""
    one = patient(1)
    write(tmp_path / "in", one, rtstruct(ct_slices(one), contours(one)))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # which would end the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        stopped = run(tmp_path / "in", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, ignored)

    assert stopped == 1
    assert not (tmp_path / "out" / "cases" / "0001").exists()
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert run(tmp_path / "in", tmp_path / "whole") == 0
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


def test_a_window_upside_down_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(patient(1), tmp_path / "in" / "pt_1")

    assert run(tmp_path / "in", tmp_path / "out", "--window", "1500", "-1000") == 1

    assert "--window takes the lower end first" in capsys.readouterr().err


def test_a_preparation_killed_at_its_very_first_line_begins_anew(tmp_path: Path) -> None:
    write_case(patient(1), tmp_path / "in" / "pt_1")
    run(tmp_path / "in", tmp_path / "out")
    journal = tmp_path / "out-private" / "journal.jsonl"
    first = journal.read_text().splitlines(keepends=True)[0]
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    journal.write_text(first)

    assert run(tmp_path / "in", tmp_path / "out") == 0


def test_a_share_that_was_away_is_not_taken_for_an_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    arguments = [str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--spacing", "10", "8", "8"]

    assert prepare.main(arguments) == 1
    assert "holds no study to prepare" in capsys.readouterr().err

    three_patients(tmp_path / "in")
    assert prepare.main(arguments) == 0


def test_what_is_refused_stays_refused_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        write_case(patient(seed), tmp_path / "in" / f"pt_{seed}")
    (tmp_path / "in" / "pt_2" / "labelled.json").write_text('["Brainstem"]')

    prepare.main(
        [str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--spacing", "10", "8", "8"]
    )

    assert "mend it and prepare into another one" in capsys.readouterr().out


def test_a_mistake_in_a_query_or_a_folder_is_mended_by_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    one = patient(1)
    write(tmp_path / "in", one, rtstruct(ct_slices(one), contours(one)))

    assert run(tmp_path / "empty", tmp_path / "out") == 1
    assert run(tmp_path / "in", tmp_path / "out") == 0

    assert "begun with other options" not in capsys.readouterr().err
    assert Dataset.read(tmp_path / "out").cases == ("0001",)
    assert run(tmp_path / "empty", tmp_path / "out") == 1
    assert "begun with other options (source)" in capsys.readouterr().err


def test_beside_a_folder_of_somebody_elses_nothing_is_made(tmp_path: Path) -> None:
    one = patient(1)
    write(tmp_path / "in", one, rtstruct(ct_slices(one), contours(one)))

    assert run(tmp_path / "in", tmp_path / "in") == 1

    assert [folder.name for folder in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("spacing", [("3", "0", "1"), ("3", "-1", "1"), ("3", "nan", "1")])
def test_a_grid_without_a_size_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spacing: tuple[str, ...]
) -> None:
    arguments = [str(tmp_path), "--out", str(tmp_path / "out"), "--spacing", *spacing]

    assert prepare.main(arguments) == 1

    said = f"--spacing takes millimetres above 0, got {' '.join(spacing)}.\n"
    assert capsys.readouterr().err == f"training.prepare: {said}"
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_while_cases_are_prepared_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def falls_short(*_: Any) -> None:
        raise OSError("124800 requested and 51168 written")  # what NumPy says of it

    write_case(patient(1), tmp_path / "in" / "pt_1")
    monkeypatch.setattr("training.cases.np.save", falls_short)

    assert run(tmp_path / "in", tmp_path / "out") == 1

    said = capsys.readouterr().err
    assert re.search(r"out/.part/pt_1 could not be written to its end: is the disk full\?", said)
    monkeypatch.undo()
    assert run(tmp_path / "in", tmp_path / "out") == 0


def test_a_folder_whose_ct_has_another_name_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    for name in ("pt_1", "pt_2"):
        write_case(patient(1), tmp_path / "in" / name)
    (tmp_path / "in" / "pt_2" / "data.nii.gz").rename(tmp_path / "in" / "pt_2" / "CT.nii.gz")

    assert run(tmp_path / "in", tmp_path / "out") == 0

    assert reasons(tmp_path / "out") == ["The folder has no data.nii.gz."]
