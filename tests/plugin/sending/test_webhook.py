import hashlib
import hmac
import json
import socket
from collections.abc import Collection, Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from plugin.configuration import BadConfiguration
from plugin.jobs.job import Outcome
from plugin.jobs.job_table import open_database
from plugin.sending import courier as courier_module
from plugin.sending.courier import Courier
from plugin.sending.deliveries import Errand, NotDelivered, Refused
from plugin.sending.webhook import Webhooks, WebhookSettings
from plugin.settings import Settings
from tests.demo import free_port
from tests.integration.conftest import wait_until
from tests.plugin.jobs.asking import RESULT, add
from tests.plugin.parts import new_deliveries, new_queue
from tests.webhook_receiver import WebhookReceiver

SECRET = "sixteen letters and more"


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    one = WebhookReceiver(204)
    yield one
    one.close()


class Hospital:
    """A queue with one webhook."""

    def __init__(self, database: str, url: str, **settings: Any) -> None:
        engine = open_database(database)
        values = {"Name": "ris", "Url": url, "Secret": SECRET, **settings}
        self.deliveries = new_deliveries(engine, retry_delay_seconds=0.01)
        self.webhooks = Webhooks([WebhookSettings.model_validate(values)], self.deliveries)
        self.jobs = new_queue(engine, max_attempts=1, notes=[self.webhooks.note])

    def finish(self, outcome: Outcome | None) -> str:
        """Identifier of a job that ended so; None: it failed."""
        job = add(self.jobs)
        self.jobs.claim()
        if outcome is None:
            self.jobs.fail(job.id, "ValueError: the patient is called NOBODY")
        else:
            self.jobs.finish(job.id, outcome)
        return job.id

    def errand(self) -> Errand | None:
        return self.deliveries.claim(("webhook",))


DONE = Outcome(
    state="done",
    results=(RESULT,),
    volumes_ml={"brainstem": 25.0},
    seconds={"reading": 1.0, "segmenting": 2.0, "segmenting.network": 1.5},
)


def test_the_end_of_a_job_is_told_and_signed(database, receiver):
    hospital = Hospital(database, receiver.url)
    job = hospital.finish(DONE)
    errand = hospital.errand()

    assert hospital.webhooks(errand) is None

    [news] = receiver.news
    expected = hmac.new(SECRET.encode(), news.body, hashlib.sha256).hexdigest()
    assert news.headers["X-Oar-Signature"] == f"sha256={expected}"
    told = json.loads(news.body)
    assert news.headers["X-Oar-Delivery"] == told["delivery"]
    assert (told["event"], told["job"], told["model"]) == ("done", job, "quick")
    assert told["results"] == [{"kind": "seg", "orthanc_id": "abc"}]
    assert told["seconds"] == 3.0
    assert told["research_use_only"] is True
    assert "volumes_ml" not in told


def test_the_news_of_another_end_of_the_same_job_are_another_delivery(database, receiver):
    """A receiver that has heard of the failure must not take the success for a repetition."""
    hospital = Hospital(database, receiver.url)
    hospital.finish(None)
    failed = hospital.errand()
    hospital.webhooks(failed)

    hospital.webhooks(failed)
    hospital.webhooks(failed.model_copy(update={"content": failed.content | {"event": "done"}}))

    first, again, other = (json.loads(news.body)["delivery"] for news in receiver.news)
    assert first == again != other


def test_a_failure_is_told_without_its_reason_which_may_quote_a_header(database, receiver):
    hospital = Hospital(database, receiver.url)
    hospital.finish(None)

    hospital.webhooks(hospital.errand())

    assert json.loads(receiver.news[0].body)["event"] == "failed"
    assert b"NOBODY" not in receiver.news[0].body


@pytest.mark.parametrize(
    ("on", "state", "told"),
    [
        (["done", "failed"], "skipped", False),
        (["skipped"], "skipped", True),
        (["failed"], "done", False),
    ],
)
def test_only_what_somebody_wants_to_know_is_told(database, receiver, on, state, told):
    hospital = Hospital(database, receiver.url, On=on)
    hospital.finish(Outcome(state=state))

    assert (hospital.errand() is not None) is told


def test_a_shadow_is_nobodys_news(database, receiver):
    hospital = Hospital(database, receiver.url)
    job = add(hospital.jobs, shadow_model="next")
    for _ in range(2):
        claimed = hospital.jobs.claim()
        hospital.jobs.finish(claimed.id, Outcome(state="done"))

    assert claimed.kind == "shadow"
    assert hospital.errand().job == job.id
    assert hospital.errand() is None


def test_volumes_are_told_to_those_who_may_have_them(database, receiver):
    hospital = Hospital(database, receiver.url, Volumes=True)
    hospital.finish(DONE)

    hospital.webhooks(hospital.errand())

    assert json.loads(receiver.news[0].body)["volumes_ml"] == {"brainstem": 25.0}


@pytest.mark.parametrize("status", [302, 404, 500])
def test_any_answer_but_success_is_not_now_and_nothing_is_sent_elsewhere(database, status):
    receiver = WebhookReceiver(status)
    hospital = Hospital(database, receiver.url)
    hospital.finish(DONE)

    with pytest.raises(NotDelivered, match=f"answered {status} "):
        hospital.webhooks(hospital.errand())

    assert [news.path for news in receiver.news] == ["/oar"]
    receiver.close()


