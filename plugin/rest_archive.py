"""An Orthanc on this or another machine, through its REST API: for training and worker nodes.

What is asked and how it is read is `OrthancArchive`'s, which asks the Orthanc that it runs in. Here
are only the way to the other one: addresses, credentials, connections that break.
"""

import getpass
import json
import logging
import netrc
import ssl
import sys
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import httpx

from plugin.archive import ArchiveError, UnknownResource
from plugin.orthanc_archive import UNKNOWN_RESOURCE, OrthancArchive, parsed

log = logging.getLogger(__name__)

ATTEMPTS = 6
"""How often a request is sent before the archive counts as out of reach."""

PAUSE_S = 0.5
"""Before the second attempt; doubles each time: Orthanc may take 15 s to restart."""

CONNECT_S = 10.0
ANSWER_S = 120.0
"""Orthanc may need this long to answer a query on a large database."""

PASSING = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)
"""What a proxy says while Orthanc restarts."""


MODALITIES_IN_STUDY = "ModalitiesInStudy"
"""The one attribute that Orthanc knows of a study and not of its series."""


class Login(NamedTuple):
    """Who asks, as in Orthanc's RegisteredUsers."""

    user: str
    password: str


class Offer(NamedTuple):
    """What the plugin in an Orthanc promises to those who do its jobs."""

    version: str  # of the software
    queue_owner: str  # name of an archive
    weights_sha256: dict[str, str]  # by model
    settings: dict[str, str]  # hashes by key, as `Settings.digests_for_nodes`


class RemoteError(Exception):
    """What Orthanc says to a request: a code of its own and a sentence."""


class RestArchive(OrthancArchive):
    """An Orthanc, by its address. Safe to share between threads."""

    def __init__(
        self, url: str, *, login: Login | None = None, ca_file: Path | None = None
    ) -> None:
        """
        Args:
            url: such as https://pacs:8042, with a path if it stands behind a proxy; no password.
            login: None for an Orthanc without authentication.
            ca_file: certificates that sign the server's, if the system does not know them.

        Raises:
            ArchiveError: the address or the file cannot be used.
        """
        self._remote = _RemoteOrthanc(url, login, ca_file)
        super().__init__(self._remote)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections."""
        self._remote.close()

    def find_studies(self, query: Mapping[str, str]) -> list[str]:
        """Identifiers of the studies that hold a series with these attributes, sorted.

        Args:
            query: attributes of patient, study or series by keyword, with Orthanc's wildcards:
                {"StudyDate": "20240101-", "SeriesDescription": "*neck*"}; empty is every study.
        """
        of_series = {keyword: query[keyword] for keyword in query.keys() - {MODALITIES_IN_STUDY}}
        of_study = {keyword: query[keyword] for keyword in query.keys() - of_series.keys()}
        found: set[str] | None = None
        if of_series:
            # At the level of studies Orthanc finds nothing that stands in the series.
            found = {one["ParentStudy"] for one in self._find("Series", of_series, expand=True)}
        if of_study or found is None:
            studies = set(self._find("Study", of_study, expand=False))
            found = studies if found is None else found & studies
        return sorted(found)

    def _find(self, level: str, query: Mapping[str, str], *, expand: bool) -> Any:
        wanted = json.dumps({"Level": level, "Query": query, "Expand": expand})
        answer = self._call("studies", self._remote.RestApiPost, "/tools/find", wanted)
        return parsed(answer, "studies")

    def offer(self) -> Offer:
        """What the plugin there offers, and of which archive's queue.

        Raises:
            ArchiveError: the plugin is not there, or does not tell us.
        """
        answer = self._call("models", self._remote.RestApiGet, "/oar/models")
        try:
            said = json.loads(answer)
            models = {one["name"]: one["card"]["weights_sha256"] for one in said["models"]}
            return Offer(said["version"], said["archive"], models, dict(said["settings"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveError("Its plugin is of another version.") from error

    def check(self) -> None:
        """Ask once whether this is an Orthanc that lets us in.

        Raises:
            ArchiveError: with what is wrong.
        """
        try:
            json.loads(self._call("its version", self._remote.RestApiGet, "/system"))["Version"]
        except (UnknownResource, ValueError, KeyError, TypeError) as error:
            raise ArchiveError("What answers at that address is not an Orthanc.") from error


class _RemoteOrthanc:
    """Answers as the module `orthanc` does inside of one. Names in CamelCase are that module's."""

    OrthancException = RemoteError

    def __init__(self, url: str, login: Login | None, ca_file: Path | None) -> None:
        self._url = _address(url)
        if self._url.userinfo:
            raise ArchiveError("User and password do not belong into the address of an Orthanc.")
        try:
            trusted = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise ArchiveError(f"{ca_file} holds no certificates: {error.strerror}.") from error
        self._client = httpx.Client(
            base_url=self._url,
            auth=None if login is None else (login.user, login.password),
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            verify=trusted,
            # Orthanc would compress each slice anew, 70 ms of its processor for 0.5 MB.
            headers={"Accept-Encoding": "identity"},
            trust_env=False,  # patients' images take no proxy that the environment names
        )

    def close(self) -> None:
        self._client.close()

    def RestApiGet(self, uri: str) -> bytes:
        return self._ask("GET", uri)

    def RestApiPost(self, uri: str, body: str | bytes) -> bytes:
        return self._ask("POST", uri, body)

    def RestApiPut(self, uri: str, body: str | bytes) -> bytes:
        return self._ask("PUT", uri, body)

    def RestApiDelete(self, uri: str) -> bytes:
        return self._ask("DELETE", uri)

    def GetDicomForInstance(self, instance: str) -> bytes:
        return self._ask("GET", f"/instances/{instance}/file")

    def _ask(self, method: str, uri: str, body: str | bytes | None = None) -> bytes:
        """One answer, asked for again while the connection breaks.

        All that we ask may be asked twice: what is stored has its own UID, and storing it again
        changes nothing.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._client.request(method, uri, content=body)
                if answer.status_code not in PASSING:
                    break
                fault = f"it answers {answer.status_code} {answer.reason_phrase}"
            except httpx.TransportError as error:
                if untrusted := _untrusted(error):  # it will be the same in 15 s
                    raise ArchiveError(
                        f"Orthanc at {self._url} has a certificate that is not trusted "
                        f"({untrusted}): --ca-file takes those that sign it."
                    ) from error
                fault = str(error) or type(error).__name__
            if attempt == ATTEMPTS:
                raise ArchiveError(f"Orthanc at {self._url} cannot be reached: {fault}.")
            log.info("attempt %d to reach %s: %s", attempt, self._url, fault)
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        if answer.is_success:
            return answer.content
        raise self._refusal(answer)

    def _refusal(self, answer: httpx.Response) -> Exception:
        status = answer.status_code
        if status == HTTPStatus.UNAUTHORIZED:
            return ArchiveError(f"Orthanc at {self._url} does not accept this user and password.")
        if status == HTTPStatus.FORBIDDEN:
            return ArchiveError(f"Orthanc at {self._url} does not allow this user to do that.")
        if status == HTTPStatus.NOT_FOUND and not answer.content:  # it need not describe errors
            return RemoteError(UNKNOWN_RESOURCE, "unknown resource")
        try:
            said = answer.json()
            message = str(said.get("Details") or said["Message"])
        except (ValueError, KeyError, AttributeError):  # not Orthanc's own JSON
            return RemoteError(-1, f"{answer.reason_phrase} (HTTP status {status})")
        if status == HTTPStatus.NOT_FOUND:  # a proxy's own says nothing of what Orthanc holds
            return RemoteError(UNKNOWN_RESOURCE, "unknown resource")
        return RemoteError(-1, f"{message} (HTTP status {status})")


def _untrusted(error: BaseException | None) -> str:
    """What is wrong with the certificate, if an error came of it."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return "" if error is None else error.verify_message


