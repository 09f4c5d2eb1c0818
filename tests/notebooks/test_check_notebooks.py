"""Committed notebooks have run, and the script that says so refuses what must not be committed."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs import paths
from pkd_utils.statistics import metrics
from pkd_utils.studies.maps import claims
from workflow.check_notebooks import main

GOOD = {"cell_type": "code", "execution_count": 1, "metadata": {}, "source": ["1 + 1"]}
GOOD["outputs"] = [{"output_type": "x"}]
PICTURE = {"output_type": "display_data", "data": {"image/png": ""}}


def test_committed_notebooks(capsys):
    assert main(["--strict"]) == 0, capsys.readouterr().err
    sizes = {path.name: path.stat().st_size for path in (paths.PROJECT_ROOT / "notebooks").glob("*/*.ipynb")}
    assert sizes and max(sizes.values()) < 600_000, sizes


@pytest.mark.parametrize(
    ("cell", "metadata", "message"),
    [
        ({}, {}, ""),
        ({"outputs": []}, {}, "has no outputs: run make notebooks"),
        ({"execution_count": None}, {}, "cell 1 has no execution count"),
        ({}, {"papermill": {}}, "has papermill's metadata"),
        ({"metadata": {"papermill": {}}}, {}, "cell 1 was written by papermill"),
        ({"metadata": {"tags": ["injected-parameters"]}}, {}, "cell 1 was written by papermill"),
        ({"outputs": [{"output_type": "error"}]}, {}, "cell 1 ends in an error"),
        ({"outputs": [PICTURE]}, {}, "cell 1 shows a figure without alt text"),
        ({"outputs": [PICTURE], "metadata": {"mystnb": {"image": {"alt": "A line."}}}}, {}, ""),
        ({"source": ["import a\n"] * 4}, {}, "cell 1 imports, draws or writes: tag it hide-input"),
        ({"source": ["x = 1\n"] * 3 + ["run.show(x)"]}, {}, "cell 1 imports, draws or writes: tag it hide-input"),
        ({"source": ["import a\n"] * 3}, {}, ""),
        ({"source": ["import a\n"] * 4, "metadata": {"tags": ["hide-input"]}}, {}, ""),
        ({"source": ["a\n"] * 41}, {}, "cell 1 has 41 lines, more than 40"),
        ({"source": ["a\n"] * 41, "metadata": {"tags": ["parameters"]}}, {}, ""),
        ({"source": ["a" * 89]}, {}, "cell 1 has a line of 89 columns, more than 88"),
    ],
)
def test_what_is_refused(tmp_path, capsys, cell, metadata, message):
    file = tmp_path / "one.ipynb"
    file.write_text(json.dumps({"metadata": metadata, "cells": [GOOD | cell]}))
    assert main(["--strict", str(file)]) == int(bool(message)) and message in capsys.readouterr().err
    assert main([str(file)]) == int(bool(message) and "more than" not in message)


def test_a_number_that_the_paper_lacks_is_not_printed_as_nan(capsys):
    """Every cell that prints `paper_auroc`, run where it is NaN (open data have no published teacher)."""
    found = 0
    for path in (paths.PROJECT_ROOT / "notebooks").glob("*/*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            if "{P.paper_auroc" not in source:
                continue
            rows = {"label": ["macro"], "auroc": [0.9]}
            methods = ["text teacher", "bag of words", "bag of words, names kept"]
            macro = pd.DataFrame({"method": methods, "auroc": 0.9})
            parameters = SimpleNamespace(paper_auroc=float("nan"), kept_seeds=[])
            exec(source, {"pd": pd, "P": parameters, "test": pd.DataFrame(rows), "macro": macro, "counts": {}})
            found += 1
            assert "nan" not in capsys.readouterr().out, path.name
    assert found == 2


def test_predictions_are_compared_on_the_seeds_that_two_methods_share():
    """The cell of mmpkd/05 that pairs them: the baseline and the distilled student have three, a control has one."""
    notebook = json.loads((paths.PROJECT_ROOT / "notebooks" / "mmpkd" / "05-compare.ipynb").read_text())
    sources = ("".join(cell["source"]) for cell in notebook["cells"])
    cell = next(source for source in sources if "def macro_difference(" in source)
    rng, order = np.random.default_rng(0), [f"i{k}" for k in range(8)]
    truth, students = np.arange(8)[:, None] % 2.0, {"baseline": (0, 1, 2, 3), "mmpkd": (1, 2, 3), "permuted": (2,)}
    rows = [pd.DataFrame({"method": method, "seed": seed, "image_id": order, "a": rng.standard_normal(8)})
            for method, seeds in students.items() for seed in seeds]  # fmt: skip
    test = pd.concat(rows)
    auroc = [metrics.auroc(truth[:, 0], one["a"]) for one in rows]
    scores = pd.DataFrame([{"label": "macro", **one.iloc[0][["method", "seed"]]} for one in rows]).assign(auroc=auroc)
    names = {"test": test, "scores": scores, "truth": truth, "order": order, "trained": list(students), "pd": pd}
    names |= {"np": np, "metrics": metrics, "claims": claims, "scores_of": lambda one: one[["a"]].to_numpy()}
    names["prepared"] = SimpleNamespace(images=pd.DataFrame({"patient_id": order}, index=order))
    exec(cell, names)
    difference = scores.pivot(index="seed", columns="method", values="auroc")
    difference = (difference["mmpkd"] - difference["baseline"]).dropna().mean()
    assert list(names["one"].index) == [1, 2, 3]
    assert names["macro_difference"](np.ones((1, 8)))[0] == pytest.approx(difference)
    other, ours = names["both"]("mmpkd", "baseline")
    assert len(other) == 3 and (ours - other).to_numpy().mean() == pytest.approx(difference)
    assert [len(one) for one in names["both"]("mmpkd", "permuted")] == [1, 1]
