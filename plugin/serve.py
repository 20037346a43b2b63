"""Run Orthanc with the plugin in the foreground: `python -m plugin.serve --data data`.

Orthanc is configured by orthanc.json at the top of the repository; only ports, storage and model
are chosen here. HTTP answers to this machine alone, the DICOM port to all. Research use only.
"""

import argparse
import json
import os
import shutil
import socket
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plugin.web.ohif import with_viewer

ROOT = Path(__file__).parents[1]


def configuration(
    data: Path, *, http_port: int, dicom_port: int, model: str | None = None
) -> dict[str, Any]:
    """orthanc.json with these ports, its storage under `data`, and the viewer if it is there.

    No relative path is left.
    """
    values: dict[str, Any] = json.loads((ROOT / "orthanc.json").read_text())
    values |= {
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "StorageDirectory": str(data.resolve() / "orthanc"),
        "IndexDirectory": str(data.resolve() / "orthanc"),
        "PythonScript": str(ROOT / "plugin" / "main.py"),
        "LuaScripts": [str(ROOT / "plugin" / "web" / "same-site.lua")],
    }
    if model is not None:
        values["Oar"] = values["Oar"] | {"Model": model}
    return with_viewer(values)


def environment() -> dict[str, str]:
    """This process's, with this repository and its virtual environment for Orthanc's own Python."""
    return dict(os.environ) | {"PYTHONPATH": f"{ROOT}:{sysconfig.get_paths()['purelib']}"}


def main(argv: Sequence[str] | None = None) -> int:
    """Become Orthanc; return only if that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="storage and queue")
    parser.add_argument("--http-port", type=port, default=8042)
    parser.add_argument("--dicom-port", type=port, default=4242)
    parser.add_argument("--model", help="name of a folder under model/weights, or a path")
    args = parser.parse_args(argv)
    if (program := shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")) is None:
        print("Orthanc is not installed: apt-get install orthanc orthanc-python", file=sys.stderr)
        return 1
    for number in (args.http_port, args.dicom_port):
        if taken(number):
            print(
                f"Port {number} is taken, perhaps by another Orthanc (Debian starts one as a "
                "service: systemctl stop orthanc). Choose others with --http-port and --dicom-port "
                "(make run: HTTP_PORT and DICOM_PORT).",
                file=sys.stderr,
            )
            return 1
    file = args.data / "orthanc.json"
    values = configuration(
        args.data, http_port=args.http_port, dicom_port=args.dicom_port, model=args.model
    )
    try:
        (args.data / "orthanc").mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values, indent=2))
    except OSError as why:
        print(f"{why.filename or file}: {why.strerror}", file=sys.stderr)
        return 1
    print(f"Orthanc Explorer: http://127.0.0.1:{args.http_port}/   DICOM port: {args.dicom_port}")
    sys.stdout.flush()
    os.execve(program, [program, str(file)], environment())


def port(text: str) -> int:
    """The number of a port, from the command line.

    Raises:
        ArgumentTypeError: it is none.
    """
    if text.isdecimal() and 0 < int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is no port: 1 to 65535")


def taken(number: int) -> bool:
    """Whether somebody listens on this port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", number)) == 0


if __name__ == "__main__":
    sys.exit(main())
