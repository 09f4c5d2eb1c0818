"""Committed notebooks have run, and the script that says so refuses what must not be committed."""

import json
import subprocess
import sys

import pytest

from pkd_utils.runs import paths

SCRIPT = paths.PROJECT_ROOT / "workflow" / "check_notebooks.py"
GOOD = {
    "cell_type": "code",
    "execution_count": 1,
    "metadata": {},
    "source": ["1 + 1"],
    "outputs": [{"output_type": "x"}],
}


def check(*files):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, files)], capture_output=True, text=True)


def test_committed_notebooks():
    answer = check("--strict")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    ("cell", "metadata", "message"),
    [
        ({}, {}, ""),
        ({"outputs": []}, {}, "has no outputs: run make notebooks"),
        ({"execution_count": None}, {}, "cell 1 has no execution count"),
        ({}, {"papermill": {}}, "has papermill's metadata"),
        ({"metadata": {"papermill": {}}}, {}, "cell 1 was written by papermill"),
        ({"metadata": {"tags": ["injected-parameters"]}}, {}, "cell 1 was written by papermill"),
        ({"outputs": [{"output_type": "error"}]}, {}, "cell 1 ends in an error"),
        ({"source": ["a\n"] * 41}, {}, "cell 1 has 41 lines, more than 40"),
        ({"source": ["a\n"] * 41, "metadata": {"tags": ["parameters"]}}, {}, ""),
        ({"source": ["a" * 89]}, {}, "cell 1 has a line of 89 columns, more than 88"),
    ],
)
def test_what_is_refused(tmp_path, cell, metadata, message):
    file = tmp_path / "one.ipynb"
    file.write_text(json.dumps({"metadata": metadata, "cells": [GOOD | cell]}))
    answer = check("--strict", file)
    assert (answer.returncode == 1) == bool(message) and message in answer.stderr
    assert check(file).returncode == int(bool(message) and "more than" not in message)
