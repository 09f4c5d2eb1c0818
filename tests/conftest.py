"""Fixtures that several test files use."""

import os
from pathlib import Path

import pytest

from pkd_utils.runs import paths

os.environ["PKD_LOCAL"] = os.devnull  # tests, and the kernels that they start, do not read the user's params/local.yml


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of open data that is no part of the repository: PKD_SHARED_DATA, or `shared/data` beside the project."""
    folder = Path(os.environ.get("PKD_SHARED_DATA") or paths.PROJECT_ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("open data is not here: set PKD_SHARED_DATA to a folder with cbis-ddsm/ and covid-chestxray/")
    return folder
