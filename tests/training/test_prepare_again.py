"""`training.prepare` stopped, asked again or asked for what cannot be."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.phantoms import ct_slices, write_case
from tests.structure_sets import rtstruct
from tests.training.department import contours, patient, report, run, write
from training import collect, prepare
from training.journal import Journal, OtherRun


def three_patients(folder: Path) -> Path:
    for seed in (1, 2, 3):
        one = patient(seed)
        write(folder / str(seed), one, rtstruct(ct_slices(one), contours(one)))
    return folder


def everything(out: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file() and not file.name.endswith(".gz")  # gzip notes the time
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "step"),
    [(collect, "write_case"), (prepare, "measure"), (prepare, "prepare")],
    ids=["collecting", "measuring", "preparing"],
)
def test_a_killed_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, step: str
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
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out")
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
