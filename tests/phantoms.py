"""Synthetic head-and-neck CT in which all 22 organs are known exactly.

The patient is a set of smooth shapes in millimetres, evaluated at the voxel centres of any grid, so
the same seed is the same patient at any spacing, size and orientation. As a command it writes a
cohort of cases for training: `python -m tests.phantoms OUT --cases 60`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DS
from scipy.spatial.transform import Rotation

from model.organs import ORGANS
from tests.phantom_anatomy import AIR_HU, Patient, average_pose, couch
from tests.phantom_shapes import labels_at, paint

Orientation = Literal["axial", "flipped_rows", "feet_first", "oblique", "diagonal"]

_OBLIQUE = Rotation.from_rotvec(np.radians(20) * np.array([1.0, 2.0, 2.0]) / 3).as_matrix()

COSINES: dict[Orientation, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "flipped_rows": (1, 0, 0, 0, -1, 0),
    "feet_first": (-1, 0, 0, 0, 1, 0),
    # what a DICOM decimal string can hold, so that files and phantom agree exactly
    "oblique": tuple(float(v) for v in np.round(_OBLIQUE[:, :2].T.ravel(), 12)),
    # as far from one axis as from the other: which one is nearer is a matter of rounding
    "diagonal": (0.707106781187, 0.707106781187, 0, -0.707106781187, 0.707106781187, 0),
}
"""ImageOrientationPatient of each orientation."""

PATIENT_POSITION: dict[Orientation, str] = {
    "axial": "HFS",
    "flipped_rows": "HFS",
    "feet_first": "FFS",
    "oblique": "HFS",
    "diagonal": "HFS",
}

TOP_MM = 150.0
"""The grid reaches up to here above the ear canals, whatever its length: the crown is at 130."""

RESCALE_INTERCEPT = -1024


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a phantom; equal recipes give equal voxels and UIDs."""

    spacing_mm: tuple[float, float, float]  # slice, row, column
    shape: tuple[int, int, int]  # slices, rows, columns
    orientation: Orientation
    seed: int
    noise_hu: float  # standard deviation
    variation: float  # 0: the average patient
    padding_hu: int | None  # value outside the reconstruction circle
    centre_mm: tuple[float, float, float]  # of the grid, LPS


@dataclass(frozen=True)
class Phantom:
    """A CT and its exact labels on the same grid."""

    ct: hd.Volume  # int16, HU
    labels: hd.Volume  # uint8, Organ.label or 0
    patient: Patient
    recipe: Recipe

    def labels_at(self, points_mm: NDArray[np.float64]) -> NDArray[np.uint8]:
        """True labels at ``(N, 3)`` points in the patient, LPS mm, with no grid in between."""
        return labels_at(self.patient.layers, self.patient.pose, points_mm)


def make_phantom(
    *,
    spacing_mm: tuple[float, float, float] = (3.0, 2.0, 2.0),
    shape: tuple[int, int, int] = (80, 128, 128),
    orientation: Orientation = "axial",
    seed: int = 0,
    noise_hu: float = 12.0,
    variation: float = 1.0,
    padding_hu: int | None = None,
    centre_mm: tuple[float, float, float] | None = None,
) -> Phantom:
    """Make one patient's CT and labels.

    Args:
        spacing_mm: between slices, rows and columns.
        shape: slices, rows, columns.
        padding_hu: value outside the reconstruction circle, such as -2000; None for no circle.
        centre_mm: LPS centre of the grid; None puts the top of the grid above the crown.
    """
    if centre_mm is None:
        centre_mm = (0.0, 6.0, TOP_MM - spacing_mm[0] * shape[0] / 2)
    recipe = Recipe(
        spacing_mm=spacing_mm,
        shape=shape,
        orientation=orientation,
        seed=seed,
        noise_hu=noise_hu,
        variation=variation,
        padding_hu=padding_hu,
        centre_mm=centre_mm,
    )
    patient = Patient.born(seed, variation=variation)
    affine = grid_affine(recipe)
    ct, labels = _scan(patient, recipe, affine)
    frame = _uid(recipe, "frame of reference")

    def volume(array: NDArray[Any]) -> hd.Volume:
        return hd.Volume(array, affine, "PATIENT", frame_of_reference_uid=frame)

    return Phantom(volume(ct), volume(labels), patient, recipe)


