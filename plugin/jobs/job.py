"""One job and how it ends, as everybody outside the queue sees it.

A job is *queued*, then *running*, then one of *done* (its result is in the archive), *skipped* (the
study does not allow a result; the reason says why), *failed* (our own fault, after several
attempts) or *cancelled* (a person did not want it).
"""

from datetime import datetime
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from plugin.plain_text import PlainText

State = Literal["queued", "running", "done", "skipped", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)

AskedBy = Literal["stable study", "rest", "start"]

Kind = Literal["segment", "shadow", "compare"]
"""*segment*: a CT series gets its result. *shadow*: another model on the same series, after it; its
result is kept apart, compared with the first and never sent on. *compare*: an RTSTRUCT or SEG that
people drew is compared with our results for its CT."""

ResultKind = Literal["seg", "rtstruct", "sr", "review"]

DeliveryKind = Literal["modality", "dicomweb", "peer", "sender", "webhook"]
DeliveryState = Literal["waiting", "sending", "done", "failed", "refused"]


class Result(BaseModel):
    """One DICOM object that a job has stored."""

    model_config = ConfigDict(frozen=True)

    kind: ResultKind
    sop_instance_uid: str
    orthanc_id: str
    sha256: Annotated[str, Field(description="of the file as the archive gives it back")] = ""


class Provenance(BaseModel):
    """What a result was made of, with what and by what. Nothing here identifies the patient."""

    model_config = ConfigDict(frozen=True)

    instances: Annotated[int, Field(description="number of CT slices")]
    instances_sha256: Annotated[str, Field(description="of their SOP Instance UIDs, one a line")]
    files_blake3: Annotated[
        str, Field(description="SHA-256 of their files' BLAKE3, sorted, one a line")
    ] = ""
    model_version: str
    weights_sha256: str
    settings_sha256: Annotated[str, Field(description="of the settings as JSON, without secrets")]
    software: str


class Parcel(BaseModel):
    """Results of one kind that go to one place, or the news."""

    model_config = ConfigDict(frozen=True)

    kind: DeliveryKind
    target: str  # name in a configuration; of a sender: AE title, @ and address
    result: ResultKind | Literal[""] = ""  # of news: empty
    instances: tuple[str, ...] = ()  # the archive's identifiers


class Delivery(BaseModel):
    """One thing that leaves this machine because of a job: results, or the news."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    job: str
    kind: DeliveryKind
    target: Annotated[PlainText, Field(description="a name in the configuration, or the sender")]
    result: Annotated[
        ResultKind | Literal[""],
        Field(description="what is sent; empty for news, and for all that an earlier version sent"),
    ] = ""
    state: DeliveryState
    attempts: int
    reason: Annotated[PlainText, Field(description="why it has not arrived; or empty")]
    begun: datetime
    due: Annotated[datetime, Field(description="not before: the next attempt, or the next look")]
    finished: datetime | None


class Job(BaseModel):
    """One job as it was at one moment: what a person sees of it over REST."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    kind: Kind = "segment"
    of: Annotated[str, Field(description="the job whose result is compared with; or empty")] = ""
    study: Annotated[str, Field(description="Orthanc's identifier of the study")]
    series: Annotated[
        str, Field(description="Orthanc's identifier of the CT series, or of what is compared")
    ]
    state: State
    stage: Annotated[
        str, Field(description="reading, segmenting, writing, storing or comparing; or empty")
    ]
    progress: Annotated[float, Field(ge=0, le=1, description="of the whole job")]
    attempts: Annotated[int, Field(ge=0, description="how often it was begun")]
    reason: Annotated[PlainText, Field(description="why it is not done, for a person; or empty")]
    model: Annotated[str, Field(description="name of the model; empty for a comparison")]
    asked_by: AskedBy
    user: Annotated[
        PlainText,
        Field(description="who last asked, retried or cancelled, if Orthanc knows; or empty"),
    ] = ""
    run: Annotated[
        str,
        Field(
            description="its own identifier if it was forced, or files_blake3 of slices that came "
            "again as others than before; or empty"
        ),
    ]
    received: Annotated[
        str, Field(description="when Orthanc had received the last slice, as it was then")
    ] = ""
    results: tuple[Result, ...]
    volumes_ml: Annotated[dict[str, float], Field(description="millilitres by organ")]
    seconds: Annotated[dict[str, float], Field(description="seconds by stage")]
    warnings: tuple[PlainText, ...]
    dice: Annotated[
        dict[str, float], Field(description="agreement with the job compared with, by organ")
    ] = {}
    provenance: Provenance | None = None
    deliveries: tuple[Delivery, ...] = ()
    created: datetime
    started: datetime | None
    finished: datetime | None


class Outcome(BaseModel):
    """How a job ended that we carried out as we should."""

    model_config = ConfigDict(frozen=True)

    state: Literal["done", "skipped"]
    reason: PlainText = ""
    results: tuple[Result, ...] = ()
    volumes_ml: dict[str, float] = {}
    seconds: dict[str, float] = {}
    warnings: tuple[PlainText, ...] = ()
    dice: dict[str, float] = {}
    provenance: Provenance | None = None
    files_blake3: Annotated[str, Field(exclude=True)] = ""
    parcels: Annotated[tuple[Parcel, ...], Field(exclude=True)] = ()
