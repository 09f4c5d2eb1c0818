"""What the tests of studies share."""

import matplotlib
import pytest
from matplotlib import pyplot as plt

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def figures_are_closed():
    """And matplotlib's defaults are what they were."""
    with matplotlib.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder of runs."""
    monkeypatch.setenv("PKD_RUNS", str(tmp_path))
    return tmp_path
