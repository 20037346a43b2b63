"""JSON that is on the disk whole or not at all."""

import json
from pathlib import Path
from typing import Any

from model.whole_files import whole_files


def write_json(path: Path, values: Any) -> None:
    """Write the file as `whole_files` does."""
    with whole_files(path) as (file,):
        file.write((json.dumps(values, indent=2) + "\n").encode())
