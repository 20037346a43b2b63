"""A real Orthanc and we read the same in the same configuration."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from plugin.configuration import read_configuration
from plugin.serve import configuration, environment
from tests.demo import free_port
from tests.integration.conftest import Orthanc, Pacs

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

INSTALL = Path(__file__).parents[2] / "docs" / "install.md"

WRITTEN = (
    "${OAR_SET} ${OAR_UNSET} ${OAR_EMPTY:-no} ${OAR_SET:-no} ${OAR_UNSET:-'d e'} "
    "${OAR_UNSET:-a:-b/c} ${OAR_UNSET:-${OAR_SET}} $OAR_SET ${OAR_SET:x} ${OAR_UNSET:-it's}"
)


def test_variables_of_the_environment_are_the_same_for_orthanc_and_for_us(
    tmp_path: Path, quick_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OAR_SET", "value")
    monkeypatch.setenv("OAR_EMPTY", "")
    orthanc = Pacs(tmp_path, quick_model)
    file = tmp_path / "orthanc.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"Name": WRITTEN}))
    orthanc.start()

    name = orthanc.get("/system")["Name"]
    orthanc.kill()

    assert name == read_configuration(file)["Name"]
    assert name.startswith("value   value d e a:-b/c ")


def test_the_network_does_not_hold_cores_that_orthanc_wants_by_waiting(
    tmp_path: Path, quick_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("GOMP_SPINCOUNT")  # as `plugin` has set it for this process
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    orthanc = Orthanc(tmp_path, quick_model)
    orthanc.start()
    orthanc.kill()

    assert "GOMP_SPINCOUNT = '1000'" in orthanc.log()


@pytest.mark.skipif(shutil.which("Orthanc") is None, reason="needs Orthanc: apt-get install")
@pytest.mark.parametrize(
    ("oar", "sentence"),
    [
        ('{"Oar": {"Modell": "x"}}', "Oar.Modell: there is no such key."),
        ('{"Oar": {}, "UserMetadata": {}}', '"UserMetadata" is defined in 2 different'),
        ('{"Oar": {"Model": "x",}', "does not follow the JSON syntax"),
    ],
)
def test_the_administrator_finds_why_orthanc_does_not_start_by_the_command_of_install_md(
    tmp_path: Path, oar: str, sentence: str
):
    values = configuration(tmp_path, http_port=free_port(), dicom_port=free_port())
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "orthanc.json").write_text(
        json.dumps({key: value for key, value in values.items() if key != "Oar"})
    )
    (tmp_path / "etc" / "oar.json").write_text(oar)
    command = ["Orthanc", f"--logdir={tmp_path}", str(tmp_path / "etc")]
    assert subprocess.run(command, env=environment(), timeout=60).returncode != 0
    commands = re.findall(r"sudo (grep .*) /var/log/orthanc/Orthanc\.log", INSTALL.read_text())

    for grep in commands:
        found = subprocess.check_output(f"{grep} {tmp_path}/Orthanc.log", shell=True, text=True)
        assert sentence in found
    assert len(commands) == 2