def grid_affine(recipe: Recipe, *, gantry_tilt_degrees: float = 0.0) -> NDArray[np.float64]:
    """``(4, 4)`` from (slice, row, column) to LPS mm; slices in highdicom's order.

    A tilted gantry tilts the rows' plane while the couch still moves along the patient, so the
    slices are stacked at an angle to their normal: a shear.
    """
    along_row = np.array(COSINES[recipe.orientation][:3], float)
    down_column = np.array(COSINES[recipe.orientation][3:], float)
    normal = np.cross(along_row, down_column)
    tilt = np.radians(gantry_tilt_degrees)
    down_column_tilted = np.round(np.cos(tilt) * down_column + np.sin(tilt) * normal, 12)
    affine = np.eye(4)
    steps = np.stack([-normal, down_column_tilted, along_row], axis=1)
    affine[:3, :3] = steps * recipe.spacing_mm
    middle = (np.array(recipe.shape) - 1) / 2
    affine[:3, 3] = np.round(np.array(recipe.centre_mm) - affine[:3, :3] @ middle, 6)
    return affine


def ct_slices(
    phantom: Phantom,
    *,
    gantry_tilt_degrees: float = 0.0,
    shuffle_seed: int | None = None,
    series_number: int = 1,
    series_description: str = "Head and neck planning phantom",
) -> list[Dataset]:
    """The phantom as CT Image Storage objects, in the volume's order or shuffled.

    A tilted gantry scans the same patient anew on a sheared grid, which no ``hd.Volume`` can hold.

    Args:
        shuffle_seed: for the order of the slices in the list; None leaves them sorted.
        series_number: another number is another series of the same study.
    """
    recipe = phantom.recipe
    affine, voxels = phantom.ct.affine, phantom.ct.array
    if gantry_tilt_degrees:
        affine = grid_affine(recipe, gantry_tilt_degrees=gantry_tilt_degrees)
        voxels, _ = _scan(phantom.patient, recipe, affine)
    series = f"{gantry_tilt_degrees} {series_number}"
    slices = []
    for index, frame in enumerate(voxels):
        image = _header(recipe, affine, index, series)
        image.SeriesNumber = series_number
        image.SeriesDescription = series_description
        image.GantryDetectorTilt = DS(gantry_tilt_degrees)
        image.PixelData = (frame.astype(np.int16) - RESCALE_INTERCEPT).astype("<i2").tobytes()
        slices.append(image)
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(len(slices))
        slices = [slices[i] for i in order]
    return slices


