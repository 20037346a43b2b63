"""Whether what this container runs works: exit status 0, or 1 and the reason.

An Orthanc and its plugin are asked; Orthanc's configuration, which the image writes at its start,
is read for the port and for a user. A worker node touches a file as long as it works.
"""

import argparse
import base64
import json
import ssl
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT_S = 8.0

SILENCE_S = 60.0
"""A node looks every ten seconds whether database and Orthanc answer, which may take a while."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configuration", type=Path, nargs="?", default=Path("/tmp/orthanc.json"))
    parser.add_argument("--node", type=Path, metavar="FILE", help="what a worker node touches")
    args = parser.parse_args(argv)
    return of_node(args.node) if args.node else of_orthanc(args.configuration)


def of_orthanc(file: Path) -> int:
    try:
        configuration = json.loads(file.read_text())
        scheme = "https" if configuration.get("SslEnabled") else "http"
        url = f"{scheme}://127.0.0.1:{configuration.get('HttpPort', 8042)}/oar/health"
        request = urllib.request.Request(url)
        if (found := someone(configuration)) is not None:
            credentials = base64.b64encode(":".join(found).encode()).decode()
            request.add_header("Authorization", f"Basic {credentials}")
        # Its certificate is made for the name that others know it by, and this is no network.
        trusted = ssl._create_unverified_context() if scheme == "https" else None
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=trusted) as answer:
            status = json.load(answer)["status"]
    except (OSError, ValueError, KeyError) as why:
        print(f"no answer: {why}")
        return 1
    print(status)
    return 0 if status == "ok" else 1


def someone(configuration: dict[str, Any]) -> tuple[str, str] | None:
    """A user who may look, and the password."""
    roles = configuration.get("Oar", {}).get("Roles", {})
    for user, password in configuration.get("RegisteredUsers", {}).items():
        if not roles or roles.get(user, "none") != "none":
            return user, password
    return None


def of_node(alive: Path) -> int:
    try:
        silent_s = time.time() - alive.stat().st_mtime
    except OSError as why:
        print(f"no sign of life: {why}")
        return 1
    print(f"the last sign of life was {silent_s:.0f} s ago")
    return 0 if silent_s < SILENCE_S else 1


if __name__ == "__main__":
    sys.exit(main())
