"""The comparison: everything is equal but the network, and the same patients judge all."""

from dataclasses import replace
from pathlib import Path

import pytest

from model.checkpoint import NOTICE
from tests.training.cohort import prepare_cohort, tiny_run, toml
from training.cases import Dataset
from training.compare import (
    FOUR,
    LITEMEDSAM,
    CompareConfig,
    Entry,
    Result,
    entries,
    main,
    table,
)
from training.config import TrainConfig
from training.runs import Run
from training.scores import Row, read_rows
from training.split import split_of

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "compare-cpu.toml"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    prepare_cohort(folder, 4)
    return folder


def tiny_comparison(cohort: Path, out: Path, *, litemedsam: int = 1) -> CompareConfig:
    run = tiny_run(cohort / "prepared", out)
    run = replace(run, test_patients=2, batch=1, litemedsam_every=4, litemedsam_side=64)
    return CompareConfig(
        steps=2, cpu_minutes=30, measured=2, measured_litemedsam=litemedsam, train=run
    )


def command(config: CompareConfig, cases: Path, folder: Path) -> list[str]:
    given = {"name", "version", "description"}
    train = [line for line in toml(config.train).splitlines() if line.split()[0] not in given]
    head = [
        f"{key} = {getattr(config, key)}"
        for key in ("steps", "cpu_minutes", "measured", "measured_litemedsam")
    ]
    path = folder / "tiny.toml"
    path.write_text("\n".join([*head, "[train]", *train]))
    return [str(path), "--cases", str(cases), "--device", "cpu"]


@pytest.mark.slow
def test_the_whole_comparison_and_again_when_all_is_finished(
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("training.compare.ENDLESS", 2)  # steps end it before the time does
    two = FOUR[0], FOUR[3]
    monkeypatch.setattr("training.compare.FOUR", two)
    config = tiny_comparison(cohort, tmp_path / "run")
    arguments = command(config, cohort / "cases", tmp_path)

    assert main(arguments) == 0

    written = (tmp_path / "run" / "compare.md").read_text()
    assert written in capsys.readouterr().out
    assert NOTICE in written
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in written.splitlines()
        if line.startswith("|")
    ][2:]
    time = "30 CPU minutes"
    assert [row[:3] for row in rows] == [
        *[[what, n.title, n.encoder] for what in ("2 steps", time) for n in two],
        *[[what, n.title, n.encoder] for what in (time, "2 steps") for n in (*two, LITEMEDSAM)],
    ]
    assert [row[4] for row in rows] == ["2"] * 10
    assert [row[7] for row in rows] == ["2"] * 4 + ["1"] * 6
    assert "sees one slice in 4 of 64 x 64 pixels" in written
    assert "frozen" in rows[-1][3]
    test = split_of(config.train, Dataset.read(config.train.cases).cases).test
    measured = {path: {r.case for r in read_rows(path)} for path in tmp_path.rglob("metrics.csv")}
    assert len(measured) == 6
    for path, cases in measured.items():
        assert cases == ({test[0]} if "litemedsam" in str(path) else {*test})

    monkeypatch.setattr("training.runs.train", lambda *_, **__: pytest.fail("it was finished"))
    monkeypatch.setattr(
        "training.measure.measure_cases", lambda *_, **__: pytest.fail("it was measured")
    )
    assert main(arguments) == 0
    assert (tmp_path / "run" / "compare.md").read_text() == written


def test_nothing_but_the_network_and_the_budget_differs(cohort: Path, tmp_path: Path) -> None:
    config = tiny_comparison(cohort, tmp_path)
    everything = [entry.config for entry in entries(config)]

    assert len({run.out for run in everything}) == len({run.name for run in everything}) == 10
    for run in everything:
        own = {
            "name": run.name,
            "out": run.out,
            "attention": run.attention,
            "image_encoder": run.image_encoder,
            "steps": run.steps,
            "cpu_hours": run.cpu_hours,
            "validate_every": run.steps,
        }
        assert run == replace(config.train, **own)  # type: ignore[arg-type]
    by_steps, by_time = (*everything[:4], everything[9]), everything[4:9]
    assert [(run.steps, run.cpu_hours) for run in by_steps] == [(2, None)] * 5
    assert [run.cpu_hours for run in by_time] == [0.5] * 5
    assert min(run.steps for run in by_time) >= 100_000
    none = replace(config, measured_litemedsam=0)
    assert [entry.network for entry in entries(none)] == [*FOUR, *FOUR]


