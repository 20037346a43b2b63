"""A real Orthanc and we read the same in the same configuration."""

import json
from pathlib import Path

import pytest

from plugin.configuration import read_configuration
from tests.integration.conftest import Pacs

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

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
