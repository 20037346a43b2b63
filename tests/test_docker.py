"""The container image holds what the software needs, at the versions that the tests passed with."""

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic.alias_generators import to_pascal

from model.checkpoint import CARD
from plugin.node import command_line
from plugin.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
CONFIGURATION = json.loads((DOCKER / "orthanc.json").read_text())


def test_the_configuration_is_one_that_the_plugin_takes() -> None:
    settings = Settings.from_orthanc(CONFIGURATION)
    assert (ROOT / "model" / "weights" / settings.model / CARD).is_file()


def test_the_configuration_is_that_of_an_orthanc_without_containers() -> None:
    plain = json.loads((ROOT / "orthanc.json").read_text())
    for key in ("Name", "Python", "UserMetadata", "DicomAet", "StableAge", "DicomWeb"):
        assert CONFIGURATION[key] == plain[key], key
    script = Path(CONFIGURATION["PythonScript"]).relative_to("/opt/oar")
    assert (ROOT / script).is_file()


def test_no_value_is_taken_for_a_variable_when_the_container_starts() -> None:
    # The base image replaces $NAME and ${NAME} in every configuration file.
    assert "$" not in (DOCKER / "orthanc.json").read_text()


def test_the_base_image_is_pinned_and_the_last_user_is_not_root() -> None:
    bases = re.findall(r"^ARG ORTHANC=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 1
    assert re.fullmatch(r"orthancteam/orthanc:\d+\.\d+\.\d+", bases[0])
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert {base for base, _ in stages} <= {"${ORTHANC}", *(name for _, name in stages)}
    for final in ("cpu", "gpu"):
        assert {name: base for base, name in stages}[final] == "orthanc"
    for stage in ("orthanc", "gpu"):
        [text] = re.findall(
            rf"^FROM \S+ AS {stage}$(.*?)^FROM", DOCKERFILE, re.MULTILINE | re.DOTALL
        )
        assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1] == "999:999"


def test_everything_copied_into_the_image_is_there_and_reaches_the_builder() -> None:
    allowed = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert "plugin" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in allowed, source


def test_the_nodes_are_called_as_they_want_and_tell_their_health_check_that_they_live() -> None:
    node = (DOCKER / "compose.yaml").read_text().partition("  node:")[2].partition("\nvolumes:")[0]
    [command] = re.findall(r"^    command: (\[.+\])$", node, re.MULTILINE)
    [check] = re.findall(r"^      test: (\[.+\])$", node, re.MULTILINE)
    assert 'exec python3 -m plugin.node /tmp/orthanc.json "$@"' in (DOCKER / "node.sh").read_text()
    args = command_line().parse_args(["/tmp/orthanc.json", *json.loads(command)])
    assert json.loads(check)[-2:] == ["--node", str(args.alive)]
    assert "PASSWORD" not in command, "everybody who lists processes would read it"


def needed(names: Iterator[Requirement], seen: set[str]) -> Iterator[str]:
    """Every package that these need, and those in turn."""
    for one in names:
        name = canonicalize_name(one.name)
        if (one.marker and not one.marker.evaluate({"extra": ""})) or name in seen:
            continue
        seen.add(name)
        yield name
        extras = one.extras or {""}
        for requirement in map(Requirement, requires(name) or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                requirement.marker = None
                yield from needed(iter([requirement]), seen)


def test_every_package_of_the_image_has_its_version_in_requirements() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = project["dependencies"] + project["optional-dependencies"]["postgresql"]
    wanted = set(needed(map(Requirement, installed), set()))
    brought_by_torch = {name for name in wanted if name.startswith(("nvidia-", "cuda-"))}
    assert wanted - brought_by_torch - {"setuptools", "triton"} <= pinned
    assert {"torch", "numpy", "highdicom", "psycopg-binary"} <= wanted
    assert "--constraint requirements.txt" in (DOCKER / "install.sh").read_text()
    assert "==" not in DOCKERFILE, "versions stand in requirements.txt alone"


def test_orthanc_and_its_nodes_have_the_hospitals_time_zone() -> None:
    before, _, node = (DOCKER / "compose.yaml").read_text().partition("  node:")
    assert re.search(
        r"^    environment: &environment$.*^      TZ: \$\{TZ:-UTC\}", before, re.M | re.S
    )
    assert "    environment: *environment\n" in node
    assert "\nTZ=" in (DOCKER / ".env.example").read_text()


def test_a_node_that_is_to_have_a_gpu_does_not_go_on_without() -> None:
    assert "ORTHANC__OAR__DEVICE: cuda" in (DOCKER / "compose.gpu.yaml").read_text()


@pytest.mark.parametrize("file", ["compose.yaml", "compose.gpu.yaml"])
def test_what_compose_sets_of_ours_are_settings_that_there_are(file: str) -> None:
    named = re.findall(r"ORTHANC__OAR__(\w+):", (DOCKER / file).read_text())
    known = {field.alias for field in Settings.model_fields.values()}
    assert {to_pascal(name.lower()) for name in named} <= known
    assert named
