"""Push a phantom CT to a running Orthanc and see that its organs come back.

`.venv/bin/python -m docker.smoke http://127.0.0.1:8042 --user oar:PASSWORD`, from the top of the
repository. Exit status 0: the SEG stands in the study, which is then deleted. 1: the sentence says
why not. Research use only.
"""

import argparse
import base64
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from tests.phantoms import ct_slices, make_phantom

ENDED = {"done", "skipped", "failed", "cancelled"}


class NoResult(Exception):
    """The service does not do what it is for; the message says where it stopped."""


class Service:
    """An Orthanc with the plugin, over HTTP."""

    def __init__(self, url: str, user: str | None) -> None:
        self.url = url.rstrip("/")
        self.headers = {}
        if user:
            self.headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The JSON of an answer that is a success."""
        request = urllib.request.Request(
            self.url + path, data=body, method=method, headers=self.headers
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            raise NoResult(f"{method} {path} was answered with {error.code}: {said}") from error
        except OSError as error:
            raise NoResult(f"{method} {path} was not answered: {error}") from error


def push(service: Service) -> str:
    """Store a phantom, head and neck, and give its study."""
    images = ct_slices(make_phantom())
    for image in images:
        file = BytesIO()
        image.save_as(file, enforce_file_format=True)
        stored = service.ask("POST", "/instances", file.getvalue())
    return str(stored["ParentStudy"])


def segment(service: Service, study: str, model: str, patience_s: float) -> dict[str, Any]:
    """The study's job, once it has ended."""
    wish = json.dumps({"model": model, "force": True}).encode()
    [job] = service.ask("POST", f"/oar/studies/{study}/jobs", wish)["jobs"]
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        job = service.ask("GET", f"/oar/jobs/{job['id']}")
        if job["state"] in ENDED:
            return dict(job)
        time.sleep(1)
    raise NoResult(f"after {patience_s:.0f} s the job is still {job['state']}")


def smoke(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of Orthanc")
    parser.add_argument("--user", help="name:password, if Orthanc asks for it")
    parser.add_argument("--model", default="hn22-phantom", help="knows phantoms")
    parser.add_argument("--patience", type=float, default=900.0, metavar="SECONDS")
    args = parser.parse_args(argv)
    service = Service(args.url, args.user)
    try:
        print(f"Orthanc {service.ask('GET', '/system')['Version']}")
        health = service.ask("GET", "/oar/health")
        print(f"orthanc-oar {health['version']} on {health['device']}: {health['status']}")
        study = push(service)
        try:
            job = segment(service, study, args.model, args.patience)
            if job["state"] != "done":
                raise NoResult(f"the job is {job['state']}: {job['reason']}")
            series = service.ask("GET", f"/studies/{study}/series")
            if "SEG" not in {one["MainDicomTags"]["Modality"] for one in series}:
                raise NoResult("the job is done, but there is no SEG in the study")
            for organ, ml in job["volumes_ml"].items():
                print(f"{organ:<24}{ml:9.2f} ml")
        finally:
            service.ask("DELETE", f"/studies/{study}")
    except NoResult as why:
        print(why, file=sys.stderr)
        return 1
    print("The organs came back. Research use only.")
    return 0


if __name__ == "__main__":
    sys.exit(smoke())
