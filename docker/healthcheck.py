"""Whether the Orthanc of this container and its plugin work: exit status 0, or 1 and the reason.

Orthanc's configuration is read for the port and for a user; the image writes it at its start.
"""

import argparse
import base64
import json
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

TIMEOUT_S = 8.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configuration", type=Path, nargs="?", default=Path("/tmp/orthanc.json"))
    args = parser.parse_args(argv)
    try:
        configuration = json.loads(args.configuration.read_text())
        url = f"http://127.0.0.1:{configuration.get('HttpPort', 8042)}/oar/health"
        request = urllib.request.Request(url)
        for user, password in list(configuration.get("RegisteredUsers", {}).items())[:1]:
            credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {credentials}")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            status = json.load(answer)["status"]
    except (OSError, ValueError, KeyError) as why:
        print(f"no answer: {why}")
        return 1
    print(status)
    return 0 if status == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
