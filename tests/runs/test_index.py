"""The index of files: read once, noticed when changed, never trusted where it cannot know."""

import os
import shutil

import pytest

from pkd_utils.runs import index
from pkd_utils.runs.errors import DataError
from tests.runs.conftest import change_keeping_size_and_time, put


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two files of ten seconds ago in a data folder of its own, and the list of what is hashed from now on."""
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(index, "verified", [])
    for name, content in (("a.csv", b"table"), ("images/b.png", b"pixel")):
        put(tmp_path / "root" / name, content)
    return tmp_path / "root"


@pytest.fixture
def hashed(monkeypatch):
    seen, plain = [], index.hashlib.file_digest
    monkeypatch.setattr(
        index.hashlib, "file_digest", lambda stream, name: seen.append(stream.name) or plain(stream, name)
    )
    return seen


def test_what_did_not_change_is_not_read_again(folder, hashed):
    first = index.hashes(folder)
    assert list(first) == ["a.csv", "images/b.png"] and len(hashed) == 2
    assert index.hashes(folder) == first and len(hashed) == 2
    put(folder / "a.csv", b"TABLE", 5)
    second = index.hashes(folder)
    assert len(hashed) == 3 and second["a.csv"] != first["a.csv"] and second["images/b.png"] == first["images/b.png"]
    (folder / "a.csv").unlink()
    assert list(index.hashes(folder)) == ["images/b.png"]


def test_patterns_choose_files_and_hidden_ones_never_count(folder):
    put(folder / "images" / "deep" / "c.png", b"c")
    put(folder / ".cache" / "d.png", b"d")
    put(folder / "images" / ".e.png", b"e")
    assert list(index.hashes(folder, ["*.png"])) == ["images/b.png", "images/deep/c.png"]
    assert list(index.hashes(folder, ["images/d*"])) == ["images/deep/c.png"]
    assert list(index.hashes(folder / "a.csv")) == ["a.csv"] and index.hashes(folder / "absent") == {}


def test_only_verify_finds_what_kept_size_and_time(folder, hashed):
    first = index.hashes(folder)
    change_keeping_size_and_time(folder / "images" / "b.png")
    assert index.hashes(folder) == first
    index.verify_all()
    assert index.hashes(folder) != first and len(hashed) == 4, "and each file is read once more"
    assert index.hashes(folder) != first and len(hashed) == 4


def test_a_change_in_the_tick_of_its_hashing_is_found(folder):
    put(folder / "fresh.txt", b"one", 0)
    first = index.hashes(folder)
    change_keeping_size_and_time(folder / "fresh.txt")
    assert index.hashes(folder)["fresh.txt"] != first["fresh.txt"]


def test_a_first_pass_that_is_killed_resumes(folder, hashed, monkeypatch):
    plain = index.hashlib.file_digest

    def killed(stream, name):
        if stream.name.endswith("b.png"):
            raise KeyboardInterrupt
        return plain(stream, name)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(index.hashlib, "file_digest", killed)
        index.hashes(folder)
    index.hashes(folder)
    assert [os.path.basename(name) for name in hashed] == ["a.csv", "b.png"]


@pytest.mark.parametrize("damage", [lambda b: b[:50], lambda b: b"", lambda b: b[:40] + bytes([b[40] ^ 255]) + b[41:]])
def test_a_damaged_index_is_made_anew(folder, damage):
    first = index.hashes(folder)
    store = index.store_of(folder)
    store.write_bytes(damage(store.read_bytes()))
    assert index.hashes(folder) == first
    assert [path.name for path in store.parent.iterdir()] == [store.name], "no lock, no temporary file"


def test_what_cannot_be_read_is_one_sentence(folder):
    (folder / "gone.csv").symlink_to(folder / "nowhere")
    with pytest.raises(DataError, match=r"gone\.csv cannot be read \(No such file or directory\): mend it, its link"):
        index.hashes(folder)
    (folder / "gone.csv").unlink()
    (folder / "images" / "up").symlink_to(folder)
    with pytest.raises(DataError, match=r"up is a link to a folder that holds it: take the link away"):
        index.hashes(folder)


def test_links_count_as_what_they_lead_to(folder, tmp_path):
    plain = index.hashes(folder)
    shutil.move(folder / "images", tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    assert index.hashes(folder) == plain