def write_series(phantom: Phantom, folder: Path, **options: Any) -> list[Path]:
    """Write the slices, one DICOM file each; ``options`` are those of ``ct_slices``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, image in enumerate(ct_slices(phantom, **options), start=1):
        paths.append(folder / f"ct{number:04d}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_case(phantom: Phantom, folder: Path) -> None:
    """Write data.nii.gz, label.nii.gz and labelled.json, slices growing towards the head."""
    folder.mkdir(parents=True, exist_ok=True)
    for volume, name in ((phantom.ct, "data.nii.gz"), (phantom.labels, "label.nii.gz")):
        upwards = volume.to_patient_orientation("HPL")
        image: Any = sitk.GetImageFromArray(upwards.array)  # (z, y, x); SimpleITK is half typed
        image.SetSpacing(upwards.spacing[::-1])
        image.SetOrigin(tuple(upwards.affine[:3, 3]))
        image.SetDirection(tuple(upwards.direction[:, ::-1].ravel()))
        sitk.WriteImage(image, str(folder / name), useCompression=True)
    present = set(np.unique(phantom.labels.array))
    names = [organ.name for organ in ORGANS if organ.label in present]
    (folder / "labelled.json").write_text(json.dumps(names))


def _scan(
    patient: Patient, recipe: Recipe, affine: NDArray[np.float64]
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """CT in HU and labels of a patient on a grid, sheared or not."""
    hu = np.full(recipe.shape, AIR_HU, np.float32)
    paint(couch(), average_pose(), affine, recipe.shape, hu)
    labels = paint(patient.layers, patient.pose, affine, recipe.shape, hu)
    if recipe.noise_hu:
        rng = np.random.default_rng([recipe.seed, 7])
        hu += np.float32(recipe.noise_hu) * rng.standard_normal(recipe.shape, np.float32)
    ct = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    if recipe.padding_hu is not None:
        row, column = np.ogrid[-1 : 1 : recipe.shape[1] * 1j, -1 : 1 : recipe.shape[2] * 1j]
        outside = row**2 + column**2 > 1
        ct[:, outside] = recipe.padding_hu
        labels[:, outside] = 0
    return ct, labels


def _uid(recipe: Recipe, kind: str) -> str:
    return generate_uid(entropy_srcs=["orthanc-oar phantom", repr(recipe), kind])


def _header(recipe: Recipe, affine: NDArray[np.float64], index: int, series: str) -> Dataset:
    """One slice without its pixels and series description."""
    position = affine[:3, 3] + index * affine[:3, 0]
    rows = affine[:3, :3] / recipe.spacing_mm
    image = Dataset()
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = _uid(recipe, f"instance {series} {index}")
    image.StudyInstanceUID = _uid(recipe, "study")
    image.SeriesInstanceUID = _uid(recipe, f"series {series}")
    image.FrameOfReferenceUID = _uid(recipe, "frame of reference")
    image.PositionReferenceIndicator = ""
    image.PatientName = "PHANTOM^SYNTHETIC"
    image.PatientID = f"PHANTOM-{recipe.seed}"
    image.PatientBirthDate = ""
    image.PatientSex = "O"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20200101"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "120000"
    image.StudyID = "1"
    image.StudyDescription = "Synthetic head and neck"
    image.AccessionNumber = ""
    image.ReferringPhysicianName = ""
    image.Modality = "CT"
    image.Manufacturer = "orthanc-oar phantom"
    image.ManufacturerModelName = "synthetic, not a patient"
    image.BodyPartExamined = "HEADNECK"
    image.PatientPosition = PATIENT_POSITION[recipe.orientation]
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.AcquisitionNumber = 1
    image.InstanceNumber = index + 1
    image.KVP = "120"
    image.SliceThickness = DS(recipe.spacing_mm[0])
    image.PixelSpacing = [DS(v, auto_format=True) for v in recipe.spacing_mm[1:]]
    image.ImageOrientationPatient = [
        DS(float(v), auto_format=True) for v in (*rows[:, 2], *rows[:, 1])
    ]
    image.ImagePositionPatient = [DS(float(v), auto_format=True) for v in position]
    image.SliceLocation = DS(round(index * recipe.spacing_mm[0], 3), auto_format=True)
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = recipe.shape[1:]
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 1
    if recipe.padding_hu is not None:
        image.PixelPaddingValue = recipe.padding_hu - RESCALE_INTERCEPT
    image.RescaleIntercept = DS(RESCALE_INTERCEPT)
    image.RescaleSlope = DS(1)
    image.RescaleType = "HU"
    image.WindowCenter, image.WindowWidth = DS(40), DS(400)
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the cohort, one folder a case")
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--spacing", type=float, nargs=3, default=(3.0, 2.0, 2.0), metavar="MM")
    parser.add_argument("--shape", type=int, nargs=3, default=(80, 192, 192), metavar="N")
    parser.add_argument("--noise", type=float, default=12.0, help="standard deviation, HU")
    parser.add_argument("--dicom", action="store_true", help="also write the slices under dicom/")
    args = parser.parse_args(argv)
    for number in range(args.cases):
        seed = args.seed + number
        phantom = make_phantom(
            spacing_mm=tuple(args.spacing), shape=tuple(args.shape), seed=seed, noise_hu=args.noise
        )
        folder = args.out / f"phantom_{seed:04d}"
        write_case(phantom, folder)
        if args.dicom:
            write_series(phantom, folder / "dicom")
        print(f"\r{number + 1} of {args.cases}", end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
