"""What the routes of rest.py are asked and answer, beside jobs themselves."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.checkpoint import Card
from plugin.jobs.job import Job, State
from plugin.plain_text import PlainText
from plugin.web.router import Identifier, Message, Role


class JobRequest(Message):
    """What may be wished of a segmentation. An empty body wishes nothing special."""

    force: Annotated[
        bool, Field(strict=True, description="Make a new result even if there is one.")
    ] = False
    model: Annotated[
        str | None, Field(description="Name of a model; null: as the settings say.")
    ] = None


class JobQuery(Message):
    """Which jobs to list."""

    state: State | None = None
    study: Identifier | None = None
    limit: Annotated[int, Field(ge=1, le=1000, description="The newest ones.")] = 100


class JobList(Message):
    """Jobs, the newest first."""

    jobs: tuple[Job, ...]


class ModelEntry(Message):
    """One model that jobs may ask for."""

    name: str
    default: bool
    loaded: bool
    card: Card
    written: Annotated[
        tuple[str, ...], Field(description="those of the card's organs that patients get")
    ]


class ModelList(Message):
    """The models that jobs may ask for."""

    models: tuple[ModelEntry, ...]
    archive: Annotated[
        str, Field(description="name of the archive whose queue this is, for worker nodes")
    ]
    version: Annotated[str, Field(description="of the software, which worker nodes must have too")]
    settings: Annotated[
        dict[str, str],
        Field(description="hashes of the settings that worker nodes must have alike, by key"),
    ]


class Health(Message):
    """Whether the service works."""

    status: Annotated[Literal["ok", "stopped"], Field(description="stopped: no job is taken")]
    version: str
    worker_alive: bool
    hanging: Annotated[
        int,
        Field(description="jobs that could not be stopped at their time limit: restart Orthanc"),
    ]
    paused: Annotated[bool, Field(description="by a person: no further job is taken")]
    paused_by: Annotated[PlainText, Field(description="who paused it, if Orthanc knows; or empty")]
    paused_since: datetime | None
    queue_length: Annotated[int, Field(description="jobs queued or running")]
    jobs: Annotated[dict[str, int], Field(description="number of jobs by state")]
    at_work: Annotated[
        int, Field(description="jobs that run and whose worker, here or on a node, lives")
    ]
    waiting_seconds: Annotated[
        float,
        Field(
            description="of the job that has waited longest; if it grows while at_work is 0, "
            "no worker is running"
        ),
    ]
    model: str
    model_version: str
    device: str
    automatic: Annotated[bool, Field(description="stable studies are segmented by themselves")]
    automatic_rules: Annotated[
        int, Field(description="of AutomaticFor, one of which must fit; 0: every CT does")
    ]
    viewer: Annotated[bool, Field(description="OHIF is there: /oar/viewer?study=ID shows a study")]
    role: Annotated[Role, Field(description="what who asks may do; see Roles in SECURITY.md")]
    research_use_only: Literal[True] = True


class Document(BaseModel):
    """The OpenAPI description itself, whose schema is not ours to give."""

    model_config = ConfigDict(extra="allow")
