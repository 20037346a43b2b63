"""What a person sees without asking: the state on the study, and figures for Prometheus."""

import logging
import threading
import time
from collections import Counter
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from plugin.archive import ArchiveError
from plugin.jobs.job import STATES, Job
from plugin.jobs.jobs import Jobs
from plugin.orthanc_archive import OrthancArchive

log = logging.getLogger(__name__)

REFRESH_S = 10.0
"""How old the numbers of jobs may become while nothing changes here."""

STATE_METADATA = "OarState"
"""Name under "UserMetadata" of Orthanc's configuration."""

LABELS = {state: f"oar-{state}" for state in STATES}
"""What a study is labelled with that has a job in this state."""


class Status:
    """Keeps Orthanc's metadata and metrics in step with the queue of jobs."""

    def __init__(self, *, archive: OrthancArchive, orthanc: Any, labels: bool) -> None:
        self._archive = archive
        self._orthanc = orthanc
        self._labels = labels
        self._total_seconds: Counter[str] = Counter()
        self._counted_at = time.monotonic()
        self._one_at_a_time = threading.RLock()

    def changed(self, jobs: Jobs, job: Job) -> None:
        """Show that a job has come to another state. A fault here is no fault of the job."""
        with self._one_at_a_time:  # what was read first must not be shown last
            show_on_study(self._archive, jobs, job, labels=self._labels)
            if job.state == "done":  # once: one whose result is replaced later is skipped then
                self._add_seconds(job)
            self.show_counts(jobs)

    def refresh_counts(self, jobs: Jobs) -> None:
        """The same, now and then: worker nodes change states too, and tell only the database."""
        if time.monotonic() - self._counted_at >= REFRESH_S:
            self.show_counts(jobs)

    def show_counts(self, jobs: Jobs) -> None:
        """Give the number of jobs in each state to Prometheus."""
        with self._one_at_a_time:
            self._counted_at = time.monotonic()
            try:
                counts = jobs.counts()
            except SQLAlchemyError as why:
                log.warning("the jobs could not be counted: %s", why)
                return
            for state in STATES:
                self._set(f"oar_jobs_{state}", counts[state])
            self._set("oar_queue_length", counts["queued"] + counts["running"])

    def _add_seconds(self, job: Job) -> None:
        self._total_seconds.update(job.seconds)
        for stage, seconds in job.seconds.items():
            name = stage.replace(".", "_").replace(" ", "_")
            self._set(f"oar_seconds_{name}_last", seconds)
            self._set(f"oar_seconds_{name}_total", self._total_seconds[stage])

    def _set(self, name: str, value: float) -> None:
        self._orthanc.SetMetricsValue(name, float(value), self._orthanc.MetricsType.DEFAULT)


def show_on_study(archive: OrthancArchive, jobs: Jobs, job: Job, *, labels: bool) -> None:
    """Note the state of a job's study on it. A fault here is no fault of the job.

    Args:
        archive: that holds the study.
        jobs: the queue.
        job: that has changed.
        labels: also as labels, where Orthanc has them: people search by these.
    """
    try:
        found = jobs.find(study=job.study, kind="segment")
    except SQLAlchemyError as why:
        log.warning("the state of job %s could not be noted on its study: %s", job.id, why)
        return
    latest = list({one.series: one for one in reversed(found)}.values())
    wanted = {LABELS[one.state] for one in latest}
    try:
        archive.set_study_metadata(job.study, STATE_METADATA, summary(latest))
    except ArchiveError as why:  # an Orthanc without this UserMetadata
        log.warning("the state of job %s could not be noted on its study: %s", job.id, why)
    try:
        if labels:
            archive.set_study_labels(job.study, wanted, among=frozenset(LABELS.values()))
    except ArchiveError as why:
        log.warning("the study of job %s could not be labelled: %s", job.id, why)


def summary(jobs: list[Job]) -> str:
    """The state of a study in a few words: "done", or "2 done, 1 skipped" for several series."""
    if len(jobs) == 1:
        return jobs[0].state
    counts = Counter(job.state for job in jobs)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
