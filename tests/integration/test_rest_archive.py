"""Another machine's Orthanc gives and takes as our own does, over a line that may break."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset

from plugin import rest_archive
from plugin.archive import ArchiveError, UnknownResource
from plugin.rest_archive import Login, RestArchive, login_for
from tests.demo import free_port
from tests.integration.plain_orthanc import LOGIN, PlainOrthanc, breaking_line
from tests.phantoms import ct_slices, make_phantom

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


@pytest.fixture(scope="module")
def ct() -> list[Dataset]:
    return ct_slices(make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(22, 32, 32)))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, ct: list[Dataset]) -> Iterator[PlainOrthanc]:
    if shutil.which("Orthanc") is None:
        pytest.skip("needs Orthanc: apt-get install orthanc")
    one = PlainOrthanc(tmp_path_factory.mktemp("orthanc"), passwords=True)
    one.start()
    one.receive(ct)
    yield one
    one.kill()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_archive, "PAUSE_S", 0.0)


def test_it_lists_gives_finds_and_takes_as_our_own_does(
    orthanc: PlainOrthanc, ct: list[Dataset]
) -> None:
    with orthanc.archive() as archive:
        archive.check()
        [study] = archive.find_studies({})
        [series] = archive.series_of_study(study)
        files = [pydicom.dcmread(BytesIO(archive.file(one))) for one in series.instances]

        assert archive.series(series.id) == series
        assert (series.modality, series.study) == ("CT", study)
        uids = {image.SOPInstanceUID for image in ct}
        assert {image.SOPInstanceUID for image in files} == uids
        assert set(archive.sop_instance_uids(series)) == uids
        assert [one.id for one in archive.studies(0, 10)] == [study]
        found = archive.find_instance(ct[3].SOPInstanceUID, study=study)
        assert found in series.instances
        assert archive.store(ct[3]) == found
        assert archive.find_instance("1.2.3", study=study) is None


def test_slices_come_as_they_are_and_not_compressed_for_the_way(
    orthanc: PlainOrthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would take Orthanc's processor longer than all else that a node waits for."""
    answers = list[httpx.Response]()
    request = httpx.Client.request

    def noted(*arguments: Any, **named: Any) -> httpx.Response:
        answers.append(request(*arguments, **named))
        return answers[-1]

    monkeypatch.setattr(httpx.Client, "request", noted)
    with orthanc.archive() as archive:
        [study] = archive.find_studies({})
        [series] = archive.series_of_study(study)
        archive.file(series.instances[0])

    # Orthanc 1.10 compresses for everybody who does not object, 1.12 no more.
    assert answers[-1].request.headers["Accept-Encoding"] == "identity"
    assert "Content-Encoding" not in answers[-1].headers


def test_a_result_that_is_to_be_stored_once_does_not_replace_the_one_that_is_there(
    orthanc: PlainOrthanc, ct: list[Dataset]
) -> None:
    late = deepcopy(ct[5])
    late.ContentTime = "235959"
    with orthanc.archive() as archive:
        [study] = archive.find_studies({})
        there = archive.find_instance(ct[5].SOPInstanceUID, study=study)
        before = archive.file(str(there))

        assert archive.store_once(late) == there
        assert archive.file(str(there)) == before

        assert archive.store(late) == there
        assert archive.file(str(there)) != before


def test_a_query_finds_the_studies_that_it_describes(orthanc: PlainOrthanc) -> None:
    with orthanc.archive() as archive:
        everything = archive.find_studies({})
        assert len(everything) == 1
        for query in (
            {"StudyDescription": "*head and neck*"},
            {"SeriesDescription": "*planning*", "PatientName": "phantom*"},
            {"StudyDate": "20200101-", "ModalitiesInStudy": "CT"},
            {"ModalitiesInStudy": "CT"},
        ):
            assert archive.find_studies(query) == everything, query
        for query in (
            {"StudyDate": "20200102-"},
            {"SeriesDescription": "*planning*", "ModalitiesInStudy": "RTSTRUCT"},
            {"BodyPartExamined": "FOOT"},
        ):
            assert archive.find_studies(query) == [], query
        with pytest.raises(ArchiveError, match="Orthanc, asked for studies, says: "):
            archive.find_studies({"NoSuchAttribute": "x"})


def test_what_it_does_not_hold_is_told_from_what_it_does_not_allow(
    orthanc: PlainOrthanc, no_pauses: None
) -> None:
    with orthanc.archive() as archive:
        for ask in (archive.series_of_study, archive.series, archive.file):
            with pytest.raises(UnknownResource, match=r"Orthanc holds no \w+ nobody\."):
                ask("nobody")
    for login in (None, Login("physicist", "wrong")):
        with (
            RestArchive(orthanc.url, login=login) as archive,
            pytest.raises(ArchiveError, match="does not accept this user and password") as refusal,
        ):
            archive.check()
        assert "wrong" not in str(refusal.value)


