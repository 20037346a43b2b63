"""One job and how it ends, as everybody outside the queue sees it.

A job is *queued*, then *running*, then one of *done* (its result is in the archive), *skipped* (the
study does not allow a result; the reason says why), *failed* (our own fault, after several
attempts) or *cancelled* (a person did not want it).
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["queued", "running", "done", "skipped", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "done", "skipped", "failed", "cancelled")

AskedBy = Literal["stable study", "rest", "start"]


class Result(BaseModel):
    """One DICOM object that a job has stored."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["seg"]
    sop_instance_uid: str
    orthanc_id: str


class Job(BaseModel):
    """One job as it was at one moment: what a person sees of it over REST."""

    model_config = ConfigDict(frozen=True, from_attributes=True, protected_namespaces=())

    id: str
    study: Annotated[str, Field(description="Orthanc's identifier of the study")]
    series: Annotated[str, Field(description="Orthanc's identifier of the CT series")]
    state: State
    stage: Annotated[str, Field(description="reading, segmenting, writing or storing; or empty")]
    progress: Annotated[float, Field(ge=0, le=1, description="of the whole job")]
    attempts: Annotated[int, Field(ge=0, description="how often it was begun")]
    reason: Annotated[str, Field(description="why it is not done, for a person; or empty")]
    model: Annotated[str, Field(description="name of the model")]
    asked_by: AskedBy
    run: Annotated[str, Field(description="its own identifier if it was forced; or empty")]
    results: tuple[Result, ...]
    volumes_ml: Annotated[dict[str, float], Field(description="millilitres by organ")]
    seconds: Annotated[dict[str, float], Field(description="seconds by stage")]
    warnings: tuple[str, ...]
    created: datetime
    started: datetime | None
    finished: datetime | None


class Outcome(BaseModel):
    """How a job ended that we carried out as we should."""

    model_config = ConfigDict(frozen=True)

    state: Literal["done", "skipped"]
    reason: str = ""
    results: tuple[Result, ...] = ()
    volumes_ml: dict[str, float] = {}
    seconds: dict[str, float] = {}
    warnings: tuple[str, ...] = ()
