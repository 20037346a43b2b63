"""Orthanc's configuration file, for those who read it without Orthanc."""

import json
import os
import re
from pathlib import Path
from typing import Any

COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
"""A string, which is group 1, or a comment, which Orthanc allows in its configuration."""

VARIABLE = re.compile(r"""\$\{([^:}]+)(?::-(?:'([^'"}]*)'|([^'"}]*)))?\}""")
"""${NAME} or ${NAME:-default}: a variable of the environment, which Orthanc takes from there before
it looks at anything else. Group 1 is the name; 2 or 3 is the default.
"""


class BadConfiguration(ValueError):
    """A file is no configuration of Orthanc; the message says why and quotes nothing of it."""


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


def _value(found: re.Match[str]) -> str:
    """Of a variable; nothing if neither the environment nor the file says."""
    return os.environ.get(found[1], found[2] or found[3] or "")
