"""Organs at risk in Orthanc: everything that knows of DICOM and of Orthanc."""

import os

__version__ = "0.1.0"

SPIN_ROUNDS = "1000"
# Before torch is loaded, which is when OpenMP reads it. Its threads spin while they wait for each
# other, and beside one other busy process, as Orthanc may be, a CT then takes three to eight times
# as long as alone, and otherwise not twice (CONTRIBUTING.md, Experiments).
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_ROUNDS)
