import pytest

from plugin.orthanc_api import holds_threads_needlessly, keeps_labels, send
from tests.fake_orthanc import FakeOrthanc


class Output:
    """What answers a request, in a plugin whose SendHttpStatus takes so many arguments."""

    def __init__(self, arguments: int) -> None:
        self._arguments = arguments
        self.answer: tuple[int | str, ...] = ()

    def SendHttpStatus(self, *arguments: int | str) -> None:
        if len(arguments) != self._arguments:
            raise TypeError("Bad types for the arguments")
        self.answer = arguments


@pytest.mark.parametrize(
    ("arguments", "answer"), [(2, (404, "Schädel")), (3, (404, "Schädel", len(b"Sch\xc3\xa4del")))]
)
def test_older_plugins_want_to_know_how_many_bytes_the_body_has(arguments, answer):
    output = Output(arguments)
    send(output, 404, "Schädel")
    assert output.answer == answer


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
