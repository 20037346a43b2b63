"""Faults on a real Orthanc, and load: what must never be lost is counted."""
