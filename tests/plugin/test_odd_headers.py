"""What stands in a header where it does not belong hinders no result and is repeated nowhere."""

import logging
import tracemalloc
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from model.segmenter import Segmenter
from plugin.ct.series import read_series
from plugin.ct.series_rules import SeriesRules, UnsuitableSeries
from plugin.jobs.job import Outcome
from plugin.log import OURS, QUOTING, OrthancLog, attach
from plugin.orthanc_archive import OrthancArchive
from plugin.pipeline import segment_series
from plugin.settings import Settings
from plugin.watch import Watch
from tests.fake_orthanc import FakeOrthanc
from tests.plugin.ct.series_files import as_file

NAME = b"ZZSMITH^ZZJOHN"

PROCEDURE = Tag("ProcedureCodeSequence")

HARMLESS = (
    "SpecificCharacterSet",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientWeight",
    "StudyDate",
    "StudyTime",
    "SeriesNumber",
    "InstanceNumber",
    "AcquisitionNumber",
    "SliceThickness",
    "SliceLocation",
    "KVP",
    "WindowCenter",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "PositionReferenceIndicator",
)
"""What a result does not need to be right."""


@pytest.fixture
def orthanc() -> FakeOrthanc:
    return FakeOrthanc()


@pytest.fixture(scope="module")
def quick(weights) -> Segmenter:
    return Segmenter.load(weights / "quick", device="cpu")


@pytest.fixture
def logged(orthanc: FakeOrthanc) -> Iterator[FakeOrthanc]:
    """Logging and warnings as they are inside Orthanc, put back afterwards."""
    levels = {name: logging.getLogger(name).level for name in (*OURS, *QUOTING)}
    handler = OrthancLog(orthanc)
    with warnings.catch_warnings():
        attach(handler)
        yield orthanc
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).removeHandler(handler)


