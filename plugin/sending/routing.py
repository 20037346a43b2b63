"""Where results go from here: the rules of the settings, and Orthanc's own jobs that send.

A call into Orthanc can stop every Python thread for as long as it lasts, so nothing is sent by such
a call: Orthanc is told to send in a job of its own, and asked now and then how far it is.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from plugin.conditions import Condition, SeriesFacts
from plugin.jobs.job import Parcel, Result, ResultKind
from plugin.orthanc_archive import UNKNOWN_RESOURCE
from plugin.sending.deliveries import Errand, NotDelivered, Refused

INEXISTENT_ITEM = 7
"""Orthanc's error code for an identifier or a name that it does not hold."""

JOBS_KEPT = 10
"""Finished jobs that Orthanc must remember, for us to learn how they ended; its own default."""

JOBS_KEPT_WHEN_BUSY = 1000
"""As many where Orthanc has jobs of others too: those that end within some seconds."""

NOT_TAKEN = re.compile(
    r"Cannot transcode from \S+ to one of \[\s*\]"  # Orthanc 1.10
    r"|has not accepted any TransferSyntax for this SOPClassUID"  # 1.12
)
"""What Orthanc says when a receiver accepts objects of this SOP class in no encoding at all."""

WHERE = {
    "modality": ("/modalities", "/modalities/{name}/store"),
    "peer": ("/peers", "/peers/{name}/store"),
    "dicomweb": ("{dicomweb}servers", "{dicomweb}servers/{name}/stow"),
}
"""Orthanc's addresses: of all names there are, and where to ask for a sending."""


def _is_an_address(address: str) -> str:
    if not re.fullmatch("(modality|dicomweb|peer):[^/?#%]+|sender", address):
        raise ValueError(
            f"{address!r} is none of modality:NAME, dicomweb:NAME, peer:NAME and sender, or its "
            "NAME has one of / ? # %"
        )
    return address


Address = Annotated[str, AfterValidator(_is_an_address)]
"""As in "modality:PACS", "dicomweb:ARCHIVE", "peer:BACKUP": by its name in Orthanc's configuration.
"sender" is the modality that the CT came from."""


class RouteRule(Condition):
    """One rule: which results of which series go where. Every rule that fits counts."""

    to: Annotated[tuple[Address, ...], Field(min_length=1)]
    """modality:NAME, dicomweb:NAME, peer:NAME or sender."""

    kinds: tuple[ResultKind, ...] = ()
    """Which results; none named: all."""

    models: tuple[str, ...] = ()
    """Of which models; none named: of all."""


def parcels(
    rules: Sequence[RouteRule], facts: SeriesFacts, *, model: str, results: Sequence[Result]
) -> tuple[Parcel, ...]:
    """What goes where: for each place and each kind the results that the rules send there, once.

    A kind is a parcel of its own: Orthanc ends a sending at the first object that its receiver does
    not take, and many know only one kind.
    """
    contents: dict[tuple[str, str, ResultKind], dict[str, None]] = {}
    for rule in rules:
        if not rule.holds(facts) or (rule.models and model not in rule.models):
            continue
        chosen = [one for one in results if not rule.kinds or one.kind in rule.kinds]
        for address in rule.to:
            kind, _, name = address.partition(":")
            target = name if kind != "sender" else f"{facts.sender_aet}@{facts.sender_ip}"
            for one in chosen:
                contents.setdefault((kind, target, one.kind), {})[one.orthanc_id] = None
    return tuple(
        Parcel.model_validate(
            {"kind": kind, "target": target, "result": result, "instances": tuple(instances)}
        )
        for (kind, target, result), instances in contents.items()
    )


def forgets_jobs(configuration: Mapping[str, Any], *, when_busy: bool = False) -> bool:
    """Whether Orthanc forgets its jobs before we could ask how they ended.

    Args:
        configuration: Orthanc's whole configuration.
        when_busy: with many jobs of others, as of a router, and not only with ours.
    """
    needed = JOBS_KEPT_WHEN_BUSY if when_busy else JOBS_KEPT
    return int(configuration.get("JobsHistorySize", JOBS_KEPT)) < needed


