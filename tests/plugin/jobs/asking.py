"""A job to ask for, and what may come of it."""

from typing import Any

from plugin.jobs.job import Job, Provenance, Result
from plugin.jobs.jobs import Jobs

MADE_OF = Provenance(
    instances=2,
    instances_sha256="11",
    model_version="1.0.0",
    weights_sha256="22",
    settings_sha256="33",
    software="orthanc-oar",
)

RESULT = Result(kind="seg", sop_instance_uid="2.25.1", orthanc_id="abc")


def add(jobs: Jobs, **changes: Any) -> Job:
    values: dict[str, Any] = {
        "study": "study",
        "series": "series",
        "instances": ["b", "a"],
        "model": "quick",
        "identity": "quick 1.0.0 abc",
        "asked_by": "stable study",
    }
    return jobs.add(**values | changes)
