"""Cases from an archive of DICOM: for every CT that somebody drew on, the CT and the organs."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from pydicom import Dataset

from plugin.archive import Archive, Series
from plugin.ct.series import read_series
from plugin.ct.series_rules import SeriesRules, UnsuitableSeries
from plugin.dicom_file import UnreadableFile, read_dicom
from plugin.drawn.drawn_organs import DrawnOrgans, draw_organs, organs_of
from plugin.drawn.structure_names import StructureNames
from plugin.drawn.structure_sets import (
    MODALITIES,
    StructureSet,
    UnusableStructureSet,
    read_structure_set,
)
from training.labelled import LabelledCt

META = 128 + 4 + 12
"""Bytes of a file up to the end of the element that says how many more are about the file alone."""


class Refused(Exception):
    """There is no case of this CT; the message says why and names no patient."""


@dataclass(frozen=True, kw_only=True)
class DrawnCt:
    """A CT series and what was drawn on it."""

    series: Series
    patient: str  # Patient ID; empty where the header has none
    known_by: tuple[str, ...]  # what other CTs of the patient may have too, as the header has it
    structure_set: StructureSet | Refused

    @property
    def sop_instance_uid(self) -> str:
        """Of the structure set."""
        return (
            "" if isinstance(self.structure_set, Refused) else self.structure_set.sop_instance_uid
        )


@dataclass(frozen=True)
class _Ct:
    series: Series
    header: Dataset  # of one slice


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is drawn in a study."""

    drawn: tuple[DrawnCt, ...]
    undrawn: tuple[str, ...]  # the archive's identifiers of CT series that nobody drew on
    refused: tuple[tuple[str, str], ...]  # structure sets that are of no use, and why


def look_at_study(archive: Archive, study: str, names: StructureNames) -> Study:
    """Find out which CT each structure set of a study was drawn on, from headers alone.

    Raises:
        ArchiveError: the archive does not give it.
    """
    every = archive.series_of_study(study)
    cts: dict[str, _Ct] = {}
    for series in every:
        if series.modality == "CT":
            header = _parse(archive.file(series.instances[0]), pixels=False)
            if header is not None:
                cts[str(header.get("SeriesInstanceUID"))] = _Ct(series, header)
    sets: dict[str, dict[bytes, tuple[str, StructureSet]]] = {uid: {} for uid in cts}
    refused = []
    for series in every:
        if series.modality in MODALITIES:
            for instance in series.instances:
                which = f"{series.modality} {instance}"
                try:
                    found, content = _structure_set(archive.file(instance))
                    if not found.ours:  # our own results teach nothing
                        # A folder may hold a file twice, or under one UID what was changed since.
                        sets[_uid_of_ct(found, cts)][content] = which, found
                except (Refused, UnusableStructureSet) as why:
                    refused.append((which, str(why)))
    drawn = {uid: list(found.values()) for uid, found in sets.items() if found}
    newest = {uid: _newest([one for _, one in found], names) for uid, found in drawn.items()}
    for uid, newer in newest.items():
        if isinstance(newer, StructureSet):
            refused += [
                (which, f"A CT has a newer structure set than this {older.modality}.")
                for which, older in drawn[uid]
                if older is not newer and _has_organs(older, names)
            ]
    return Study(
        drawn=tuple(_drawn_ct(cts[uid], one) for uid, one in sorted(newest.items())),
        undrawn=tuple(cts[uid].series.id for uid, found in sets.items() if not found),
        refused=tuple(refused),
    )


def _drawn_ct(ct: _Ct, structure_set: StructureSet | Refused) -> DrawnCt:
    # Blanks around it mean nothing (PS3.5, LO), and pydicom leaves those before it.
    patient = str(ct.header.get("PatientID") or "").strip()
    # Who was given two identifiers, or lost his, is one patient still.
    uids = (str(ct.header.get(k) or "") for k in ("StudyInstanceUID", "FrameOfReferenceUID"))
    return DrawnCt(
        series=ct.series,
        patient=patient,
        known_by=tuple(one for one in (patient, *uids) if one),
        structure_set=structure_set,
    )


def read_drawn_ct(
    archive: Archive, drawn: DrawnCt, name: str, *, rules: SeriesRules, names: StructureNames
) -> tuple[LabelledCt, DrawnOrgans]:
    """Read the CT as the clinic does, and label the organs that were drawn on it.

    Raises:
        Refused: with the reason.
        ArchiveError: the archive does not give it.
    """
    if isinstance(drawn.structure_set, Refused):
        raise drawn.structure_set
    try:
        ct = read_series((archive.file(one) for one in drawn.series.instances), rules).volume
        organs = draw_organs(drawn.structure_set, ct.get_geometry(), names)
    except (UnsuitableSeries, UnusableStructureSet) as why:
        raise Refused(str(why)) from why
    case = LabelledCt(name=name, ct=ct, labels=organs.labels, labelled=organs.organs)
    return case, organs


def _parse(file: bytes, *, pixels: bool) -> Dataset | None:
    try:
        return read_dicom(file, pixels=pixels)
    except UnreadableFile:
        return None


def _structure_set(file: bytes) -> tuple[StructureSet, bytes]:
    """What a file holds, and a hash of it, which is the same however it was sent and stored."""
    dataset = _parse(file, pixels=True)
    if dataset is None:
        raise Refused("A structure set cannot be read: it is not DICOM, or cut short.")
    more = dataset.file_meta.get("FileMetaInformationGroupLength") or 0
    return read_structure_set(dataset), sha256(file[META + more :]).digest()


def _uid_of_ct(structure_set: StructureSet, cts: dict[str, _Ct]) -> str:
    """Series Instance UID of the CT that a structure set says it was drawn on."""
    modality = structure_set.modality
    if structure_set.series:
        named = {uid for uid in cts if uid in structure_set.series}
        if not named:
            raise Refused(f"The {modality} was drawn on images that are no CT of its study.")
    else:
        frames = structure_set.frames_of_reference
        named = {uid for uid, ct in cts.items() if ct.header.get("FrameOfReferenceUID") in frames}
        if not named:
            raise Refused(f"No CT of its study has the frame of reference of the {modality}.")
    if len(named) > 1:
        raise Refused(f"The {modality} may have been drawn on any of {len(named)} CT series.")
    return next(iter(named))


def _newest(
    structure_sets: Sequence[StructureSet], names: StructureNames
) -> StructureSet | Refused:
    """The newest that has an organ of the table; which it is, is not guessed."""
    useful = [one for one in structure_sets if _has_organs(one, names)]
    if not useful:
        drawn = sorted({one.name for s in structure_sets for one in s.structures})
        return Refused(
            "None of the structures drawn on the CT is an organ of the table: "
            f"{', '.join(drawn) or 'all are empty'}."
        )
    latest = max(one.drawn_at for one in useful)
    newest = [one for one in useful if latest.startswith(one.drawn_at)]  # a day, or nothing
    if len(newest) > 1:
        return Refused(
            f"{len(newest)} structure sets were drawn on the CT at one time, or at none that they "
            "say; expected one to be the newest."
        )
    return newest[0]


def _has_organs(structure_set: StructureSet, names: StructureNames) -> bool:
    return any(organs_of(one, names) for one in structure_set.structures)
