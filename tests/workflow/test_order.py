"""The commands around the notebooks: the environment, the order of runs, the counting of tests."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from pkd_utils.runs import notebooks, paths


def load(name):
    """A script of `workflow/` as a module."""
    spec = importlib.util.spec_from_file_location(name, paths.PROJECT_ROOT / "workflow" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def setup_env():
    return load("setup_env")


def test_uv_gets_the_sources_that_pip_is_configured_with(setup_env, monkeypatch):
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


def test_the_environment_is_installed_again_when_a_pin_changes(setup_env, monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text("a")
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "pins.lock").write_text("x==1")
    before = setup_env.fingerprint(["book"])
    assert setup_env.fingerprint(["book"]) == before
    (tmp_path / "workflow" / "pins.lock").write_text("x==2")
    assert setup_env.fingerprint(["book"]) != before


def test_other_pythons_are_refused_with_one_sentence(setup_env, monkeypatch):
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


def test_an_hour_of_open_data_has_a_run_of_every_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_RUNS", str(tmp_path))
    text = (paths.PROJECT_ROOT / "Makefile").read_text()
    only = re.search(r"^AN_HOUR = (.*?[^\\])$", text, re.MULTILINE | re.DOTALL)[1].replace("\\\n", " ")
    hour, whole = notebooks.plan("open-data", only), notebooks.plan("open-data")
    assert {job.notebook for job in hour} == {job.notebook for job in whole}
    assert {job.parameters["cohort"] for job in hour} == {job.parameters["cohort"] for job in whole}
    left = {job.name.split(".")[1] for job in whole if "." in job.name} - {
        job.name.split(".")[1] for job in hour if "." in job.name
    }
    texts = {
        f"openi-{text}"
        for text in ("indication", *(f"{t}-removed" for t in ("names", "synonyms", "sentences", "sides")))
    }
    assert left == texts | {
        "breast-birads",
        "breast-birads-mmpkd",
        "breast-lesions",
        "breast-lesions-baseline",
        "breast-lesions-mmpkd",
    }


@pytest.mark.parametrize(
    ("config", "runs"),
    [
        (["profile=demo"], {"mmpkd_01_prepare_data", "mmpkd_03_distil_student", "mmpkd_05_compare"}),
        (["profile=paper", "only=reports/mimic_cxr/02-encode/m"], {"reports_02_encode"}),
    ],
)
def test_snakemake_takes_the_plan(config, runs, tmp_path):
    for there in ("mimic-cxr-jpg", "mimic-cxr", "mimic-iv", "models/MRM.pth", "models/BiomedVLP-BioViL-T", "assets"):
        (tmp_path / "data" / there).mkdir(parents=True)
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "--workflow-profile"]
    command += ["workflow/profiles/local", "-n", "-p", "--config", *config]
    mine = tmp_path / "local.yml"
    mine.write_text("cluster: {account: them, walltime_hours: {02-encode: 3}}")
    environment = {**os.environ, "PKD_RUNS": str(tmp_path / "runs"), "PKD_LOCAL": str(mine)}
    environment |= {"PKD_DATA": str(tmp_path / "data")}
    answer = subprocess.run(command, cwd=paths.PROJECT_ROOT, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-500:]
    said = answer.stdout + answer.stderr
    jobs = re.findall(r"^(?:local)?rule (\w+):", said, re.M)
    assert runs <= set(jobs)
    assert ("runtime=180" in said) and "slurm_account=them" in said
    commands = re.findall(r"-m pkd_utils run (?:\S+|'[^']+)\.yml'? '[\w.-]*' [0-9a-f]{64}$", said, re.M)
    assert len(set(commands)) == len(jobs) - jobs.count("all"), "a run's name may be empty"
    if len(config) > 1:
        assert "inspect" not in said and "03_train" not in said


def test_failures_of_any_part_fail_make_test(tmp_path):
    run_tests = load("run_tests")
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
    assert load("prune_images").prune(tmp_path) == ["stale.png"]
    assert [file.name for file in (tmp_path / "_images").iterdir()] == ["shown.png"]
