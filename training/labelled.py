"""Labelled CTs on their own grid, and the folders that hold them, laid out as StructSeg 2019's.

A folder of cases has a folder per patient with data.nii.gz (HU), label.nii.gz (label numbers in
the order of model/organs.py), optionally labelled.json (the organs that this patient has labels
for; without it, those that have a voxel) and optionally affine.json (the grid in full: NIfTI rounds
it, and what the network sees would differ from the clinic's in the last digit).
"""

import gzip
import hashlib
import json
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from pydantic import TypeAdapter

from model.organs import BY_NAME, ORGANS, Organ
from model.preprocess import ORIENTATION
from plugin.ct.hounsfield import check_scale
from plugin.ct.series_rules import UnsuitableSeries

CT, LABELS = "data.nii.gz", "label.nii.gz"

COLLECTED = "cases"
"""Folder of the cases that were collected of DICOM, within that of the prepared ones."""
LABELLED, AFFINE = "labelled.json", "affine.json"

SAME_GRID_MM = 1e-3
"""How far two grids that are meant to be one may differ."""

CHUNK = 2**24
"""Bytes that are unpacked at a time."""

NIFTI_1_HEADER = 348
"""Bytes, and what its first four say."""

NIFTI_FLOATS = {16: "f4", 64: "f8"}
"""Codes of the data types that can hold what is no number."""

X_Y_Z = (2, 1, 0)
"""Axes of a CT, slices first, as NIfTI has them."""


@dataclass(frozen=True, kw_only=True)
class LabelledCt:
    """A CT and its labels on the CT's own grid, as some archive had them."""

    name: str
    ct: hd.Volume  # float32 HU
    labels: hd.Volume  # uint8 organ labels
    labelled: tuple[Organ, ...]  # an organ that is not here is unlabelled, not absent
    unknown: hd.Volume | None = None  # uint8, 1 where the CT says nothing

    @property
    def ct_sha256(self) -> str:
        """Of the grey values: tells a CT from others, whatever the case is called.

        The first 16 hex digits, for the cards of models. Nobody can get at the CT from them.
        """
        hu = self.ct.to_patient_orientation(ORIENTATION).array.astype(np.float32)
        return hashlib.sha256(np.ascontiguousarray(hu).tobytes()).hexdigest()[:16]


def case_folders(folder: Path) -> list[Path]:
    """The case folders under `folder`, sorted.

    Raises:
        FileNotFoundError: if there are none.
    """
    # What begins with a dot was left half written by a preparation that was killed.
    found = sorted(path.parent for path in folder.glob(f"[!.]*/{CT}"))
    if not found:
        collected = folder / COLLECTED  # of DICOM, beside what was prepared of it
        hint = f"; there are some under {collected}" if any(collected.glob(f"*/{CT}")) else ""
        raise FileNotFoundError(f"no case folders with a {CT} under {folder}{hint}")
    return found


def read_case(folder: Path, unknown_hu: float | None = None) -> LabelledCt:
    """Read a case folder.

    Args:
        folder: of one patient.
        unknown_hu: voxels of exactly this value hold no information (a cropped CT's filling).

    Raises:
        ValueError: if a file cannot be read, the CT's grey values cannot be HU, CT and labels are
            not on one grid, or a label is no organ's.
    """
    try:
        return _read_case(folder, unknown_hu)
    except (ValueError, UnsuitableSeries) as why:
        raise ValueError(f"{folder.name}: {why}") from why


def _read_case(folder: Path, unknown_hu: float | None) -> LabelledCt:
    ct = read_nifti(folder / CT).astype(np.float32)
    check_scale(ct.array, float(ct.array.max()))
    labels = read_nifti(folder / LABELS)
    if not ct.geometry_equal(labels, tol=SAME_GRID_MM):
        raise ValueError("CT and labels are not on the same grid")
    if (folder / AFFINE).exists():
        ct, labels = (_on_exact_grid(folder, volume) for volume in (ct, labels))
    labels = as_labels(labels)
    try:
        names = TypeAdapter(list[str]).validate_json((folder / LABELLED).read_bytes())
    except FileNotFoundError:
        names = [organ.name for organ in ORGANS if (labels.array == organ.label).any()]
    except ValueError as error:
        raise ValueError(f"{LABELLED} is no list of names of organs") from error
    if unknown_names := sorted(set(names) - BY_NAME.keys()):
        raise ValueError(f"{LABELLED} lists {unknown_names}, which are no organs")
    return LabelledCt(
        name=folder.name,
        ct=ct,
        labels=labels,
        labelled=tuple(BY_NAME[name] for name in names),
        unknown=None if unknown_hu is None else voxels_of(unknown_hu, ct),
    )


