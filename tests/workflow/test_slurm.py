"""Slurm: what each job asks it for, and, where one answers, runs that it preempts and kills."""

import asyncio
import logging
import os
import re
import shlex
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import yaml

from pkd_utils.runs import files, local, paths, run
from workflow import slurm_states

SNAKEMAKE = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile"]
SNAKEMAKE += ["--workflow-profile", "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "1"]
# Slurm's commands of a cluster whose accounting does not answer the first nine questions, more than the executor's own
# five, and whose jobs are all cancelled.
PRETENDED = {
    "sbatch": """exec 9> "$HERE/lock"; flock 9  # jobs are submitted side by side
printf "%q " "$@" >> "$HERE/asked"; echo >> "$HERE/asked"; wc -l < "$HERE/asked\"""",
    "sacct": """case "$*" in *--name*) ;; *) exit 0 ;; esac
echo x >> "$HERE/questions"; [ "$(wc -l < "$HERE/questions")" -gt 9 ] || exit 1
[ ! -e "$HERE/asked" ] || seq "$(wc -l < "$HERE/asked")" | sed 's/$/|CANCELLED by 7/'""",
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


NEEDS = {"-A": "account", "-p": "partition", "-t": "minutes"}
NEEDS |= {"--mem": "mem", "--cpus-per-task": "cpus", "--gres": "gres"}


def snakemake(folder, site, runs, path=""):
    """The command and the rest for a process that runs the profile of a folder on a site's Slurm."""
    (folder / "local.yml").write_text(site)
    environment = {**os.environ, "PKD_LOCAL": str(folder / "local.yml"), "PKD_RUNS": str(runs)}
    environment["PATH"] = path + os.environ["PATH"]
    command = [*SNAKEMAKE, "--config", f"profile={folder}/params", "--directory", str(folder)]
    return command, {"cwd": paths.PROJECT_ROOT, "env": environment}


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
    for file in ("mmpkd/01-prepare-data.yml", "mmpkd/06-train-text-teacher-on-openi.yml"):
        (tmp_path / "params" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "params" / file).write_text("run: asked\n")
    command, here = snakemake(tmp_path, SITE, tmp_path / "runs", path=f"{tmp_path}:")
    command += ["--max-status-checks-per-second", "10", "--seconds-between-status-checks", "0", "--retries", "1"]
    command += ["--set-resources", "mmpkd_01_prepare_data:mem_mb=900*attempt"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, **here)
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


def test_each_attempt_asks_for_more():
    """By a number or a list of the site's file, and by the profile, which tries three times."""
    site = local.Cluster(memory_gib={"*": 64, "02-encode": [128, 240]}, walltime_hours={"*": 1.5})
    for notebook, gib in (("reports/01-prepare-tasks", (64, 128, 192)), ("reports/02-encode", (128, 240, 240))):
        asked_for = site.resources(notebook, gpu=False)
        assert [asked_for["mem_mb"](None, n) for n in (1, 2, 3)] == [1024 * one for one in gib]
        assert [asked_for["runtime"](None, n) for n in (1, 2, 3)] == [90, 180, 270]
    profile = yaml.safe_load((paths.PROJECT_ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    assert profile["retries"] == 2
    for name in ("mem_mb", "runtime"):
        one, two, three = (eval(profile["default-resources"][name], {"attempt": n}) for n in (1, 2, 3))
        assert (two, three) == (2 * one, 3 * one)


def test_states_that_the_executor_would_wait_for_are_told_plainly(monkeypatch):
    """Cancelled by somebody, preempted and not started again; tasks of arrays are asked for by their own numbers."""
    states, now, asked_for = {"1": "CANCELLED by 1000", "2_1": "RUNNING", "3": "PREEMPTED"}, [0.0], []

    async def ask(command, logger):
        asked_for.append(command)
        return (dict(states), 0.1) if states else (None, None)

    question = slurm_states.mended(ask)

    def told():
        return asyncio.run(question("sacct -X --format=JobIdRaw,State", None))[0]

    monkeypatch.setattr(slurm_states.time, "monotonic", lambda: now[0])
    assert told() == {"1": "CANCELLED", "2_1": "RUNNING", "3": "PREEMPTED"}
    now[0] += slurm_states.PATIENCE + 1
    assert told()["3"] == "FAILED"
    states["3"] = "RUNNING"
    assert told()["3"] == "RUNNING"
    states["3"] = "PREEMPTED"
    assert told()["3"] == "PREEMPTED", "a second preemption is waited for anew"
    states.clear()
    assert told() is None
    assert set(asked_for) == {"sacct --format=JobId,State"}


def test_a_step_out_of_memory_is_told_as_its_job_and_once_what_to_do(caplog):
    """The script of such a job sees its step fail, and the job is FAILED; a job that ended well stays so."""
    states = {"1": "FAILED", "1.batch": "FAILED", "1.0": "OUT_OF_MEMORY", "2": "TIMEOUT", "2.0": "CANCELLED"}
    states |= {"3": "FAILED", "3.0": "FAILED", "4_2": "FAILED", "4_2.batch": "OUT_OF_MEMORY"}
    states |= {"5": "COMPLETED", "5.0": "OUT_OF_MEMORY"}

    async def ask(command, logger):
        return states, 0.1

    question = slurm_states.mended(ask)
    for _ in range(2):
        told = asyncio.run(question("sacct -X --format=JobIdRaw,State", logging.getLogger()))[0]
        short = {"1": "OUT_OF_MEMORY", "2": "TIMEOUT", "4_2": "OUT_OF_MEMORY"}
        assert told == {**short, "3": "FAILED", "5": "COMPLETED"}
    said = {words[0]: " ".join(words) for words in (line.split()[1:] for line in caplog.messages)}
    assert len(caplog.messages) == 3
    assert "memory" in said["'1'"] and "memory_gib" in said["'4_2'"] and "walltime_hours" in said["'2'"]


UPSTREAM = paths.runs_dir() / "mmpkd/embedded/02-train-teacher/smoke"


def slurm(*command):
    """What a command of Slurm says; nothing where none answers."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def wait_for(what, process, seconds=600):
    """Ask until something is there, while Snakemake runs."""
    deadline = time.time() + seconds
    while not (found := what()):
        assert process.poll() is None and time.time() < deadline, "what was waited for did not come"
        time.sleep(0.2)
    return found


PARAMETERS = {
    "03-distil-student": "base: {weights: [0.0, 0.5], seeds: [0, 1], epochs: 15}\neach: {run: NAMES}\n",
    "04-evaluate-attention": "base: {student_run: 'mmpkd/embedded/03-distil-student/{run}'}\neach: {run: NAMES}\n",
    "05-compare": """\
{run: RUN, grid_run: "", student_runs: [mmpkd/embedded/03-distil-student/RUN],
 attention_runs: [mmpkd/embedded/04-evaluate-attention/RUN]}
""",
}


needs_slurm = pytest.mark.skipif(not slurm("sinfo", "-h"), reason="no Slurm answers here: `sinfo` says nothing")
needs_runs = pytest.mark.skipif(not UPSTREAM.exists(), reason="no smoke runs in PKD_RUNS: `make test` makes them first")


@pytest.mark.slow
@needs_slurm
@needs_runs
def test_a_requeued_and_killed_job_ends_like_an_undisturbed_one(tmp_path):
    """Students and their maps as jobs, their comparison on the login node; a job of one is requeued, then killed."""
    names = [f"{kind}-{os.getpid()}" for kind in ("disturbed", "whole")]
    folder = tmp_path / "params/mmpkd"
    folder.mkdir(parents=True)
    for step, text in PARAMETERS.items():
        (folder / f"{step}.yml").write_text(text.replace("NAMES", f"[{', '.join(names)}]").replace("RUN", names[1]))
    gres = "gpu:1" if "gpu" in slurm("sinfo", "-h", "-o", "%G") else ""
    site = f"cluster: {{gres: '{gres}', cpus: {{'*': 1}}, memory_gib: {{'*': 1.5}}, walltime_hours: {{'*': 0.25}}}}"
    command, here = snakemake(tmp_path, site, paths.runs_dir())
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **here)
    students = paths.runs_dir() / "mmpkd/embedded/03-distil-student"

    def written():
        """When the disturbed run wrote its last checkpoint."""
        there = students.glob(f"{names[0]}-*.partial/students/*/checkpoint.safetensors")
        return max((file.stat().st_mtime for file in there), default=0)

    def job():
        listed = [line.split() for line in slurm("squeue", "--me", "-h", "-o", "%A %k").splitlines()]
        return next((number for number, comment in listed if names[0] in comment), "")

    try:
        first = wait_for(written, process)
        slurm("scontrol", "requeue", job())
        slurm("scontrol", "update", f"JobId={job()}", "StartTime=now")
        wait_for(lambda: written() > first + 1, process)
        slurm("scancel", "--signal=KILL", "--full", job())
        assert process.wait(timeout=900) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        process.terminate()
    disturbed, whole = (run.find_run(f"mmpkd/embedded/03-distil-student/{name}") for name in names)
    assert files.read_json(disturbed / "run.json")["resumed"] and not files.read_json(whole / "run.json")["resumed"]
    for name in ("predictions.parquet", *(f"students/w0.5-t1-fold0-seed{seed}/model.safetensors" for seed in (0, 1))):
        assert files.file_sha256(disturbed / name) == files.file_sha256(whole / name), name
    assert run.find_run(f"mmpkd/embedded/05-compare/{names[1]}")
    said = (tmp_path / "log").read_text()
    assert said.count("has been submitted") == 5, "two students, one of them twice, and two maps"


@pytest.mark.slow
@needs_slurm
@needs_runs
@pytest.mark.skipif(
    not re.search(r"ConstrainRAMSpace *= yes", slurm("scontrol", "show", "config")),
    reason="this Slurm does not limit memory: `scontrol show config` has no ConstrainRAMSpace = yes",
)
def test_a_job_out_of_memory_is_tried_with_more_and_ends_like_an_undisturbed_one(tmp_path):
    """Too little for Snakemake, then for the notebook, whose job is FAILED, then enough."""
    names = [f"{kind}-{os.getpid()}" for kind in ("short", "ample")]
    file = tmp_path / "params/mmpkd/03-distil-student.yml"
    file.parent.mkdir(parents=True)
    file.write_text(f"base: {{weights: [0.5], seeds: [0], epochs: 2}}\neach: {{run: [{', '.join(names)}]}}\n")
    site = "cluster: {gres: '', cpus: {'*': 1}, memory_gib: {'*': [0.06, 0.5, 2]}, walltime_hours: {'*': 0.25}}"
    command, here = snakemake(tmp_path, site, paths.runs_dir())
    here |= {"check": True, "timeout": 600}
    subprocess.run([sys.executable, "-m", "pkd_utils", "run", str(file), names[1]], **here)
    said = subprocess.run(command, capture_output=True, text=True, **here).stderr
    assert re.findall(r"mem_mb=(\d+)", said)[:3] == ["62", "512", "2048"]
    assert said.count("SLURM status is: 'OUT_OF_MEMORY'") == said.count("ran out of memory") == 2
    short, ample = (run.find_run(f"mmpkd/embedded/03-distil-student/{name}") for name in names)
    for name in ("predictions.parquet", "students/w0.5-t1-fold0-seed0/model.safetensors"):
        assert files.file_sha256(short / name) == files.file_sha256(ample / name), name
