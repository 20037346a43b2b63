"""Results on their way from one real Orthanc to another, and the news of them to a program."""

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import RTStructureSetStorage

from model.checkpoint import save
from tests.demo import free_port
from tests.integration.conftest import AET, PACS_AET, Orthanc, Pacs, wait_until
from tests.phantoms import ct_slices, make_phantom
from tests.tiny_model import tiny_model
from tests.webhook_receiver import WebhookReceiver

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

NewOrthanc = Callable[..., Orthanc]

SECRET = "a secret of the hospital"
SOON = {"RetryDelaySeconds": 0.2, "GiveUpAfterHours": 1.0}


@pytest.fixture
def pacs(tmp_path: Path, quick_model: Path) -> Iterator[Pacs]:
    """Not started yet."""
    folder = tmp_path / "pacs"
    folder.mkdir()
    one = Pacs(folder, quick_model)
    yield one
    one.kill()


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    one = WebhookReceiver(503, 200)
    yield one
    one.close()


@pytest.fixture(scope="session")
def ct() -> list[Dataset]:
    return ct_slices(make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64)))


def knows(orthanc: Orthanc, pacs: Pacs, *titles: str) -> None:
    """Add a receiver to Orthanc's configuration: as DICOMweb server, peer, and modalities."""
    file = orthanc.folder / "orthanc.json"
    values = json.loads(file.read_text())
    values["DicomModalities"] = {
        f"at-{title}": [title, "127.0.0.1", pacs.dicom] for title in titles
    }
    values["OrthancPeers"] = {"backup": {"Url": pacs.url}}
    values["DicomWeb"] |= {"Servers": {"web": {"Url": f"{pacs.url}/dicom-web/"}}}
    values["UserMetadata"] = {"OarState": 4100}
    file.write_text(json.dumps(values))


def deliveries(orthanc: Orthanc) -> dict[tuple[str, str], dict[str, Any]]:
    """All that there are, by kind and target."""
    each = [one for job in orthanc.jobs() for one in job["deliveries"]]
    return {(one["kind"], one["target"]): one for one in each}


def all_are(orthanc: Orthanc, state: str, number: int) -> dict[tuple[str, str], dict[str, Any]]:
    """All deliveries, once they have come to a state."""

    def found() -> dict[tuple[str, str], dict[str, Any]] | None:
        each = deliveries(orthanc)
        done = [one for one in each.values() if one["state"] == state]
        return each if len(done) == len(each) == number else None

    return wait_until(found, f"all deliveries are {state}")


def test_results_and_news_reach_every_destination_as_soon_as_it_is_up(
    new_orthanc: NewOrthanc, quick_model: Path, pacs: Pacs, receiver: WebhookReceiver, ct
):
    orthanc = new_orthanc(
        quick_model,
        Routes=[{"To": ["modality:at-PACS", "dicomweb:web", "peer:backup"], "Kinds": ["seg"]}],
        Webhooks=[{"Name": "ris", "Url": receiver.url, "Secret": SECRET, "Volumes": True}],
        Delivery=SOON,
    )
    knows(orthanc, pacs, PACS_AET)
    orthanc.start()
    orthanc.push(ct)

    job = orthanc.wait_for_job("done")
    down = wait_until(
        lambda: (
            (each := deliveries(orthanc))
            and all(one["attempts"] >= 2 for one in each.values())
            and each
        ),
        "everything was tried twice",
    )
    assert down["modality", "at-PACS"]["state"] in ("waiting", "sending")
    assert len(orthanc.segs()) == 1  # in its own archive all the same
    pacs.start()

    up = all_are(orthanc, "done", 4)

    assert up.keys() == {
        ("modality", "at-PACS"),
        ("dicomweb", "web"),
        ("peer", "backup"),
        ("webhook", "ris"),
    }
    assert pacs.seg_uids() == {job["results"][0]["sop_instance_uid"]}

    refused, accepted = receiver.news
    signature = hmac.new(SECRET.encode(), accepted.body, hashlib.sha256).hexdigest()
    assert accepted.headers["X-Oar-Signature"] == f"sha256={signature}"
    assert accepted.headers["X-Oar-Delivery"] == refused.headers["X-Oar-Delivery"]
    told = json.loads(accepted.body)
    assert (told["event"], told["job"], told["study"]) == ("done", job["id"], job["study"])
    assert told["volumes_ml"] == job["volumes_ml"]
    for identity in (ct[0].PatientID, "PHANTOM^SYNTHETIC", ct[0].StudyInstanceUID, "2.25."):
        assert identity.encode() not in accepted.body
    assert SECRET not in orthanc.log()

    lines = orthanc.get(f"/oar/audit?job={job['id']}")["lines"]
    states = [line["record"]["state"] for line in lines if "state" in line["record"]]
    assert states == ["queued", "running", "done"]
    last = lines[2]["record"]
    assert last["provenance"]["instances"] == len(ct)
    file = orthanc.file(job["results"][0]["orthanc_id"])
    assert last["outputs"][0]["sha256"] == hashlib.sha256(file).hexdigest()
    ends = [line["record"]["delivery"] for line in lines[3:]]
    assert {(one["kind"], one["target"], one["state"]) for one in ends} == {
        (*place, "done") for place in up
    }
    verdict = orthanc.get("/oar/audit/verify")
    assert (verdict["intact"], verdict["hash"]) == (True, lines[-1]["hash"])


