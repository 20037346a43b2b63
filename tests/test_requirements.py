"""What `make setup` installs is what was tested, to the last byte."""

import re
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

PINS = (ROOT / "requirements.txt").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
PEERS = (ROOT / "tests" / "benchmarks" / "requirements.txt").read_text()


def pinned(text: str) -> set[tuple[str, str]]:
    found = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    return {(canonicalize_name(name), version) for name, version in found}


def test_every_pinned_package_but_torch_is_locked_at_the_same_version() -> None:
    pins = {one for one in pinned(PINS) if one[0] != "torch"}
    assert pinned(LOCK) == pins


def test_every_locked_package_has_hashes() -> None:
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(entries) == len(pinned(LOCK))
    assert [one for one in entries if "--hash=sha256:" not in one] == []


def test_the_set_up_takes_nothing_of_the_lock_without_its_hash() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^WEIGHTS := .* --hash=sha256:", makefile, re.MULTILINE)
    assert re.search(r"--no-deps --require-hashes \\\n\s+-r requirements\.lock", makefile)


def test_the_peers_list_leaves_to_ours_what_ours_pins() -> None:
    # Said twice, it comes to differ, and pip then installs neither.
    assert "\n-r ../../requirements.txt\n" in PEERS
    assert {name for name, _ in pinned(PEERS)} & {name for name, _ in pinned(PINS)} == set()
