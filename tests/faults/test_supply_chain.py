"""What comes from elsewhere: nothing at run time, and no archive that writes where it should not."""

import io
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml

from pkd_utils.cohorts import load_cohort
from pkd_utils.runs import paths, strict_yaml
from pkd_utils.runs.errors import DataError
from workflow.run_tests import ENVIRONMENT

ROOT = paths.PROJECT_ROOT
# A network namespace of its own has nothing but a loopback, which kernels speak through and which is down at first.
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "alone"]


def alone(*command, **environment):
    """Run a command where there is no network; skips where that is not permitted."""
    if not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("This machine does not permit a network namespace (unshare --net), so nothing is run in one.")
    how = {"env": {**os.environ, **environment}, "cwd": ROOT, "capture_output": True, "text": True}
    return subprocess.run([*ALONE, *command], **how)


def test_there_is_no_network_where_the_notebooks_are_run():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 2)"
    assert "Network is unreachable" in alone(sys.executable, "-c", code).stderr


@pytest.mark.faults
def test_every_smoke_notebook_runs_without_a_network(tmp_path):
    notebooks = [str(path) for path in sorted((ROOT / "notebooks").glob("*/*.ipynb"))]
    nbval = ["-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]
    quiet = ENVIRONMENT | {"PKD_RUNS": str(tmp_path), "JUPYTER_PREFER_ENV_PATH": "1"}
    answer = alone(sys.executable, "-m", "pytest", *nbval, *notebooks, **quiet)
    assert answer.returncode == 0, answer.stdout[-3000:]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "entry",
    [
        member("/ecgen-radiology/1.xml"),
        member("ecgen-radiology/../../1.xml"),
        member("ecgen-radiology/1.xml", tarfile.SYMTYPE, "/etc/passwd"),
        member("ecgen-radiology/1.xml", tarfile.LNKTYPE, "/etc/passwd"),
        member("ecgen-radiology/1.xml", tarfile.FIFOTYPE),
    ],
)
def test_archive_members_that_lead_elsewhere(tmp_path, entry):
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as tar:
        tar.addfile(entry, io.BytesIO())
    said = r"is not a report file ecgen-radiology/<number>\.xml; use the published archive"
    with pytest.raises(DataError, match=said):
        load_cohort("openi", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["NLMCXR_reports.tgz"]


@pytest.mark.parametrize("call", ["python/object/apply:os.system", "python/name:os.system", "python/module:os"])
def test_yaml_that_would_act(tmp_path, call):
    done = tmp_path / "done"
    content = f"a: !!{call} ['touch {done}']\n"
    (tmp_path / "p.yml").write_text(content)
    with pytest.raises(DataError, match=r"p\.yml, line 1: there is a tag \(!\)"):
        strict_yaml.read(tmp_path / "p.yml")
    assert not done.exists()
    if "apply" in call:  # it would have acted
        yaml.unsafe_load(content)
        assert done.exists()


def test_the_scheduled_audit_reads_the_pins():
    audit = yaml.safe_load((ROOT / ".github" / "workflows" / "audit.yml").read_text())
    steps = [step.get("run", "") for job in audit["jobs"].values() for step in job["steps"]]
    assert any(step.startswith("pip-audit") and "-r constraints.txt" in step for step in steps)
    assert "make test-faults" in steps and "schedule" in audit[True]  # YAML 1.1 reads `on` as true