def test_a_planning_system_that_knows_rtstruct_alone_gets_it_once_and_the_seg_is_refused(
    new_orthanc: NewOrthanc, quick_model: Path, ct
):
    orthanc = new_orthanc(
        quick_model, Rtstruct=True, Routes=[{"To": ["modality:TPS"]}], Delivery=SOON
    )
    file, port, arrived = orthanc.folder / "orthanc.json", free_port(), []
    tps = {"DicomModalities": {"TPS": ["TPS", "127.0.0.1", port]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | tps))

    def take(event: evt.Event) -> int:
        arrived.append(event.dataset.Modality)
        return 0

    entity = ApplicationEntity("TPS")
    entity.add_supported_context(RTStructureSetStorage)
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, take)]
    )
    orthanc.start()
    orthanc.push(ct)

    def ended() -> dict[str, dict[str, Any]] | None:
        each = {one["result"]: one for job in orthanc.jobs() for one in job["deliveries"]}
        over = [one for one in each.values() if one["state"] in ("done", "refused")]
        return each if len(over) == 2 else None

    sent = wait_until(ended, "the RTSTRUCT has arrived and the SEG is refused")
    server.shutdown()

    assert (sent["rtstruct"]["state"], sent["seg"]["state"]) == ("done", "refused")
    assert "takes no objects of this kind (SEG)" in sent["seg"]["reason"]
    assert arrived == ["RTSTRUCT"]


def test_a_power_cut_while_a_result_is_being_sent_does_not_lose_it(
    new_orthanc: NewOrthanc, quick_model: Path, pacs: Pacs, ct
):
    orthanc = new_orthanc(quick_model, Routes=[{"To": ["modality:at-PACS"]}], Delivery=SOON)
    knows(orthanc, pacs, PACS_AET)
    with deaf_listener(pacs.dicom) as called:
        orthanc.start()
        orthanc.push(ct)
        orthanc.wait_for_job("done")
        called.wait(60)
        wait_until(
            lambda: deliveries(orthanc)["modality", "at-PACS"]["state"] == "sending",
            "the result is on its way",
        )
        orthanc.kill()
    pacs.start()

    orthanc.start()

    sent = all_are(orthanc, "done", 1)
    assert pacs.seg_uids() == {orthanc.jobs()[0]["results"][0]["sop_instance_uid"]}
    assert sent["modality", "at-PACS"]["reason"] == ""


class deaf_listener:
    """Something that takes connections and never says a word, as a receiver that hangs."""

    def __init__(self, port: int) -> None:
        self._called = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = []

    def __enter__(self) -> threading.Event:
        threading.Thread(target=self._listen, daemon=True).start()
        return self._called

    def _listen(self) -> None:
        while True:
            try:
                self._open.append(self._socket.accept()[0])
            except OSError:  # closed
                return
            self._called.set()

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for one in self._open:
            one.close()


def test_a_shadow_model_is_compared_and_kept_and_only_the_first_result_returns_to_the_sender(
    new_orthanc: NewOrthanc, quick_model: Path, slow_model: Path, pacs: Pacs, tmp_path: Path, ct
):
    trial = tmp_path / "trial"
    save(trial, *tiny_model("trial"))
    orthanc = new_orthanc(
        slow_model,
        Models=[{"Model": str(quick_model), "ShadowModel": str(trial), "BodyPart": "^HEAD"}],
        Routes=[{"To": ["sender"]}],
        Delivery=SOON,
        AutomaticFor=[{"SenderAet": "^SCANNER$", "CalledAet": f"^{AET}$"}],
    )
    knows(orthanc, pacs, PACS_AET)  # but not the title SCANNER
    pacs.start()
    orthanc.start()
    orthanc.push(ct)

    refused = all_are(orthanc, "refused", 1)["sender", "SCANNER@127.0.0.1"]
    assert "'SCANNER'" in refused["reason"]
    where = json.dumps({"AET": "SCANNER", "Host": "127.0.0.1", "Port": pacs.dicom}).encode()
    orthanc.request("PUT", "/modalities/scanner", where)
    shadow = wait_until(
        lambda: next(
            (j for j in orthanc.jobs() if j["kind"] == "shadow" and j["state"] == "done"), None
        ),
        "the shadow is done",
    )
    [first] = [job for job in orthanc.jobs() if job["kind"] == "segment"]

    assert (first["model"], shadow["model"]) == ("quick", "trial")
    assert shadow["of"] == first["id"]
    assert shadow["deliveries"] == []
    assert shadow["dice"] == {"brainstem": 1.0}  # both weigh everything alike
    marked = [
        one["MainDicomTags"]["SeriesDescription"]
        for one in orthanc.get("/series?expand")
        if one["Instances"] == [shadow["results"][0]["orthanc_id"]]
    ]
    assert marked == ["SHADOW, not for use, research use only, trial"]
    orthanc.wait_until_quiet()
    assert orthanc.text(f"/studies/{orthanc.study()}/metadata/OarState") == "done"
    [explained] = [
        one
        for one in orthanc.get(f"/oar/studies/{orthanc.study()}/explain")["series"]
        if one["chosen"]
    ]
    assert (explained["model"], explained["shadow_model"]) == ("quick", "trial")
    assert explained["model_reason"] == "Rule 1 of Models fits: BodyPart."
    assert explained["by_itself_reason"] == "Rule 1 of AutomaticFor fits: CalledAet and SenderAet."

    orthanc.post(f"/oar/jobs/{first['id']}/deliver")
    all_are(orthanc, "done", 1)
    assert pacs.seg_uids() == {first["results"][0]["sop_instance_uid"]}
