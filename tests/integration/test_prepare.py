"""Straight from a hospital's Orthanc: the same cases as from files, over a line that may break."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset as Dicom

from model.organs import BY_NAME
from plugin import rest_archive
from tests.integration.plain_orthanc import LOGIN, PlainOrthanc, breaking_line
from tests.phantoms import Phantom, ct_slices, make_phantom, write_case, write_series
from tests.structure_sets import outlines_of, rtstruct, seg
from training.cases import Case, Dataset
from training.labelled import read_case
from training.prepare import main

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

ARGUMENTS = ["--spacing", "6", "6", "6", "--window", "-1000", "1500"]
DRAWN = tuple(BY_NAME[n] for n in ("brainstem", "parotid_left", "parotid_right"))


def patient(seed: int) -> Phantom:
    one = make_phantom(spacing_mm=(5.0, 4.1, 3.9), shape=(48, 52, 54), seed=seed)
    labels = one.labels.array
    labels[~np.isin(labels, [organ.label for organ in DRAWN])] = 0
    return one


def structure_set(one: Phantom, kind: str) -> Dicom:
    images = ct_slices(one)
    if kind == "SEG":
        return seg(images, one.labels, DRAWN)
    masks = {
        organ.tg263: one.labels.with_array((one.labels.array == organ.label).astype(np.uint8))
        for organ in DRAWN
    }
    return rtstruct(images, {name: outlines_of(mask) for name, mask in masks.items()})


PATIENTS = {1: "RTSTRUCT", 2: "SEG", 3: "RTSTRUCT"}


@pytest.fixture(scope="module")
def patients() -> dict[int, tuple[Phantom, Dicom]]:
    found = {seed: patient(seed) for seed in PATIENTS}
    return {seed: (one, structure_set(one, PATIENTS[seed])) for seed, one in found.items()}


@pytest.fixture(scope="module")
def orthanc(
    tmp_path_factory: pytest.TempPathFactory, patients: dict[int, tuple[Phantom, Dicom]]
) -> Iterator[PlainOrthanc]:
    if shutil.which("Orthanc") is None:
        pytest.skip("needs Orthanc: apt-get install orthanc")
    server = PlainOrthanc(tmp_path_factory.mktemp("orthanc"), passwords=True)
    server.start()
    for one, structures in patients.values():
        server.receive([*ct_slices(one, shuffle_seed=0), structures])
    yield server
    server.kill()


@pytest.fixture
def login(tmp_path: Path) -> list[str]:
    (tmp_path / "password").write_text(LOGIN.password)
    return ["--password-file", str(tmp_path / "password")]


def same_patient(one: Case, cases: list[Case]) -> Case:
    """The only case with the same image; NIfTI alone rounds the grid."""
    [found] = [
        case
        for case in cases
        if case.image.shape == one.image.shape and np.allclose(case.image, one.image, atol=2e-5)
    ]
    return found


def with_user(url: str) -> str:
    return url.replace("http://", f"http://{LOGIN.user}@")


def test_orthanc_folders_of_dicom_and_of_cases_give_the_same_cases(
    tmp_path: Path,
    orthanc: PlainOrthanc,
    patients: dict[int, tuple[Phantom, Dicom]],
    login: list[str],
) -> None:
    for seed, (one, structures) in patients.items():
        write_series(one, tmp_path / "dicom" / str(seed))
        structures.save_as(tmp_path / "dicom" / str(seed) / "structures.dcm")
        write_case(one, tmp_path / "cases" / f"pt_{seed}")

    for name, source, more in (
        ("from-orthanc", with_user(orthanc.url), login),
        ("from-dicom", str(tmp_path / "dicom"), []),
        ("from-cases", str(tmp_path / "cases"), []),
    ):
        assert main([source, "--out", str(tmp_path / name), *ARGUMENTS, *more]) == 0

    sources = ("orthanc", "dicom", "cases")
    datasets = {source: Dataset.read(tmp_path / f"from-{source}") for source in sources}
    found = {s: [Case.read(tmp_path / f"from-{s}" / n) for n in datasets[s].cases] for s in sources}
    assert [len(cases) for cases in found.values()] == [3, 3, 3]
    assert len({dataset.preprocessing for dataset in datasets.values()}) == 1
    for ours in found["orthanc"]:
        # Numbers follow the archive's identifiers, so the same patient has another in each.
        of_files, of_cases = (same_patient(ours, found[source]) for source in sources[1:])
        np.testing.assert_array_equal(ours.image, of_files.image)
        for other in (of_files, of_cases):
            assert ours.labelled == other.labelled == DRAWN
            np.testing.assert_array_equal(ours.labels, other.labels)
    assert LOGIN.password not in (tmp_path / "from-orthanc-private" / "journal.jsonl").read_text()


def test_a_query_takes_some_and_a_broken_line_delays_and_does_not_harm(
    tmp_path: Path,
    orthanc: PlainOrthanc,
    patients: dict[int, tuple[Phantom, Dicom]],
    login: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rest_archive, "PAUSE_S", 0.01)
    one, _ = patients[2]
    arguments = [*ARGUMENTS, *login, "--query", "PatientID=PHANTOM-2", "Modality=CT"]
    cuts = [200_000, 3_000, 0, 30, 30, 30, 30, 30]  # bytes; the first six are one request's

    with breaking_line(orthanc.http, cut_after=[*cuts]) as url:
        assert main([with_user(url), "--out", str(tmp_path / "out"), *arguments]) == 1
        assert "cannot be reached" in capsys.readouterr().err
        assert main([with_user(url), "--out", str(tmp_path / "out"), *arguments]) == 0

    assert Dataset.read(tmp_path / "out").cases == ("0001",)
    case = read_case(tmp_path / "out" / "cases" / "0001")
    assert case.ct.geometry_equal(one.ct.permute_spatial_axes((2, 1, 0)), tol=1e-6)
    np.testing.assert_array_equal(case.ct.array, one.ct.array.transpose(2, 1, 0))
    np.testing.assert_array_equal(case.labels.array, one.labels.array.transpose(2, 1, 0))
    report = json.loads((tmp_path / "out-private" / "report.json").read_text())
    assert report["refused"] == []


def test_a_wrong_password_is_said_in_one_sentence(
    tmp_path: Path, orthanc: PlainOrthanc, capsys: pytest.CaptureFixture[str]
) -> None:
    url = orthanc.url.replace("http://", f"http://{LOGIN.user}:geheim@")
    assert main([url, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.endswith("does not accept this user and password.\n")
    assert "geheim" not in said
