"""One source of pins: what is written from it is current, it resolves for both Pythons, and a wrong file is refused."""

import importlib
import subprocess
import sys

import pytest
import yaml

from pkd_utils.runs import paths

ROOT = paths.PROJECT_ROOT
SOURCE = """
a-b==1.0 ; sys_platform == 'linux' \\
    --hash=sha256:01
torch==2.0 \\
    --hash=sha256:02 \\
    --hash=sha256:03
"""


@pytest.fixture(scope="module")
def workflow():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "workflow"))
        yield importlib.import_module


def uv(sources, *arguments):
    """Run uv with the package sources that pip is configured with."""
    words = [word for option, values in sources.items() for value in values for word in (f"--{option}", value)]
    command = [sys.executable, "-m", "uv", "pip", *arguments, "--index-strategy", "unsafe-best-match", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def sources(workflow, tmp_path_factory):
    found, asked = workflow("setup_env").pip_sources(), tmp_path_factory.mktemp("uv") / "one.in"
    asked.write_text("six==1.17.0\n")
    if uv(found, "compile", "-q", str(asked)).returncode:
        pytest.skip("No package index can be reached here, or uv is missing; the resolution is not tried.")
    return found


def test_written_files_are_current():
    command = [sys.executable, "workflow/write_environment.py", "--check"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    pins = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert "torch==2.13.0" in pins and "-e ." in pins and "-c constraints.txt" in pins
    pinned = set((ROOT / "constraints.txt").read_text().splitlines())
    assert all(pin in pinned for pin in pins if not pin.startswith("-"))
    assert not [pin for pin in pins if pin.startswith(("nvidia", "cuda", "triton"))]


def test_every_pin_but_torch_has_hashes_and_no_place_is_named(workflow):
    lock = (ROOT / "workflow" / "pins.lock").read_text()
    bare = [entry for entry in workflow("write_environment").entries(lock) if "--hash=sha256:" not in entry]
    assert bare == ["torch==2.13.0\n"]
    assert "://" not in lock and "index" not in lock and "/" not in lock.split("\n", 1)[1]


def test_what_is_written_from_a_resolution(workflow):
    script = workflow("write_environment")
    assert script.without_some_hashes(SOURCE).splitlines()[1:] == [*SOURCE.splitlines()[1:3], "torch==2.0"]
    assert script.constraints(SOURCE).splitlines()[1:] == ["a-b==1.0", "torch==2.0"]
    with pytest.raises(ValueError, match="two versions of torch: bound it"):
        script.constraints(SOURCE + "torch==2.1\n")
    with pytest.raises(ValueError, match=r"numpy is in .* and has no pin"):
        script.environment(SOURCE)


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_the_pins_resolve_for_both_pythons(sources, version):
    arguments = ("-q", "pyproject.toml", "--all-extras", "-c", "constraints.txt", "--python-version", version)
    answer = uv(sources, "compile", *arguments)
    assert answer.returncode == 0, answer.stderr
    pinned = set((ROOT / "constraints.txt").read_text().splitlines())
    chosen = [line.split()[0] for line in answer.stdout.splitlines() if line and line[0] not in " #-"]
    assert len(chosen) > 200 and [pin for pin in chosen if pin.split("+")[0] not in pinned] == []


def test_a_file_with_another_hash_is_not_installed(sources, tmp_path):
    pins = tmp_path / "pins.lock"
    pins.write_text(f"six==1.17.0 --hash=sha256:{1:064d}\n")
    answer = uv(sources, "install", "--target", str(tmp_path / "here"), "-c", str(pins), "six")
    assert answer.returncode and "Hash mismatch" in answer.stderr
