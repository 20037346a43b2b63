"""Parts of the service by the settings' defaults, each as alone as a test of it wants it."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

from plugin.audit import Audit
from plugin.by_itself import ByItself
from plugin.catalogue import Catalogue
from plugin.jobs.intake import Intake
from plugin.jobs.job import Job, Outcome
from plugin.jobs.jobs import Jobs
from plugin.jobs.pause import Pause
from plugin.model_rules import ModelRules
from plugin.objects.results import description
from plugin.sending.deliveries import Deliveries
from plugin.settings import Settings, settings_digest
from plugin.watch import Watch
from plugin.worker import Worker

DEFAULTS = Settings()


def nothing(*_: object) -> None:
    """For who is told of it and keeps no record."""


def new_audit(engine: Engine) -> Audit:
    return Audit(engine, settings_sha256=settings_digest(DEFAULTS))


def new_queue(engine: Engine, **changes: Any) -> Jobs:
    values: dict[str, Any] = {
        "owner": "",
        "max_attempts": DEFAULTS.max_attempts,
        "retry_delay_seconds": DEFAULTS.retry_delay_seconds,
        "lease_seconds": DEFAULTS.lease_seconds,
        "notes": (),
        "changed": nothing,
    }
    return Jobs(engine, **values | changes)


def new_pause(engine: Engine, jobs: Jobs) -> Pause:
    return Pause(engine, jobs, note=nothing)


def new_deliveries(engine: Engine, **changes: Any) -> Deliveries:
    values: dict[str, Any] = {
        "owner": "",
        "retry_delay_seconds": DEFAULTS.delivery.retry_delay_seconds,
        "give_up_after_hours": DEFAULTS.delivery.give_up_after_hours,
        "note_event": nothing,
    }
    return Deliveries(engine, **values | changes)


def new_intake(*, catalogue: Catalogue, **parts: Any) -> Intake:
    values: dict[str, Any] = {
        "rules": ModelRules(default=catalogue.default),
        "by_itself": ByItself(DEFAULTS.automatic, DEFAULTS.automatic_for),
        "corrections": DEFAULTS.compare_corrections,
        "result": description(DEFAULTS),
    }
    return Intake(catalogue=catalogue, **values | parts)


def new_worker(jobs: Jobs, run: Callable[[Job, Watch], Outcome], **changes: Any) -> Worker:
    values: dict[str, Any] = {
        "catch_up": nothing,
        "catch_up_after_s": None,
        "between": nothing,
        "paused": lambda: False,
        "time_limit_s": float("inf"),
        "reachable": lambda: True,
    }
    return Worker(jobs, run, **values | changes)
