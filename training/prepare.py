"""Prepare labelled cases: `python -m training.prepare CASES --out DIR --spacing 3 1 1`.

CASES is a folder with a folder per patient: data.nii.gz (HU), label.nii.gz (label numbers in the
order of model/organs.py, as in StructSeg 2019) and optionally labelled.json (the organs that this
patient has labels for; without it, those that have a voxel). The CT goes through the very
preprocessing that the plugin uses.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from rich.progress import track

from model.organs import BY_NAME, ORGANS, Organ
from model.preprocess import BODY_HU, Preprocessing, resample_labels
from training.cases import UNKNOWN, Case, Dataset, in_table_order


@dataclass(frozen=True, kw_only=True)
class LabelledCt:
    """A CT and its labels on the CT's own grid, as some archive had them."""

    name: str
    ct: hd.Volume  # float32 HU
    labels: hd.Volume  # uint8 organ labels
    labelled: tuple[Organ, ...]
    unknown: hd.Volume | None = None  # uint8, 1 where the CT says nothing


def read_case(folder: Path, unknown_hu: float | None = None) -> LabelledCt:
    """Read a case folder as described in this module's docstring.

    Args:
        folder: of one patient.
        unknown_hu: voxels of exactly this value hold no information (a cropped CT's filling).

    Raises:
        ValueError: if CT and labels are not on one grid, or a label number is not an organ's.
    """
    ct = _read_nifti(folder / "data.nii.gz").astype(np.float32)
    labels = _read_nifti(folder / "label.nii.gz")
    if not ct.geometry_equal(labels, tol=1e-3):
        raise ValueError(f"{folder.name}: CT and labels are not on the same grid")
    if unknown_labels := set(np.unique(labels.array).tolist()) - set(range(len(ORGANS) + 1)):
        raise ValueError(f"{folder.name}: labels {unknown_labels} are not in the table of organs")
    labels = labels.astype(np.uint8)
    try:
        names = json.loads((folder / "labelled.json").read_text())
    except FileNotFoundError:
        names = [organ.name for organ in ORGANS if (labels.array == organ.label).any()]
    unknown = None
    if unknown_hu is not None:
        unknown = ct.with_array((ct.array == unknown_hu).astype(np.uint8))
    return LabelledCt(
        name=folder.name,
        ct=ct,
        labels=labels,
        labelled=tuple(BY_NAME[name] for name in names),
        unknown=unknown,
    )


def case_folders(folder: Path) -> list[Path]:
    """The case folders under `folder`, sorted.

    Raises:
        FileNotFoundError: if there are none.
    """
    found = sorted(path.parent for path in folder.glob("*/data.nii.gz"))
    if not found:
        raise FileNotFoundError(f"no case folders with a data.nii.gz under {folder}")
    return found


def prepare(case: LabelledCt, preprocessing: Preprocessing) -> Case:
    """Bring a labelled CT to the network's grid and grey values."""
    image = preprocessing.forward(case.ct)
    grid = image.get_geometry()
    orientation = image.get_closest_patient_orientation()
    labels = resample_labels(case.labels.to_patient_orientation(orientation), grid).array
    if case.unknown is not None:
        unknown = case.unknown.to_patient_orientation(orientation)
        labels[resample_labels(unknown, grid).array == 1] = UNKNOWN
    return Case(name=case.name, image=image.array, labels=labels, labelled=case.labelled)


def fingerprint(cases: Iterator[LabelledCt], window_hu: tuple[float, float]) -> tuple[float, float]:
    """Mean and standard deviation of the body's HU within the window, over all cases."""
    sums = np.zeros(3)
    for case in cases:
        body = case.ct.array[case.ct.array > BODY_HU].astype(np.float64)
        body = np.clip(body, *window_hu)
        sums += len(body), body.sum(), (body**2).sum()
    mean = sums[1] / sums[0]
    return float(mean), float(np.sqrt(sums[2] / sums[0] - mean**2))


def _read_nifti(path: Path) -> hd.Volume:
    return hd.Volume.from_simpleitk(sitk.ReadImage(str(path)), "PATIENT")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--spacing", type=float, nargs=3, default=(3.0, 1.0, 1.0), metavar="MM", help="z y x"
    )
    parser.add_argument(
        "--window", type=float, nargs=2, default=(-300.0, 1200.0), metavar="HU", help="clip to"
    )
    parser.add_argument(
        "--unknown-hu", type=float, help="voxels of exactly this value hold no information"
    )
    args = parser.parse_args(argv)
    folders = case_folders(args.cases)
    window = (args.window[0], args.window[1])
    mean, std = fingerprint(
        (read_case(f) for f in track(folders, "Measuring", disable=not sys.stderr.isatty())), window
    )
    z, y, x = args.spacing
    preprocessing = Preprocessing(
        spacing_mm=(z, y, x),
        window_hu=window,
        mean_hu=round(mean, 1),
        std_hu=round(std, 1),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    organs: set[str] = set()
    for folder in track(folders, "Preparing", disable=not sys.stderr.isatty()):
        case = prepare(read_case(folder, args.unknown_hu), preprocessing)
        case.write(args.out)
        organs |= {organ.name for organ in case.labelled}
    names = tuple(folder.name for folder in folders)
    Dataset(preprocessing=preprocessing, organs=in_table_order(organs), cases=names).write(args.out)
    print(f"{len(names)} cases, {len(organs)} organs, mean {mean:.1f} HU, sd {std:.1f} HU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
