"""Series of a small patient, as files; and the real ones."""

from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset

from plugin.ct.series import CtSeries, read_series
from plugin.ct.series_rules import SeriesRules
from tests.phantoms import Orientation, Phantom, ct_slices, make_phantom

DICOM = Path(__file__).parents[4] / "shared" / "data" / "dicom"
RULES = SeriesRules()


@cache
def phantom(orientation: Orientation = "axial", padding_hu: int | None = None) -> Phantom:
    return make_phantom(
        shape=(30, 32, 40),
        spacing_mm=(4.0, 7.0, 6.0),
        orientation=orientation,
        noise_hu=0,
        padding_hu=padding_hu,
    )


def slices() -> list[Dataset]:
    return ct_slices(phantom())


def as_file(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read(datasets: list[Dataset], rules: SeriesRules = RULES) -> CtSeries:
    return read_series([as_file(dataset) for dataset in datasets], rules)


def real(folder: str) -> list[Path]:
    if not (DICOM / folder).is_dir():
        pytest.skip(f"needs shared/data/dicom/{folder} beside the repository")
    return sorted((DICOM / folder).glob("*.dcm"))
