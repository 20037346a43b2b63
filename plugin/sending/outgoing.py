"""The couriers of an Orthanc: results that are sent on by it, and news of jobs."""

import logging
from collections.abc import Mapping
from typing import Any

from plugin.configuration import BadConfiguration
from plugin.sending.courier import Courier
from plugin.sending.deliveries import Deliveries
from plugin.sending.routing import JOBS_KEPT_WHEN_BUSY, OrthancCarrier, forgets_jobs
from plugin.sending.webhook import Webhooks
from plugin.settings import Settings

log = logging.getLogger(__name__)


class Outgoing:
    """The threads that carry deliveries: one for images, one for news, as either may have to wait
    for somebody slow.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        webhooks: Webhooks,
        *,
        orthanc: Any,
        settings: Settings,
        configuration: Mapping[str, Any],
    ) -> None:
        """
        Args:
            deliveries: of all jobs, those of worker nodes too.
            webhooks: who is told.
            orthanc: the module.
            settings: our section.
            configuration: Orthanc's whole configuration.

        Raises:
            BadConfiguration: Orthanc would not remember how a sending ended.
        """
        if settings.routes and forgets_jobs(configuration):
            raise BadConfiguration(
                "Orthanc's configuration cannot be used: Oar.Routes needs JobsHistorySize of 10 or "
                "more."
            )
        self._may_forget = bool(settings.routes) and forgets_jobs(configuration, when_busy=True)
        root = configuration.get("DicomWeb", {}).get("Root", "/dicom-web/")
        orthancs_jobs = OrthancCarrier(orthanc, dicomweb_root=root)
        kinds = ("modality", "peer", "dicomweb", "sender")
        self._couriers = (
            Courier(deliveries, dict.fromkeys(kinds, orthancs_jobs)),
            Courier(deliveries, {"webhook": webhooks}),
        )

    @property
    def queue_answers(self) -> bool:
        """Whether the deliveries could be read and written when they were last looked at."""
        return all(courier.queue_answers for courier in self._couriers)

    def start(self) -> None:
        """Begin, or go on where an earlier process stopped."""
        if self._may_forget:
            log.warning(
                "Orthanc may forget how a sending ended when it has many jobs, and a result is "
                'then sent again: set "JobsHistorySize": %d in its configuration',
                JOBS_KEPT_WHEN_BUSY,
            )
        for courier in self._couriers:
            courier.start()

    def stop(self) -> None:
        """End after the running steps."""
        for courier in self._couriers:
            courier.stop()
