"""Python's log, written into Orthanc's own, or to a terminal by a process outside of Orthanc."""

import logging
import sqlite3
import traceback
import warnings
from types import TracebackType
from typing import Any

from plugin.plain_text import plain

OURS = ("plugin", "model")
"""The packages whose loggers are shown; other libraries' remarks are not for Orthanc's log."""

QUOTING = ("pydicom", "highdicom")
"""Libraries whose remarks and warnings quote header values, which may be a patient's name."""

SAY_NOTHING_OF_PATIENTS = (OSError, MemoryError, RuntimeError, sqlite3.OperationalError)
"""Exceptions from outside whose sentence is logged. The others' may quote a header's value."""


class OneLine(logging.Formatter):
    """Writes a record so that no value in it can look like another line or name a patient."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return plain(super().formatMessage(record))

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        lines: list[str] = []
        error = ei[1]
        while error is not None:
            for frame in traceback.extract_tb(error.__traceback__):
                lines.append(f"{frame.filename}:{frame.lineno} in {frame.name}")
            ours = type(error).__module__.partition(".")[0] in OURS
            said = f": {error}" if ours or isinstance(error, SAY_NOTHING_OF_PATIENTS) else ""
            lines.append(f"{type(error).__name__}{said}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n".join("    " + plain(line) for line in lines)


class Faults:
    """Faults of one thread: the first of several in a row is logged whole, the others by a line."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        """
        Args:
            log: where they are told of.
            what: they all mean, as a sentence without its end.
        """
        self._log = log
        self._what = what
        self.last = False  # whether it has failed when it was last tried

    def note(self, error: Exception) -> None:
        """Tell of one, while it is handled."""
        if self.last:
            self._log.warning("%s: %s again", self._what, type(error).__name__)
        else:
            self._log.error(self._what, exc_info=error)
        self.last = True

    def over(self) -> None:
        """It has gone well."""
        self.last = False


def attach(handler: logging.Handler) -> None:
    """Give it what our packages log, and silence those that quote headers."""
    warnings.simplefilter("ignore")  # by any library, for a filter knows only who called it
    for name in QUOTING:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)


class OrthancLog(logging.Handler):
    """Sends each record to the function of Orthanc that fits its level.

    Orthanc shows its information level only with --verbose, and warnings and errors always.
    """

    def __init__(self, orthanc: Any) -> None:
        super().__init__()
        self._orthanc = orthanc
        self.setFormatter(OneLine("oar: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            write = self._orthanc.LogError
        elif record.levelno >= logging.WARNING:
            write = self._orthanc.LogWarning
        else:
            write = self._orthanc.LogInfo
        write(self.format(record))
