"""What people see, in a headless Chromium: Orthanc Explorer, the queue, the viewer."""
