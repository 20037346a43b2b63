"""Our section, "Oar", of Orthanc's configuration: every setting, its default and its meaning."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_serializer, field_validator
from pydantic.alias_generators import to_pascal
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from model.explained import explained
from plugin.conditions import Condition
from plugin.configuration import (
    BadConfiguration,
    Section,
    authenticates,
    check_types,
    read_configuration,
    storage_and_index,
)
from plugin.ct.series_rules import SeriesRules
from plugin.jobs.job import ResultKind
from plugin.model_rules import ModelRule
from plugin.objects.rtstruct import Holes
from plugin.objects.seg import SegmentationType
from plugin.sending.routing import RouteRule
from plugin.sending.webhook import WebhookSettings
from plugin.web.router import Role

SECTION = "Oar"
"""Name of ours in Orthanc's configuration."""

DATABASE_FILE = "oar-jobs.db"
"""Name of the queue's SQLite file, beside Orthanc's own index."""

ORTHANC_INDEX = "index"
"""Name of the SQLite file of that."""

MADE_BY: dict[ResultKind, str] = {
    "rtstruct": "rtstruct",
    "sr": "volume_report",
    "review": "review_pages",
}
"""The settings that have results beside the SEG made, in the order of storing."""


DATABASES = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")
"""How an address of the queue may begin: what is installed and what the queue can be kept in."""


MOST_THREADS = 1024
"""Of one network: more processors than a machine has."""

MOST_ATTEMPTS = 20
"""By the default pause, doubled each time, the last attempt comes half a year after the first."""

MOST_SECONDS = 86_400.0
MOST_HOURS = 87_600.0
MOST_DAYS = 3650
"""A day, and ten years twice: nobody needs longer, and sums of dates beyond would overflow."""


FOR_NODES = {
    *("segmentation_type", "rtstruct", "rtstruct_holes", "volume_report", "review_pages"),
    *("series", "late_slices", "labels", "routes", "webhooks"),
}
"""Fields that must not differ between Orthanc and its worker nodes."""


class DeliverySettings(Section):
    """How long a result or the news of it is tried to be delivered."""

    retry_delay_seconds: Annotated[float, Field(gt=0, le=MOST_SECONDS)] = 30.0
    """Before the second attempt; doubles each time, up to an hour."""

    give_up_after_hours: Annotated[float, Field(gt=0, le=MOST_HOURS)] = 72.0
    """Then it has failed, until a person asks for it again."""


