"""All that a process needs to do jobs of the queue, inside Orthanc or on another machine."""

import gc
from collections.abc import Callable

import highdicom as hd
import torch
from pydicom.uid import SegmentationStorage

from plugin.audit import Audit
from plugin.belonging import Belonging
from plugin.by_itself import ByItself
from plugin.catalogue import Catalogue
from plugin.drawn.quality import Quality
from plugin.jobs.job import Job
from plugin.jobs.job_table import open_database
from plugin.jobs.jobs import Jobs
from plugin.jobs.pause import Pause
from plugin.model_rules import ModelRules
from plugin.orthanc_archive import OrthancArchive
from plugin.sending.deliveries import Deliveries
from plugin.sending.webhook import Webhooks
from plugin.settings import Settings, settings_digest
from plugin.work import Work
from plugin.worker import Worker


class Station:
    """The models and the queue, and on them what all processes do alike.

    What a job leaves behind (the record, deliveries, news) is written with it wherever it runs;
    carrying it out of the house is left to the processes inside Orthanc.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        archive: OrthancArchive,
        database_url: str,
        owner: str,
        changed: Callable[[Jobs, Job], None],
        does_jobs: bool = True,
    ) -> None:
        """Weights are read and the database opened now, so that what is wrong is known at once.

        Args:
            settings: the section "Oar".
            archive: the Orthanc that holds the images.
            database_url: SQLAlchemy URL of the queue.
            owner: name of this process among those that share the queue; see `Jobs`.
            changed: told of each change of a job's state that this process makes.
            does_jobs: whether this process does jobs; if not, its models stay on the CPU.

        Raises:
            UnknownModel: the settings name a model that is not there.
            BadCheckpoint: weights cannot be used.
            UnwritableQueue, UnusableDatabase: as of `open_database`.
        """
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.settings = settings
        self._does_jobs = does_jobs
        self.archive = archive
        self.catalogue = Catalogue(
            default=settings.model,
            device=settings.device if does_jobs else "cpu",
            compiled=settings.compile,
        )
        self.model_rules = ModelRules(
            settings.models,
            default=settings.model,
            shadow_model=settings.shadow_model,
            name=self.catalogue.configured,
        )
        self.by_itself = ByItself(settings.automatic, settings.automatic_for)
        for name in self.model_rules.models():
            self.catalogue.get(name)
        for route in settings.routes:
            for name in route.models:
                self.catalogue.name(name)  # no route waits for a model that is not there
        self._database = database = open_database(database_url)
        self.audit = Audit(database, settings_sha256=settings_digest(settings))
        self.quality = Quality(database)
        self.deliveries = Deliveries(
            database,
            owner=owner,
            retry_delay_seconds=settings.delivery.retry_delay_seconds,
            give_up_after_hours=settings.delivery.give_up_after_hours,
            note_event=self.audit.note_event,
        )
        self.webhooks = Webhooks(settings.webhooks, self.deliveries)
        self.jobs = Jobs(
            database,
            owner=owner,
            max_attempts=settings.max_attempts,
            retry_delay_seconds=settings.retry_delay_seconds,
            lease_seconds=settings.lease_seconds,
            notes=(self.deliveries.note, self.webhooks.note, self.audit.note),  # the record last
            changed=lambda job: changed(self.jobs, job),
        )
        self.pause = Pause(database, self.jobs, note=self.audit.note_event)
        self.belonging = Belonging(database)
        keep_what_is_loaded()

    def close(self) -> None:
        """Give up the connections to the database."""
        self._database.dispose()

    def worker(
        self,
        *,
        catch_up: Callable[[], None] = lambda: None,
        catch_up_after_s: float | None = None,
        between: Callable[[], None] = lambda: None,
        reachable: Callable[[], bool] = lambda: True,
    ) -> Worker:
        """The thread that does jobs, not started yet; the arguments are those of `Worker`."""
        work = Work(
            archive=self.archive,
            jobs=self.jobs,
            catalogue=self.catalogue,
            quality=self.quality,
            settings=self.settings,
        )
        return Worker(
            self.jobs,
            work,
            catch_up=catch_up,
            catch_up_after_s=catch_up_after_s,
            between=between,
            paused=lambda: not self._does_jobs or self.pause.holds(),
            time_limit_s=self.settings.time_limit_seconds or float("inf"),
            reachable=reachable,
        )


def keep_what_is_loaded() -> None:
    """Take what is there out of the search for garbage, which would find nothing among it.

    Python's collector looks at all objects now and then, and all that torch and highdicom bring
    are half a million: 0.3 s, in which no other thread runs and the job at hand waits.
    """
    # highdicom reads its tables of the standard with its first object, not in the first job then.
    hd.SOPClass(
        study_instance_uid=hd.UID(),
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        sop_class_uid=SegmentationStorage,
        instance_number=1,
        modality="SEG",
    )
    gc.freeze()
    gc.enable()
