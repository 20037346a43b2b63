"""What a run was asked for, kept in its folder: one that goes on must be asked for the same."""

import json
from collections.abc import Set
from dataclasses import asdict
from typing import Any

from training.cases import Dataset, ct_hashes
from training.config import TrainConfig
from training.json_file import write_json

RECORD = "asked.json"

MAY_CHANGE = frozenset(
    {
        *("name", "version", "description", "data"),
        *("steps", "cpu_hours", "validate_every", "save_every", "workers"),
    }
)
"""Settings that a run may get other values of on its way; the rest made the weights as they are."""


def asked(config: TrainConfig) -> dict[str, Any]:
    """All that decides what the weights become, as JSON would give it back."""
    dataset = Dataset.read(config.cases)
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    del values["out"], values["cases"]  # folders may be moved
    return values | {
        "ct_sha256": sorted(ct_hashes(config.cases, dataset.cases)),
        "patients": list(dataset.cases),
        "organs": list(dataset.organs),
        "preprocessing": json.loads(json.dumps(asdict(dataset.preprocessing))),
    }


def begin(config: TrainConfig) -> None:
    """Keep what a run is asked for."""
    write_json(config.out / RECORD, asked(config))


def check_goes_on(config: TrainConfig, free: Set[str] = MAY_CHANGE) -> None:
    """See whether the run in OUT was begun with this configuration and these cases.

    Raises:
        ValueError: it was not, by more than what is `free`.
    """
    before, now = json.loads((config.out / RECORD).read_text()), asked(config)
    if differing := sorted(k for k in now.keys() - free if k not in before or before[k] != now[k]):
        raise ValueError(f"{config.out} holds a run with another {', '.join(differing)}")
