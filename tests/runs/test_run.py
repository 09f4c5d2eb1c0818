"""Runs are written whole, named by what they are, and found again."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs import files, identity, paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.parameters import resolve
from pkd_utils.runs.run import Run, find_run

PARAMETERS = """cohort: str = "toy"  # name
run: str = "smoke"  # label
epochs: int = 2  # passes
weight: float = 0.5  # share
seeds: list[int] = [0, 1]  # seeds
prepared_run: str = ""  # upstream
"""


def make_notebook(folder, name, cells, parameters=PARAMETERS):
    """Write a source notebook of code cells, the first one tagged `parameters`."""
    import nbformat

    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    first = nbformat.v4.new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    notebook.cells = [first, *[nbformat.v4.new_code_cell(source) for source in cells]]
    path = folder / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder of its own, with one notebook."""
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("PKD_RUNS", str(tmp_path / "runs"))
    make_notebook(tmp_path, "toy/01-do-things", ["from pkd_utils.runs import parameters\nx = 1"])
    make_notebook(tmp_path, "toy/02-read-things", ["y = 2"])
    return tmp_path


def given(**values):
    return resolve("toy/01-do-things", values)


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
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_json_takes_numpy_and_turns_nan_to_null(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": np.float32(0.5), "n": np.int64(3), "bad": np.nan, "list": np.arange(2)})
    assert files.read_json(tmp_path / "a.json") == {"x": 0.5, "n": 3, "bad": None, "list": [0, 1]}


def test_run_is_partial_until_finish_and_then_found(project):
    run = Run("toy/01-do-things", given())
    assert run.path.name.endswith(".partial") and not run.resumed
    with pytest.raises(FileNotFoundError, match=r"notebooks/toy/01-do-things.ipynb"):
        find_run(run.reference)
    files.write(run.path / "table.csv", pd.DataFrame({"a": [1]}))
    folder = run.finish(["table.csv"])
    assert folder.name.startswith("smoke-") and not folder.name.endswith(".partial")
    assert find_run("toy/toy/01-do-things/smoke") == folder
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
    run = Run("toy/01-do-things", given())
    run.save({"a.csv": pd.DataFrame({"x": [1]})})
    record = files.read_json(run.path / "run.json")
    assert record["peak_memory_gib"] > 0.05 and record["cpu_seconds"] > 0
    assert record["gpu_peak_memory_gib"] is None or record["gpu_peak_memory_gib"] > 0


def test_finish_refuses_a_missing_or_empty_artefact(project):
    run = Run("toy/01-do-things", given())
    (run.path / "empty.csv").touch()
    with pytest.raises(DataError, match=r"absent.csv, empty.csv missing or empty"):
        run.finish(["absent.csv", "empty.csv"])
    assert not run.final_path.exists()


def test_same_parameters_resume_and_others_do_not(project):
    first = Run("toy/01-do-things", given())
    (first.path / "half.csv").write_text("x")
    again = Run("toy/01-do-things", given())
    assert again.resumed and (again.path / "half.csv").exists()
    other = Run("toy/01-do-things", given(epochs=3))
    assert not other.resumed and other.path != first.path


def test_an_empty_folder_made_by_the_workflow_is_not_a_finished_run(project):
    first = Run("toy/01-do-things", given())
    first.final_path.mkdir()
    again = Run("toy/01-do-things", given())
    (again.path / "table.csv").write_text("x")
    assert again.finish(["table.csv"]) == first.final_path
    assert (first.final_path / "run.json").exists()


def test_identity_follows_the_upstream_run(project):
    one = Run("toy/01-do-things", given())
    (one.path / "t").write_text("x")
    one.finish(["t"])
    reference = "toy/toy/01-do-things/smoke"
    before = Run("toy/02-read-things", given(prepared_run=reference)).identity
    two = Run("toy/01-do-things", given(epochs=9))
    (two.path / "t").write_text("x")
    two.finish(["t"])
    assert os.readlink(paths.runs_dir() / reference) == two.final_path.name
    assert Run("toy/02-read-things", given(prepared_run=reference)).identity != before
    assert one.final_path.exists(), "the earlier run is not overwritten"


def test_code_changes_identity_and_comments_do_not(project):
    module = project / "pkd_utils" / "__init__.py"
    module.parent.mkdir()
    module.write_text('"""Doc."""\n')
    helper = project / "pkd_utils" / "helper.py"
    helper.write_text('def f():\n    """Old words."""\n    return 1\n')
    make_notebook(project, "toy/01-do-things", ["from pkd_utils.helper import f\nf()"])
    first = identity.code_hash("toy/01-do-things")
    helper.write_text('def f():\n    """New words."""\n    return 1  # why\n')
    assert identity.code_hash("toy/01-do-things") == first
    helper.write_text("def f():\n    return 2\n")
    assert identity.code_hash("toy/01-do-things") != first


def test_modules_used_follows_imports_of_imports():
    used = identity.modules_used("from pkd_utils.runs import assets")
    assert {
        "pkd_utils",
        "pkd_utils.runs.assets",
        "pkd_utils.runs.files",
        "pkd_utils.runs.errors",
        "pkd_utils.runs.paths",
    } <= set(used)
    assert "pkd_utils.runs.notebooks" not in used
    assert "pkd_utils.cohorts.openi" in identity.modules_used("from pkd_utils.cohorts import load_cohort"), "a SOURCE"


def test_paths_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "d"))
    assert paths.resolve("data/demo") == tmp_path / "d" / "demo"
    assert paths.resolve("book/x.csv") == paths.PROJECT_ROOT / "book" / "x.csv"
    assert paths.resolve(tmp_path) == tmp_path
