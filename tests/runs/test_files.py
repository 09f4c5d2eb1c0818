"""Parts of a long piece of work: whole or absent, kept for the same identity alone."""

import numpy as np
import pytest

from pkd_utils.runs import files
from pkd_utils.runs.files import Parts, read_json
from tests.runs.conftest import DAMAGE


def test_parts_are_kept_for_the_same_identity_alone(tmp_path):
    parts = Parts(tmp_path / "work.parts", {"rows": np.int64(3), "sha": "a"})
    assert parts.names() == [] and not parts.folder.exists()
    with parts.write("0.txt") as path:
        path.write_text("whole")
    again = Parts(tmp_path / "work.parts", {"rows": 3, "sha": "a"})
    assert "0.txt" in again and again.names() == ["0.txt"] and again.path("0.txt").read_text() == "whole"
    other = Parts(tmp_path / "work.parts", {"rows": 3, "sha": "b"})
    assert "0.txt" not in other and not other.folder.exists()


def test_a_part_that_was_interrupted_is_absent(tmp_path):
    parts = Parts(tmp_path / "p", 1)
    with pytest.raises(KeyboardInterrupt), parts.write("0.txt") as path:
        path.write_text("ha")
        raise KeyboardInterrupt
    assert parts.names() == [] and read_json(parts.folder / "identity.json") == 1
    parts.remove()
    assert not parts.folder.exists()


def test_a_folder_without_a_mark_is_not_continued(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "0.txt").write_text("from nobody knows what")
    assert Parts(tmp_path / "p", 1).names() == []


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_part_is_named_and_made_anew(tmp_path, damage):
    parts = Parts(tmp_path / "p", 1)
    for name in ("0.txt", "1.txt"):
        with parts.write(name) as path:
            path.write_bytes(b"whole part")
    damaged = parts.path("1.txt")
    damaged.write_bytes(damage(damaged.read_bytes()))
    with pytest.warns(UserWarning, match=r"1\.txt is damaged \(its checksum is another\)"):
        again = Parts(tmp_path / "p", 1)
    assert again.names() == ["0.txt"] and "1.txt" not in again


def test_a_part_that_is_changed_in_place_keeps_its_size(tmp_path):
    parts = Parts(tmp_path / "p", 1)
    with parts.write("array", in_place=True) as path:
        path.write_bytes(bytes(8))
    parts.path("array").write_bytes(b"12345678")
    assert "array" in Parts(tmp_path / "p", 1)
    parts.path("array").write_bytes(b"1234567")
    with pytest.warns(UserWarning, match="array is damaged"):
        assert "array" not in Parts(tmp_path / "p", 1)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_of_a_damaged_file_the_one_before_it_is_taken(tmp_path, damage):
    file = tmp_path / "state"
    assert files.last_whole(file) is None
    for content in (b"first epoch", b"second epoch", b"third epoch"):
        with files.sealed(file) as path:
            path.write_bytes(content)
    assert files.last_whole(file) == file
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match=r"state is damaged \(its checksum is another\): work goes on from before it"):
        assert files.last_whole(file).read_bytes() == b"second epoch"
    previous = files.last_whole(tmp_path / ".previous-state")
    previous.write_bytes(damage(previous.read_bytes()))
    with pytest.warns(UserWarning):
        assert files.last_whole(file) is None
    files.unseal(file)
    assert list(tmp_path.iterdir()) == []
