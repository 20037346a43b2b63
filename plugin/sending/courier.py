"""The thread that carries deliveries, one short step after the other."""

import logging
import threading
from collections.abc import Callable, Mapping

from sqlalchemy.exc import SQLAlchemyError

from plugin.log import Faults
from plugin.sending.deliveries import Deliveries, Errand, NotDelivered, Refused

log = logging.getLogger(__name__)

IDLE_S = 5.0
"""The longest sleep: another process may have written a delivery."""

SHORTEST_S = 0.2
"""The shortest: what is due may have to wait for others that are under way."""

PAUSE_S = 5.0
"""Rest after a fault of the database."""

STOP_S = 5.0
"""How long Orthanc's stop waits for a step to end."""

Carrier = Callable[[Errand], str | None]
"""Does one step: begins a sending (no ticket yet) or looks after it. Returns a ticket as long as it
is under way and None when it has arrived; raises NotDelivered or Refused."""


class Courier:
    """Carries some kinds of deliveries while Orthanc runs. No delivery can end it."""

    def __init__(self, deliveries: Deliveries, carriers: Mapping[str, Carrier]) -> None:
        """
        Args:
            deliveries: of all jobs.
            carriers: by the kind of delivery that they carry.
        """
        self._deliveries = deliveries
        self._carriers = carriers
        self._news = deliveries.listen()
        self._faults = Faults(log, "the deliveries cannot be read; trying again")
        self._stopping = threading.Event()
        # A daemon: a receiver that does not answer must not keep Orthanc from stopping.
        self._thread = threading.Thread(
            target=self._work, name=f"oar-{'-'.join(carriers)}", daemon=True
        )

    @property
    def alive(self) -> bool:
        """Whether deliveries are being carried."""
        return self._thread.is_alive()

    @property
    def queue_answers(self) -> bool:
        """Whether the deliveries could be read and written when they were last looked at."""
        return not self._faults.last

    def start(self) -> None:
        """Begin, or go on where an earlier process stopped."""
        self._thread.start()

    def stop(self) -> None:
        """End after the running step; what is under way is looked after at the next start."""
        self._stopping.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _work(self) -> None:
        kinds = tuple(self._carriers)
        recovered = False
        while not self._stopping.is_set():
            try:
                if not recovered:
                    self._deliveries.recover(kinds)
                    recovered = True
                errand = self._deliveries.claim(kinds)
                self._faults.over()
                if errand is not None:
                    self._carry(errand)
                else:
                    self._sleep(kinds)
            except SQLAlchemyError as error:
                self._faults.note(error)
                self._stopping.wait(PAUSE_S)
            except Exception:  # a fault of ours must not keep all further deliveries waiting
                log.exception("the courier has met a fault of its own; going on")
                self._stopping.wait(PAUSE_S)

    def _sleep(self, kinds: tuple[str, ...]) -> None:
        due_in_s = self._deliveries.due_in_s(kinds)
        longest_s = IDLE_S if due_in_s is None else min(IDLE_S, max(due_in_s, SHORTEST_S))
        self._news.wait(longest_s)
        self._news.clear()

    def _carry(self, errand: Errand) -> None:
        what = f" of {errand.result}" if errand.result else ""
        where = f"{errand.kind} {errand.target}{what} for job {errand.job}"
        try:
            ticket = self._carriers[errand.kind](errand)
        except Refused as why:
            log.warning("delivery to %s is refused: %s", where, why)
            self._deliveries.refused(errand, str(why))
        except NotDelivered as why:
            log.warning("delivery to %s, attempt %d: %s", where, errand.attempts, why)
            self._deliveries.failed(errand, str(why))
        except Exception as error:  # the next delivery must still be carried
            log.exception("delivery to %s, attempt %d", where, errand.attempts)
            self._deliveries.failed(errand, f"{type(error).__name__}: {error}")
        else:
            if ticket is None:
                log.info("delivered to %s", where)
                self._deliveries.delivered(errand)
            else:
                self._deliveries.under_way(errand, ticket)
