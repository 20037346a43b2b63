"""The integration tests on Debian 13: `python -m tests.debian13 FOLDER [ARGUMENT OF PYTEST]...`.

Debian 12 has Orthanc 1.10.1, its plugin 4.0 and Python 3.11; Debian 13 has 1.12.7, 5.0 and 3.13.
The newer one is built into FOLDER, and what is whole there is not built again.

Needs root, which it asks for with sudo: only root may take a folder for a system. What is mounted
is seen by the tests alone and is gone with them, however they end. They see this repository without
the right to write, and no network but their own loopback.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

PACKAGES = (
    "chromium",
    "dcmtk",
    "dicom3tools",
    "iproute2",
    "openjph-tools",
    "orthanc",
    "orthanc-dicomweb",
    "orthanc-postgresql",
    "orthanc-python",
    "postgresql",
    "python3-torch",  # PyPI's would bring the libraries of a GPU
    "python3-venv",
)
RELEASE = "trixie"
PYTHON = "3.13"

# Not the network's own tests, which need no Orthanc: Debian's PyTorch is older than ours.
TESTS = ("-m", "orthanc", "--ignore=tests/model", "-n", "2", "--dist", "loadfile")

PROGRAMS = ("mmdebstrap", "unshare")

PLATFORMS = (
    *(f"manylinux_2_{minor}" for minor in range(41, 4, -1)),  # 2.41 is Debian 13's C library
    *("manylinux2014", "manylinux2010", "manylinux1", "linux"),
)
"""Those whose wheels run there. pip knows that only of the system that it runs on itself."""

ENTER = """
system=$1; environment=$2; wheels=$3; repository=$4; shift 4
mount --rbind /dev "$system/dev"
mount -t proc proc "$system/proc"
mount -t sysfs sysfs "$system/sys"
mkdir -p "$environment" "$system/opt/oar" "$system/wheels" "$system/repository"
mount --bind "$environment" "$system/opt/oar"
mount --bind -o ro "$wheels" "$system/wheels"
mount --bind -o ro "$repository" "$system/repository"
chroot "$system" ip link set lo up
exec chroot "$system" env --chdir=/repository HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \\
    PATH=/opt/oar/bin:/usr/sbin:/usr/bin:/sbin:/bin HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis \\
    "$@"
"""


def build(part: Path, made_of: str, make: Callable[[Path], None]) -> None:
    """Make one part of the folder, unless it is whole and made of the same."""
    note = part.with_suffix(".made-of")
    if note.is_file() and note.read_text() == made_of:
        return
    note.unlink(missing_ok=True)
    run("rm", "-rf", str(part), root=True)
    make(part)
    note.write_text(made_of)


def make_system(system: Path) -> None:
    """Debian 13 with Orthanc, from the mirror that this machine itself is installed from."""
    wanted = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian")
    mirrors = subprocess.run(wanted, capture_output=True, text=True, check=True).stdout.split()
    options = ("--variant=minbase", f"--include={','.join(PACKAGES)}")
    run("mmdebstrap", *options, RELEASE, str(system), *mirrors[:1], root=True)


def pins() -> list[str]:
    """Both lists of requirements, without what is Debian's."""
    lists = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]
    lines = [line for one in lists for line in one.read_text().splitlines()]
    return [line for line in lines if line[:1] not in ("", "#") and not line.startswith("torch==")]


def fetch_wheels(wheels: Path) -> None:
    """The pinned packages for Debian 13's Python, by the pip of this machine as it is set up."""
    platforms = [f"--platform={one}_{platform.machine()}" for one in PLATFORMS]
    python = ("--python-version", PYTHON, "--only-binary=:all:", *platforms)
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
    run(*pip, "--no-deps", *python, "--dest", str(wheels), *pins())


def make_environment(environment: Path) -> None:
    """A virtual environment of Debian 13's Python with all wheels, over Debian's own packages."""
    folder = environment.parent
    enter(folder, "python3", "-m", "venv", "--system-site-packages", "/opt/oar")
    wheels = [f"/wheels/{wheel.name}" for wheel in (folder / "wheels").iterdir()]
    pip = ("/opt/oar/bin/python", "-m", "pip", "install", "--quiet")
    enter(folder, *pip, "--no-index", "--no-deps", *wheels)


def enter(folder: Path, *command: str) -> None:
    """Run a command there."""
    unshare = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child")
    places = (str(folder / place) for place in ("system", "environment", "wheels"))
    run(*unshare, "sh", "-euc", ENTER, "sh", *places, str(ROOT), *command, root=True)


def run(*command: str, root: bool = False) -> None:
    """Run a command that must succeed."""
    sudo = ("sudo",) if root and os.geteuid() else ()
    subprocess.run((*sudo, *command), check=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Build what is missing, then test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="takes 4 GB; most of it will be root's")
    parser.add_argument("pytest", nargs=argparse.REMAINDER, help=f"without: {' '.join(TESTS)}")
    args = parser.parse_args(argv)
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        print(f"Needs {' and '.join(missing)}: apt-get install mmdebstrap", file=sys.stderr)
        return 1
    folder: Path = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    system = " ".join(PACKAGES)
    wheels = " ".join(pins())
    try:
        build(folder / "system", system, make_system)
        build(folder / "wheels", wheels, fetch_wheels)
        build(folder / "environment", f"{system} {wheels}", make_environment)
        enter(folder, "dpkg-query", "--show", "orthanc", "orthanc-python", "python3")
        # Long tracebacks look into frames in a way that has crashed Python 3.13.5.
        pytest = ("python", "-m", "pytest", "--tb=short", "-p", "no:cacheprovider")
        enter(folder, *pytest, *(args.pytest or TESTS))
    except subprocess.CalledProcessError as error:
        return int(error.returncode)  # what it was has been said by the command itself
    return 0


if __name__ == "__main__":
    sys.exit(main())
