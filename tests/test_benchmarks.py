"""Every benchmark still runs, at a size of nothing: `make bench` takes twenty minutes, and few wait for it."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from pkd_utils.runs import files, paths

SMALL = {
    "demonstration": "--profile quick",
    "drr": "--volumes 1 --rounds 1 --workers 1",
    "encoders": "--threads 1 --rounds 1 --gflop 1 --matrix 256 --texts 1 --only c2l,minilm",
    "heads": "--shapes 4x16 --heads 1 --rounds 1 --threads 1",
    "localization": "--images 2 --reference-images 2 --size 32 --workers 1 --repeats 1",
    "localization_suite": "--images 2 --reference-images 2 --size 32 --workers 1 --repeats 1",
    "mimic_size": "--images 400",
    "notebooks": "--rounds 1",
    "packing": "--images 2 --workers 1 --rounds 1",
    "saliency": "--rounds 1",
    "text_teacher": "--reports 8 --max-tokens 8 --repeats 1",
    "tokens": "--images 1 --rows 64 --rounds 1",
    "training": "--images 64 --rounds 1",
}
"""What makes each small."""
NEEDS = {"training": "torchdistill", "drr": "plastimatch"}


def test_every_benchmark_is_here():
    scripts = paths.PROJECT_ROOT.glob("benchmarks/*.py")
    assert sorted(SMALL) == sorted(file.stem for file in scripts if not file.stem.startswith("_"))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_runs_and_writes_what_the_page_reads(name, tmp_path):
    needed = NEEDS.get(name, "pkd_utils")
    if importlib.util.find_spec(needed) is None and shutil.which(needed) is None:
        pytest.skip(f"{needed} is not installed: `make bench` installs what is Python's, Debian what is not")
    target = tmp_path / "benchmark.json"
    command = [sys.executable, f"benchmarks/{name}.py", *SMALL[name].split(), "--json", str(target)]
    environment = {**os.environ, "PYTHONPATH": str(paths.PROJECT_ROOT), "OMP_NUM_THREADS": "1",
                   "PKD_RUNS": str(tmp_path / "runs")}  # fmt: skip
    done = subprocess.run(command, cwd=paths.PROJECT_ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    report = files.read_json(target)
    assert report["machine"]["cpu"] and report["rows"] and report["name"].replace("-", "_") == name
