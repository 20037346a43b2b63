"""Python's log, written into Orthanc's own."""

import logging
import warnings
from typing import Any

OURS = ("plugin", "model")
"""The packages whose loggers are shown; other libraries' remarks are not for Orthanc's log."""

QUOTING = ("pydicom", "highdicom")
"""Libraries whose remarks and warnings quote header values, which may be a patient's name."""


class OrthancLog(logging.Handler):
    """Sends each record to the function of Orthanc that fits its level.

    Orthanc shows its information level only with --verbose, and warnings and errors always.
    """

    def __init__(self, orthanc: Any) -> None:
        super().__init__()
        self._orthanc = orthanc
        self.setFormatter(logging.Formatter("oar: %(message)s"))

    def attach(self) -> None:
        """Begin to listen to our packages, and silence those that quote headers."""
        warnings.simplefilter("ignore")  # by any library, for a filter knows only who called it
        for name in QUOTING:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        for name in OURS:
            logger = logging.getLogger(name)
            logger.setLevel(logging.INFO)
            logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            write = self._orthanc.LogError
        elif record.levelno >= logging.WARNING:
            write = self._orthanc.LogWarning
        else:
            write = self._orthanc.LogInfo
        write(self.format(record))
