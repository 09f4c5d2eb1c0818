"""A toy project: two notebooks in a folder of its own, which its tests take for the project's root."""

import os

import nbformat
import pytest

from pkd_utils.runs import paths
from pkd_utils.runs.parameters import resolve
from pkd_utils.runs.run import Run

PARAMETERS = """cohort: str = "toy"  # name
run: str = "smoke"  # label
epochs: int = 2  # passes
weight: float = 0.5  # share
seeds: list[int] = [0, 1]  # seeds
prepared_run: str = ""  # upstream
"""


def make_notebook(folder, name, cells, parameters=PARAMETERS):
    """Write a source notebook of code cells, the first one tagged `parameters`."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    first = nbformat.v4.new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    notebook.cells = [first, *[nbformat.v4.new_code_cell(source) for source in cells]]
    path = folder / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder of its own, with two notebooks."""
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("PKD_RUNS", str(tmp_path / "runs"))
    make_notebook(tmp_path, "toy/01-do-things", ["from pkd_utils.runs import parameters\nx = 1"])
    make_notebook(tmp_path, "toy/02-read-things", ["y = 2"])
    return tmp_path


def open_toy(name="01-do-things", **values):
    """Open a run of a notebook with the parameters of PARAMETERS, some of them given."""
    return Run(f"toy/{name}", resolve("toy/01-do-things", values))


def put(path, content, seconds_ago=10):
    """Write a file as if some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    time = path.stat().st_mtime_ns - int(seconds_ago * 1e9)
    os.utime(path, ns=(time, time))


def change_keeping_size_and_time(path):
    stat = path.stat()
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGE = {"flipped": lambda b: b[:3] + bytes([b[3] ^ 1]) + b[4:], "truncated": lambda b: b[:-1], "empty": lambda b: b""}
