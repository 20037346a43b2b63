"""Each series of the corpus is read or refused as it must be, in little memory."""

from pathlib import Path

import pytest
from pydicom.pixels import get_decoder
from pydicom.uid import AllTransferSyntaxes, ExplicitVRLittleEndian

from plugin.ct.series import Judgement, judge, read_headers, read_series
from plugin.ct.series_rules import SeriesRules, UnsuitableSeries
from tests.corpus import CASES
from tests.corpus.case import PATIENT_ID, RESULT, SURNAME, Case
from tests.corpus.syntaxes import READ, have_programs, needs_programs

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's; silent in the service

LITTLE = 2**28
"""Bytes of memory: the largest that any of these series may take."""


def peak() -> int:
    """The most memory that this process has had since it was last asked to forget it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def outcome(files: list[bytes]) -> str:
    try:
        read_series(files, SeriesRules())
    except UnsuitableSeries as why:
        return str(why)
    return RESULT


def explained(files: list[bytes]) -> Judgement:
    try:
        return judge(read_headers(files), SeriesRules())
    except UnsuitableSeries as why:
        return Judgement(chosen=False, reason=str(why))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_series_is_read_or_refused_with_the_right_reason_and_little_memory(case: Case) -> None:
    if needs_programs(case) and not have_programs():
        pytest.skip("needs dcmcjpeg and ojph_compress: apt-get install dcmtk openjph-tools")
    files = case.files()
    forget_peak()
    before = peak()

    reason = outcome(files)

    assert case.ends in reason if case.ends else reason == RESULT
    assert peak() - before < LITTLE
    assert explained(files).chosen or reason  # by its headers alone
    assert SURNAME not in reason
    assert PATIENT_ID not in reason


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_every_transfer_syntax_that_has_a_decoder_is_in_the_corpus() -> None:
    decoded = set()
    for syntax in AllTransferSyntaxes:
        try:
            if get_decoder(syntax).is_available:
                decoded.add(syntax)
        except NotImplementedError:
            continue
    assert decoded == {*READ, ExplicitVRLittleEndian}
