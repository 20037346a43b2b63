"""What Orthanc says when it is told to send, asked of a real one that has no plugin of ours."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from plugin.sending.deliveries import Errand, NotDelivered, Refused
from plugin.sending.routing import OrthancCarrier
from tests.integration.conftest import Pacs, wait_until
from tests.phantoms import ct_slices, make_phantom

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


class OverRest:
    """What the carrier uses of the module `orthanc`, of an Orthanc in another process."""

    class OrthancException(Exception):
        pass

    def __init__(self, url: str) -> None:
        self._url = url

    def RestApiGetAfterPlugins(self, uri: str) -> bytes:
        return self._ask(urllib.request.Request(self._url + uri))

    def RestApiPostAfterPlugins(self, uri: str, body: str) -> bytes:
        return self._ask(urllib.request.Request(self._url + uri, data=body.encode()))

    def _ask(self, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            with error:
                said = json.loads(error.read() or b"{}")
            code, message = said.get("OrthancStatus", 17), said.get("OrthancError", "Unknown")
            raise self.OrthancException(code, message) from error


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, quick_model: Path) -> Iterator[Pacs]:
    """It knows itself, by several names."""
    one = Pacs(tmp_path_factory.mktemp("sender"), quick_model)
    file = one.folder / "orthanc.json"
    itself = {"AET": "PACS", "Host": "127.0.0.1", "Port": one.dicom}
    values = json.loads(file.read_text()) | {
        "DicomModalities": {
            "itself": itself,
            "twin-here": itself | {"AET": "TWIN"},
            "twin-there": itself | {"AET": "TWIN", "Host": "10.9.8.7"},
            "same-one": itself | {"AET": "SAME"},
            "same-two": itself | {"AET": "SAME"},
        },
        "OrthancPeers": {"itself": {"Url": one.url}},
        "DicomWeb": {"Root": "/web/", "Servers": {"itself": {"Url": f"{one.url}/web/"}}},
    }
    file.write_text(json.dumps(values))
    one.start()
    one.push(ct_slices(make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(22, 32, 32)))[:2])
    yield one
    one.kill()


Carry = Callable[..., str | None]


@pytest.fixture
def carry(orthanc: Pacs) -> Carry:
    """One step of a delivery of the first image."""
    carrier = OrthancCarrier(OverRest(orthanc.url), dicomweb_root="web")
    first = orthanc.get("/instances")[0]

    def step(kind: str, target: str, *, ticket: str = "", instance: str = first) -> str | None:
        now = datetime.now(UTC)
        values: dict[str, Any] = {"id": "1", "job": "2", "state": "sending", "attempts": 1}
        values |= {"reason": "", "begun": now, "due": now, "finished": None, "ticket": ticket}
        content = {"instances": [instance]}
        return carrier(Errand(kind=kind, target=target, content=content, **values))

    return step


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("modality", "itself"),
        ("peer", "itself"),
        ("dicomweb", "itself"),
        ("sender", "PACS@10.0.0.1"),  # one of this title: it is returned to where we know it
        ("sender", "TWIN@127.0.0.1"),  # two: the one at this address
    ],
)
def test_orthanc_sends_in_a_job_of_its_own_and_says_when_all_has_arrived(carry, kind, target):
    ticket = carry(kind, target)

    assert ticket
    wait_until(lambda: carry(kind, target, ticket=ticket) is None, "it has arrived")


@pytest.mark.parametrize(
    ("kind", "target", "says"),
    [
        ("modality", "nobody", "Orthanc's configuration names no modality 'nobody'."),
        ("peer", "nobody", "Orthanc's configuration names no peer 'nobody'."),
        ("dicomweb", "nobody", "Orthanc's configuration names no dicomweb 'nobody'."),
        ("sender", "CT9@10.0.0.1", "title 'CT9' at 10.0.0.1.*names no modality"),
        ("sender", "SAME@127.0.0.1", "title 'SAME' at 127.0.0.1.*names several.*, 2 at"),
        ("sender", "TWIN@10.0.0.1", "title 'TWIN' at 10.0.0.1.*names several.*, none at"),
        ("sender", "@", "did not come by C-STORE"),
    ],
)
def test_what_a_person_must_change_is_said(carry, kind, target, says):
    with pytest.raises(Refused, match=says):
        carry(kind, target)


@pytest.mark.parametrize("kind", ["modality", "peer", "dicomweb"])
def test_a_result_that_was_deleted_is_not_sent(carry, kind):
    gone = "00000000-00000000-00000000-00000000-00000000"

    with pytest.raises(Refused, match="no longer in the archive"):
        carry(kind, "itself", instance=gone)


def test_a_job_that_orthanc_has_forgotten_is_not_taken_for_an_arrival(carry):
    with pytest.raises(NotDelivered, match="forgot its job"):
        carry("modality", "itself", ticket="00000000-0000-0000-0000-000000000000")


def test_an_orthanc_that_does_not_know_dicomweb_is_asked_again_later(orthanc):
    carrier = OrthancCarrier(OverRest(orthanc.url), dicomweb_root="/elsewhere/")
    now = datetime.now(UTC)
    errand = Errand(
        id="1",
        job="2",
        kind="dicomweb",
        target="x",
        state="sending",
        attempts=1,
        reason="",
        begun=now,
        due=now,
        finished=None,
        content={"instances": []},
        ticket="",
    )

    with pytest.raises(NotDelivered, match="/elsewhere/servers"):
        carrier(errand)
