"""The script that Orthanc runs: builds the objects and hands them to Orthanc's callbacks.

Whatever is wrong with the configuration or the weights is an exception here, while Orthanc loads
the script, and stops its start.
"""

import json
import logging
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orthanc  # noqa: TID251 - exists only inside Orthanc; every other module takes it as argument
import torch
from sqlalchemy.exc import SQLAlchemyError

from plugin.archive import ArchiveError, OrthancArchive, UnknownResource
from plugin.catalogue import Catalogue
from plugin.intake import Intake
from plugin.job import Job, Outcome
from plugin.job_table import open_database
from plugin.jobs import Jobs
from plugin.log import OrthancLog
from plugin.pipeline import Watch, segment_series
from plugin.rest import Rest
from plugin.router import Request
from plugin.settings import Settings, stable_age_seconds
from plugin.status import Status
from plugin.worker import Worker

OrthancLog(orthanc).attach()
log = logging.getLogger("plugin.main")

configuration = json.loads(orthanc.GetConfiguration())
settings = Settings.from_orthanc(configuration)
if settings.threads:
    torch.set_num_threads(settings.threads)
catalogue = Catalogue(default=settings.model, device=settings.device)
catalogue.get(catalogue.default)  # the weights are read now, or Orthanc does not start

archive = OrthancArchive(orthanc)
status = Status(archive=archive, orthanc=orthanc)
folder = Path(orthanc.GetConfigurationPath()).resolve().parent
jobs: Jobs = Jobs(
    open_database(settings.database_url(configuration, folder)),
    max_attempts=settings.max_attempts,
    retry_delay_seconds=settings.retry_delay_seconds,
    changed=lambda job: status.changed(jobs, job),
)
intake = Intake(
    archive=archive, jobs=jobs, catalogue=catalogue, segmentation_type=settings.segmentation_type
)


def segment(job: Job, watch: Watch) -> Outcome:
    return segment_series(
        archive.series(job.series),
        archive=archive,
        segmenter=catalogue.get(job.model),
        settings=settings,
        run=job.run,
        watch=watch,
    )


def catch_up() -> None:
    intake.catch_up(max(1, settings.catch_up_days))


worker = Worker(
    jobs,
    segment,
    catch_up=catch_up,
    catch_up_after_s=(
        stable_age_seconds(configuration) if settings.automatic and settings.catch_up_days else None
    ),
)
rest = Rest(
    settings=settings,
    archive=archive,
    jobs=jobs,
    intake=intake,
    catalogue=catalogue,
    worker=worker,
)


def take(study: str) -> None:
    try:
        intake.take_study(study, asked_by="stable study")
    except UnknownResource:
        log.info("study %s was deleted as soon as it was stable", study)
    except (ArchiveError, SQLAlchemyError):
        log.exception("study %s could not be queued; looking for it again soon", study)
        worker.catch_up_in(0)


def on_change(change: int, level: int, resource: str) -> None:
    # Orthanc's one thread for changes waits for us: a job is written, the work is done elsewhere.
    if change == orthanc.ChangeType.STABLE_STUDY and settings.automatic:
        take(resource)
    elif change == orthanc.ChangeType.ORTHANC_STARTED:
        status.show_counts(jobs)
        worker.start()
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        worker.stop()


def on_rest(output: Any, uri: str, **request: Any) -> None:
    response = rest(
        Request(
            method=request["method"],
            path=uri,
            query=request.get("get", {}),
            body=request.get("body", b""),
        )
    )
    if response.status == HTTPStatus.METHOD_NOT_ALLOWED:
        output.SendMethodNotAllowed(response.headers["Allow"])  # Orthanc allows no body with it
        return
    output.SetHttpHeader("Content-Type", "application/json")
    text = response.text()
    try:
        output.SendHttpStatus(response.status, text, len(text))
    except TypeError:  # plugins after 4.0 take two arguments
        output.SendHttpStatus(response.status, text)


orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterRestCallback("/oar(/.*)?", on_rest)
log.info("model %s is ready; research use only", catalogue.default)
