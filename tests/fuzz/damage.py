"""Strategies of hypothesis: what can happen to a DICOM file between its maker and us."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO

import pydicom
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from plugin.dicom_file import DAMAGE

VRS = (
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OD", "OF"),
    *("OL", "OV", "OW", "PN", "SH", "SL", "SQ", "SS", "ST", "SV", "TM", "UC", "UI", "UL", "UN"),
    *("UR", "US", "UT", "UV"),
)

ODD = (
    *(b"", b"\\", b"1\\2", b"nan", b"inf", b"-inf", b"-1", b"0", b"1e400", b"1e39", b"1.5", b"1_0"),
    *(
        b"abc",
        b"\xff\xfe\x00",
        b"9" * 40,
        b"\x00\x00",
        b"\x01\x00",
        b"\xff\xff",
        b"CT\\CT",
        b" 12 ",
    ),
    *(b"\xd9\xa3", b"\x1b$B", b"1\x00", b"\r\n", b"1e6\\1e6", b"1e-7\\1e-7", b"0\\0\\1e300"),
    *(b"1.2..3", b"../..", b"<b>", b"-2147483649", b"32768", b"20240230", b"ISO_IR 999"),
)
"""Values that have hurt somebody."""

values = st.sampled_from(ODD) | st.binary(max_size=24)


@dataclass(frozen=True)
class Element:
    """One element, at the top or within a sequence, with another value and perhaps another VR."""

    number: int  # of all elements, counted round
    vr: str | None
    value: bytes

    def hurt(self, file: bytes) -> bytes:
        try:
            dataset = pydicom.dcmread(BytesIO(file))
            found = list(_elements(dataset))
        except DAMAGE:  # it is damaged so much already
            return file
        if not found:
            return file
        parent, tag, vr = found[self.number % len(found)]
        value = self.value + b" " * (len(self.value) % 2)
        raw = RawDataElement(tag, self.vr or vr, len(value), value, 0, False, True)
        parent[tag] = raw
        out = BytesIO()
        try:
            dataset.save_as(out, enforce_file_format=True)
        except DAMAGE:  # pydicom cannot write it, so nobody sends it
            return file
        return out.getvalue()


def _elements(dataset: Dataset) -> Iterator[tuple[Dataset, BaseTag, str]]:
    for element in dataset:
        yield dataset, element.tag, str(element.VR).split()[0]
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)


@dataclass(frozen=True)
class Splice:
    """Some bytes in place of others."""

    at: int  # counted round
    length: int
    new: bytes

    def hurt(self, file: bytes) -> bytes:
        at = self.at % len(file) if file else 0
        return file[:at] + self.new + file[at + self.length :]


@dataclass(frozen=True)
class Cut:
    """The end is missing."""

    at: int

    def hurt(self, file: bytes) -> bytes:
        return file[: self.at % len(file)] if file else file


Damage = Element | Splice | Cut

numbers = st.integers(0, 2**16)

elements = st.builds(Element, numbers, st.none() | st.sampled_from(VRS), values)
splices = st.builds(
    Splice,
    st.integers(128, 1500) | numbers,  # headers are more interesting than pixels
    st.sampled_from([0, 1, 2, 4, 8, 100]),
    values,
)
damages = st.lists(elements | splices | st.builds(Cut, numbers), min_size=1, max_size=4)


def hurt(file: bytes, damages: Iterable[Damage]) -> bytes:
    """One after the other."""
    for damage in damages:
        file = damage.hurt(file)
    return file
