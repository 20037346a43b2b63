"""150 slices in Orthanc to a float volume: our plugin against pydicom and SimpleITK on the files.

Ours is the stage `reading` of jobs in a real Orthanc: it asks Orthanc for each slice, checks the
series and decodes it. The other two read the same slices from files in a folder, unchecked. A
network of a few weights does the rest of the job.
"""

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from model.checkpoint import save
from tests.benchmarks.contest import OURS, Options, Row, against, in_turns
from tests.benchmarks.job import another_job, first_job
from tests.demo import Demo
from tests.phantoms import ct_slices, write_series
from tests.tiny_model import tiny_model

PYDICOM, SIMPLEITK = "pydicom, file by file", "SimpleITK's series reader"


def rows(options: Options) -> list[Row]:
    """Seconds to a float32 volume in HU."""
    phantom = options.phantom()
    files = write_series(phantom, options.folder / "slices")
    save(options.folder / "tiny", *tiny_model("tiny"))
    orthanc = Demo(options.folder / "data", str(options.folder / "tiny"))
    try:
        orthanc.wait()
        orthanc.push(ct_slices(phantom))
        first_job(orthanc)
        volumes: dict[str, np.ndarray] = {}

        def ours() -> float:
            return float(another_job(orthanc)["seconds"]["reading"])

        def by_pydicom() -> None:
            volumes[PYDICOM] = with_pydicom(files)

        def by_simpleitk() -> None:
            volumes[SIMPLEITK] = with_simpleitk(files[0].parent)

        figures = in_turns(
            {OURS: ours, PYDICOM: by_pydicom, SIMPLEITK: by_simpleitk}, options.repeats
        )
    finally:
        orthanc.process.terminate()
        orthanc.process.wait()
    for name, volume in volumes.items():
        if not np.array_equal(np.sort(volume.ravel()), np.sort(phantom.ct.array.ravel())):
            raise AssertionError(f"{name} read other values")
    return against(
        figures,
        {PYDICOM: 1.0, SIMPLEITK: 1.0},
        what="slices in Orthanc to volume",
        note=f"{len(files)} slices of {options.size} x {options.size}, seconds by the clock",
    )


def with_pydicom(files: list[Path]) -> np.ndarray:
    """As in pydicom's own example, with the rescaling."""
    slices = [pydicom.dcmread(file) for file in files]
    slices.sort(key=lambda ds: ds.ImagePositionPatient[2])
    return np.stack(
        [
            ds.pixel_array.astype(np.float32) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            for ds in slices
        ]
    )


def with_simpleitk(folder: Path) -> np.ndarray:
    """As in SimpleITK's own example."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    reader.SetOutputPixelType(sitk.sitkFloat32)
    return sitk.GetArrayFromImage(reader.Execute())
