"""The commands around the notebooks: the environment, the order of runs, the counting of tests."""

import os
import re
import subprocess
import sys

import pytest

from pkd_utils.runs import notebooks, paths
from workflow import prune_images, run_tests, setup_env


def test_uv_gets_the_sources_that_pip_is_configured_with(monkeypatch):
    listing = (
        ":env:.find-links='/wheels'\nglobal.cert='/c.crt'\nglobal.find-links='/wheels'\n"
        "global.extra-index-url='file:///one file:///two'\nuser.index-url='https://example.org/simple'\n"
    )
    answer = subprocess.CompletedProcess([], 0, stdout=listing)
    monkeypatch.setattr(setup_env.subprocess, "run", lambda *a, **k: answer)
    assert setup_env.pip_sources() == {
        "index-url": ["https://example.org/simple"],
        "extra-index-url": ["file:///one", "file:///two"],
        "find-links": ["/wheels"],
    }


def test_the_environment_is_installed_again_when_a_pin_changes(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text("a")
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "pins.lock").write_text("x==1")
    before = setup_env.fingerprint(["book"])
    assert setup_env.fingerprint(["book"]) == before
    (tmp_path / "workflow" / "pins.lock").write_text("x==2")
    assert setup_env.fingerprint(["book"]) != before


@pytest.mark.parametrize("moved", [False, True])
def test_where_the_folder_moved_every_script_is_written_again(monkeypatch, tmp_path, moved):
    place = tmp_path / "venv"
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").touch()
    (place / "pyvenv.cfg").write_text(f"command = python -m venv {'/old/venv' if moved else place}\n")
    monkeypatch.setattr(setup_env, "VENV", place)
    monkeypatch.setattr(setup_env, "PYTHON", place / "bin" / "python")
    commands = []
    answer = subprocess.CompletedProcess([], 0, stdout="")
    monkeypatch.setattr(setup_env.subprocess, "run", lambda command, **_: commands.append(command) or answer)
    setup_env.install(["book"])
    assert any(command[1:3] == ["-m", "venv"] for command in commands) == moved
    assert any("--reinstall" in command for command in commands) == moved


def test_other_pythons_are_refused_with_one_sentence(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 9, 0))
    with pytest.raises(SystemExit, match=r"Python 3.11 or 3.12 is needed"):
        setup_env.main()


@pytest.mark.parametrize("profile", sorted(folder.name for folder in (paths.PROJECT_ROOT / "params").glob("*/")))
def test_every_profile_can_be_planned(profile, tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_RUNS", str(tmp_path))
    jobs = notebooks.plan(profile)
    place = {job.name: number for number, job in enumerate(jobs)}
    assert all(place[name] < place[job.name] for job in jobs for name in job.upstream)
    assert len({job.folder for job in jobs}) == len(jobs)


def test_an_hour_of_open_data_has_a_run_of_every_notebook_but_pretraining(tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_RUNS", str(tmp_path))
    text = (paths.PROJECT_ROOT / "Makefile").read_text()
    only = re.search(r"^AN_HOUR = (.*?[^\\])$", text, re.MULTILINE | re.DOTALL)[1].replace("\\\n", " ")
    hour, whole = notebooks.plan("open-data", only), notebooks.plan("open-data")
    # Pretraining alone takes more than an hour of both cores.
    longer = {"reports/00-pretrain-stand-ins", "reports/08-compare-pretraining"}
    assert {job.notebook for job in hour} | longer == {job.notebook for job in whole}
    assert {job.parameters["cohort"] for job in hour} == {job.parameters["cohort"] for job in whole}
    named = ([job for job in jobs if job.notebook not in longer and "." in job.name] for jobs in (whole, hour))
    kinds = [{job.name.split(".")[1] for job in jobs} for jobs in named]
    texts = ("indication", *(f"{text}-removed" for text in ("names", "synonyms", "sentences", "sides")))
    breast = ("birads", "birads-mmpkd", "lesions", "lesions-baseline", "lesions-mmpkd")
    assert kinds[0] - kinds[1] == {f"openi-{name}" for name in texts} | {f"breast-{name}" for name in breast}


def test_snakemake_takes_a_part_of_the_plan_with_what_the_site_asks_for(tmp_path):
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "--workflow-profile"]
    command += ["workflow/profiles/local", "-n", "-p", "--config", "profile=demo", "only=mmpkd/embedded"]
    mine = tmp_path / "local.yml"
    mine.write_text("cluster: {account: them, walltime_hours: {03-distil-student: 3}}")
    environment = {**os.environ, "PKD_RUNS": str(tmp_path / "runs"), "PKD_LOCAL": str(mine)}
    answer = subprocess.run(command, cwd=paths.PROJECT_ROOT, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-500:]
    said = answer.stdout + answer.stderr
    jobs = re.findall(r"^(?:local)?rule (\w+):", said, re.M)
    assert {"mmpkd_01_prepare_data", "mmpkd_03_distil_student", "mmpkd_05_compare"} <= set(jobs)
    assert not [name for name in jobs if name.startswith(("reports", "background"))]
    assert "runtime=180" in said and "slurm_account=them" in said
    commands = re.findall(r"-m pkd_utils run (?:\S+|'[^']+)\.yml'? '[\w.-]*' [0-9a-f]{64}$", said, re.M)
    assert len(set(commands)) == len(jobs) - jobs.count("all"), "a run's name may be empty"


def test_failures_of_any_part_fail_make_test(tmp_path):
    report = tmp_path / "pytest.xml"
    report.write_text('<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1"/></testsuites>')
    report.with_suffix(".log").write_text("said")
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    assert run_tests.finish("pytest", process, report) == {"passed": 2, "failed": 2, "skipped": 1}
    crashed = tmp_path / "crashed.xml"
    crashed.with_suffix(".log").write_text("killed")
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(137)"])
    assert run_tests.finish("nbval", process, crashed)["failed"] == 1


def test_pictures_of_earlier_builds_go(tmp_path):
    (tmp_path / "_images").mkdir()
    for name in ("shown.png", "stale.png"):
        (tmp_path / "_images" / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "page.html").write_text('<img src="../_images/shown.png" alt="a">')
    assert prune_images.prune(tmp_path) == ["stale.png"]
    assert [file.name for file in (tmp_path / "_images").iterdir()] == ["shown.png"]
