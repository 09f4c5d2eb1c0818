"""Parts of a long piece of work: whole or absent, kept for the same identity alone."""

import numpy as np
import pytest

from pkd_utils.runs.files import Parts, read_json


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
