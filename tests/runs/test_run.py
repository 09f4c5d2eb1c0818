"""Runs are written whole, named by what they are, and found again."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs import files, identity, paths
from pkd_utils.runs.run import find_run
from tests.runs.conftest import make_notebook, open_toy

SMOKE = "toy/toy/01-do-things/smoke"


def test_atomic_path_leaves_nothing_behind_after_an_error(tmp_path):
    target = tmp_path / "new" / "file.json"
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []


def test_atomic_path_keeps_the_old_file_until_the_end(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with files.atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_json_takes_numpy_and_turns_nan_to_null(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": np.float32(0.5), "n": np.int64(3), "bad": np.nan, "list": np.arange(2)})
    assert files.read_json(tmp_path / "a.json") == {"x": 0.5, "n": 3, "bad": None, "list": [0, 1]}


def finished(**values):
    run = open_toy(**values)
    files.write(run.path / "table.csv", pd.DataFrame({"a": [1]}))
    run.finish(["table.csv"])
    return run


def test_run_is_partial_until_finish_and_then_found(project):
    run = open_toy()
    assert run.path.name.endswith(".partial") and not run.resumed
    with pytest.raises(FileNotFoundError, match=r"notebooks/toy/01-do-things.ipynb"):
        find_run(run.reference)
    folder = finished().final_path
    assert folder.name.startswith("smoke-") and not folder.name.endswith(".partial") and find_run(SMOKE) == folder
    record = json.loads((folder / "run.json").read_text())
    assert record["artefacts"]["table.csv"]["sha256"] == files.file_sha256(folder / "table.csv")
    assert record["parameters"]["epochs"] == 2 and record["versions"]["torch"]


def test_a_run_says_what_memory_and_processor_time_it_took(project):
    code = """
import numpy as np
from pkd_utils.runs import machine
before = machine.usage()
ballast = np.ones(50_000_000)
for _ in range(20):
    ballast += 1
del ballast
after = machine.usage()
print(after["peak_memory_gib"] - before["peak_memory_gib"], after["cpu_seconds"] - before["cpu_seconds"])
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    memory, seconds = map(float, said.split())
    assert memory == pytest.approx(400e6 / 2**30, rel=0.2) and seconds > 0.1
    record = files.read_json(finished().path / "run.json")
    assert record["peak_memory_gib"] > 0.05 and record["cpu_seconds"] > 0
    assert record["gpu_peak_memory_gib"] is None or record["gpu_peak_memory_gib"] > 0


def test_same_parameters_resume_and_others_do_not(project):
    first = open_toy()
    (first.path / "half.csv").write_text("x")
    first.final_path.mkdir()  # the workflow makes the folder: not a finished run
    again, other = open_toy(), open_toy(epochs=3)
    assert again.resumed and (again.path / "half.csv").exists()
    assert not other.resumed and other.path != first.path
    assert (finished().final_path / "run.json").exists()


def test_identity_follows_the_upstream_run(project):
    one = finished()
    before = open_toy("02-read-things", prepared_run=SMOKE).identity
    two = finished(epochs=9)
    assert os.readlink(paths.runs_dir() / SMOKE) == two.final_path.name
    assert open_toy("02-read-things", prepared_run=SMOKE).identity != before
    assert one.final_path.exists(), "the earlier run is not overwritten"


def test_code_changes_identity_and_comments_do_not(project):
    helper = project / "pkd_utils" / "helper.py"
    helper.parent.mkdir()
    helper.with_name("__init__.py").write_text('"""Doc."""\n')
    make_notebook(project, "toy/01-do-things", ["from pkd_utils.helper import f\nf()"])

    def hash_with(text):
        helper.write_text(text)
        return identity.code_hash("toy/01-do-things")

    first = hash_with('def f():\n    """Old words."""\n    return 1\n')
    assert hash_with('def f():\n    """New words."""\n    return 1  # why\n') == first
    assert hash_with("def f():\n    return 2\n") != first


def test_modules_used_follows_imports_of_imports():
    used = set(identity.modules_used("from pkd_utils.runs import assets"))
    assert {"pkd_utils", *(f"pkd_utils.runs.{name}" for name in ("assets", "files", "errors", "paths"))} <= used
    assert "pkd_utils.runs.notebooks" not in used
    assert "pkd_utils.cohorts.openi" in identity.modules_used("from pkd_utils.cohorts import load_cohort"), "a SOURCE"


def test_paths_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "d"))
    assert paths.resolve("data/demo") == tmp_path / "d" / "demo"
    assert paths.resolve("book/x.csv") == paths.PROJECT_ROOT / "book" / "x.csv"
    assert paths.resolve(tmp_path) == tmp_path
