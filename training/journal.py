"""What a preparation has done so far, kept beside its output so that a killed run goes on.

OUT-private, beside OUT, holds journal.jsonl: the options of the run on the first line, then a line
for each step that is finished. It knows which case came from where; OUT does not.
"""

import fcntl
import json
import secrets
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from model.unusable import Unusable

JOURNAL = "journal.jsonl"

OPTIONS, SALT = "options", "salt"
"""Kinds of the first two lines."""


class OtherRun(Unusable):
    """OUT holds what another run made, and the two must not mix."""


def private_folder(out: Path) -> Path:
    """Where all that may lead back to a patient is kept; it does not leave the department."""
    return out.with_name(f"{out.name}-private")


class Journal:
    """Lines of finished steps, each with a kind; one run at a time writes them."""

    def __init__(self, out: Path, options: Mapping[str, Any]) -> None:
        """Go on with the run that made `out`, or begin.

        Args:
            out: the folder of prepared cases.
            options: everything that the result depends on, as JSON would hold it.

        Raises:
            OtherRun: `out` was made with other options or by something else, or is being made.
        """
        self.folder = private_folder(out.resolve())
        if not (self.folder / JOURNAL).exists():
            _check_empty(out)  # before anything is made beside what is another's
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = (self.folder / JOURNAL).open("a+")
        try:
            self._lock(out)
            self._entries = self._read()
            if self.of_kind(OPTIONS) and not self._is_barren(out):
                self._check(out, options)
            else:
                _check_empty(out)
                self._entries = [one for one in self._entries if one["kind"] == SALT]
                self._write_anew()
                out.mkdir(parents=True, exist_ok=True)
                if not self.of_kind(SALT):  # else a run was killed right here
                    self.add(SALT, secrets.token_hex(16))
                self.add(OPTIONS, dict(options))
        except OtherRun:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()  # and so unlocked

    def _lock(self, out: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OtherRun(f"Another run is at work on {out}.") from error

    def _read(self) -> list[dict[str, Any]]:
        """All entries; a last line that a killed run left half written is cut off."""
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            del lines[-1]
            self._file.truncate(len("".join(lines).encode()))
        return [json.loads(line) for line in lines]

    def _is_barren(self, out: Path) -> bool:
        """Whether nothing came of its options: a mistake in them is mended by the next call."""
        return len(self._entries) == 2 and out.is_dir() and not any(out.iterdir())

    def _write_anew(self) -> None:
        self._file.truncate(0)
        self._file.writelines(json.dumps(entry) + "\n" for entry in self._entries)
        self._file.flush()

    def _check(self, out: Path, options: Mapping[str, Any]) -> None:
        [before] = self.of_kind(OPTIONS)
        now = json.loads(json.dumps(options))
        names = before.keys() | now.keys()
        if other := sorted(name for name in names if before.get(name) != now.get(name)):
            raise OtherRun(
                f"{out} was begun with other options ({', '.join(other)}): choose another folder, "
                f"or remove it and {self.folder}."
            )

    def of_kind(self, kind: str) -> list[Any]:
        """What was noted of a kind of step, in its order."""
        return [entry["value"] for entry in self._entries if entry["kind"] == kind]

    def add(self, kind: str, value: Any) -> None:
        """Note a finished step; it is in the file when this returns."""
        entry = {"kind": kind, "value": value}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        self._entries.append(entry)

    def pseudonym(self, patient: str) -> str:
        """A patient's identifier as nobody can read it who lacks this folder."""
        [salt] = self.of_kind(SALT)
        return sha256((salt + patient).encode()).hexdigest()[:16]


def _check_empty(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise OtherRun(f"{out} is not empty, and nothing says how it was made.")
