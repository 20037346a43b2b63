"""Prepared cases: what `training.prepare` writes and the rest of the training side reads.

A folder of cases holds dataset.json and, for every case, image.npy (float32, what the network
sees), labels.npy (uint8: 0 background, else the organ's label, `UNKNOWN` where nothing is known)
and case.json. Nothing of DICOM headers is in them. Cases from DICOM are numbered; those that came
as folders keep the folders' names, which must be pseudonyms.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from model.organs import BY_NAME, ORGANS, Organ
from model.preprocess import Preprocessing
from training.json_file import write_json

UNKNOWN = 255
"""Label of voxels of which nothing is known: they count neither in loss nor in metrics."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One patient on the network's grid."""

    name: str
    image: npt.NDArray[np.float32]  # (Z, Y, X), normalised
    labels: npt.NDArray[np.uint8]  # (Z, Y, X)
    labelled: tuple[Organ, ...]  # an organ that is not here is unlabelled, not absent
    ct_sha256: str  # of the CT that it was made of, as `LabelledCt` has it

    def write(self, folder: Path) -> None:
        """Write the case to its own folder under `folder`."""
        out = folder / self.name
        out.mkdir(parents=True, exist_ok=True)
        try:
            np.save(out / "image.npy", self.image)
            np.save(out / "labels.npy", self.labels)
        except OSError as error:
            if error.errno is not None:
                raise
            # NumPy's own, when a write falls short, says neither where nor why.
            raise OSError(f"{out} could not be written to its end: is the disk full?") from error
        values = {
            "labelled": [organ.name for organ in self.labelled],
            "ct_sha256": self.ct_sha256,
        }
        (out / "case.json").write_text(json.dumps(values) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Case":
        """Read the case that `write` wrote to this folder.

        Image and labels stay on disk until they are looked at, and are shared by all processes that
        do.
        """
        values = json.loads((folder / "case.json").read_text())
        return cls(
            name=folder.name,
            image=np.load(folder / "image.npy", mmap_mode="c"),
            labels=np.load(folder / "labels.npy", mmap_mode="c"),
            labelled=tuple(BY_NAME[name] for name in values["labelled"]),
            ct_sha256=values["ct_sha256"],
        )


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a folder of prepared cases has in common."""

    preprocessing: Preprocessing
    organs: tuple[str, ...]  # every organ that some case labels, in the table's order
    cases: tuple[str, ...]  # names, sorted

    def write(self, folder: Path) -> None:
        """Write dataset.json, whole or not at all."""
        write_json(folder / "dataset.json", asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Dataset":
        """Read dataset.json.

        Raises:
            FileNotFoundError: it is no folder of prepared cases.
        """
        try:
            content = (folder / "dataset.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f"{folder} is no folder that training.prepare has written to its end: it has no "
                "dataset.json"
            ) from error
        return TypeAdapter(cls).validate_json(content)


def ct_hashes(folder: Path, names: Iterable[str]) -> set[str]:
    """What tells some cases of a folder from others, whatever they are called here or there."""
    return {_ct_hash(folder / name) for name in names}


def twins(folder: Path, names: Iterable[str]) -> str:
    """A sentence about the cases of a folder that are the same CT; or nothing."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(_ct_hash(folder / name), name), name) for name in names]
    if not (same := [f"{one} and {other}" for one, other in pairs if one != other]):
        return ""
    return (
        f"{', '.join(same)} in {folder} are the same CT: one might train what the other one "
        "measures; prepare without one of them"
    )


def _ct_hash(case: Path) -> str:
    return str(json.loads((case / "case.json").read_text())["ct_sha256"])


def in_table_order(names: set[str]) -> tuple[str, ...]:
    """Organ names sorted as in the table of organs."""
    return tuple(organ.name for organ in ORGANS if organ.name in names)
