"""The main job, to be seen: `python -m tests.demo [FOLDER]`, which is what `make demo` runs.

Starts Orthanc with the plugin on loopback, pushes a CT over DICOM C-STORE, waits for the SEG and
prints what came back. Without FOLDER the CT is a phantom whose organs are known, so Dice is printed
too. Research use only.
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom.ae import ApplicationEntity
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from model.metrics import dice
from model.organs import ORGANS
from plugin.serve import configuration, environment
from tests.phantoms import ct_slices, make_phantom

UNSEEN_SEED = 7
"""The phantom shown; the weights saw those from 1000 on."""

STABLE_AGE_S = 3

PATIENCE_S = 1800.0


class Demo:
    """One Orthanc, started for the show."""

    def __init__(self, data: Path, model: str, **oar: Any) -> None:
        self.http, self.dicom = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}"
        values = configuration(data, http_port=self.http, dicom_port=self.dicom, model=model)
        values["StableAge"] = STABLE_AGE_S
        values["Oar"] |= oar
        (data / "orthanc").mkdir(parents=True)
        (data / "orthanc.json").write_text(json.dumps(values, indent=2))
        self.aet = values["DicomAet"]
        self.log = data / "orthanc.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["Orthanc", str(data / "orthanc.json")],
                stdout=log,
                stderr=log,
                env=environment(),
            )

    def wait(self) -> None:
        """Until it answers."""
        while self.process.poll() is None:
            try:
                self.get("/system")
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise SystemExit(f"Orthanc did not start; its last words:\n{self.log.read_text()[-2000:]}")

    def get(self, path: str) -> Any:
        """JSON at a path."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read())

    def file(self, instance: str) -> bytes:
        """A stored DICOM file."""
        with urllib.request.urlopen(f"{self.url}/instances/{instance}/file") as answer:
            return answer.read()

    def push(self, slices: Sequence[Dataset]) -> None:
        """Send the slices as a scanner does."""
        scanner = ApplicationEntity("SCANNER")
        kinds = {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in slices}
        for sop_class, transfer_syntax in kinds:
            scanner.add_requested_context(sop_class, transfer_syntax)
        association = scanner.associate("127.0.0.1", self.dicom, ae_title=self.aet)
        if not association.is_established:
            raise SystemExit("Orthanc did not accept the association")
        for ds in slices:
            if (status := association.send_c_store(ds)) and status.Status != 0:
                raise SystemExit(f"Orthanc refused a slice: status {status.Status:#06x}")
        association.release()


def watch(demo: Demo) -> list[dict[str, Any]]:
    """The jobs, once none of them can change any more."""
    columns = (TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn())
    end = time.monotonic() + PATIENCE_S
    with Progress(*columns) as bar:
        task = bar.add_task("waiting for a stable study", total=1.0)
        while time.monotonic() < end:
            jobs: list[dict[str, Any]] = demo.get("/oar/jobs")["jobs"]
            if jobs:
                stage = " ".join(filter(None, [jobs[0]["state"], jobs[0]["stage"]]))
                progress = sum(job["progress"] for job in jobs) / len(jobs)
                bar.update(task, completed=progress, description=stage)
                if not {job["state"] for job in jobs} & {"queued", "running"}:
                    bar.update(task, completed=1.0, description=jobs[0]["state"])
                    return jobs
            time.sleep(0.3)
    raise SystemExit("gave up waiting for the result")


def show(demo: Demo, job: dict[str, Any], truth: hd.Volume | None, console: Console) -> None:
    """Organs, millilitres, Dice where the truth is known, and seconds."""
    if not job["results"]:
        console.print(f"{job['state']}: {job['reason']}")
        return
    known = {}
    if truth is not None:
        known = dice_by_organ(demo.file(job["results"][0]["orthanc_id"]), truth)
    console.print(f"Organs at risk by {job['model']}; research use only")
    table = Table()
    table.add_column("organ")
    table.add_column("ml", justify="right")
    if known:
        table.add_column("Dice with the truth", justify="right")
    for organ in ORGANS:
        if organ.name in job["volumes_ml"]:
            cells = [organ.tg263, f"{job['volumes_ml'][organ.name]:.2f}"]
            table.add_row(*cells, *([f"{known[organ.name]:.3f}"] if known else []))
    console.print(table)
    if known:
        console.print(f"mean Dice over {len(known)} organs: {np.mean(list(known.values())):.3f}")
    for warning in job["warnings"]:
        console.print(f"warning: {warning}")
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in job["seconds"].items())
    console.print(f"seconds by stage: {seconds}")


def dice_by_organ(file: bytes, truth: hd.Volume) -> dict[str, float]:
    """Dice of a SEG file with the true labels, compared on the truth's own grid."""
    seg = hd.seg.segread(BytesIO(file))
    by_tg263 = {organ.tg263: organ for organ in ORGANS}
    found = np.zeros(truth.spatial_shape, np.uint8)
    for number in seg.segment_numbers:
        organ = by_tg263[seg.get_segment_description(number).segment_label]
        one = seg.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
        inside = one.match_geometry(truth, tol=1e-3).array > 0
        found[inside] = organ.label
    return {
        organ.name: dice(found == organ.label, truth.array == organ.label)
        for organ in ORGANS
        if (truth.array == organ.label).any()
    }


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def read_folder(folder: Path) -> list[Dataset]:
    """Every image or other object of DICOM under a folder; not a disc's DICOMDIR."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            ds = dcmread(path)
        except InvalidDicomError:
            continue
        if "SOPClassUID" in ds:
            found.append(ds)
    if not any(ds.get("Modality") == "CT" for ds in found):
        raise SystemExit(f"there is no CT under {folder}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="of a CT; without it, a phantom")
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="made anew")
    parser.add_argument("--model", help="name; hn22-phantom for the phantom, hn6-openkbp for a CT")
    args = parser.parse_args(argv)
    console = Console()
    truth = None
    if args.folder is None:
        console.print("Making a phantom CT of 100 slices of 512 x 512 ...")
        phantom = make_phantom(spacing_mm=(3, 1, 1), shape=(100, 512, 512), seed=UNSEEN_SEED)
        slices, truth = ct_slices(phantom), phantom.labels
    else:
        slices = read_folder(args.folder)
    model = args.model or ("hn6-openkbp" if truth is None else "hn22-phantom")
    shutil.rmtree(args.data, ignore_errors=True)
    jobs: list[dict[str, Any]] = []
    demo = Demo(args.data, model)
    try:
        demo.wait()
        console.print(f"Orthanc with the plugin and {model} is at {demo.url}")
        demo.push(slices)
        console.print(f"{len(slices)} objects pushed by C-STORE to {demo.aet} on port {demo.dicom}")
        jobs = watch(demo)
        for job in jobs:
            show(demo, job, truth, console)
        study = jobs[0]["study"]  # of several the latest
        page = f"app/explorer.html#study?uuid={study}"
        if sys.stdin.isatty():
            console.print(f"Look at it (Ctrl-C ends): {demo.url}/{page}", soft_wrap=True)
            demo.process.wait()
        else:
            console.print(
                f"To look at it: make run DATA={args.data} MODEL={model}, "
                f"then http://127.0.0.1:8042/{page}",
                soft_wrap=True,
            )
    except KeyboardInterrupt:
        console.print("ended")
    finally:
        demo.process.terminate()
        demo.process.wait()
    return 0 if jobs and all(job["state"] == "done" for job in jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