class OrthancCarrier:
    """Has Orthanc send results on. Each call is one short step; see `Courier`."""

    def __init__(self, orthanc: Any, *, dicomweb_root: str) -> None:
        """
        Args:
            orthanc: the module.
            dicomweb_root: "Root" in the section "DicomWeb" of Orthanc's configuration.
        """
        self._orthanc = orthanc
        self._dicomweb = f"/{dicomweb_root.strip('/')}/"

    def __call__(self, errand: Errand) -> str | None:
        """Begin or look after one sending.

        Returns:
            The identifier of Orthanc's job as long as it runs, None when all has arrived.

        Raises:
            NotDelivered: this attempt has failed.
            Refused: a person must change something first.
        """
        return self._look(errand) if errand.ticket else self._begin(errand)

    def _begin(self, errand: Errand) -> str:
        kind, name = errand.kind, errand.target
        if kind == "sender":
            kind, name = "modality", self._modality_of(errand.target)
        all_names, sending = (
            path.format(name=name, dicomweb=self._dicomweb) for path in WHERE[kind]
        )
        if name not in self._get(all_names):
            raise Refused(f"Orthanc's configuration names no {kind} {name!r}.")
        wish = json.dumps({"Resources": errand.content["instances"], "Asynchronous": True})
        try:
            answer = self._orthanc.RestApiPostAfterPlugins(sending, wish)
        except self._orthanc.OrthancException as error:
            code, message = error.args
            if code in (UNKNOWN_RESOURCE, INEXISTENT_ITEM):
                raise Refused("The result is no longer in the archive.") from error
            raise NotDelivered(f"Orthanc does not send it: {message}.") from error
        return str(json.loads(answer)["ID"])

    def _modality_of(self, sender: str) -> str:
        """The modality of Orthanc's configuration that a CT came from."""
        aet, _, ip = sender.rpartition("@")
        if not aet:
            raise Refused("The CT did not come by C-STORE, so there is no sender to return it to.")
        known = self._get("/modalities?expand")
        named = [name for name, one in known.items() if one["AET"].strip() == aet.strip()]
        found = "no modality of this title"
        if len(named) > 1:  # several machines of one title are told apart by where they are
            named = [name for name in named if known[name]["Host"] == ip]
            found = f"several modalities of this title, {len(named) or 'none'} at this address"
        if len(named) != 1:
            raise Refused(
                f"The CT came from the AE title {aet!r} at {ip}, and Orthanc's configuration "
                f"(DicomModalities) names {found}."
            )
        return named[0]

    def _look(self, errand: Errand) -> str | None:
        try:
            job = self._get(f"/jobs/{errand.ticket}")
        except NotDelivered as why:
            raise NotDelivered(
                "Orthanc forgot its job, perhaps in a restart, or JobsHistorySize is too small."
            ) from why
        if job["State"] == "Success":
            return None
        if job["State"] != "Failure":
            return errand.ticket
        content = job["Content"]
        details = job["ErrorDetails"] or content.get("FunctionErrorDetails", "")
        if NOT_TAKEN.search(details):
            kind = f" ({errand.result.upper()})" if errand.result else ""
            raise Refused(
                f"The receiver takes no objects of this kind{kind}: choose Kinds in the route."
            )
        said = content.get("FunctionErrorDescription") or job["ErrorDescription"]
        raise NotDelivered(f"{said}{f' ({details})' if details else ''}.")

    def _get(self, path: str) -> Any:
        try:
            return json.loads(self._orthanc.RestApiGetAfterPlugins(path))
        except self._orthanc.OrthancException as error:
            raise NotDelivered(f"Orthanc, asked for {path}, says: {error.args[1]}.") from error
