"""Whom a training run held out, among the cases that it was prepared from."""

import json
from collections.abc import Sequence
from pathlib import Path

from training.asked import RECORD
from training.cases import Dataset, ct_hashes
from training.config import TrainConfig
from training.split import Split, split_of


def cts_of(config: TrainConfig) -> set[str]:
    """Hashes of the CTs of a run's patients: as it was begun, or of the prepared cases."""
    record = config.out / RECORD
    if record.exists():
        return set(json.loads(record.read_text())["ct_sha256"])
    return ct_hashes(config.cases, Dataset.read(config.cases).cases)


def held_out_folders(folders: Sequence[Path], config: TrainConfig) -> tuple[list[Path], list[str]]:
    """Of `folders`, the test patients of a training run, and the names of those not among them.

    Raises:
        ValueError: if there are none.
    """
    # As dealt when the run was begun, or as they would be of the prepared cases: `folders` may hold
    # fewer, and would be dealt otherwise.
    split = Split.read(config.out) or split_of(config, Dataset.read(config.cases).cases)
    by_name = {folder.name: folder for folder in folders}
    found = [by_name[name] for name in split.test if name in by_name]
    if not found:
        raise ValueError(f"none of the test patients of {config.name} is there to be measured")
    return found, sorted(set(split.test) - by_name.keys())
