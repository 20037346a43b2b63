"""The thread that takes jobs from the queue, one at a time."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from model.segmenter import Cancelled, DeviceLost
from plugin.archive import ArchiveError, UnknownResource
from plugin.jobs.heartbeat import Heartbeat
from plugin.jobs.job import Job, Outcome
from plugin.jobs.jobs import Jobs
from plugin.log import Faults
from plugin.watch import Watch

log = logging.getLogger(__name__)

REPORT_EVERY_S = 0.5
"""Progress is written, and the wish to cancel is read, at most this often."""

BEATS_PER_LEASE = 4
"""So often is a lease renewed while it holds: three renewals may fail in a row."""

IDLE_S = 60.0
"""The longest sleep: after it, the queue is looked at in any case."""

PAUSE_S = 5.0
"""Rest after a fault of the database or of the archive, before asking again."""

STOP_S = 10.0
"""How long Orthanc's stop waits for the network to reach a place where it can be interrupted."""

GRACE = 0.1
"""Share of its time limit that a job gets on top, to notice that it must stop."""

MOST_HANGING = 2
"""Once so many jobs could not be stopped, no further one is taken: each still holds memory."""


class Hangs(Exception):
    """A job has not stopped when it should. The thread that does it is left behind."""


class Worker:
    """Takes jobs while Orthanc runs. No job can end it."""

    def __init__(
        self,
        jobs: Jobs,
        run: Callable[[Job, Watch], Outcome],
        *,
        catch_up: Callable[[], None],
        catch_up_after_s: float | None,
        between: Callable[[], None],
        paused: Callable[[], bool],
        time_limit_s: float,
        reachable: Callable[[], bool],
    ) -> None:
        """
        Args:
            jobs: the queue.
            run: does one job.
            catch_up: looks for missed studies; called between jobs.
            catch_up_after_s: seconds from the start to the first call; None: only when asked.
            between: called between jobs, and often while there are none.
            paused: whether no further job is to be taken.
            time_limit_s: for one attempt at one job.
            reachable: whether the archive answers; asked when a job has found that it does not.
        """
        self._jobs = jobs
        self._run = run
        self._catch_up = catch_up
        self._catch_up_after_s = catch_up_after_s
        self._catch_up_at: float | None = None  # time.monotonic()
        self._between = between
        self._paused = paused
        self._time_limit_s = time_limit_s
        self._left_behind: list[threading.Thread] = []
        self._reachable = reachable
        self._faults = Faults(log, "the queue of jobs does not answer; trying again")
        self._stopping = threading.Event()
        # A daemon: a network that cannot be interrupted must not keep Orthanc from stopping.
        self._thread = threading.Thread(target=self._work, name="oar-worker", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether jobs are being taken."""
        return self._thread.is_alive() and self.hanging < MOST_HANGING

    @property
    def queue_answers(self) -> bool:
        """Whether the queue could be read and written when it was last needed."""
        return not self._faults.last

    @property
    def hanging(self) -> int:
        """Number of jobs that could not be stopped at their time limit and still go on."""
        return sum(thread.is_alive() for thread in self._left_behind)

    def start(self) -> None:
        """Begin, with the jobs first that an earlier process left behind."""
        if self._catch_up_after_s is not None:
            self.catch_up_in(self._catch_up_after_s)
        self._thread.start()

    def catch_up_in(self, seconds: float) -> None:
        """Look for missed studies then, or earlier if that was asked for before."""
        at = time.monotonic() + seconds
        before = self._catch_up_at  # asked once: the worker may clear it meanwhile
        self._catch_up_at = at if before is None else min(at, before)
        self._jobs.wake()

    def stop(self, patience_s: float = STOP_S) -> None:
        """Give the running job back to the queue and end, as soon as the network allows."""
        self._stopping.set()
        self._jobs.wake()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def _work(self) -> None:
        recovered = False
        while not self._stopping.is_set():
            try:
                if not recovered:
                    self._jobs.recover()
                    recovered = True
                if self._catch_up_at is not None and time.monotonic() >= self._catch_up_at:
                    self._catch_up_at = None
                    self._catch_up_or_again()
                self._between()
                takes_none = self._paused() or self.hanging >= MOST_HANGING
                job = None if takes_none else self._jobs.claim()
                self._faults.over()
                if job is not None:
                    self._do(job)
                else:
                    self._jobs.wait(self._longest_sleep_s(), for_due=not takes_none)
            except ArchiveError:
                log.exception("the archive did not answer; trying again")
            except SQLAlchemyError as error:
                self._faults.note(error)
                recovered = False  # what was running may not have been noted as ended
                self._stopping.wait(PAUSE_S)
            except Exception:  # a fault of ours must not keep all further CTs waiting
                log.exception("the worker has met a fault of its own; going on")
                self._stopping.wait(PAUSE_S)

    def _catch_up_or_again(self) -> None:
        """What was missed must not be missed twice, whoever did not answer."""
        try:
            self._catch_up()
        except (ArchiveError, SQLAlchemyError):
            self.catch_up_in(PAUSE_S)
            raise

    def _longest_sleep_s(self) -> float:
        if self._catch_up_at is None:
            return IDLE_S
        return min(IDLE_S, self._catch_up_at - time.monotonic())

    def _do(self, job: Job) -> None:
        log.info("job %s on series %s, attempt %d", job.id, job.series, job.attempts)
        with Heartbeat(
            lambda: self._jobs.renew(job.id),
            every_s=self._jobs.lease_seconds / BEATS_PER_LEASE,
            lease_s=self._jobs.lease_seconds,
        ) as heartbeat:
            self._do_alive(job, heartbeat)

    def _do_alive(self, job: Job, heartbeat: Heartbeat) -> None:
        deadline = time.monotonic() + self._time_limit_s
        try:
            self._jobs.tell(job)  # only now: an Orthanc that does not answer may take minutes
            watch = self._watch(job, heartbeat, deadline)
            self._finish(job, self._outcome(lambda: self._run(job, watch)), heartbeat)
        except Cancelled:
            if heartbeat.lost:
                log.warning("job %s took too long to give a sign of life and was handed on", job.id)
            elif self._stopping.is_set():
                self._jobs.put_back(job.id)
            elif time.monotonic() >= deadline:
                self._give_up(job, "It was stopped.")
            elif self._jobs.cancel_wanted(job.id):
                self._jobs.stopped(job.id)
            else:  # the lease was lost for a moment only
                self._jobs.put_back(job.id)
        except Hangs:
            self._give_up(job, "It could not be stopped: restart Orthanc to free what it holds.")
        except UnknownResource:
            reason = "The series is no longer in the archive."
            self._jobs.finish(job.id, Outcome(state="skipped", reason=reason))
        except SQLAlchemyError:
            raise  # of the queue, not of the job
        except Exception as error:
            log.exception("job %s on series %s failed", job.id, job.series)
            self._jobs.fail(job.id, f"{type(error).__name__}: {error}")
            if isinstance(error, ArchiveError):
                self._wait_for_archive()
            elif isinstance(error, DeviceLost):
                log.error("no further job is taken by this process: start it again")
                self._stopping.set()

    def _finish(self, job: Job, outcome: Outcome, heartbeat: Heartbeat) -> None:
        """Note the outcome, however often that takes: a database that restarts costs no result."""
        while True:
            try:
                return self._jobs.finish(job.id, outcome)
            except (OperationalError, InterfaceError) as why:  # it is away; others are our fault
                if heartbeat.lost or self._stopping.is_set():
                    raise
                log.warning("job %s cannot be noted as ended: %s", job.id, type(why).__name__)
                self._stopping.wait(PAUSE_S)

    def _wait_for_archive(self) -> None:
        """Take no further job that would only fail too."""
        while not self._stopping.is_set() and not self._reachable():
            self._stopping.wait(PAUSE_S)

    def _outcome(self, run: Callable[[], Outcome]) -> Outcome:
        """What comes of a job, done in a thread of its own: nothing can end a thread that hangs."""
        attempt: Future[Outcome] = Future()
        thread = threading.Thread(target=_carry, args=(run, attempt), name="oar-job", daemon=True)
        thread.start()
        wait([attempt], min(self._time_limit_s * (1 + GRACE), threading.TIMEOUT_MAX))
        if not attempt.done():
            # Not what comes of it, which may be an exception that holds the volumes of its frames.
            self._left_behind = [one for one in self._left_behind if one.is_alive()] + [thread]
            raise Hangs
        try:
            return attempt.result()
        finally:
            del attempt  # or an exception would hold itself, and the volumes of its frames

    def _give_up(self, job: Job, what: str) -> None:
        """Fail a job at its time limit, at once: a further attempt would hold up all others."""
        stage = self._jobs.get(job.id).stage
        where = f" while {stage}" if stage else ""
        reason = f"It took longer than TimeLimitSeconds ({self._time_limit_s:g}){where}. {what}"
        log.error("job %s on series %s: %s", job.id, job.series, reason)
        self._jobs.fail(job.id, reason, again=False)

    def _watch(self, job: Job, heartbeat: Heartbeat, deadline: float) -> Watch:
        """What the job tells and asks, slowed down to what a database and a person need.

        A database that is away for a while stops no job: the lease says how long it may be.
        """
        stage, reported_at = "", 0.0
        wanted, asked_at = False, 0.0
        away = False

        def went_on(why: SQLAlchemyError) -> None:
            nonlocal away
            if not away:
                name = type(why).__name__
                log.warning("job %s goes on though its queue does not answer: %s", job.id, name)
            away = True

        def report(new_stage: str, progress: float) -> None:
            nonlocal stage, reported_at, away
            now = time.monotonic()
            if new_stage != stage:
                log.info("job %s: %s", job.id, new_stage)
            if new_stage != stage or now - reported_at >= REPORT_EVERY_S:
                stage, reported_at = new_stage, now
                try:
                    self._jobs.report(job.id, new_stage, progress)
                    away = False
                except SQLAlchemyError as why:
                    went_on(why)

        def cancelled() -> bool:
            nonlocal wanted, asked_at
            now = time.monotonic()
            if self._stopping.is_set() or heartbeat.lost or now >= deadline:
                return True
            if now - asked_at >= REPORT_EVERY_S:
                asked_at = now
                try:
                    wanted = self._jobs.cancel_wanted(job.id)
                except SQLAlchemyError as why:
                    went_on(why)
            return wanted

        return Watch(report=report, cancelled=cancelled, ours=lambda: not heartbeat.lost)


def _carry(run: Callable[[], Outcome], attempt: Future[Outcome]) -> None:
    try:
        attempt.set_result(run())
    except Exception as error:  # noqa: BLE001 - raised again by whoever waits
        attempt.set_exception(error)
    except BaseException as error:  # noqa: BLE001 - the panic of a decoder must not end the worker
        fault = RuntimeError(f"{type(error).__name__}: {error}")
        fault.__cause__ = error
        attempt.set_exception(fault)
    finally:
        del attempt  # as in `_outcome`
