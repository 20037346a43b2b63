"""What a person sees of a run."""

from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.cohort import tiny_run
from training.distributed import Ranks
from training.monitor import Monitor


def test_the_time_left_is_what_the_rest_takes_at_this_pace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny_run(Path("a"), tmp_path / "run"), steps=100)
    with Monitor(config, 20, Ranks()) as monitor:  # resumed: five hours are not this pace
        monitor.step(21, loss=1.0, rate=0.1, done=0.21, hours=5.0)
        monitor.dice(21, {"brainstem": 0.5}, 0.5, done=0.21, hours=5.0)
        monitor.step(41, loss=0.9, rate=0.1, done=0.41, hours=5.5)
        monitor.dice(41, {"brainstem": 0.61, "eye_left": 0.2}, 0.405, done=0.41, hours=5.5)
        monitor.dice(100, {"brainstem": 0.7}, 0.7, done=1.0, hours=7.0)

    assert capsys.readouterr().out.splitlines() == [
        "step 21: 5.00 h, time left unknown, Dice 0.5000: brainstem 0.500",
        "step 41: 5.50 h, 1 h 29 min left, Dice 0.4050: brainstem 0.610 eye_left 0.200",
        "step 100: 7.00 h, finished, Dice 0.7000: brainstem 0.700",
    ]
    assert list((tmp_path / "run" / "log").iterdir())


def test_only_the_first_process_speaks_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Monitor(tiny_run(Path("a"), tmp_path / "run"), 0, Ranks(1, 2)) as monitor:
        monitor.step(1, loss=1.0, rate=0.1, done=0.5, hours=1.0)
        monitor.dice(1, {"brainstem": 0.5}, 0.5, done=0.5, hours=1.0)

    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_keeps_what_was_validated_last(tmp_path: Path) -> None:
    config = tiny_run(Path("a"), tmp_path / "run")
    with Monitor(config, 0, Ranks()) as monitor:
        monitor.dice(3, {"brainstem": 0.5}, 0.5, done=0.5, hours=1.0)
    with Monitor(config, 3, Ranks()) as monitor:
        monitor.step(4, loss=1.0, rate=0.1, done=0.6, hours=1.1)

    log = EventAccumulator(str(config.out / "log")).Reload()

    assert [(one.step, one.value) for one in log.Scalars("dice/mean")] == [(2, 0.5)]
