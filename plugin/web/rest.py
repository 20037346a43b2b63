"""The REST routes under /oar: one table of them, and what each does."""

from collections.abc import Callable

from model.checkpoint import BadCheckpoint
from plugin import __version__
from plugin.archive import ArchiveError, Series, UnknownResource
from plugin.catalogue import UnknownModel
from plugin.jobs.intake import Intake
from plugin.jobs.job import STATES, Job
from plugin.jobs.jobs import UnknownJob, WrongState
from plugin.station import Station
from plugin.web.audit_routes import AuditRoutes
from plugin.web.explain import StudyExplanation, explain_study
from plugin.web.messages import (
    Document,
    Health,
    JobList,
    JobQuery,
    JobRequest,
    ModelEntry,
    ModelList,
)
from plugin.web.openapi import openapi
from plugin.web.pause_routes import PauseRoutes
from plugin.web.quality_routes import QualityRoutes
from plugin.web.router import Request, Response, Role, Route, Router
from plugin.worker import Worker


class NothingToSegment(Exception):
    """The study or series exists but holds no CT."""


class QueueFails(Exception):
    """The queue can be read now, but could not be read or written when it was last needed."""


FAULTS: tuple[tuple[type[Exception], int], ...] = (
    (UnknownResource, 404),
    (UnknownJob, 404),
    (UnknownModel, 404),
    (WrongState, 409),
    (NothingToSegment, 422),
    (ArchiveError, 503),
    (BadCheckpoint, 503),
    (QueueFails, 503),
)
"""The first kind that fits counts. Any other is a fault of ours: Orthanc logs it and says 500."""


class Rest:
    """Answers requests. Each public method below `__call__` is one route."""

    def __init__(
        self,
        station: Station,
        *,
        intake: Intake,
        worker: Worker,
        queue_answers: Callable[[], bool],
        viewer: bool,
    ) -> None:
        self._station = station
        self._archive, self._jobs = station.archive, station.jobs
        self._catalogue = station.catalogue
        self._intake = intake
        self._worker = worker
        self._queue_answers = queue_answers
        self._viewer = viewer
        self.routes = (
            *self._table(),
            *AuditRoutes(station.audit).routes,
            *QualityRoutes(station.quality).routes,
            *PauseRoutes(station.pause).routes,
        )
        self._router = Router(self.routes, faults=FAULTS)

    def __call__(self, request: Request) -> Response:
        """Answer; every fault that we know of is a sentence with the right status."""
        return self._router(request)

    def _table(self) -> tuple[Route, ...]:
        return (
            Route(
                "POST",
                "/oar/studies/{study}/jobs",
                "Segment every CT series of a study",
                self.request_study,
                status=202,
                errors=(422,),
            ),
            Route(
                "POST",
                "/oar/series/{series}/jobs",
                "Segment one CT series",
                self.request_series,
                status=202,
                errors=(422,),
            ),
            Route(
                "GET",
                "/oar/studies/{study}/explain",
                "Say for every series of a study whether it is segmented, and why",
                self.explain,
            ),
            Route("GET", "/oar/jobs", "List jobs", self.list_jobs),
            Route("GET", "/oar/jobs/{job}", "Look at one job", self.job),
            Route(
                "POST",
                "/oar/jobs/{job}/cancel",
                "Cancel a job that is queued or running",
                self.cancel,
                errors=(409,),
            ),
            Route(
                "POST",
                "/oar/jobs/{job}/retry",
                "Try a failed, cancelled or skipped job again",
                self.retry,
                errors=(409,),
            ),
            Route(
                "POST",
                "/oar/jobs/{job}/deliver",
                "Try again to deliver what was not delivered",
                self.deliver,
                errors=(409,),
            ),
            Route("GET", "/oar/models", "List the models and their cards", self.models),
            Route("GET", "/oar/health", "Say whether the service works", self.health),
            Route("GET", "/oar/openapi.json", "Describe these routes", self.describe),
        )

    def request_study(self, study: str, body: JobRequest, user: str) -> JobList:
        chosen = [one for one in self._archive.series_of_study(study) if one.modality == "CT"]
        if not chosen:
            raise NothingToSegment("The study has no series of modality CT.")
        return self._request(chosen, body, user)

    def request_series(self, series: str, body: JobRequest, user: str) -> JobList:
        chosen = self._archive.series(series)
        if chosen.modality != "CT":
            found = chosen.modality or "missing"
            raise NothingToSegment(f"The modality of the series is {found}, expected CT.")
        return self._request([chosen], body, user)

    def _request(self, chosen: list[Series], body: JobRequest, user: str) -> JobList:
        return JobList(
            jobs=tuple(
                self._intake.request(series, force=body.force, model=body.model, user=user)
                for series in chosen
            )
        )

    def explain(self, study: str) -> StudyExplanation:
        return explain_study(
            study,
            archive=self._archive,
            jobs=self._jobs,
            rules=self._station.settings.series,
            by_itself=self._station.by_itself,
            model_rules=self._station.model_rules,
        )

    def list_jobs(self, query: JobQuery) -> JobList:
        return JobList(jobs=tuple(self._jobs.find(**query.model_dump())))

    def job(self, job: str) -> Job:
        return self._jobs.get(job)

    def cancel(self, job: str, user: str) -> Job:
        return self._jobs.cancel(job, user=user)

    def retry(self, job: str, user: str) -> Job:
        return self._jobs.retry(job, user=user)

    def deliver(self, job: str, user: str) -> Job:
        known = self._jobs.get(job)
        if not self._station.deliveries.send_again(job, user):
            if known.deliveries:
                raise WrongState("Everything of this job has arrived or is being tried now.")
            raise WrongState(
                "Nothing of this job was to be sent on when it ended: no rule fitted. Ask for a "
                "new result, or send this one from Orthanc Explorer."
            )
        return self._jobs.get(job)

    def models(self) -> ModelList:
        return ModelList(
            models=tuple(
                ModelEntry(
                    name=name,
                    default=name == self._catalogue.default,
                    loaded=self._catalogue.is_loaded(name),
                    card=card,
                    written=tuple(organ.name for organ in card.measured_rows()),
                )
                for name, card in self._catalogue.cards().items()
            ),
            archive=self._station.belonging.owner,
            version=__version__,
            settings=self._station.settings.digests_for_nodes(),
        )

    def health(self, role: Role) -> Health:
        counts = self._jobs.counts()
        if not self._queue_answers():
            raise QueueFails(
                "The queue of jobs could not be read or written when it was last needed; Orthanc's "
                "log says why."
            )
        segmenter = self._catalogue.get(self._catalogue.default)
        held = self._station.pause.held()
        return Health(
            status="ok" if self._worker.alive else "stopped",
            version=__version__,
            worker_alive=self._worker.alive,
            hanging=self._worker.hanging,
            paused=held is not None,
            paused_by=held.user if held else "",
            paused_since=held.since if held else None,
            queue_length=counts["queued"] + counts["running"],
            jobs={state: counts[state] for state in STATES},
            at_work=self._jobs.at_work(),
            waiting_seconds=round(self._jobs.waiting_seconds(), 1),
            model=segmenter.name,
            model_version=segmenter.version,
            device=segmenter.device,
            automatic=self._station.settings.automatic,
            automatic_rules=len(self._station.settings.automatic_for),
            viewer=self._viewer,
            role=role,
        )

    def describe(self) -> Document:
        return Document.model_validate(openapi(self.routes, version=__version__))
