"""A phantom's true labels as a result of a model, ready to be written as DICOM."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from io import BytesIO

import highdicom as hd
from pydicom import Dataset

from model.organs import ORGANS, Organ
from model.plausibility import Doubt
from plugin.ct.series import CtSeries
from plugin.objects.finding import Finding
from plugin.objects.identity import Model, Origin
from tests.phantoms import Orientation, Phantom, ct_slices, make_phantom

ORIENTATIONS: tuple[Orientation, ...] = ("axial", "flipped_rows", "feet_first", "oblique")

WEIGHTS_SHA256 = "0123456789abcdef" * 4


@cache
def phantom(orientation: Orientation = "axial") -> Phantom:
    """A small patient who has every organ, without noise."""
    return make_phantom(
        shape=(44, 63, 61), spacing_mm=(5.0, 4.0, 4.5), orientation=orientation, noise_hu=0
    )


@cache
def headers(orientation: Orientation = "axial") -> tuple[Dataset, ...]:
    """Of the CT's slices, in the order of the labels' planes."""
    return headers_of(phantom(orientation))


def headers_of(patient: Phantom) -> tuple[Dataset, ...]:
    """Of the CT's slices, in the order of the labels' planes."""
    datasets = ct_slices(patient)
    for dataset in datasets:
        del dataset.PixelData
    return tuple(datasets)


def finding_of(
    labels: hd.Volume | None = None,
    slices: Sequence[Dataset] | None = None,
    *,
    hu: hd.Volume | None = None,
    organs: Sequence[Organ] = ORGANS,
    warnings: Sequence[str] = (),
    doubts: Sequence[Doubt] = (),
) -> Finding:
    """These labels as if they had been found in the CT of these slices, grey or not."""
    labels = phantom().labels if labels is None else labels
    ct = CtSeries(volume=labels if hu is None else hu, slices=tuple(slices or headers()))
    return Finding(ct=ct, labels=labels, organs=organs, warnings=warnings, doubts=doubts)


def origin_of(slices: Sequence[Dataset], *, name: str = "hn22-test", run: str = "") -> Origin:
    """Of a result for these slices."""
    return Origin(
        model=Model(name=name, version="1.2.3", weights_sha256=WEIGHTS_SHA256),
        series="1.2.series",
        slices=tuple(header.SOPInstanceUID for header in slices),
        run=run,
        created=datetime(2026, 3, 14, 15, 9, 26),
    )


def stored(result: Dataset) -> bytes:
    """The object as a file."""
    file = BytesIO()
    result.save_as(file, enforce_file_format=True)
    return file.getvalue()
