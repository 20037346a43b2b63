"""Slices that come when their series has its result already: which of the results stay.

With more slices it is another series to segment, so it gets another result. Whether the earlier one
stays beside it is a setting. What was sent on stays where it is in any case.
"""

import hashlib
import logging
from collections.abc import Iterable
from typing import Literal

from plugin.archive import OrthancArchive
from plugin.jobs.job import Job, Outcome, Result
from plugin.jobs.jobs import Jobs

log = logging.getLogger(__name__)

LateSlices = Literal["join", "replace"]


def slices_sha256(sop_instance_uids: Iterable[str]) -> str:
    """Which slices a result was made of, as `Provenance` has it."""
    return hashlib.sha256("\n".join(sorted(sop_instance_uids)).encode()).hexdigest()


def replace_older(job: Job, outcome: Outcome, *, archive: OrthancArchive, jobs: Jobs) -> Outcome:
    """Leave only results of just the slices that the series holds now, as soon as there is one.

    Call when the result of the job is stored and the job not yet finished: an interruption then
    leaves a result too many until the job is repeated, and never one too few.

    Returns:
        The outcome of the job, another one if its own result had to go.
    """
    if outcome.state != "done":
        return outcome
    now = slices_sha256(archive.sop_instance_uids(archive.series(job.series)))
    made_of_others = [
        one
        for one in jobs.find(series=job.series, state="done")
        if one.id != job.id and _made_of(one) not in ("", now)
    ]
    if _made_of(outcome) == now:
        for one in made_of_others:
            log.info("the result of job %s is replaced by that of job %s", one.id, job.id)
            _remove(one.results, archive)
            jobs.replaced(one.id, _reason(job))
        return outcome
    for one in jobs.find(series=job.series, state="done", kind="segment"):
        if one.id != job.id and _made_of(one) == now:  # another worker was faster
            _remove(outcome.results, archive)
            return Outcome(state="skipped", reason=_reason(one), seconds=outcome.seconds)
    return outcome  # to be replaced by the job that the new slices bring


def _made_of(one: Job | Outcome) -> str:
    return one.provenance.instances_sha256 if one.provenance else ""


def _remove(results: Iterable[Result], archive: OrthancArchive) -> None:
    for result in results:
        archive.remove(result.orthanc_id)


def _reason(by: Job) -> str:
    return f"Replaced by the result of job {by.id}: the series has other slices now."
