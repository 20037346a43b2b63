"""What `make setup` installs is what was tested, to the last byte."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
RUNS = ("postgresql", "training", "demo")
LISTS = ("requirements", "requirements-dev")
PEERS = (ROOT / "tests" / "benchmarks" / "requirements.txt").read_text()


def pinned(text: str) -> dict[str, str]:
    """Versions by name."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def pins(name: str) -> dict[str, str]:
    return pinned((ROOT / f"{name}.txt").read_text())


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


@pytest.mark.parametrize("name", LISTS)
def test_every_pinned_package_but_torch_is_locked_at_the_same_version(name: str) -> None:
    locked = pinned((ROOT / f"{name}.lock").read_text())
    assert locked == {one: version for one, version in pins(name).items() if one != "torch"}


@pytest.mark.parametrize("name", LISTS)
def test_every_locked_package_has_hashes(name: str) -> None:
    lock = (ROOT / f"{name}.lock").read_text()
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert len(entries) == len(pinned(lock))
    assert [one for one in entries if "--hash=sha256:" not in one] == []


def test_the_set_up_takes_nothing_of_the_locks_without_its_hash() -> None:
    assert re.search(r"^WEIGHTS := .* --hash=sha256:", MAKEFILE, re.MULTILINE)
    for name in LISTS:
        assert re.search(rf"--no-deps --require-hashes \\\n\s+-r {name}\.lock", MAKEFILE)


def test_a_hospital_gets_what_it_runs_and_trains_with_and_nothing_to_test_with() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(one for name in RUNS for one in extras[name])]
    assert names(wanted) <= pins("requirements").keys()
    assert names(extras["test"]) - names(wanted) <= pins("requirements-dev").keys()
    assert pins("requirements").keys() & pins("requirements-dev").keys() == set()


def test_the_peers_list_leaves_to_ours_what_ours_pins() -> None:
    # Said twice, it comes to differ, and pip then installs neither.
    for name in LISTS:
        assert f"\n-r ../../{name}.txt\n" in PEERS
        assert pinned(PEERS).keys() & pins(name).keys() == set()


def test_no_torch_is_taken_that_lacks_what_is_used_of_the_tested_one() -> None:
    """Exceptions and questions to the processor came one by one."""
    [torch] = [one for one in map(Requirement, PROJECT["dependencies"]) if one.name == "torch"]
    major, minor = pins("requirements")["torch"].split(".")[:2]
    assert torch.specifier == SpecifierSet(f">={major}.{minor},<{major}.{int(minor) + 1}")
