"""The configuration of a run, and the plan that it may rest on."""

from pathlib import Path

import pytest

from model.organs import ORGANS
from model.preprocess import Preprocessing
from training.cases import Dataset
from training.config import Plan, TrainConfig
from training.network import network_config

CONFIGS = Path(__file__).parents[2] / "training" / "configs"

RUNS = sorted(path for path in CONFIGS.glob("*.toml") if not path.stem.startswith("compare"))

TOML = """
name = "tiny"
version = "1.0.0"
description = "For tests."
cases = "a"
out = "b"
"""

PLAN = """
spacing_mm = [3.0, 1.0, 1.0]
patch = [16, 64, 64]
batch = 4
strides = [[1, 2, 2], [2, 2, 2]]
widths = [8, 16, 32]
memory_gib = 11
estimated_gib = 9.5
"""


def written(folder: Path, run: str, plan: str = PLAN) -> Path:
    (folder / "plan.toml").write_text(plan)
    path = folder / "run.toml"
    path.write_text(f'{TOML}plan = "{folder / "plan.toml"}"\n{run}')
    return path


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_shipped_configuration_makes_a_network(path: Path) -> None:
    config = TrainConfig.read(path)
    dataset = Dataset(preprocessing=Preprocessing(), organs=tuple(o.name for o in ORGANS), cases=())

    network = network_config(config, dataset)

    assert len(network.widths) == len(config.widths)
    assert all(side % m == 0 for side, m in zip(config.patch, network.multiple, strict=True))


def test_the_papers_settings_are_the_papers() -> None:
    config = TrainConfig.read(CONFIGS / "paper.toml")

    assert (config.optimiser, config.learning_rate, config.decay) == ("sgd", 0.01, "exponential")
    assert (config.batch, config.test_patients, config.fold) == (13, 10, 0)
    assert (config.attention, config.norm, config.encoder_width) == ("sam", "batch", 768)
    assert config.patch[1] % 16 == config.patch[2] % 16 == 0  # whole 16 x 16 patches


def test_the_plan_fills_in_what_the_configuration_does_not_say(tmp_path: Path) -> None:
    config = TrainConfig.read(written(tmp_path, "batch = 2"))

    assert config.plan == Plan.read(tmp_path / "plan.toml")
    assert config.patch == (16, 64, 64)
    assert config.strides == ((1, 2, 2), (2, 2, 2))
    assert config.widths == (8, 16, 32)
    assert config.batch == 2  # said in the configuration itself
    assert config.not_planned == ["batch"]


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        (PLAN + "patches = 3", "patches: there is no such key"),
        (PLAN.replace("[8, 16, 32]", "[8, 16]"), "widths have 2 levels and strides make 3"),
        (PLAN.replace("batch = 4", ""), "batch"),
        ("patch = [", "not TOML"),
    ],
)
def test_a_plan_that_is_not_understood_is_refused(
    tmp_path: Path, plan: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=rf"(?s)plan\.toml: .*{complaint}"):
        TrainConfig.read(written(tmp_path, "", plan))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("dropout = 0.5", "dropout: there is no such key, got 0.5"),
        ("[augment]\nmirror = true", r"augment\.mirror"),
        ("foreground = 1.5", "foreground is a fraction, got 1.5"),
        ("ema = 1.0", r"ema is a decay in \[0, 1\), got 1.0"),
        ('attention = "magic"', "attention"),
        ("patch = [1, 2]", "patch"),
        ("strides = [[1, 2, 2]]", "levels and strides make 2"),
        ("plan = 3", "plan is the path of a plan.toml"),
        ("augment = {still = 3.0}", "still is a fraction of the patches, got 3.0"),
        ("augment = {scale = [1.2, 0.8]}", "scale is two factors, the lower first"),
        ("augment = {noise = -0.5}", "noise is not negative"),
        ("cpu_hours = 0.0", "cpu_hours: .*greater than 0, got 0.0"),
        ("workers = 0", "workers: .*greater than 0, got 0"),
        ("save_every = 0", "save_every: .*greater than 0, got 0"),
        ("test_patients = -2", "test_patients: .*greater than or equal to 0, got -2"),
        ("balance = 2.0", "balance is a share"),
        ("widths = [4]", "two levels or more"),
        ("encoder_heads = 5", "encoder_width is a multiple of encoder_heads"),
        ("attention_width = 50", "attention_width is a multiple of 4, got 50"),
        ("name = ", "not TOML"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(
    tmp_path: Path, line: str, complaint: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TOML + line)

    with pytest.raises(ValueError, match=rf"(?s)run\.toml.*{complaint}"):
        TrainConfig.read(path)


def test_a_key_that_is_missing_is_named_and_the_others_are_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("\n".join(line for line in TOML.splitlines() if not line.startswith("name")))

    with pytest.raises(ValueError, match=r"run\.toml: name: Field required$"):
        TrainConfig.read(path)
