"""Slurm: what each job asks it for."""

import os
import shlex
import subprocess
import sys
from itertools import pairwise

import pytest

from pkd_utils.runs import paths

SNAKEMAKE = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile"]
SNAKEMAKE += ["--workflow-profile", "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "1"]
# Slurm's commands of a cluster whose accounting does not answer the first nine questions, more than the executor's own
# five, and whose jobs all time out.
PRETENDED = {
    "sbatch": 'printf "%q " "$@" >> "$HERE/asked"; echo >> "$HERE/asked"; wc -l < "$HERE/asked"',
    "sacct": """case "$*" in *--name*) ;; *) exit 0 ;; esac
echo x >> "$HERE/questions"; [ "$(wc -l < "$HERE/questions")" -gt 9 ] || exit 1
[ ! -e "$HERE/asked" ] || seq "$(wc -l < "$HERE/asked")" | sed 's/$/|TIMEOUT/'""",
    "sacctmgr": "echo them",
    "squeue": "exit 1",
    "scontrol": "exit 1",
    "sinfo": "exit 1",
}
SITE = """\
cluster:
  account: them
  partition: short
  gpu_partition: gpus
  cpus: {01-prepare-data: 4}
  memory_gib: {"*": 2, 06-train-text-teacher-on-openi: [3, 7]}
  walltime_hours: {mmpkd/06-train-text-teacher-on-openi: 1.5}
"""


NEEDS = {
    "-A": "account",
    "-p": "partition",
    "-t": "minutes",
    "--mem": "mem",
    "--cpus-per-task": "cpus",
    "--gres": "gres",
}


def asked(line):
    """Rule and what a job needs, of one submission."""
    words = shlex.split(line)
    assert "--requeue" in words
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    options = dict(pairwise(words))
    return options["--comment"].split("_wildcards_")[0], {name: options.get(key) for key, name in NEEDS.items()}


@pytest.mark.slow
def test_jobs_ask_for_what_the_site_and_the_profile_say(tmp_path):
    """GPUs for GPU notebooks alone, more with each attempt; `set-resources` beats the site, which beats the profile."""
    for name, text in PRETENDED.items():
        (tmp_path / name).write_text(f"#!/bin/bash\nHERE={tmp_path}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "local.yml").write_text(SITE)
    for file in ("mmpkd/01-prepare-data.yml", "mmpkd/06-train-text-teacher-on-openi.yml"):
        (tmp_path / "params" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "params" / file).write_text("run: asked\n")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PKD_LOCAL": str(tmp_path / "local.yml")}
    environment |= {"PKD_RUNS": str(tmp_path / "runs")}
    command = [*SNAKEMAKE, "--config", f"profile={tmp_path}/params", "--directory", str(tmp_path)]
    command += ["--max-status-checks-per-second", "10", "--seconds-between-status-checks", "0", "--retries", "1"]
    command += ["--set-resources", "mmpkd_01_prepare_data:mem_mb=900*attempt"]
    answer = subprocess.run(
        command, cwd=paths.PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 1, answer.stderr[-2000:]
    told = [asked(line) for line in (tmp_path / "asked").read_text().splitlines()]
    site = {"account": "them", "gres": None}
    assert [job for name, job in told if name == "rule_mmpkd_01_prepare_data"] == [
        {**site, "partition": "short", "minutes": f"{720 * n}", "mem": f"{900 * n}", "cpus": "4"} for n in (1, 2)
    ]
    gpu = {**site, "partition": "gpus", "gres": "gpu:1", "cpus": "8"}
    assert [job for name, job in told if name == "rule_mmpkd_06_train_text_teacher_on_openi"] == [
        {**gpu, "minutes": f"{90 * n}", "mem": f"{gib * 1024}"} for n, gib in ((1, 3), (2, 7))
    ]
