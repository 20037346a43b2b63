"""All that leaves this machine by itself: results that are sent on, and news of jobs."""

import socket
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine

from plugin.jobs.job_changes import Note
from plugin.sending.courier import Courier
from plugin.sending.deliveries import Deliveries
from plugin.sending.routing import OrthancCarrier, forgets_jobs
from plugin.sending.webhook import Webhooks
from plugin.settings import BadSettings, Settings


class Outgoing:
    """The deliveries and the threads that carry them: one for images, one for news, as either may
    have to wait for somebody slow.
    """

    def __init__(
        self, engine: Engine, *, orthanc: Any, settings: Settings, configuration: Mapping[str, Any]
    ) -> None:
        """
        Args:
            engine: of the database of the jobs.
            orthanc: the module.
            settings: our section.
            configuration: Orthanc's whole configuration.

        Raises:
            BadSettings: Orthanc would not remember how a sending ended.
        """
        if settings.routes and forgets_jobs(configuration):
            raise BadSettings(
                "Orthanc's configuration cannot be used: Oar.Routes needs JobsHistorySize of 10 or "
                "more."
            )
        self.deliveries = Deliveries(
            engine,
            owner=f"{socket.gethostname()}:{configuration.get('HttpPort', '')}",
            retry_delay_seconds=settings.delivery.retry_delay_seconds,
            give_up_after_hours=settings.delivery.give_up_after_hours,
        )
        webhooks = Webhooks(settings.webhooks, self.deliveries)
        self.notes: tuple[Note, ...] = (self.deliveries.note, webhooks.note)
        root = configuration.get("DicomWeb", {}).get("Root", "/dicom-web/")
        orthancs_jobs = OrthancCarrier(orthanc, dicomweb_root=root)
        kinds = ("modality", "peer", "dicomweb", "sender")
        self._couriers = (
            Courier(self.deliveries, dict.fromkeys(kinds, orthancs_jobs)),
            Courier(self.deliveries, {"webhook": webhooks}),
        )

    def start(self) -> None:
        """Begin, or go on where an earlier process stopped."""
        for courier in self._couriers:
            courier.start()

    def stop(self) -> None:
        """End after the running steps."""
        for courier in self._couriers:
            courier.stop()
