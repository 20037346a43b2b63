"""Tells other programs that a job has ended: who it was about stays here, how it went does not.

The news has Orthanc's identifiers, the model and figures; no UID, name, date or description. It is
a delivery like any other, so it survives restarts and is tried again until it arrives.
"""

import hashlib
import hmac
import json
import re
import ssl
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import httpx
from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    StringConstraints,
)
from sqlalchemy.orm import Session

from plugin import __version__
from plugin.configuration import Section
from plugin.jobs.job import Job, Outcome, Parcel
from plugin.jobs.job_changes import digest
from plugin.sending.deliveries import Deliveries, Errand, NotDelivered, Refused

SIGNATURE = "X-Oar-Signature"
"""Header with "sha256=" and the HMAC-SHA-256 of the body under the secret, as hex digits."""

DELIVERY = "X-Oar-Delivery"
"""Header with the identifier of the delivery, the same in each attempt."""

End = Literal["done", "failed", "skipped", "cancelled"]


def _can_be_called(url: str) -> str:
    # Else each attempt would fail, for days. No sentence quotes it: it may hold a password.
    if not re.fullmatch("[!-~]+", url):
        raise ValueError("must be ASCII without blanks: write others as %XX, in a host as xn--")
    try:
        address = httpx.URL(url)
        if address.host and (address.port is None or 0 < address.port < 2**16):
            return url
    except (httpx.InvalidURL, UnicodeError):
        pass
    raise ValueError("has no usable host or port")


class WebhookSettings(Section):
    """One program that wants to know."""

    name: Annotated[str, Field(min_length=1)]
    """For the log and the job."""

    url: Annotated[
        str,
        StringConstraints(pattern="^https?://[^/?#@]+([/?#].*)?$"),
        AfterValidator(_can_be_called),
    ]
    """Takes a POST of JSON."""

    secret: Annotated[SecretStr, Field(min_length=16)]
    """Signs the news; at least 16 characters."""

    on: Annotated[tuple[End, ...], Field(min_length=1)] = ("done", "failed")
    """How a job ends that is told of."""

    volumes: bool = False
    """Also tell the millilitres by organ."""

    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    """How long the receiver may be silent."""


def news(job: Job, *, volumes: bool) -> dict[str, Any]:
    """What is told of a job that has ended."""
    told: dict[str, Any] = {
        "event": job.state,
        "job": job.id,
        "study": job.study,
        "series": job.series,
        "results": [{"kind": one.kind, "orthanc_id": one.orthanc_id} for one in job.results],
        "model": job.model,
        "model_version": job.provenance.model_version if job.provenance else "",
        "attempts": job.attempts,
        # Stages alone: "segmenting.network" is a part of "segmenting".
        "seconds": round(sum(s for stage, s in job.seconds.items() if "." not in stage), 3),
        "finished": job.finished.isoformat() if job.finished else None,
        "software": f"orthanc-oar {__version__}",
        "research_use_only": True,
    }
    return told | ({"volumes_ml": job.volumes_ml} if volumes else {})


def sign(body: bytes, secret: str) -> str:
    """The value of the signature's header."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


class Webhooks:
    """Every program that wants to know: writes its news down, and carries them."""

    def __init__(self, settings: Sequence[WebhookSettings], deliveries: Deliveries) -> None:
        self._settings = {one.name: one for one in settings}
        self._deliveries = deliveries

    @cached_property
    def _client(self) -> httpx.Client:
        """Follows no redirection: the news would go to an address that nobody configured.

        Trusts whom the system trusts, which may be a hospital's own authority, and takes the
        proxies that the environment names.
        """
        return httpx.Client(verify=ssl.create_default_context())

    def note(self, session: Session, job: Job, _: Outcome | None) -> None:
        """Write down whom to tell that a job has ended, within the transaction that ends it."""
        for name, one in self._settings.items():
            if job.kind == "segment" and job.state in one.on:
                parcel = Parcel(kind="webhook", target=name)
                self._deliveries.add(session, job, parcel, news(job, volumes=one.volumes))

    def __call__(self, errand: Errand) -> None:
        """Tell one program of one job.

        Raises:
            NotDelivered: it did not answer with success.
            Refused: the settings no longer name it.
        """
        receiver = self._settings.get(errand.target)
        if receiver is None:
            raise Refused(f"The settings name no webhook {errand.target!r}.")
        delivery = digest(errand.id, json.dumps(errand.content, sort_keys=True))[:32]
        body = json.dumps(errand.content | {"delivery": delivery}).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"orthanc-oar/{__version__}",
            DELIVERY: delivery,
            SIGNATURE: sign(body, receiver.secret.get_secret_value()),
        }
        seconds = receiver.timeout_seconds
        try:
            client = self._client
        except (ImportError, ValueError) as error:
            raise NotDelivered(f"The environment's proxy cannot be used: {error}.") from error
        try:
            with client.stream(
                "POST", receiver.url, content=body, headers=headers, timeout=seconds
            ) as answer:
                pass  # what it says beyond the status is not read
        except httpx.TimeoutException as error:
            raise NotDelivered(f"The receiver did not answer within {seconds:g} s.") from error
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise NotDelivered(f"The receiver cannot be reached: {_cause_of(error)}.") from error
        if not answer.is_success:
            said = f"{answer.status_code} {httpx.codes.get_reason_phrase(answer.status_code)}"
            raise NotDelivered(f"The receiver answered {said.strip()}.")


def _cause_of(error: BaseException) -> str:
    """What the system said, in words without the address, which may hold a password."""
    while not isinstance(error, OSError) and error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or type(error).__name__
