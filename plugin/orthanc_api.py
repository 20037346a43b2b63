"""What newer versions of Orthanc and of its Python plugin do otherwise: all of that is here.

Tested are Orthanc 1.10.1 with plugin 4.0 (Debian 12) and 1.12.7 with plugin 5.0 (Debian 13).

| what | since | before |
|---|---|---|
| `SendHttpStatus` takes a status and a body | plugin 4.2 | the body's length as well |
| it calls each body text/plain, besides what it was called | Orthanc 1.12.2 | nothing |
| a call into Orthanc can leave other threads alone | plugin 4.3 | all of Python waits |
| studies have labels | Orthanc 1.12.0, in most databases | there is only metadata |
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

CAN_ALLOW_THREADS = (4, 3)

NAMES_TYPES_ITSELF = (1, 12, 2)


def answer(orthanc: Any, output: Any, status: int, text: str, content_type: str) -> None:
    """Answer a request. An error's type is text/plain in newer versions; two would be worse."""
    if status == HTTPStatus.OK:
        output.AnswerBuffer(text.encode(), content_type)
        return
    if not orthanc.CheckVersionAdvanced(*NAMES_TYPES_ITSELF):
        output.SetHttpHeader("Content-Type", content_type)
    try:
        output.SendHttpStatus(status, text)
    except TypeError:
        output.SendHttpStatus(status, text, len(text.encode()))


def keeps_labels(system: Mapping[str, Any]) -> bool:
    """Whether studies can be labelled, by what Orthanc says at /system."""
    return bool(system.get("HasLabels", False))


def keeps_metadata(system: Mapping[str, Any]) -> bool:
    """Whether metadata that is there can be written again, by what Orthanc says at /system.

    Not with CheckRevisions: it then wants the revision of the old value, and a call of a plugin has
    no headers.
    """
    return not system.get("CheckRevisions", False)


def holds_threads_needlessly(orthanc: Any, configuration: Mapping[str, Any]) -> bool:
    """Whether all of Python waits for each call into Orthanc though this plugin could do better.

    Only for an Orthanc that has started: it is asked for the plugin's version.
    """
    if configuration.get("Python", {}).get("AllowThreads", False):
        return False
    version = str(json.loads(orthanc.RestApiGet("/plugins/python"))["Version"])
    numbers = re.match(r"(\d+)\.(\d+)", version)
    # A plugin between two releases is called "mainline".
    return numbers is None or tuple(map(int, numbers.groups())) >= CAN_ALLOW_THREADS
