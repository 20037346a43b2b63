"""The script that Orthanc runs: builds the objects and hands them to Orthanc's callbacks.

Whatever is wrong with the configuration or the weights is an exception here, while Orthanc loads
the script, and stops its start.
"""
# ruff: noqa: E402 - for the collector

import gc

gc.disable()  # most of what is loaded stays: see `keep_what_is_loaded`, which ends this

import json
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orthanc  # noqa: TID251 - exists only inside Orthanc; every other module takes it as argument
from sqlalchemy.exc import SQLAlchemyError

from plugin.archive import ArchiveError, UnknownResource
from plugin.belonging import hold
from plugin.configuration import (
    authenticates,
    configuration_folder,
    stable_age_seconds,
    storage_folder,
)
from plugin.jobs.intake import Intake
from plugin.jobs.job import Job
from plugin.jobs.jobs import Jobs
from plugin.log import OrthancLog, attach
from plugin.objects.results import description
from plugin.orthanc_api import answer, holds_threads_needlessly
from plugin.orthanc_archive import OrthancArchive
from plugin.sending.outgoing import Outgoing
from plugin.settings import SECTION, Settings
from plugin.station import Station
from plugin.status import Status
from plugin.web.ohif import is_served
from plugin.web.page_files import IN_ORTHANC_EXPLORER, PageFiles
from plugin.web.rest import Rest
from plugin.web.router import Request, from_elsewhere, user_of

attach(OrthancLog(orthanc))
log = logging.getLogger("plugin.main")

configuration = json.loads(orthanc.GetConfiguration())
settings = Settings.from_orthanc(configuration)
folder = configuration_folder(Path(orthanc.GetConfigurationPath()).resolve(), configuration)
storage = storage_folder(configuration, folder)
archive = OrthancArchive(orthanc, storage=storage)
database_url = settings.database_url(configuration, folder)
hold(database_url)
status = Status(archive=archive, orthanc=orthanc, labels=settings.labels)


def changed(jobs: Jobs, job: Job) -> None:
    status.changed(jobs, job)
    station.deliveries.wake()


station = Station(
    settings,
    archive=archive,
    database_url=database_url,
    # A file is ours alone, by whatever name a container has after it was made anew.
    owner=f"{socket.gethostname()}:{configuration.get('HttpPort', '')}"
    if settings.has_shared_queue
    else "Orthanc",
    changed=changed,
    does_jobs=settings.take_jobs,
)
station.belonging.give(storage)
jobs, catalogue = station.jobs, station.catalogue
outgoing = Outgoing(
    station.deliveries,
    station.webhooks,
    orthanc=orthanc,
    settings=settings,
    configuration=configuration,
)
intake = Intake(
    archive=archive,
    jobs=jobs,
    catalogue=catalogue,
    rules=station.model_rules,
    by_itself=station.by_itself,
    corrections=settings.compare_corrections,
    result=description(settings),
)


def between() -> None:
    status.refresh_counts(jobs)
    try:
        intake.take_put_off()
    except ArchiveError as why:
        log.warning("corrections could not be looked for: %s; trying again", why)


worker = station.worker(
    catch_up=lambda: intake.catch_up(max(1, settings.catch_up_days)),
    catch_up_after_s=(
        stable_age_seconds(configuration)
        if settings.catch_up_days and (settings.automatic or settings.compare_corrections)
        else None
    ),
    between=between,
)
viewer = is_served(configuration)
rest = Rest(
    station,
    intake=intake,
    worker=worker,
    queue_answers=lambda: worker.queue_answers and outgoing.queue_answers,
    viewer=viewer,
)
pages = PageFiles(viewer=viewer)


def take(study: str) -> None:
    try:
        intake.take(study, asked_by="stable study")
    except UnknownResource:
        log.info("study %s was deleted as soon as it was stable", study)
    except (ArchiveError, SQLAlchemyError):
        log.exception("study %s could not be queued; looking for it again soon", study)
        worker.catch_up_in(0)


def on_change(change: int, level: int, resource: str) -> None:
    # Orthanc's one thread for changes waits for us: a job is written, the work is done elsewhere.
    if change == orthanc.ChangeType.STABLE_STUDY:
        take(resource)
    elif change == orthanc.ChangeType.ORTHANC_STARTED:
        status.show_counts(jobs)
        worker.start()
        outgoing.start()
        if configuration.get("CheckRevisions", False):
            log.warning(
                "OarState cannot be kept on studies: Orthanc's CheckRevisions lets no plugin "
                "change metadata; /oar/ shows the state, and labels do where Orthanc has them"
            )
        if holds_threads_needlessly(orthanc, configuration):
            log.warning(
                "all of Python waits for each call into Orthanc, which this version can avoid: "
                'write "Python": {"AllowThreads": true} into its configuration'
            )
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        worker.stop()
        outgoing.stop()


def on_rest(output: Any, uri: str, **request: Any) -> None:
    if request["method"] == "GET" and uri == "/oar":
        output.Redirect("../oar/index.html")  # Orthanc does not tell /oar/ from /oar
        return
    if request["method"] == "GET" and (page := pages.find(uri)) is not None:
        for name, value in page.headers.items():
            output.SetHttpHeader(name, value)
        output.AnswerBuffer(page.content, page.content_type)
        return
    user = user_of(request["headers"]) if authenticates(configuration) else ""
    asked = Request(
        method=request["method"],
        path=uri,
        query=request.get("get", {}),
        body=request.get("body", b""),
        user=user,
        role=settings.role_of(user),
        from_elsewhere=from_elsewhere(request["headers"]),
    )
    # Orthanc's thread has a stack of 100 kB. Sequences within sequences of a CT could overflow it,
    # which would end Orthanc.
    with ThreadPoolExecutor(1) as thread:
        response = thread.submit(rest, asked).result()
    if response.status == HTTPStatus.METHOD_NOT_ALLOWED:
        output.SendMethodNotAllowed(response.headers["Allow"])  # Orthanc allows no body with it
        return
    output.SetHttpHeader("X-Content-Type-Options", "nosniff")
    answer(orthanc, output, response.status, response.text(), response.content_type)


orthanc.RegisterOnChangeCallback(on_change)
# ASCII alone, as all our addresses: a plugin cannot hand any other byte to Python.
orthanc.RegisterRestCallback("/oar(/[\x01-\x7f]*)?", on_rest)
orthanc.ExtendOrthancExplorer(IN_ORTHANC_EXPLORER)  # once: only the last script is served
log.info("model %s is ready; research use only", catalogue.default)
if SECTION not in configuration:
    log.warning("the configuration has no section %s: every setting is at its default", SECTION)
# As a warning, which Orthanc shows always: whoever has the log can tell whether lines were removed.
log.warning("the audit record has %d lines, the last with the hash %s", *station.audit.last())
