import json

import pytest

from plugin.configuration import (
    BadConfiguration,
    configuration_folder,
    read_configuration,
    stable_age_seconds,
)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("OAR_SET", "value")
    monkeypatch.setenv("OAR_EMPTY", "")
    monkeypatch.delenv("OAR_UNSET", raising=False)
    return tmp_path / "orthanc.json"


# What Orthanc 1.10.1 makes of each; tests/integration/test_configuration.py asks a real one.
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a${OAR_SET}b", "avalueb"),
        ("${OAR_SET}${OAR_SET}", "valuevalue"),
        ("a${OAR_UNSET}b", "ab"),
        ("a${OAR_UNSET:-def}b", "adefb"),
        ("a${OAR_SET:-def}b", "avalueb"),
        ("a${OAR_EMPTY:-def}b", "ab"),
        ("a${OAR_UNSET:-}b", "ab"),
        ("a${OAR_UNSET:-http://x/y}b", "ahttp://x/yb"),
        ("a${OAR_UNSET:-'d e'}b", "ad eb"),
        ("a${OAR_UNSET:-${OAR_SET}}b", "a${OAR_SET}b"),
        ("$OAR_SET", "$OAR_SET"),
        ("${OAR_SET:x}", "${OAR_SET:x}"),
    ],
)
def test_variables_of_the_environment_are_read_as_orthanc_reads_them(file, written, read):
    file.write_text(json.dumps({"Name": written}))

    assert read_configuration(file) == {"Name": read}


def test_a_variable_may_stand_for_more_than_text(file, monkeypatch):
    monkeypatch.setenv("OAR_SET", "7")
    file.write_text('{"HttpPort": ${OAR_SET}, /* ${OAR_SET} */ "DicomPort": ${OAR_UNSET:-4242}}')

    assert read_configuration(file) == {"HttpPort": 7, "DicomPort": 4242}


def test_what_the_environment_holds_is_in_no_message(file, monkeypatch):
    monkeypatch.setenv("OAR_SET", 'a"secret')
    file.write_text('{"Name": "${OAR_SET}"}')

    with pytest.raises(BadConfiguration) as error:
        read_configuration(file)

    assert "secret" not in str(error.value)


def test_a_folder_of_configurations_needs_absolute_paths(tmp_path):
    (tmp_path / "orthanc.json").write_text("{}")
    absolute = {"StorageDirectory": "/var/lib/orthanc"}

    assert configuration_folder(tmp_path / "orthanc.json", {}) == tmp_path
    assert configuration_folder(tmp_path, absolute) == tmp_path
    for relative in ({}, {"StorageDirectory": "db"}, absolute | {"IndexDirectory": "index"}):
        with pytest.raises(BadConfiguration, match="Directory must be an absolute path"):
            configuration_folder(tmp_path, relative)


def test_orthancs_own_default_of_the_stable_age_is_known():
    assert stable_age_seconds({}) == 60
    assert stable_age_seconds({"StableAge": 5}) == 5
