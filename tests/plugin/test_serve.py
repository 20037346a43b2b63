import socket

import pytest

from plugin import serve


@pytest.fixture(autouse=True)
def _orthanc_is_installed(monkeypatch):
    monkeypatch.setattr(serve.shutil, "which", lambda *_, **__: "/usr/sbin/Orthanc")


@pytest.mark.parametrize("text", ["99999", "0", "-1", "http"])
def test_what_is_no_port_is_said_in_a_sentence(text, capsys):
    with pytest.raises(SystemExit) as ended:
        serve.main([f"--http-port={text}"])

    assert ended.value.code == 2
    assert f"{text} is no port: 1 to 65535" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(serve, "taken", lambda _: False)

    assert serve.main(["--data", str(tmp_path / "file" / "data")]) == 1
    assert "file/data/orthanc: Not a directory" in capsys.readouterr().err


def test_a_full_disk_is_said_with_the_file_that_could_not_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "orthanc.json").symlink_to("/dev/full")
    monkeypatch.setattr(serve, "taken", lambda _: False)

    assert serve.main(["--data", str(tmp_path)]) == 1
    assert f"{tmp_path}/orthanc.json: No space left on device" in capsys.readouterr().err


def test_who_finds_a_port_taken_is_told_how_to_choose_another(capsys):
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]

        assert serve.main(["--http-port", str(port)]) == 1

    said = capsys.readouterr().err
    assert f"Port {port} is taken" in said
    assert "--http-port and --dicom-port" in said
