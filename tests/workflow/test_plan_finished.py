"""Estimates beside what finished runs took, within 30 %: `make test` runs this after nbval made the smoke runs.

What a smoke run takes of the processor is mostly imports, which no model has; so memory and disk are compared with the
runs, and how rates of heads are carried over to other shapes with other measured shapes. The processor's time of longer
runs: `python -m workflow.plan PROFILE --check`.
"""

import pytest

from pkd_utils.runs import notebooks, paths, run
from pkd_utils.runs.parameters import notebook_path, resolve
from workflow.plan.__main__ import Plan
from workflow.plan.costs import own_bytes
from workflow.plan.rates import Rates

MEMORY = [  # not 01: its smoke run writes the embedded cohort, too, where that is not there yet
    "mmpkd/02-train-teacher",
    "mmpkd/03-distil-student",
    "mmpkd/04-evaluate-attention",
    "mmpkd/08-score-all-maps",
    "reports/02-encode",
    "reports/03-train-teachers",
    "reports/04-distil-students",
]
DISK = [
    "mmpkd/03-distil-student",
    "reports/02-encode",
    "reports/03-train-teachers",
]  # 04's: logits, smaller than tables
WITHIN = 0.3


def made(notebook: str) -> bool:
    return (paths.runs_dir() / reference(notebook) / "run.json").exists()


def reference(notebook: str) -> str:
    study, step = notebook.split("/")
    return f"{study}/embedded/{step}/smoke"


needs_runs = pytest.mark.skipif(
    not made("reports/03-train-teachers"),
    reason="no smoke runs in PKD_RUNS: `make test` makes them by running the notebooks before this file",
)


def estimated(notebook: str):
    """The model's cost of a smoke run, its record not looked at."""
    jobs = {
        reference(name): notebooks.Described(name, notebook_path(name).with_suffix(".yml"), "", resolve(name, {}))
        for name in {*MEMORY, *DISK}
    }
    return Plan(jobs, Rates(), records=False).costs[reference(notebook)]


def recorded(notebook: str) -> dict:
    return run.record_of(run.find_run(reference(notebook)))


@needs_runs
@pytest.mark.parametrize("notebook", MEMORY)
def test_peak_memory(notebook):
    assert estimated(notebook).memory_gib == pytest.approx(recorded(notebook)["peak_memory_gib"], rel=WITHIN)


@needs_runs
@pytest.mark.parametrize("notebook", DISK)
def test_disk(notebook):
    used = own_bytes(run.find_run(reference(notebook)), recorded(notebook)["started"])
    assert estimated(notebook).gib * 2**30 == pytest.approx(used, rel=WITHIN)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_heads_of_one_measured_shape_cost_what_another_says(precision):
    found, shapes = Rates(), [(196, 768), (256, 384)]
    one, other = (found.operation(16, shape, precision, "cpu")[1] for shape in shapes)
    assert one == pytest.approx(other, rel=WITHIN)
