"""The plugin as Orthanc runs it, with the faults that cannot be caused from outside.

The network hangs, and cannot be interrupted, as long as a file HANG lies beside Orthanc's
configuration; a locked queue is waited for two seconds only.
"""

import runpy
import time
from pathlib import Path
from typing import Any

from model import segmenter
from plugin.jobs import job_table

HANG = "hang"

ROOT = Path(__file__).parents[2] if "__file__" in globals() else Path(segmenter.__file__).parents[1]

# Orthanc's last argument; the list ends with a zero byte.
CONFIGURATION = Path(Path("/proc/self/cmdline").read_bytes().split(b"\0")[-2].decode())

predict_tiled = segmenter.predict_tiled


def hang(*arguments: Any, **options: Any) -> Any:
    while (CONFIGURATION.parent / HANG).exists():
        time.sleep(0.1)
    return predict_tiled(*arguments, **options)


if CONFIGURATION.suffix == ".json":  # not when a test only reads the name above
    segmenter.predict_tiled = hang
    job_table.BUSY_SECONDS = 2
    runpy.run_path(str(ROOT / "plugin" / "main.py"))
