"""A sign of life while a job runs, so that nobody else takes the job over."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)


class Heartbeat:
    """A thread that renews a lease, for the length of a `with`.

    A thread of its own: a job may be silent for longer than a lease holds, in one large tile.
    """

    def __init__(self, renew: Callable[[], bool], *, every_s: float, lease_s: float) -> None:
        """
        Args:
            renew: renews the lease; False if it is no longer ours.
            every_s: between two renewals.
            lease_s: how long a lease holds that cannot be renewed.
        """
        self._renew = renew
        self._every_s = every_s
        self._lease_s = lease_s
        self._renewed = time.monotonic()
        self._handed_on = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="oar-heartbeat", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether the job is, or may be, somebody else's by now."""
        return self._handed_on or time.monotonic() - self._renewed > self._lease_s

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(self._every_s):
            asked = time.monotonic()
            try:
                if not self._renew():
                    self._handed_on = True
                    return
                self._renewed = asked
            except SQLAlchemyError as why:
                log.warning("the lease of a job could not be renewed: %s", type(why).__name__)