def test_a_receiver_that_is_down_or_silent_is_a_sentence_without_its_address(database):
    url = f"http://127.0.0.1:{free_port()}/a-token"
    hospital = Hospital(database, url)
    hospital.finish(DONE)

    with pytest.raises(NotDelivered) as down:
        hospital.webhooks(hospital.errand())

    assert str(down.value) == "The receiver cannot be reached: Connection refused."


def test_a_receiver_that_says_nothing_is_given_up_in_time(database):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a-token"
        hospital = Hospital(database, url, TimeoutSeconds=0.2)
        hospital.finish(DONE)

        with pytest.raises(NotDelivered) as late:
            hospital.webhooks(hospital.errand())

    assert str(late.value) == "The receiver did not answer within 0.2 s."


def test_a_webhook_that_is_no_longer_configured_is_refused(database):
    hospital = Hospital(database, "http://127.0.0.1/")
    hospital.finish(DONE)

    with pytest.raises(Refused, match="name no webhook 'ris'"):
        Webhooks([], hospital.deliveries)(hospital.errand())


def test_a_courier_tries_until_the_news_has_arrived(database, caplog):
    receiver = WebhookReceiver(500, 500, 200)
    hospital = Hospital(database, receiver.url)
    courier = Courier(hospital.deliveries, {"webhook": hospital.webhooks})
    courier.start()
    job = hospital.finish(DONE)
    hospital.deliveries.wake()

    [delivery] = wait_until(
        lambda: [one for one in hospital.jobs.get(job).deliveries if one.state == "done"],
        "the news has arrived",
    )
    courier.stop()

    assert delivery.attempts == 3
    assert len(receiver.news) == 3
    assert not courier.alive
    assert SECRET not in caplog.text
    receiver.close()


def test_a_fault_of_ours_is_parked_and_the_next_delivery_is_carried(database, caplog):
    hospital = Hospital(database, "http://127.0.0.1/")
    carried: list[str] = []

    def carry(errand: Errand) -> None:
        if errand.attempts == 1:
            raise KeyError("a bug")
        carried.append(errand.id)

    courier = Courier(hospital.deliveries, {"webhook": carry})
    hospital.finish(DONE)
    courier.start()
    wait_until(lambda: carried, "it was carried at last")
    courier.stop()

    assert "KeyError" in caplog.text


def test_deliveries_that_cannot_be_read_are_known_and_logged_whole_but_once(
    database, monkeypatch, caplog
):
    monkeypatch.setattr(courier_module, "PAUSE_S", 0.0)
    hospital = Hospital(database, "http://127.0.0.1/")
    claim, known = hospital.deliveries.claim, list[bool]()

    def fail_twice(kinds: Collection[str]) -> Errand | None:
        known.append(courier.queue_answers)
        if len(known) <= 2:
            raise OperationalError("UPDATE", {}, Exception("attempt to write a readonly database"))
        return claim(kinds)

    monkeypatch.setattr(hospital.deliveries, "claim", fail_twice)
    courier = Courier(hospital.deliveries, {"webhook": lambda errand: None})
    hospital.finish(DONE)
    courier.start()
    wait_until(lambda: len(known) > 3, "it was carried at last")
    courier.stop()

    assert known[:4] == [True, False, False, True]
    told = [one for one in caplog.records if "deliveries cannot be read" in one.message]
    assert [bool(one.exc_info) for one in told] == [True, False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"Url": "ftp://host/"},
        {"Url": "ris.example"},
        {"Url": "https://me:pass@ris/"},
        {"Url": "http://ris:port/x"},
        {"Url": "http://ris:0/x"},
        {"Url": "http://ris:99999/x"},
        {"Url": "http://:80/x"},
        {"Url": "http://ris :80/"},
        {"Url": "https://ris.example/a b"},
        {"Url": "https://bücher.example/"},
        {"Url": "https://ris.example/übersicht"},
        {"Url": "http://[::1/"},
        {"Url": "http://xn--x/"},
        {"Secret": "short"},
        {"Name": ""},
    ],
)
def test_a_mistake_in_a_webhook_is_refused(wrong):
    values = {"Name": "ris", "Url": "https://ris.example/", "Secret": SECRET, **wrong}
    with pytest.raises(ValidationError):
        WebhookSettings.model_validate(values)


def test_no_secret_is_in_an_error_nor_in_the_settings_as_shown():
    hook = {"Name": "ris", "Url": "https://ris.example/", "Secret": SECRET}
    settings = Settings.from_orthanc({"Oar": {"Webhooks": [hook]}})
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump_json()}"

    with pytest.raises(BadConfiguration, match=r"Oar\.Webhooks\.0\.Secret") as short:
        Settings.from_orthanc({"Oar": {"Webhooks": [hook | {"Secret": "too short"}]}})
    assert "too short" not in f"{short.value} {short.value.__cause__}"
    with pytest.raises(BadConfiguration, match="two webhooks have the same name"):
        Settings.from_orthanc({"Oar": {"Webhooks": [hook, hook]}})
