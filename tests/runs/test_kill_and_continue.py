"""A run that was killed (SIGKILL, kernel and all) in the middle of training continues and ends in the same bits.

Runs after nbval in `make test`, because it reads the smoke runs of the notebooks before it.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.numpy import load_file

from pkd_utils.runs import files, paths, run

UPSTREAM = paths.runs_dir() / "mmpkd/embedded/02-train-teacher/smoke"
COMMAND = [sys.executable, "-m", "pkd_utils", "run"]


@pytest.fixture
def parameter_file(tmp_path):
    def write(label):
        file = tmp_path / label / "mmpkd" / "03-distil-student.yml"
        file.parent.mkdir(parents=True)
        file.write_text(f"run: {label}\nweights: [0.5]\nseeds: [0, 1]\nepochs: 6\n")
        return file

    return write


def kill_everything(process):
    """SIGKILL the runner and its kernel at once, as a machine that runs out of memory would."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=20)
    process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not UPSTREAM.exists(), reason="no smoke runs in PKD_RUNS: `make test` makes them first")
def test_a_killed_run_ends_like_an_undisturbed_one(parameter_file):
    step = paths.runs_dir() / "mmpkd/embedded/03-distil-student"
    label, whole = (f"{name}-{os.getpid()}" for name in ("killed", "whole"))
    file = parameter_file(label)
    beside = subprocess.Popen([*COMMAND, str(parameter_file(whole))], stdout=subprocess.DEVNULL)
    process = subprocess.Popen([*COMMAND, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list(step.glob(f"{label}-*.partial/students/*/checkpoint.safetensors")):
        assert process.poll() is None and time.time() < deadline, "the run ended before it could be killed"
        time.sleep(0.02)
    kill_everything(process)
    assert not (step / label).exists(), "a killed run must not look finished"

    subprocess.run([*COMMAND, str(file)], check=True, stdout=subprocess.DEVNULL)
    assert beside.wait() == 0
    continued, undisturbed = (run.find_run(f"mmpkd/embedded/03-distil-student/{name}") for name in (label, whole))
    assert files.read_json(continued / "run.json")["resumed"] is True
    for seed in (0, 1):
        model = f"students/w0.5-t1-fold0-seed{seed}/model.safetensors"
        first, second = load_file(continued / model), load_file(undisturbed / model)
        assert all(np.array_equal(first[name], second[name]) for name in first | second)
    tables = [pd.read_parquet(folder / "predictions.parquet") for folder in (continued, undisturbed)]
    pd.testing.assert_frame_equal(*tables)