def voxels_of(hu: float, ct: hd.Volume) -> hd.Volume:
    """1 where the CT has exactly this value, as `LabelledCt.unknown`."""
    return ct.with_array((ct.array == hu).astype(np.uint8))


def write_case(case: LabelledCt, folder: Path) -> Path:
    """Write a case to its own folder under `folder`, whole or not at all, and return it.

    Nothing is written but grid, grey values, labels and the names of the organs.

    Raises:
        OSError: it could not be written.
    """
    part, out = folder / f".{case.name}.part", folder / case.name
    for old in (part, out):  # of a run that was killed
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True)
    hu = np.rint(case.ct.array)
    whole = np.array_equal(hu, case.ct.array) and np.abs(hu).max() < 2**15
    ct, labels = (v.permute_spatial_axes(X_Y_Z) for v in (case.ct, case.labels))
    for volume, name in ((ct.astype(np.int16) if whole else ct, CT), (labels, LABELS)):
        sitk.WriteImage(volume.to_simpleitk(), str(part / name), useCompression=True)
        if not _is_whole(part / name):  # on a full disk ITK writes what it can and says nothing
            raise OSError(f"{part / name} could not be written to its end: is the disk full?")
    (part / AFFINE).write_text(json.dumps(ct.affine.tolist()) + "\n")
    (part / LABELLED).write_text(json.dumps([organ.name for organ in case.labelled]) + "\n")
    part.rename(out)
    return out


def read_nifti(path: Path) -> hd.Volume:
    """Read a .nii.gz that is there from its beginning to its end.

    Raises:
        ValueError: it is not there, was cut short or is no NIfTI.
        OSError: the disk or the share does not give it.
    """
    if not _is_whole(path):
        raise ValueError(f"{path.name} is missing, cut short or not compressed")
    if not _is_finite(path):
        raise ValueError(f"{path.name} has voxels that are infinite or no numbers")
    try:
        image: Any = sitk.ReadImage(str(path))  # SimpleITK is half typed
    except RuntimeError as error:  # what SimpleITK raises on all that it cannot read
        raise ValueError(f"{path.name} cannot be read as NIfTI") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"{path.name} is not one volume of three dimensions")
    return hd.Volume.from_simpleitk(image, "PATIENT")


def as_labels(volume: hd.Volume) -> hd.Volume:
    """What was read, as uint8 organ labels.

    Raises:
        ValueError: a number is no organ's.
    """
    if unknown := set(np.unique(volume.array).tolist()) - set(range(len(ORGANS) + 1)):
        raise ValueError(f"labels {unknown} are not in the table of organs")
    return volume.astype(np.uint8)


def _is_whole(path: Path) -> bool:
    # SimpleITK reads zeros, which are soft tissue, where a file was cut short.
    try:
        with gzip.open(path) as file:
            while file.read(CHUNK):
                pass
    except (FileNotFoundError, gzip.BadGzipFile, EOFError, zlib.error):
        return False  # any other OSError is the disk's or the share's
    return True


def _is_finite(path: Path) -> bool:
    # SimpleITK reads zeros, which are water, where a voxel is no number.
    with gzip.open(path) as file:
        header = file.read(NIFTI_1_HEADER)
        for order in "<>":
            size, kind, begin = (
                struct.unpack_from(f"{order}{letter}", header, offset)[0]
                for letter, offset in (("i", 0), ("h", 70), ("f", 108))
            )
            if size == NIFTI_1_HEADER and kind in NIFTI_FLOATS:
                file.seek(int(begin))
                dtype = np.dtype(f"{order}{NIFTI_FLOATS[kind]}")
                while part := file.read(CHUNK):
                    if not np.isfinite(np.frombuffer(part, dtype)).all():
                        return False
    return True


def _on_exact_grid(folder: Path, volume: hd.Volume) -> hd.Volume:
    affine = np.array(json.loads((folder / AFFINE).read_text()))
    if not np.allclose(affine, volume.affine, rtol=0, atol=SAME_GRID_MM):
        raise ValueError(f"{AFFINE} and {CT} are not of the same grid")
    return hd.Volume(volume.array, affine, "PATIENT")
