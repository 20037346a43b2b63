"""JSON that is on the disk whole or not at all."""

import json
from pathlib import Path
from typing import Any


def write_json(path: Path, values: Any) -> None:
    """Write the file; a kill at any moment leaves the old one or the new one."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(values, indent=2) + "\n")
    new.replace(path)
