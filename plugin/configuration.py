"""Orthanc's configuration: what we ask of it, and its file for those who have no Orthanc."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from model.unusable import Unusable

COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
"""A string, which is group 1, or a comment, which Orthanc allows in its configuration."""

VARIABLE = re.compile(r"""\$\{([^:}]+)(?::-(?:'([^'"}]*)'|([^'"}]*)))?\}""")
"""${NAME} or ${NAME:-default}: a variable of the environment, which Orthanc takes from there before
it looks at anything else. Group 1 is the name; 2 or 3 is the default.
"""


ORTHANC_STORAGE = "OrthancStorage"
"""Orthanc's own default of "StorageDirectory"."""

ORTHANC_STABLE_AGE_SECONDS = 60
"""Orthanc's own default of "StableAge"."""


READ_AS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("StorageDirectory", "IndexDirectory"), (str, "text")),
    **dict.fromkeys(("StableAge", "JobsHistorySize"), (int, "a whole number")),
    **dict.fromkeys(("Python", "DicomWeb", "ServeFolders", "RegisteredUsers"), (dict, "a section")),
}
"""What we read of Orthanc's own keys. We are loaded before it looks at most of them itself."""


class BadConfiguration(Unusable):
    """It cannot be read or used; the message names what is wrong and quotes no secret of it."""


class Section(BaseModel):
    """A part of it that is ours, with a docstring under each setting that says what it means.

    The keys are written in PascalCase, as all of Orthanc's are; one that is unknown is refused.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_pascal,
        use_attribute_docstrings=True,
    )


def read_configuration(path: Path) -> dict[str, Any]:
    """What the file holds, comments left out and variables of the environment put in.

    Raises:
        BadConfiguration: it cannot be read, or is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadConfiguration(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{path} is not UTF-8.") from error
    text = VARIABLE.sub(_value, text)
    try:
        values = json.loads(COMMENT.sub(lambda found: found[1] or " ", text))
    except ValueError as error:  # whose sentence has the place, not the text
        raise BadConfiguration(f"{path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise BadConfiguration(f"{path} is not a configuration of Orthanc.")
    return values


def check_types(configuration: Mapping[str, Any]) -> None:
    """See that Orthanc's own keys are what we read them as.

    Raises:
        BadConfiguration: one is not.
    """
    for key, (kind, called) in READ_AS.items():
        if key in configuration and not isinstance(configuration[key], kind):
            raise BadConfiguration(f"{key} in Orthanc's configuration must be {called}.")


def configuration_folder(path: Path, configuration: Mapping[str, Any]) -> Path:
    """Where Orthanc's relative paths begin.

    Args:
        path: of its configuration, as it tells.
        configuration: the whole of it.

    Raises:
        BadConfiguration: Orthanc was given a folder and not a file, and there are relative paths.
            It then tells that folder or the one around it, depending on a slash.
    """
    if not path.is_dir():
        return path.parent
    keys = ("StorageDirectory", "IndexDirectory")
    for key, folder in zip(keys, storage_and_index(configuration), strict=True):
        if not Path(folder).is_absolute():
            raise BadConfiguration(
                f"{key} must be an absolute path: Orthanc was given a folder of configurations "
                "and does not tell which, so a relative one would be looked for at another place."
            )
    return path


def storage_folder(configuration: Mapping[str, Any], folder: Path) -> Path:
    """Where Orthanc keeps its files, unless a plugin keeps them elsewhere.

    Args:
        configuration: Orthanc's whole configuration.
        folder: of Orthanc's configuration file.
    """
    storage, _ = storage_and_index(configuration)
    return folder / storage


def storage_and_index(configuration: Mapping[str, Any]) -> tuple[str, str]:
    """As they are written, or Orthanc's own defaults."""
    storage = configuration.get("StorageDirectory", ORTHANC_STORAGE)
    return storage, configuration.get("IndexDirectory", storage)


def authenticates(configuration: Mapping[str, Any]) -> bool:
    """Whether Orthanc asks everybody for a password; the default is its own."""
    return bool(
        configuration.get("AuthenticationEnabled", configuration.get("RemoteAccessAllowed", False))
    )


def stable_age_seconds(configuration: Mapping[str, Any]) -> float:
    """Seconds without a new instance after which Orthanc calls a study stable."""
    return float(configuration.get("StableAge", ORTHANC_STABLE_AGE_SECONDS))


def _value(found: re.Match[str]) -> str:
    """Of a variable; nothing if neither the environment nor the file says."""
    return os.environ.get(found[1], found[2] or found[3] or "")
