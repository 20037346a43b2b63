"""Who may import whom."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "model": {"model"},
    "plugin": {"plugin", "model"},
    "training": {"training", "model", "plugin"},
}

TRAINING_MAY_READ_DICOM_WITH = (
    "plugin.archive",
    "plugin.configuration",
    "plugin.folder_archive",
    "plugin.rest_archive",
    "plugin.settings",
    "plugin.ct.hounsfield",
    "plugin.ct.series",
    "plugin.dicom_file",
    "plugin.drawn.drawn_organs",
    "plugin.drawn.structure_names",
    "plugin.drawn.structure_sets",
)


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Level (0: absolute) and full name of every module that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.level, f"{node.module or ''}.{alias.name}"


def imported(file: Path) -> set[str]:
    """Top-level names of what a file imports."""
    return {name.split(".")[0] for level, name in imports(file) if level == 0}


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_dependencies_point_one_way(package: str) -> None:
    for file in files(package):
        ours = imported(file) & (MAY_IMPORT.keys() | {"tests"})
        assert ours <= MAY_IMPORT[package], f"{file.name} imports {ours - MAY_IMPORT[package]}"


def test_training_takes_of_the_plugin_only_what_reads_and_writes_dicom() -> None:
    for file in files("training"):
        others = {
            name
            for _, name in imports(file)
            if name.startswith("plugin.") and not name.startswith(TRAINING_MAY_READ_DICOM_WITH)
        }
        assert others == set(), f"{file.name} imports {others}"


def test_no_plugin_module_hides_a_standard_one() -> None:
    # Orthanc puts the entry script's folder first on sys.path, so plugin/queue.py
    # would replace the standard library's queue for torch, pydicom and everyone else.
    files_and_rooms = {*files("plugin"), *(file.parent for file in files("plugin"))}
    stems = {path.stem for path in files_and_rooms if path != ROOT / "plugin"}
    assert not stems & (sys.stdlib_module_names | MAY_IMPORT.keys() | {"orthanc"})


@pytest.mark.parametrize("package", [*MAY_IMPORT, "tests"])
def test_only_the_entry_script_needs_orthanc(package: str) -> None:
    needing = {
        file.relative_to(ROOT).as_posix() for file in files(package) if "orthanc" in imported(file)
    }
    assert needing == ({"plugin/main.py"} if package == "plugin" else set())


@pytest.mark.parametrize("package", [*MAY_IMPORT, "tests"])
def test_imports_are_absolute(package: str) -> None:
    relative = {file.name for file in files(package) for level, _ in imports(file) if level}
    assert relative == set()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_module_says_what_it_is(package: str) -> None:
    silent = [
        file.relative_to(ROOT).as_posix()
        for file in files(package)
        if file.stem != "__init__" and not ast.get_docstring(ast.parse(file.read_text()))
    ]
    assert silent == []


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "types"}
    assert not drawers & {file.stem for package in MAY_IMPORT for file in files(package)}