class Settings(Section):
    """What a hospital can choose."""

    model_config = ConfigDict(hide_input_in_errors=True)  # it may be a secret; errors are logged

    automatic: bool = True
    """Segment every stable study with a suitable CT by itself."""

    automatic_for: list[Condition] = Field(default=[])
    """By itself only series that fit one of these rules; none: every CT."""

    model: Annotated[str, Field(min_length=1)] = "hn6-openkbp"
    """Name of a folder under model/weights, or a path."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""

    compile: bool = False
    """Compile the network for the GPU: the first job after a start takes longer. Not tried on a
    GPU."""

    threads: Annotated[int, Field(ge=0, le=MOST_THREADS)] = 0
    """Processor threads of the network; 0: PyTorch's own choice."""

    segmentation_type: SegmentationType = "BINARY"
    """LABELMAP is newer; few viewers show it."""

    rtstruct: bool = False
    """Also write an RTSTRUCT, for planning systems."""

    rtstruct_holes: Holes = "keyhole"
    """keyhole: a hole is part of the contour around it. xor: a contour of its own, as DICOM knows
    since 2020, which not every system reads."""

    volume_report: bool = False
    """Also write the volumes as a structured report (TID 1500)."""

    review_pages: bool = False
    """Also write pages with the contours drawn, for any viewer."""

    labels: bool = True
    """Label studies with the state of their jobs, from Orthanc 1.12 on."""

    database: str = ""
    """SQLAlchemy URL of the queue of jobs. Empty: the SQLite file oar-jobs.db beside Orthanc's
    index."""

    roles: dict[str, Role] = Field(default={})
    """What each of Orthanc's registered users may do here; who is not named may do nothing. Empty:
    all may do everything."""

    take_jobs: bool = True
    """Do jobs inside this Orthanc; false leaves them to worker nodes."""

    lease_seconds: Annotated[float, Field(ge=1, le=MOST_SECONDS)] = 60.0
    """A worker without a sign of life for as long loses its job to others."""

    late_slices: Literal["join", "replace"] = "join"
    """Slices that come after the result bring a new one. join: beside the earlier one; replace: in
    its place, and the earlier one is deleted from Orthanc."""

    max_attempts: Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)] = 3
    """A job that our own fault stops is tried this often."""

    retry_delay_seconds: Annotated[float, Field(ge=0, le=MOST_SECONDS)] = 30.0
    """Pause before the second attempt; doubles each time."""

    time_limit_seconds: Annotated[float, Field(ge=0)] = 3600.0
    """A job that takes longer is stopped and has failed; 0: no limit."""

    catch_up_days: Annotated[int, Field(ge=0, le=MOST_DAYS)] = 7
    """At start, look for studies of the last days missed; 0: do not."""

    shadow_model: str = ""
    """A second model that runs after Model, on trial: its result is kept apart, compared and never
    sent on. A name or a path; empty: none."""

    models: list[ModelRule] = Field(default=[])
    """Which series get which model; the first rule that fits, else Model."""

    routes: list[RouteRule] = Field(default=[])
    """Where results are sent on to; every rule that fits."""

    webhooks: list[WebhookSettings] = Field(default=[])
    """Programs that are told when a job has ended."""

    delivery: DeliverySettings = DeliverySettings.model_validate({})
    """How long routes and webhooks are tried."""

    compare_corrections: bool = True
    """Compare an RTSTRUCT or SEG that people drew with our results."""

    series: SeriesRules = SeriesRules.model_validate({})
    """Which CT series are suitable."""

    @field_validator("database")
    @classmethod
    def _is_an_address(cls, database: str) -> str:
        try:
            address = make_url(database) if database else None
        except (ArgumentError, ValueError):  # whose sentence may quote a piece of a password
            raise ValueError("not an SQLAlchemy URL") from None
        if address and address.drivername not in DATABASES:  # not quoted: it may be a password
            raise ValueError(
                "the queue is kept in an SQLite file or in PostgreSQL, as in "
                "sqlite:////srv/oar-jobs.db or postgresql://USER:PASSWORD@HOST/NAME"
            )
        if (
            address
            and address.get_backend_name() == "sqlite"
            and not Path(address.database or "").is_absolute()  # else it is where Orthanc starts
        ):
            raise ValueError("SQLite needs a file's whole path, as in sqlite:////srv/oar-jobs.db")
        return database

    @field_serializer("database")
    def _without_its_password(self, database: str) -> str:
        return make_url(database).render_as_string() if database else ""

    @field_validator("webhooks")
    @classmethod
    def _have_names_of_their_own(cls, webhooks: list[WebhookSettings]) -> list[WebhookSettings]:
        if len({one.name for one in webhooks}) < len(webhooks):
            raise ValueError("two webhooks have the same name")
        return webhooks

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Our section of a file of Orthanc's configuration, which must be there.

        Raises:
            BadConfiguration: it is not; the file cannot be read; or as `from_orthanc`.
        """
        configuration = read_configuration(path)
        settings = cls.from_orthanc(configuration)
        if SECTION not in configuration:
            raise BadConfiguration(
                f"{path} has no section {SECTION}: a copy of that of Orthanc's configuration must "
                f'stand in it, as {{"{SECTION}": {{"Model": "..."}}}}.'
            )
        return settings

    @classmethod
    def from_orthanc(cls, configuration: Mapping[str, Any]) -> "Settings":
        """Our section of Orthanc's whole configuration, or the defaults if it has none.

        Raises:
            BadConfiguration: naming each unknown key of ours and each value that is not allowed.
        """
        check_types(configuration)
        for key in configuration.keys() - {SECTION}:
            if key.lower() == SECTION.lower():
                raise BadConfiguration(
                    f"Orthanc's configuration: write {SECTION} instead of {key}."
                )
        try:
            settings = cls.model_validate(configuration.get(SECTION, {}))
        except ValidationError as error:
            wrong = explained(error, SECTION)
            raise BadConfiguration(f"Orthanc's configuration cannot be used: {wrong}.") from None
        if wrong := "; ".join(settings.unmade_kinds()):
            raise BadConfiguration(f"Orthanc's configuration cannot be used: {wrong}.")
        if settings.roles and not authenticates(configuration):
            raise BadConfiguration(
                "Oar.Roles needs AuthenticationEnabled in Orthanc's configuration."
            )
        if not (settings.take_jobs or settings.has_shared_queue):
            raise BadConfiguration(
                "Oar.TakeJobs is false, and no worker node can reach a queue in an SQLite file: "
                "Oar.Database must be a postgresql:// URL."
            )
        return settings

    @property
    def has_shared_queue(self) -> bool:
        """Whether processes on other machines can reach the queue."""
        return bool(self.database) and make_url(self.database).get_backend_name() != "sqlite"

    def unmade_kinds(self) -> list[str]:
        """What routes name that is never made, each as a sentence."""
        return [
            f"Oar.Routes.{number}.Kinds: {kind} is not made: set {to_pascal(MADE_BY[kind])}"
            for number, route in enumerate(self.routes)
            for kind in route.kinds
            if kind in MADE_BY and not getattr(self, MADE_BY[kind])
        ]

    def digests_for_nodes(self) -> dict[str, str]:
        """SHA-256, by key, of what decides what a job's result consists of and where it goes.

        A worker node does both by its own configuration, which must say the same as Orthanc's.
        """
        said = self.model_dump(mode="json", by_alias=True, include=FOR_NODES)
        return {
            key: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
            for key, value in said.items()
        }

    def role_of(self, user: str) -> Role:
        """What somebody may do whom Orthanc let in by this name."""
        return self.roles.get(user, "none") if self.roles else "administer"

    def database_url(self, configuration: Mapping[str, Any], folder: Path) -> str:
        """SQLAlchemy URL of the queue.

        Args:
            configuration: Orthanc's whole configuration.
            folder: of Orthanc's configuration file, where Orthanc's relative paths begin.

        Raises:
            BadConfiguration: it is Orthanc's own index.
        """
        index = (folder / storage_and_index(configuration)[1]).resolve()
        if not self.database:
            return f"sqlite:///{index / DATABASE_FILE}"
        if not self.has_shared_queue and (
            Path(make_url(self.database).database or "").resolve() == index / ORTHANC_INDEX
        ):
            raise BadConfiguration(
                "Oar.Database is the file of Orthanc's own index: name another file, or none."
            )
        return self.database


def settings_digest(settings: Settings) -> str:
    """SHA-256 of the settings as JSON; of secrets only whether there is one."""
    return hashlib.sha256(settings.model_dump_json(by_alias=True).encode()).hexdigest()
