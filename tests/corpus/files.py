"""Files with damage that no header explains."""

import struct

from tests.corpus.case import REFUSED, RESULT, Case, Damage, Files

UNREADABLE = "1 of 22 files cannot be read: not DICOM, or cut short"


def one_becomes(file: bytes) -> Damage:
    """A file of the middle is something else."""
    return lambda files: [*files[:5], file, *files[6:]]


def cut(length: int) -> Damage:
    """A file of the middle ends early."""
    return lambda files: [*files[:5], files[5][:length], *files[6:]]


def instead(old: bytes, new: bytes) -> Damage:
    """In a file of the middle, the first such bytes are others."""

    def damage(files: Files) -> Files:
        assert old in files[5]
        return [*files[:5], files[5].replace(old, new, 1), *files[6:]]

    return damage


def element(tag: tuple[int, int], vr: bytes) -> bytes:
    """How an element begins, in explicit little endian."""
    return struct.pack("<HH", *tag) + vr


ROWS = element((0x28, 0x10), b"US")
SLOPE = element((0x28, 0x1053), b"DS")
PIXELS = element((0x7FE0, 0x10), b"OW\0\0")

FILES = (
    Case("an empty file among them", UNREADABLE, damage=one_becomes(b""), in_orthanc=REFUSED),
    Case(
        "a photograph among them", UNREADABLE, damage=one_becomes(b"JFIF" * 99), in_orthanc=REFUSED
    ),
    Case(
        "a web page among them",
        UNREADABLE,
        damage=one_becomes(b"<html>" * 99),
        in_orthanc=REFUSED,
    ),
    *(
        Case(f"a file cut at {length}", ends, damage=cut(length), in_orthanc=REFUSED)
        for length, ends in {
            100: UNREADABLE,
            131: UNREADABLE,
            140: UNREADABLE,
            400: UNREADABLE,
            900: "1 of 22 images have no pixel data",
            -100: "1 of 22 images have fewer bytes of pixel data",
        }.items()
    ),
    Case(
        "bytes behind the end of a file",
        RESULT,
        damage=lambda files: [f + bytes(99) for f in files],
    ),
    Case(
        "a preamble of a program for Windows",
        RESULT,
        damage=lambda files: [b"MZ" + file[2:] for file in files],
    ),
    Case(
        "a value representation that does not exist",
        "Rows is",
        damage=instead(ROWS, ROWS[:4] + b"QQ"),
        in_orthanc=REFUSED,
    ),
    Case(
        "a value representation of unprintable bytes",
        "1 of 22 images have no pixel data",
        damage=instead(SLOPE, SLOPE[:4] + b"\x01\xfe"),
        newer_orthanc_refuses=True,
    ),
    Case(
        "a length that reaches beyond the end of the file",
        "1 of 22 images have no pixel data",
        damage=instead(SLOPE + b"\x04", SLOPE + b"\xff"),
        in_orthanc=REFUSED,
    ),
    Case(
        "four gigabytes of pixels announced and the right ones sent",
        RESULT,
        damage=instead(PIXELS + b"\x00\x08\x00\x00", PIXELS + b"\xf0\xff\xff\xff"),
    ),
)
