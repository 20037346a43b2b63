"""Five folds: every patient validates once, and the test patients have no say."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from model.checkpoint import NOTICE
from tests.training.cohort import ORGANS, prepare_cohort, tiny_run, toml
from training.cases import Case, Dataset
from training.config import TrainConfig
from training.folds import Fold, best_fold, main, run_fold, table
from training.patches import Patches
from training.runs import Run
from training.scores import Row, read_rows
from training.split import FOLDS, split_of


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients to test on and one in each fold."""
    folder = tmp_path_factory.mktemp("cohort")
    prepare_cohort(folder, 2 + FOLDS)
    return folder


def tiny_folds(cohort: Path, out: Path) -> TrainConfig:
    run = tiny_run(cohort / "prepared", out)
    return replace(run, attention="plain", steps=2, validate_every=2, test_patients=2)


def command(config: TrainConfig, cases: Path, folder: Path) -> list[str]:
    path = folder / "folds.toml"
    path.write_text(toml(config))
    return [str(path), "--cases", str(cases), "--device", "cpu"]


@pytest.mark.slow
def test_the_whole_protocol_stopped_in_the_middle(
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_folds(cohort, tmp_path / "run")
    arguments = command(config, cohort / "cases", tmp_path)
    trained: list[list[str]] = []
    begin = Patches.__init__

    def watch(self: Patches, cases: Sequence[Case], *rest: object) -> None:
        if len(trained) == 3:
            trained.append([])
            raise KeyboardInterrupt
        trained.append(sorted(case.name for case in cases))
        begin(self, cases, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Patches, "__init__", watch)
    assert main(arguments) == 130
    assert main(arguments) == 0

    cases = Dataset.read(config.cases).cases
    splits = [split_of(replace(config, fold=fold), cases) for fold in range(FOLDS)]
    assert [names for names in trained if names] == [sorted(s.training) for s in splits]
    for number, split in enumerate(splits, start=1):
        out = tmp_path / "run" / f"fold-{number}"
        validated, tested = (
            {row.case for row in read_rows(out / part / "metrics.csv")}
            for part in ("validation", "test")
        )
        assert (validated, tested) == ({*split.validation}, {*split.test})
    written = (tmp_path / "run" / "folds.md").read_text()
    assert written in capsys.readouterr().out
    assert NOTICE in written
    assert "2 test patients that no network has seen; 5 others" in written
    assert f"{len(ORGANS) + 3} lines" == f"{written.count(chr(10) + '|') + 1} lines"
    assert (tmp_path / "run" / "dice.png").exists()

    monkeypatch.setattr(Patches, "__init__", lambda *_: pytest.fail("all was finished"))
    assert main(arguments) == 0
    assert (tmp_path / "run" / "folds.md").read_text() == written


def test_a_patient_who_cannot_be_measured_stops_it_before_training(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_folds(cohort, tmp_path / "run")
    test = split_of(replace(config, fold=0), Dataset.read(config.cases).cases).test[0]
    shutil.copytree(cohort / "cases", tmp_path / "cases")
    shutil.rmtree(tmp_path / "cases" / test)

    assert main(command(config, tmp_path / "cases", tmp_path)) == 1

    assert f"{tmp_path / 'cases'} lacks {test}, which" in capsys.readouterr().err
    assert not config.out.exists()


def test_a_fold_is_measured_on_the_gpu_that_trained_it(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU where this runs: what is asked for is written down."""
    devices: list[str] = []

    def finished(config: TrainConfig, *, device: str) -> Run:
        devices.append(device)
        return Run(model=tmp_path, steps=1, hours=0.1, seconds_per_step=1.0)

    def segmenter(network: object, card: object, device: str, *, unmeasured: bool) -> None:
        devices.append(device)

    def measured(out: Path, folders: object, load: Callable[[], None], **_: object) -> list[object]:
        load()
        return [[], {}]

    monkeypatch.setattr("training.folds.finish", finished)
    monkeypatch.setattr("training.folds.measure_once", measured)
    monkeypatch.setattr("training.folds.load_network", lambda folder: (None, None))
    monkeypatch.setattr("training.folds.Segmenter", segmenter)

    config = tiny_folds(cohort, tmp_path / "run")
    run_fold(config, 1, cohort / "cases", device="cuda:1", unknown_hu=None)

    assert devices == ["cuda:1"] * 3  # trained, validated, tested


def rows(organ: str, *dice: float) -> list[Row]:
    return [
        Row(
            case=f"pt_{n}",
            organ=organ,
            dice=value,
            surface_dice=value,
            hd95_mm=1.0,
            volume_ml=1.0,
            reference_ml=1.0,
        )
        for n, value in enumerate(dice)
    ]


def fold(number: int, validation: list[Row], test: list[Row]) -> Fold:
    run = Run(model=Path("model"), steps=10, hours=0.5, seconds_per_step=1.0)
    return Fold(number=number, run=run, validation=validation, test=test)


def test_the_best_fold_is_chosen_without_looking_at_the_test_patients() -> None:
    lucky = fold(1, rows("brainstem", 0.5), rows("brainstem", 0.9))
    good = fold(2, rows("brainstem", 0.7), rows("brainstem", 0.6))

    assert best_fold([lucky, good]).number == 2


def test_means_and_deviations_are_those_one_computes_by_hand() -> None:
    folds = [
        fold(1, rows("brainstem", 0.8), rows("brainstem", 0.6, 0.8) + rows("lens_left", 0.2)),
        fold(2, rows("brainstem", 0.6), rows("brainstem", 0.8, 1.0)),
    ]

    head, _, brainstem, lens, mean = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table(folds).splitlines()
    )

    assert head[5] == "fold 1 alone, ± sd over patients"
    assert brainstem[1:] == [
        "70.0",
        "90.0",
        "80.0 ± 10.0",
        "70.0 ± 10.0",
        "70.0 ± 10.0",
        "88.7 ± 1.5",
    ]
    assert lens[1:] == ["20.0", "-", "20.0 ± 0.0", "-", "20.0 ± 0.0", "74.7 ± 10.2"]
    assert mean[1:] == ["45.0", "90.0", "67.5 ± 22.5", "70.0 ± 10.0", "45.0", ""]
