"""Fixtures that several test files use."""

import os
import sys
from pathlib import Path

import pytest

from pkd_utils.runs import paths, warm

os.environ["PKD_LOCAL"] = os.devnull  # tests, and the kernels that they start, do not read the user's params/local.yml


def pytest_collection_modifyitems(items):
    """At a process's first backward pass torch counts the kinds of devices: the pretended GPU must be known by then."""
    items.sort(key=lambda item: item.path.name != "test_gpu.py")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of open data that is no part of the repository: PKD_SHARED_DATA, or `shared/data` beside the project."""
    folder = Path(os.environ.get("PKD_SHARED_DATA") or paths.PROJECT_ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("open data is not here: set PKD_SHARED_DATA to a folder with cbis-ddsm/ and covid-chestxray/")
    return folder


@pytest.fixture(scope="session")
def warm_socket():
    """Of one process that has imported the large libraries and forks kernels; empty where kernels are not forked."""
    from pkd_utils.runs import notebooks

    if sys.platform != "linux":
        yield ""
        return
    process = warm.start(notebooks.environment())
    yield os.environ.pop(warm.SOCKET)
    process.stdin.close()
    process.wait()


@pytest.fixture
def warm_kernels(warm_socket, monkeypatch):
    """Notebooks that the test executes import nothing large themselves."""
    monkeypatch.setenv(warm.SOCKET, warm_socket)
