import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from plugin.web import ohif
from plugin.web.ohif import BUNDLE, PATCHES, NoViewer, fetch, is_served, registry, with_viewer

SCRIPT = "\n".join(old for old, _ in PATCHES).encode()

PACKAGE = {
    "package/LICENSE": b"MIT",
    "package/dist/index.html": b"<html>",
    "package/dist/app.bundle.0123.js": SCRIPT,
    "package/dist/worker.js": b'__webpack_require__.p = "/";',
    "package/dist/worker.js.map": b"{}",
    "package/dist/app.bundle.css": b"src: url(/font.woff2)",
    "package/dist/assets/icon.png": b"png",
    "package/dist/ort/large.wasm": b"wasm",
    "package/dist/sw.js": b"importScripts('elsewhere')",
}


def pack(file: Path, members: dict[str, bytes]) -> str:
    """Write an npm package, and return its checksum."""
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return "sha512-" + base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Fetches a package of these members into a folder, as from the registry."""
    downloads = []

    def fetch_members(members: dict[str, bytes], integrity: str | None = None) -> Path:
        def download(into: Path) -> Path:
            downloads.append(into)
            pack(into / "package.tgz", members)
            return into / "package.tgz"

        monkeypatch.setattr(ohif, "download", download)
        known = pack(tmp_path / "known.tgz", members)
        monkeypatch.setattr(ohif, "INTEGRITY", integrity or known)
        fetch(tmp_path / "viewer")
        return tmp_path / "viewer"

    fetch_members.downloads = downloads
    return fetch_members


def test_what_is_needed_is_unpacked_and_finds_its_files_beside_itself(fetched):
    folder = fetched(PACKAGE)

    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert files == {
        *("LICENSE", "app.bundle.js", "worker.js", "app.bundle.css", "assets/icon.png", "made-by")
    }
    for script in (BUNDLE, "worker.js"):
        text = (folder / script).read_text()
        assert "currentScript" in text
        assert [old for old, _ in PATCHES if old in text] == []
    assert (folder / "app.bundle.css").read_text() == "src: url(font.woff2)"


def test_it_is_fetched_once(fetched):
    fetched(PACKAGE)
    fetched(PACKAGE)

    assert len(fetched.downloads) == 1


def test_a_package_that_was_tampered_with_is_not_unpacked(fetched, tmp_path):
    with pytest.raises(NoViewer, match="not the package that its checksum names"):
        fetched(PACKAGE, integrity="sha512-other")

    assert not (tmp_path / "viewer").exists()
    assert not list(tmp_path.glob(".ohif-*"))


def test_a_package_of_another_make_is_refused(fetched, tmp_path):
    with pytest.raises(NoViewer, match="not as expected"):
        fetched({"package/dist/app.bundle.0123.js": b"nothing that we know"})

    assert not (tmp_path / "viewer").exists()


def test_a_set_up_without_it_says_so_and_goes_on(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(ohif, "FOLDER", tmp_path / "viewer")
    monkeypatch.setattr(ohif.fetch, "__defaults__", (tmp_path / "viewer",))
    monkeypatch.setenv("PATH", str(tmp_path))  # without npm
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)

    assert ohif.main() == 0
    assert "The OHIF viewer is left out: npm is not installed" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [b"<html>Sign in</html>", b"{}", b'{"dist": []}'])
def test_a_registry_that_answers_something_else_is_as_good_as_none(monkeypatch, tmp_path, answer):
    monkeypatch.setenv("PATH", str(tmp_path))  # without npm
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:4873")
    monkeypatch.setattr(ohif.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(answer))

    with pytest.raises(NoViewer, match="the npm registry does not give it"):
        ohif.download(tmp_path)


def test_npms_own_settings_name_the_registry(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    (tmp_path / ".npmrc").write_text("fund=false\nregistry = http://127.0.0.1:4873/npm/\n")

    assert registry() == "http://127.0.0.1:4873/npm"


def test_orthanc_serves_it_if_it_was_fetched_and_only_then(tmp_path, monkeypatch):
    (tmp_path / "folders.so").touch()
    monkeypatch.setattr(ohif, "PLUGIN", str(tmp_path / "folders.so"))
    plain = {"Plugins": ["python.so"], "Name": "one"}

    assert with_viewer(plain, tmp_path) == plain
    assert not is_served(plain)

    (tmp_path / BUNDLE).touch()
    served = with_viewer(plain, tmp_path)
    assert is_served(served)
    assert served["Plugins"] == ["python.so", ohif.PLUGIN]
    assert is_served({"ServeFolders": {ohif.ADDRESS: str(tmp_path)}})  # Orthanc's short form

    (tmp_path / "folders.so").unlink()
    assert with_viewer(plain, tmp_path) == plain
    (tmp_path / BUNDLE).unlink()
    assert not is_served(served)