def login_for(
    url: str, password_file: Path | None = None, *, known: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, Login | None]:
    """The address without its user and password, and who to log in as.

    The password comes from the address, from a file, from those that are known by user, from the
    user's netrc, or is asked for if there is a terminal; a password in the address can be read by
    everybody who lists processes.

    Raises:
        ArchiveError: the address is none, or there is no password for the user in it.
    """
    address = _address(url)
    user = address.username
    plain = str(address.copy_with(username=None, password=None))
    if address.password:
        return plain, Login(user, address.password)
    if password_file is not None:
        if not user:
            raise ArchiveError(f"{plain} needs a user before the host for the password file.")
        try:
            return plain, Login(user, password_file.read_text().rstrip("\r\n"))
        except OSError as error:
            raise ArchiveError(f"{password_file} cannot be read: {error.strerror}.") from error
    if user in known:
        return plain, Login(user, known[user])
    if (found := _from_netrc(address.host)) is not None and user in ("", found.user):
        return plain, found
    if not user:
        return plain, None
    if not sys.stdin.isatty():
        raise ArchiveError(
            f"There is no password for {user} at {plain}: put it into a file or into ~/.netrc."
        )
    return plain, Login(user, getpass.getpass(f"Password of {user} at {plain}: "))


def _address(url: str) -> httpx.URL:
    """The parsed address. A wrong one is not quoted: it may hold a password."""
    try:
        address = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL:
        address = httpx.URL("")
    if address.scheme not in ("http", "https") or not address.host:
        raise ArchiveError("That is no address of an Orthanc, such as http://pacs:8042.")
    return address


def _from_netrc(host: str) -> Login | None:
    try:
        found = netrc.netrc().authenticators(host)
    except FileNotFoundError:
        return None
    except (netrc.NetrcParseError, OSError) as error:
        raise ArchiveError(f"~/.netrc cannot be used: {error}.") from error
    return None if found is None else Login(found[0] or "", found[2] or "")
