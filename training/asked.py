"""What a run was asked for, kept in its folder: one that goes on must be asked for the same."""

import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from training.augment import AugmentConfig
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

_UNSAID: dict[str, Any] = json.loads(
    json.dumps({f.name: f.default for f in fields(TrainConfig) if f.default is not MISSING})
)
"""What a run was asked for by a version that did not know a setting yet."""

_UNSAID_OF_AUGMENT: dict[str, Any] = json.loads(json.dumps(asdict(AugmentConfig())))


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


def check_same(
    out: Path, before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = ()
) -> None:
    """See whether a run may go on.

    Raises:
        ValueError: it was asked for something else, but for what is `free`.
    """
    known = _UNSAID | dict(before)
    known["augment"] = _UNSAID_OF_AUGMENT | known.get("augment", {})
    if differing := sorted(k for k in now if k not in free and known.get(k, now[k]) != now[k]):
        raise ValueError(f"{out} holds a run with another {', '.join(differing)}")


def begin(config: TrainConfig) -> None:
    """Keep what a run is asked for."""
    write_json(config.out / RECORD, asked(config))


def check_goes_on(config: TrainConfig) -> None:
    """See whether the run in OUT was begun with this configuration and these cases.

    Raises:
        ValueError: it was not.
    """
    try:
        before = json.loads((config.out / RECORD).read_text())
    except FileNotFoundError:  # of an earlier version
        return
    check_same(config.out, before, asked(config), MAY_CHANGE)
