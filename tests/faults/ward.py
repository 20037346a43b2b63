"""A real Orthanc, the patients whose CT it has accepted, and what has become of each."""

import copy
import json
import random
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import CTImageStorage

from model.checkpoint import save
from model.segmenter import Segmenter
from plugin.folder_archive import FolderArchive
from plugin.pipeline import segment_series
from plugin.serve import taken
from plugin.settings import Settings
from plugin.watch import Watch
from tests.faults.tally import Listener, Patient, Tally
from tests.integration.conftest import AET, PATIENCE_S, Orthanc, wait_until
from tests.phantoms import ct_slices, make_phantom, write_series
from tests.tiny_model import tiny_model

ENDED = ("done", "skipped", "failed", "cancelled")

MODELS: dict[str, dict[str, Any]] = {
    "quick": {},
    "steady": {"tile": (16, 16, 16)},  # about two seconds
    "slow": {"tile": (16, 16, 16), "spacing_mm": (1.0, 0.7, 0.7)},  # half a minute and more
    "huge": {"tile": (65536, 65536, 65536)},  # more bytes than a processor has addresses
    "blind": {"finds": False},
}
"""By name, what makes the tiny model so; all that end find the same, but the blind one nothing."""


class Ward(Orthanc):
    """Orthanc with its patients. What it should have done with them is told by `tally`."""

    def __init__(
        self, folder: Path, *, model: str = "quick", script: Path | None = None, **oar: Any
    ) -> None:
        """
        Args:
            folder: empty; all is kept there.
            model: one of `MODELS`.
            script: instead of plugin/main.py.
            oar: the settings. A study whose description is a model's name gets that model.
        """
        self.models = folder / "models"
        for name, options in MODELS.items():
            save(self.models / name, *tiny_model(name, **options))
        self._script = script
        rules = [
            {"StudyDescription": f"^{name}$", "Model": str(self.models / name)} for name in MODELS
        ]
        super().__init__(folder, self.models / model, Models=rules, **oar)
        self._template, self._expected = undisturbed()
        self._accepted: list[Patient] = []
        self._accepts = threading.Lock()
        self.random = random.Random(folder.name)
        self.notes: Counter[str] = Counter()
        self._listener = Listener(self.url)

    def configure(self, oar: dict[str, Any]) -> None:
        super().configure(oar)
        if self._script is not None:
            self.adjust(PythonScript=str(self._script))

    def adjust(self, **values: Any) -> None:
        """Change Orthanc's own configuration; it counts from the next start."""
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    def begin(self) -> None:
        """Forget the patients of an earlier fault, and how Orthanc answered then."""
        self._accepted = []
        self.notes = Counter()
        self._listener.seconds = []

    # --- its life --------------------------------------------------------------------------------

    def start(self) -> None:
        super().start()
        self._listener.set_down(False)

    def _end(self, how: Any) -> None:
        self._listener.set_down(True)
        super()._end(how)

    def close(self) -> None:
        """End everything."""
        self._listener.end()
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def queue_file(self) -> Path:
        return self.folder / "orthanc" / "oar-jobs.db"

    def running_stage(self) -> str:
        """What the queue's file says of the running job, when Orthanc is down."""
        with closing(sqlite3.connect(self.queue_file)) as connection:
            rows = connection.execute("SELECT stage FROM jobs WHERE state = 'running'").fetchall()
        return rows[0][0] or "taken" if rows else "between jobs"

    # --- its patients ----------------------------------------------------------------------------

    def patient(self, **changes: Any) -> Patient:
        """A patient like all others, but somebody else."""
        study, series, frame, number = (generate_uid() for _ in range(4))
        slices = copy.deepcopy(self._template)
        for image in slices:
            image.StudyInstanceUID, image.SeriesInstanceUID = study, series
            image.FrameOfReferenceUID = frame
            image.PatientID = number[-16:]
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            for name, value in changes.items():
                setattr(image, name, value)
        return Patient(slices)

    def send(self, patient: Patient, slices: Sequence[Dataset] | None = None) -> bool:
        """Send by C-STORE; True, and the patient accepted, if Orthanc has taken all."""
        if not taken(self.dicom):  # pynetdicom does not close what is refused
            return False
        scanner = ApplicationEntity("SCANNER")
        scanner.add_requested_context(CTImageStorage)
        association = scanner.associate("127.0.0.1", self.dicom, ae_title=AET)
        line = association.dul.socket and association.dul.socket.socket
        try:
            if not association.is_established:
                return False
            for image in slices or patient.slices:
                if getattr(association.send_c_store(image), "Status", None) != 0:
                    return False
        except (RuntimeError, ValueError):  # the association has ended
            return False
        finally:
            if association.is_established:
                association.release()
            if association.is_alive():  # it never was if Orthanc ended meanwhile
                association.join(PATIENCE_S)
            if line:
                line.close()  # nor what a dying peer leaves
        with self._accepts:
            if patient not in self._accepted:
                self._accepted.append(patient)
        return True

    def admit(self, **changes: Any) -> Patient:
        """A new patient whose CT is accepted."""
        patient = self.patient(**changes)
        assert self.send(patient), self.log()[-2000:]
        return patient

    def job_of(self, patient: Patient) -> dict[str, Any]:
        """The newest job of a patient; empty if there is none."""
        [study] = self._studies_of(patient) or [""]
        found = self.get(f"/oar/jobs?study={study}")["jobs"] if study else []
        return found[0] if found else {}

    def wait_for(self, patient: Patient, *states: str) -> dict[str, Any]:
        """The patient's job, once it is in one of these states."""

        def found() -> dict[str, Any] | None:
            job = self.job_of(patient)
            return job if job.get("state") in states else None

        return wait_until(found, f"the patient's job is {' or '.join(states)}")

    def wait_until_at_work(self, patient: Patient) -> None:
        """Until the network has begun."""
        wait_until(
            lambda: self.wait_for(patient, "running", *ENDED)["progress"] > 0.05,
            "the network is at work",
        )

    def wait_for_stage(self, stage: str, *, after: int) -> None:
        """Until the log tells, beyond so many characters, that a job has come to a stage."""
        end = time.monotonic() + PATIENCE_S
        while f": {stage}\n" not in self.log()[after:]:  # at once: a stage may be over soon
            assert time.monotonic() < end, f"no job came to {stage}"
            time.sleep(0.002)

    def delete(self, patient: Patient) -> None:
        """As a person does in Orthanc."""
        [study] = self._studies_of(patient)
        patient.deleted = True
        self.request("DELETE", f"/studies/{study}")

    def _studies_of(self, patient: Patient) -> list[str]:
        found = self.request("POST", "/tools/lookup", patient.study_uid.encode())[2]
        return [one["ID"] for one in found if one["Type"] == "Study"]

    # --- what became of them ---------------------------------------------------------------------

    def finish(self) -> None:
        """Wait until every accepted patient has a job, and all jobs have ended."""
        wait_until(self._is_finished, "all jobs have ended")

    def _is_finished(self) -> bool:
        jobs = self._jobs()
        known = {job["study"] for job in jobs}
        for patient in self._accepted:
            if not patient.deleted and not known.issuperset(self._studies_of(patient)):
                return False
        return all(job["state"] in ENDED for job in jobs)

    def _settle(self) -> None:
        """The same, and no further job comes."""
        while True:
            self.finish()
            self.wait_until_quiet()
            if self._is_finished():
                return

    def tally(self, repeats: int) -> Tally:
        """Count what became of all accepted patients."""
        self._settle()
        tally = Tally(repeats=repeats, accepted=len(self._accepted), notes=self.notes)
        tally.system_s = list(self._listener.seconds)
        jobs = self._jobs()
        for patient in self._accepted:
            self._judge(patient, jobs, tally)
        return tally

    def _judge(self, patient: Patient, jobs: list[dict[str, Any]], tally: Tally) -> None:
        studies = self._studies_of(patient)
        if patient.deleted:
            if studies:
                tally.lost.append(f"deleted, and {len(studies)} study came back")
            else:
                tally.reasons += 1
            return
        if len(studies) != 1:
            tally.lost.append("no longer in Orthanc")
            return
        own = [job for job in jobs if job["study"] == studies[0]]
        segs = self._segs(studies[0])
        told = {result["orthanc_id"] for job in own for result in job["results"]}
        whole = sum(self._is_valid(seg, patient) for seg in segs)
        unexplained = [job for job in own if job["state"] != "done" and not job["reason"]]
        if len(segs) > patient.results:
            tally.twice += 1
        elif unexplained or told != set(segs):
            tally.lost.append(f"{len(segs)} results, jobs {[job['state'] for job in own]}")
        elif not segs:
            tally.reasons += 1
        elif len(segs) == patient.results and whole == 1:
            tally.results += 1
        else:
            tally.lost.append(f"{len(segs)} results, {whole} of them valid")

    def _is_valid(self, seg: str, patient: Patient) -> bool:
        """Whether it is the result of all slices that an undisturbed run has."""
        file = pydicom.dcmread(BytesIO(self.file(seg)))
        sources = file.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        uids = {str(one.ReferencedSOPInstanceUID) for one in sources}
        return file.PixelData == self._expected and uids == {
            str(image.SOPInstanceUID) for image in patient.slices
        }

    def _segs(self, study: str) -> list[str]:
        instances = self.get(f"/studies/{study}/series")
        return [
            one
            for series in instances
            if series["MainDicomTags"]["Modality"] == "SEG"
            for one in series["Instances"]
        ]

    def _jobs(self) -> list[dict[str, Any]]:
        return self.get("/oar/jobs?limit=1000")["jobs"]


@cache
def undisturbed() -> tuple[list[Dataset], bytes]:
    """A patient's slices, and the pixels of the result that they get without any Orthanc."""
    phantom = make_phantom(spacing_mm=(6.0, 4.0, 4.0), shape=(30, 64, 64))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        save(out / "model", *tiny_model("quick"))
        write_series(phantom, out / "ct")
        archive = FolderArchive(out / "ct", results=out)
        [series] = archive.all_series()
        segmenter = Segmenter.load(out / "model", device="cpu")
        segment_series(
            series, archive=archive, segmenter=segmenter, settings=Settings(), watch=Watch()
        )
        return ct_slices(phantom), pydicom.dcmread(out / "seg.dcm").PixelData
