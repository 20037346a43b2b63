"""The DICOM objects that are written of a result."""
