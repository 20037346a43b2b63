"""The service inside a real Orthanc."""