def result(entry: Entry, dice: dict[str, float], *, frozen: int = 0) -> Result:
    rows = [
        Row(
            case=case,
            organ="brainstem",
            dice=value,
            surface_dice=0.5,
            hd95_mm=1.0,
            volume_ml=1.0,
            reference_ml=1.0,
        )
        for case, value in dice.items()
    ]
    return Result(
        entry=entry,
        run=Run(model=Path("model"), steps=7, hours=0.1, seconds_per_step=0.5),
        rows=rows,
        parameters=7_400_000,
        frozen=frozen,
        seconds_per_case=3.0,
    )


def test_who_was_measured_on_fewer_patients_is_held_against_the_others_on_these() -> None:
    config = tiny_comparison(Path("a"), Path("b"))
    plain, sam, litemedsam = (
        entry
        for entry in entries(config)
        if entry.config.cpu_hours and entry.network.attention in {"plain", "sam"}
    )

    lines = table(
        [
            result(plain, {"pt_1": 0.8, "pt_2": 0.4}),
            result(sam, {"pt_1": 0.6, "pt_2": 0.8}),
            result(litemedsam, {"pt_1": 0.1}, frozen=400_000),
        ]
    ).splitlines()

    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [(c[1], c[7], c[8], c[9]) for c in cells] == [
        ("U-Net", "2", "60.0", "60.0 ± 20.0"),
        ("nnSAM-UNet", "2", "70.0", "70.0 ± 10.0"),
        ("U-Net", "1", "80.0", "80.0 ± 0.0"),
        ("nnSAM-UNet", "1", "60.0", "60.0 ± 0.0"),
        ("nnSAM-UNet", "1", "10.0", "10.0 ± 0.0"),
    ]
    assert cells[-1][3:7] == ["7.4 (0.4 frozen)", "7", "0.50", "3.0"]


def test_the_shipped_configuration_can_be_read() -> None:
    config = CompareConfig.read(CONFIG)

    assert config.train.cases == Path("runs/openkbp")
    assert config.measured_litemedsam > 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("steps = 2", "steps = 2\nminutes = 3"), "minutes"),
        (("[train]", "[train]\nlearnig_rate = 1"), "learnig_rate"),
        (("measured = 2", "measured = 3"), "measured 3 and test_patients 2 must ascend"),
        (("steps = 2\n", ""), "steps"),
    ],
)
def test_a_configuration_that_is_not_understood_is_one_sentence(
    cohort: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    complaint: str,
) -> None:
    arguments = command(tiny_comparison(cohort, tmp_path / "run"), cohort / "cases", tmp_path)
    path = Path(arguments[0])
    path.write_text(path.read_text().replace(*change, 1))

    assert main(arguments) == 1

    said = capsys.readouterr().err
    assert said.startswith("training.compare: ")
    assert "tiny.toml" in said
    assert complaint in said


def test_a_comparison_stopped_by_hand_says_how_it_goes_on(
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.compare.finish", stopped)
    config = tiny_comparison(cohort, tmp_path / "run")

    assert main(command(config, cohort / "cases", tmp_path)) == 130

    assert capsys.readouterr().err == "training.compare: stopped; the same command goes on\n"
    assert not (tmp_path / "run" / "compare.md").exists()


def test_a_comparison_never_measures_on_fewer_patients_than_it_says(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_comparison(cohort, tmp_path / "run")
    first, second = split_of(config.train, Dataset.read(config.train.cases).cases).test
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / first).symlink_to(cohort / "cases" / first)

    assert main(command(config, tmp_path / "cases", tmp_path)) == 1

    assert f"{tmp_path / 'cases'} lacks {second}, which" in capsys.readouterr().err
    assert not config.train.out.exists()


def test_the_run_of_a_comparison_is_a_run_like_any_other(cohort: Path, tmp_path: Path) -> None:
    first = next(entries(tiny_comparison(cohort, tmp_path)))

    path = tmp_path / "run.toml"
    path.write_text(toml(first.config))

    assert TrainConfig.read(path) == first.config
