"""Organs at risk in Orthanc: everything that knows of DICOM and of Orthanc."""

__version__ = "0.1.0"
