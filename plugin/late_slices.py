"""Slices that come when their series has its result already: which of the results stay.

With more slices it is another series to segment, so it gets another result. Whether the earlier one
stays beside it is a setting. Slices that come again under their old UIDs, but with another content,
make a result wrong: it goes in any case. What was sent on stays where it is.
"""

import logging
from collections.abc import Iterable

from plugin.jobs.job import Job, Outcome, Result
from plugin.jobs.jobs import Jobs
from plugin.orthanc_archive import OrthancArchive
from plugin.slice_files import SliceFiles, slices_sha256

log = logging.getLogger(__name__)

CHANGED = "the slices came again with the same UIDs and another content."

OTHERS = "the series has other slices now."


def remove_wrong(job: Job, outcome: Outcome, *, archive: OrthancArchive, jobs: Jobs) -> Outcome:
    """Remove results of the same slices as they were before they came again, changed.

    Also if nothing comes of them as they are now: contours of a CT that is no more are worse than
    none. When to call it: see `replace_older`.

    Returns:
        The outcome to note. It is `skipped`, and this job's result is removed, if an earlier job
        has the result of exactly these files: the slices have changed back meanwhile. Likewise if
        they have changed since this job read them, and another worker has done them as they are.
    """
    made_of = outcome.provenance
    if outcome.state not in ("done", "skipped") or made_of is None or not made_of.files_blake3:
        return outcome
    for one in jobs.find(series=job.series, state="done"):
        theirs = one.provenance
        if one.id == job.id or theirs is None or not theirs.files_blake3:
            continue
        if theirs.instances_sha256 != made_of.instances_sha256:
            continue
        if theirs.files_blake3 != made_of.files_blake3:
            series = archive.series(job.series)
            if theirs.files_blake3 == SliceFiles(series, archive).blake3_now():
                return _taken_back(outcome, archive, _replaced_by(one, CHANGED))
            log.info("the slices of job %s came again, changed: its result goes", one.id)
            _remove(one.results, archive)
            refused = f"Removed because of job {job.id}: {CHANGED}"
            reason = _replaced_by(job, CHANGED) if outcome.state == "done" else refused
            jobs.replaced(one.id, reason)
        elif outcome.state == "done" and job.run == made_of.files_blake3 and _same_wish(one, job):
            return _taken_back(outcome, archive, f"Job {one.id} has the result of these slices.")
    return outcome


def _same_wish(one: Job, other: Job) -> bool:
    return one.run != one.id and (one.kind, one.model) == (other.kind, other.model)


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
            jobs.replaced(one.id, _replaced_by(job, OTHERS))
        return outcome
    for one in jobs.find(series=job.series, state="done", kind="segment"):
        if one.id != job.id and _made_of(one) == now:  # another worker was faster
            return _taken_back(outcome, archive, _replaced_by(one, OTHERS))
    return outcome  # to be replaced by the job that the new slices bring


def _made_of(one: Job | Outcome) -> str:
    return one.provenance.instances_sha256 if one.provenance else ""


def _remove(results: Iterable[Result], archive: OrthancArchive) -> None:
    for result in results:
        archive.remove(result.orthanc_id)


def _taken_back(outcome: Outcome, archive: OrthancArchive, reason: str) -> Outcome:
    """What comes of a job whose own result has to go."""
    _remove(outcome.results, archive)
    return Outcome(state="skipped", reason=reason, seconds=outcome.seconds)


def _replaced_by(job: Job, why: str) -> str:
    return f"Replaced by the result of job {job.id}: {why}"