def test_a_connection_that_breaks_is_made_again(
    orthanc: PlainOrthanc, ct: list[Dataset], no_pauses: None
) -> None:
    with orthanc.archive() as archive:
        [study] = archive.find_studies({})
    with (
        breaking_line(orthanc.http, cut_after=[0, 100, 700, None]) as url,
        RestArchive(url, login=LOGIN) as archive,
    ):
        instance = archive.find_instance(
            ct[0].SOPInstanceUID, study=study
        )  # the first is cut at once
        assert instance is not None
        file = archive.file(instance)
    with orthanc.archive() as archive:
        assert file == archive.file(instance)
    assert len(file) > 700


def test_an_archive_out_of_reach_is_said_in_one_sentence(no_pauses: None) -> None:
    port = free_port()
    with (
        RestArchive(f"http://127.0.0.1:{port}", login=LOGIN) as archive,
        pytest.raises(ArchiveError) as refusal,
    ):
        archive.check()
    assert str(refusal.value).startswith(f"Orthanc at http://127.0.0.1:{port} cannot be reached: ")
    assert LOGIN.password not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_certificate_that_nobody_trusts_is_said_at_once_and_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs OpenSSL: apt-get install openssl")
    pem = tmp_path / "own.pem"  # key and certificate
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=pacs -keyout {pem}"
    made = subprocess.run(make.split(), capture_output=True, check=True)
    pem.write_bytes(pem.read_bytes() + made.stdout)
    monkeypatch.setattr(rest_archive.time, "sleep", lambda _: pytest.fail("it was tried again"))

    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with (
            RestArchive(f"https://127.0.0.1:{server.server_port}") as archive,
            pytest.raises(
                ArchiveError, match=r"not trusted \(self-signed certificate\).*--ca-file"
            ),
        ):
            archive.check()
        server.shutdown()


def test_an_address_within_an_orthanc_is_not_taken_for_one(orthanc: PlainOrthanc) -> None:
    with (
        RestArchive(f"{orthanc.url}/app/explorer.html", login=LOGIN) as archive,
        pytest.raises(ArchiveError, match="What answers at that address is not an Orthanc"),
    ):
        archive.check()


def test_what_somebody_between_does_not_find_is_not_gone() -> None:
    """A proxy whose backend restarts: nobody has deleted the series, and the job is not over."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = b"<html>404 page not found</html>"
            self.send_response(404)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with (
            RestArchive(f"http://127.0.0.1:{server.server_port}") as archive,
            pytest.raises(ArchiveError) as refusal,
        ):
            archive.series("a")
        server.shutdown()

    assert not isinstance(refusal.value, UnknownResource)


def test_a_line_that_always_breaks_is_given_up(orthanc: PlainOrthanc, no_pauses: None) -> None:
    with (
        breaking_line(orthanc.http, cut_after=[30] * 20) as url,
        RestArchive(url, login=LOGIN) as archive,
        pytest.raises(ArchiveError, match="cannot be reached"),
    ):
        archive.check()


@pytest.mark.parametrize("url", ["pacs:8042", "http://", "ftp://pacs", "http://pacs:port", ""])
def test_what_is_no_address_is_refused_without_quoting_it(url: str) -> None:
    for ask in (RestArchive, login_for):
        with pytest.raises(ArchiveError, match=r"^That is no address of an Orthanc, such as http"):
            ask(url)


def test_a_password_in_the_address_goes_no_further() -> None:
    url, login = login_for("http://physicist:s3cr%3Aet%20%2F%3F%40@pacs:8042/orthanc/")
    assert (url, login) == ("http://pacs:8042/orthanc", LOGIN)
    with pytest.raises(ArchiveError, match="do not belong into the address") as refusal:
        RestArchive("http://physicist:geheim@pacs:8042")
    assert "geheim" not in str(refusal.value)


def test_the_password_is_taken_from_a_file_or_netrc_or_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "password"
    file.write_text(f"{LOGIN.password}\n")

    assert login_for("http://pacs:8042") == ("http://pacs:8042", None)
    assert login_for("http://physicist@pacs:8042", file)[1] == LOGIN
    with pytest.raises(ArchiveError, match="needs a user"):
        login_for("http://pacs:8042", file)
    with pytest.raises(ArchiveError, match="cannot be read: No such file"):
        login_for("http://physicist@pacs:8042", tmp_path / "other")

    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(ArchiveError, match="no password for physicist at http://pacs:8042"):
        login_for("http://physicist@pacs:8042")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: LOGIN.password)
    assert login_for("http://physicist@pacs:8042")[1] == LOGIN

    (tmp_path / ".netrc").write_text("machine pacs login physicist password geheim\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert login_for("http://pacs:8042")[1] == Login("physicist", "geheim")
    assert login_for("http://physicist@pacs:8042")[1] == Login("physicist", "geheim")
    assert login_for("http://another:x@pacs:8042")[1] == Login("another", "x")