def write(images: list[Dataset], keyword: str, value: bytes) -> None:
    """Put bytes into an element of each image as they are, whatever they may be by rights."""
    tag = Tag(tag_for_keyword(keyword))
    vr = dictionary_VR(tag)
    value += b" " * (len(value) % 2)
    for image in images:
        image[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def segment(orthanc: FakeOrthanc, images: list[Dataset], segmenter: Segmenter) -> Outcome:
    archive = OrthancArchive(orthanc)
    [series] = archive.series_of_study(orthanc.receive(images))
    return segment_series(
        series, archive=archive, segmenter=segmenter, settings=Settings(), watch=Watch()
    )


@pytest.mark.parametrize("keyword", HARMLESS)
def test_a_name_in_the_wrong_place_hinders_no_result_and_is_not_repeated(
    logged, quick, ct, caplog, capfd, keyword
):
    write(ct, keyword, NAME)

    with warnings.catch_warnings(record=True) as warned:
        outcome = segment(logged, ct, quick)

    assert outcome.state == "done"
    assert len(logged.segs()) == 1
    assert "ZZ" not in caplog.text
    assert "ZZ" not in str(logged.log)
    assert "ZZ" not in "".join(capfd.readouterr())
    assert [str(one.message) for one in warned] == []


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("turn", [1, -1])
def test_what_cannot_be_read_of_the_slice_that_speaks_for_all_is_missing(ct, turn):
    """Whichever came first: results repeat the words of the one that lies first."""
    for one in ct:
        one.SeriesNumber = 12345
    files = [as_file(one).replace(b"12345 ", b"1e999 ") for one in ct[::turn]]

    series = read_series(files, SeriesRules())

    assert "SeriesNumber" not in series.slices[0]


@pytest.mark.parametrize(
    "keyword",
    ["SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"],
)
def test_two_values_where_one_uid_belongs_are_the_studys_fault(logged, quick, ct, keyword):
    study = logged.receive(ct)
    [series] = OrthancArchive(logged).series_of_study(study)
    for instance in series.instances:
        both = b"1.2.3\\1.2.4"
        uid = str(logged.headers[instance][keyword].value).encode()
        assert logged.files[instance].count(uid) >= 1
        padded = both.ljust(len(uid), b"5")
        logged.files[instance] = logged.files[instance].replace(uid, padded)

    outcome = segment_series(
        series,
        archive=OrthancArchive(logged),
        segmenter=quick,
        settings=Settings(),
        watch=Watch(),
    )

    assert outcome.state == "skipped"
    assert f"{keyword} is missing or not one value in 22 of 22 images" in outcome.reason


def segment_patient(
    orthanc: FakeOrthanc,
    images: list[Dataset],
    segmenter: Segmenter,
    declared: bytes,
    patient: bytes,
) -> Outcome:
    """Segment images whose files hold these very bytes, which pydicom would write otherwise."""
    stand_in = b"~" * len(patient)
    write(images, "SpecificCharacterSet", declared)
    write(images, "PatientID", stand_in)
    archive = OrthancArchive(orthanc)
    [series] = archive.series_of_study(orthanc.receive(images))
    for instance in series.instances:
        file = orthanc.files[instance]
        assert file.count(stand_in) == 1
        orthanc.files[instance] = file.replace(stand_in, patient)
    return segment_series(
        series, archive=archive, segmenter=segmenter, settings=Settings(), watch=Watch()
    )


@pytest.mark.parametrize(
    ("declared", "patient"),
    [
        (b"ISO_IR 192", b"M\xfcller"),  # Latin-1, declared as UTF-8
        (b"ISO_IR 13", b"\xd4\xcf123"),  # katakana, which pydicom reads and does not write
        (b"ISO_IR 127", b"A\xa1\xa2"),  # no letters of that set
    ],
)
def test_a_patient_whose_id_could_not_be_written_again_gets_no_result(
    logged, quick, ct, declared, patient
):
    """It would stand under a patient whom nobody knows."""
    with warnings.catch_warnings(record=True):
        outcome = segment_patient(logged, ct, quick, declared, patient)

    assert outcome.state == "skipped"
    assert outcome.reason.startswith("PatientID cannot be written again as it is")
    assert logged.segs() == []


def test_each_slice_has_a_say_in_whether_its_patient_can_be_written_again(ct):
    for image in ct:
        image.SpecificCharacterSet, image.PatientID = "ISO_IR 100", "M\u00fcller"
    files = [as_file(image) for image in ct]
    for wrong in (files[0], files[-1]):
        others = [file for file in files if file is not wrong]
        declared = wrong.replace(b"ISO_IR 100", b"ISO_IR 192")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's; silent in the service
            with pytest.raises(UnsuitableSeries, match="PatientID cannot be written again"):
                read_series([*others, declared], SeriesRules())


@pytest.mark.parametrize(
    ("declared", "patient"),
    [
        (b"ISO_IR 100", b"M\xfcller"),
        (b"ISO_IR 192", "头颈-7".encode()),
        (b"", b"M\xfcller"),
        (b"ISO_IR 192", b" 0012 "),
    ],
)
def test_a_patients_id_is_written_with_the_bytes_that_it_had(logged, quick, ct, declared, patient):
    outcome = segment_patient(logged, ct, quick, declared, patient)

    assert outcome.state == "done"
    [seg] = [logged.files[result.orthanc_id] for result in outcome.results]
    assert patient.strip() in seg


def nested(depth: int, innermost: bytes = b"") -> bytes:
    """The value of a sequence of codes within sequences of codes, implicit little endian."""
    for level in range(depth):
        if level:
            innermost = b"\x08\x00\x32\x10" + len(innermost).to_bytes(4, "little") + innermost
        innermost = b"\xfe\xff\x00\xe0" + len(innermost).to_bytes(4, "little") + innermost
    return innermost


CURVE_DATA = b"\x00\x50\x00\x30" + (2).to_bytes(4, "little") + b"ab"
"""An element that pydicom reads and, not knowing of what kind it is, cannot write."""


@pytest.mark.parametrize("innermost", [b"", CURVE_DATA])
@pytest.mark.parametrize("depth", [1, 12, 100])
def test_sequences_within_sequences_take_no_more_memory_than_others(
    logged, quick, ct, depth, innermost
):
    value = nested(depth, innermost)
    for image in ct:
        image[PROCEDURE] = RawDataElement(PROCEDURE, "SQ", len(value), value, 0, True, True)
        image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    tracemalloc.start()
    outcome = segment(logged, ct, quick)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert outcome.state == "done"
    assert peak < 400 * 2**20


def test_one_slice_twice_with_deep_sequences_is_one_slice(ct):
    value = nested(100)
    for image in ct:
        image[PROCEDURE] = RawDataElement(PROCEDURE, "SQ", len(value), value, 0, True, True)
        image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    files = [as_file(image) for image in ct]

    assert len(read_series([*files, files[0]], SeriesRules()).slices) == len(ct)


def test_a_description_that_says_it_is_a_number_hinders_no_result(ct):
    for image in ct:
        image.SeriesDescription = "HEAD"
    files = [as_file(image).replace(b"LO\x04\x00HEAD", b"FD\x04\x00HEAD") for image in ct]

    assert len(read_series(files, SeriesRules()).slices) == len(ct)


def test_a_ct_of_nothing_but_specks_in_air_is_the_studys_fault(orthanc, quick, ct):
    for image in ct:
        air = np.full((image.Rows, image.Columns), 24, "<i2")  # -1000 HU
        image.PixelData = air.tobytes()
    speck = air.copy()
    speck[16, 16] = 1024  # one voxel of water, which vanishes on a coarser grid
    ct[11].PixelData = speck.tobytes()

    outcome = segment(orthanc, ct, quick)

    assert outcome.state == "skipped"
    assert outcome.reason == "The images show no patient: nothing is denser than -300 HU."
    assert orthanc.segs() == []
