"""Organs at risk in Orthanc: everything that knows of DICOM and of Orthanc."""

import os

__version__ = "0.1.0"

# Before torch is loaded, which is when OpenMP reads it. Its threads spin while they wait for each
# other, and beside one other busy process, as Orthanc may be, a CT then takes six times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
