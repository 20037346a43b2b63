"""Whatever happens to a file, it is read, or refused with a sentence; nothing else is raised."""

from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from model.checkpoint import save
from model.organs import BY_NAME
from model.segmenter import Segmenter
from plugin.archive import Series
from plugin.ct.series import judge, read_headers, read_series
from plugin.ct.series_rules import SeriesRules, UnsuitableSeries
from plugin.dicom_file import UnreadableFile, read_dicom
from plugin.drawn.drawn_organs import draw_organs
from plugin.drawn.structure_names import StructureNames
from plugin.drawn.structure_sets import UnusableStructureSet, read_structure_set
from plugin.pipeline import segment_series
from plugin.settings import Settings
from plugin.watch import Watch
from tests.corpus.case import Case, as_file, phantom
from tests.fuzz.damage import damages, elements, hurt
from tests.phantoms import ct_slices
from tests.structure_sets import ellipse, rtstruct, seg
from tests.tiny_model import tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # as in Orthanc
]

FILES = Case("whole", "").files()

RULES = SeriesRules()

NAMES = StructureNames.read()

ALL = Settings.model_validate({"Rtstruct": True, "VolumeReport": True, "ReviewPages": True})

which = st.none() | st.integers(0, len(FILES) - 1)
"""The file that is damaged; None: all of them alike."""


@dataclass(frozen=True)
class OneSeries:
    """An archive of it alone; what is stored there is kept as files."""

    files: list[bytes]
    stored: list[bytes] = field(default_factory=list)

    def listed(self) -> Series:
        instances = tuple(map(str, range(len(self.files))))
        return Series(id="series", study="study", modality="CT", instances=instances)

    def series(self, series: str) -> Series:
        return self.listed()

    def sop_instance_uids(self, series: Series) -> list[str]:
        return [f"1.2.{number}" for number in series.instances]

    def file(self, instance: str) -> bytes:
        return self.files[int(instance)]

    def find_instance(self, sop_instance_uid: str, *, study: str, ours: bool = True) -> None:
        return None

    def store(self, dataset: Dataset) -> str:
        self.stored.append(as_file(dataset))
        return str(len(self.stored))

    store_once = store


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    folder = tmp_path_factory.mktemp("weights") / "quick"
    save(folder, *tiny_model("quick"))
    return Segmenter.load(folder, device="cpu")


@pytest.fixture(scope="module")
def slices() -> list[Dataset]:
    return ct_slices(phantom())


@pytest.fixture(scope="module")
def drawings(slices: list[Dataset]) -> dict[str, bytes]:
    """What a colleague drew on that series."""
    brain = [ellipse((0, 0, z), (40, 40), points=24) for z in range(0, 60, 6)]
    organs = [BY_NAME["brainstem"], BY_NAME["parotid_left"]]
    return {
        "RTSTRUCT": as_file(rtstruct(slices, {"Brainstem": brain, "Parotid_L": brain[:4]})),
        "SEG": as_file(seg(slices, phantom().labels, organs)),
    }


@given(damages, which)
def test_a_damaged_series_is_read_or_refused(damages, which):
    files = [hurt(f, damages) if which in (None, n) else f for n, f in enumerate(FILES)]

    try:
        series = read_series(files, RULES)
    except UnsuitableSeries:
        return
    assert np.isfinite(series.volume.array).all()
    assert np.isfinite(series.volume.affine).all()
    assert judge(read_headers(files), RULES).chosen


@settings(max_examples=settings().max_examples // 5)
@given(st.lists(elements, min_size=1, max_size=3))
def test_a_job_on_odd_headers_ends_with_files_or_a_reason(segmenter, damages):
    archive = OneSeries([hurt(file, damages) for file in FILES])

    outcome = segment_series(
        archive.listed(), archive=archive, segmenter=segmenter, settings=ALL, watch=Watch()
    )

    assert outcome.reason.isprintable()
    assert outcome.state == ("done" if archive.stored else "skipped")
    assert (outcome.reason == "") == (outcome.state == "done")
    for file in archive.stored:
        assert pydicom.dcmread(BytesIO(file)).StudyInstanceUID


@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG"])
@given(damages)
def test_a_damaged_drawing_is_read_or_refused(drawings, slices, kind, damages):
    grid = phantom().ct.get_geometry()

    try:
        drawing = read_structure_set(read_dicom(hurt(drawings[kind], damages)))
        drawn = draw_organs(drawing, grid, NAMES)
    except (UnreadableFile, UnusableStructureSet):
        return
    present = {organ.label for organ in drawn.organs}
    assert set(np.unique(drawn.labels.array)) - {0} == present
