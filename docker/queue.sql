-- The queue of jobs has a database of its own beside Orthanc's index.
CREATE DATABASE oar;
