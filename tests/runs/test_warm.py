"""Kernels forked from a warm process: fresh to their notebook, tied to who asked for them, and not needed."""

import os
import subprocess
import sys
import time

import nbclient
import nbformat
import psutil
import pytest

from pkd_utils.runs import notebooks, warm
from pkd_utils.runs.kernel import OwnKernel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there are kernels forked")
ASK = [sys.executable, warm.__file__, "ask"]
SAYS = """import os, sys
print(os.getppid(), os.getcwd(), os.environ["WORD"], "torch" in sys.modules,
      [name for name in sys.modules if name.startswith("pkd_utils")], *map(repr, sys.path), sep="\\n")
import matplotlib, pandas, torch
print(torch.get_num_threads(), sys.flags, dict(matplotlib.rcParams))
print(pandas.describe_option(_print_desc=False).replace("UTF-8", "utf-8"))
sys.modules["left_behind"] = sys"""


@pytest.fixture(scope="module")
def server():
    process = warm.start(notebooks.environment())
    yield process
    place = os.environ.pop(warm.SOCKET)
    process.stdin.close()
    assert process.wait(timeout=60) == 0 and not os.path.exists(os.path.dirname(place))


def said(folder, source):
    """What a notebook of one cell prints, run in `folder`."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    client = nbclient.NotebookClient(notebook, kernel_manager_class=OwnKernel, startup_timeout=300)
    client.resources = {"metadata": {"path": str(folder)}}
    client.execute()
    return "".join(out.text for out in notebook.cells[0].outputs if out.get("name") == "stdout").splitlines()


def test_each_kernel_is_a_fork_of_its_own_with_what_its_asker_has(server, tmp_path, monkeypatch):
    for name, value in notebooks.environment().items():  # as a run's kernel has it
        monkeypatch.setenv(name, value)
    for word in ("first", "second"):
        monkeypatch.setenv("WORD", word)
        forked = said(tmp_path, SAYS)
        assert forked[:5] == [str(server.pid), str(tmp_path), word, "True", "[]"]
    assert said(tmp_path, "import sys; print('left_behind' in sys.modules)") == ["False"]
    monkeypatch.setenv(warm.SOCKET, str(tmp_path / "no-server"))  # a kernel is a fresh process then
    fresh = said(tmp_path, SAYS)
    assert fresh == [str(os.getpid()), *forked[1:3], "False", *forked[4:]]


def test_a_killed_asker_takes_its_kernel_along(server, tmp_path):
    asker = subprocess.Popen([*ASK, os.environ[warm.SOCKET], "-f", tmp_path / "kernel.json"])
    deadline = time.time() + 300
    while not (tmp_path / "kernel.json").exists():
        assert asker.poll() is None and time.time() < deadline
        time.sleep(0.05)
    (kernel,) = psutil.Process(server.pid).children()
    asker.kill()
    asker.wait()
    psutil.wait_procs([kernel], timeout=60)
    assert not kernel.is_running() and server.poll() is None


def test_the_kernels_end_is_the_askers(server):
    command = [*ASK, os.environ[warm.SOCKET]]
    right = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert right.returncode == 0 and right.stdout.strip()[0].isdigit()
    assert subprocess.run([*command, "--IPKernelApp.transport=pigeon"], capture_output=True).returncode
