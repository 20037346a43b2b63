"""Slices that come when their series has its result already: which of the results stay.

With more slices it is another series to segment, so it gets another result. Whether the earlier one
stays beside it is a setting. Slices that come again under their old UIDs, but with another content,
make a result wrong: it goes in any case. What was sent on stays where it is.
"""

import logging
from collections.abc import Iterable
from typing import Literal

from blake3 import blake3

from plugin.jobs.job import Job, Outcome, Result
from plugin.jobs.job_changes import digest
from plugin.jobs.jobs import Jobs
from plugin.orthanc_archive import OrthancArchive

log = logging.getLogger(__name__)

LateSlices = Literal["join", "replace"]

CHANGED = "the slices came again with the same UIDs and another content."


def slices_sha256(sop_instance_uids: Iterable[str]) -> str:
    """Which slices a result was made of, as `Provenance` has it."""
    return digest(*sorted(sop_instance_uids))


def files_blake3(files: Iterable[bytes]) -> str:
    """What a result was made of to the last bit, in whatever order, as `Provenance` has it."""
    return joined_hashes(map(file_blake3, files))


def file_blake3(file: bytes) -> str:
    """Of one slice's file, while a job waits for it: SHA-256 takes two to three times as long."""
    return blake3(file).hexdigest()


def joined_hashes(hashes: Iterable[str]) -> str:
    """`files_blake3` of what `file_blake3` says of each."""
    return digest(*sorted(hashes))


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
            if theirs.files_blake3 == _files_now(job.series, archive):
                _remove(outcome.results, archive)
                reason = f"Replaced by the result of job {one.id}: {CHANGED}"
                return Outcome(state="skipped", reason=reason, seconds=outcome.seconds)
            log.info("the slices of job %s came again, changed: its result goes", one.id)
            _remove(one.results, archive)
            by = "Replaced by the result" if outcome.state == "done" else "Removed because"
            jobs.replaced(one.id, f"{by} of job {job.id}: {CHANGED}")
        elif outcome.state == "done" and job.run == made_of.files_blake3 and _same_wish(one, job):
            _remove(outcome.results, archive)
            reason = f"Job {one.id} has the result of these slices."
            return Outcome(state="skipped", reason=reason, seconds=outcome.seconds)
    return outcome


def _files_now(series: str, archive: OrthancArchive) -> str:
    return files_blake3(map(archive.file, archive.series(series).instances))


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
