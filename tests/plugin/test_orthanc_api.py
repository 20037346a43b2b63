import pytest

from plugin.orthanc_api import answer, holds_threads_needlessly, keeps_labels
from tests.fake_orthanc import FakeOrthanc


class Output:
    """What answers a request, in a plugin whose SendHttpStatus takes so many arguments."""

    def __init__(self, arguments: int) -> None:
        self._arguments = arguments
        self.headers: dict[str, str] = {}
        self.answer: tuple[int | str | bytes, ...] = ()

    def SetHttpHeader(self, name: str, value: str) -> None:
        self.headers[name] = value

    def AnswerBuffer(self, content: bytes, content_type: str) -> None:
        self.answer = (content, content_type)

    def SendHttpStatus(self, *arguments: int | str) -> None:
        if len(arguments) != self._arguments:
            raise TypeError("Bad types for the arguments")
        self.answer = arguments


@pytest.mark.parametrize(
    ("version", "arguments", "headers", "sent"),
    [
        ("1.10.1", 3, {"Content-Type": "text/csv"}, (404, "Schädel", len(b"Sch\xc3\xa4del"))),
        ("1.12.1", 2, {"Content-Type": "text/csv"}, (404, "Schädel")),
        ("1.12.2", 2, {}, (404, "Schädel")),  # which says itself that it is text/plain
    ],
)
def test_an_error_is_sent_as_the_version_wants_it(version, arguments, headers, sent):
    orthanc, output = FakeOrthanc(), Output(arguments)
    orthanc.system["Version"] = version

    answer(orthanc, output, 404, "Schädel", "text/csv")

    assert (output.headers, output.answer) == (headers, sent)


@pytest.mark.parametrize("arguments", [2, 3])
def test_a_good_answer_has_its_type_in_all_versions(arguments):
    output = Output(arguments)
    answer(FakeOrthanc(), output, 200, "Schädel", "text/csv")
    assert (output.headers, output.answer) == ({}, ("Schädel".encode(), "text/csv"))


@pytest.mark.parametrize(
    ("system", "labels"),
    [
        ({"Version": "1.10.1"}, False),
        ({"Version": "1.12.7", "HasLabels": True}, True),
        ({"Version": "1.12.7", "HasLabels": False}, False),  # a database that knows none
    ],
)
def test_orthanc_says_itself_whether_it_keeps_labels(system, labels):
    assert keeps_labels(system) is labels


@pytest.mark.parametrize(
    ("version", "configuration", "needlessly"),
    [
        ("4.0", {}, False),  # it cannot do otherwise
        ("4.3", {}, True),
        ("10.0", {"Python": {}}, True),
        ("mainline", {"Python": {"AllowThreads": False}}, True),
        ("5.0", {"Python": {"AllowThreads": True}}, False),
    ],
)
def test_python_waits_for_orthanc_needlessly(version, configuration, needlessly):
    orthanc = FakeOrthanc()
    orthanc.plugin_version = version
    assert holds_threads_needlessly(orthanc, configuration) is needlessly
