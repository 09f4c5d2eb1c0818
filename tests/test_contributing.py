"""CONTRIBUTING.md: its examples are files that tests execute, short, and what it names is there."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from pkd_utils.runs import notebooks, paths

ROOT = paths.PROJECT_ROOT
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = {
    "tests/cohorts/example_source.py": "tests/cohorts/test_adding_a_source.py",
    "book/reports/add_an_encoder.py": "tests/encoders/test_adding_an_encoder.py",
    "tests/statistics/test_example_metric.py": "tests/statistics/test_example_metric.py",
    "tests/notebooks/example_notebook.py": "tests/test_contributing.py",
}


@pytest.mark.parametrize(("example", "test"), EXAMPLES.items())
def test_examples_are_short_named_and_executed(example, test):
    code = (ROOT / example).read_text()
    assert len(code.splitlines()) <= 40
    assert f"({example})" in PAGE and f"```python\n{code}```\n" in PAGE, "run python workflow/include_examples.py"
    assert Path(example).stem in (ROOT / test).read_text() or example == test


def test_what_the_page_names_is_there():
    for path in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert path.startswith("https://") or (ROOT / path).exists(), path
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)", PAGE):
        assert f"\n{target}:" in targets, target


def test_modules_of_the_changelog_are_there():
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert len(rows) > 60
    for _, name in rows:
        path = ROOT / ("" if name.startswith("workflow.") else "pkd_utils") / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), name


def cells(text):
    """Cells of a notebook from its text in `# %%` blocks."""
    for kind, body in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n)*)", text, re.M):
        if "markdown" in kind:
            yield nbformat.v4.new_markdown_cell(re.sub(r"^# ?", "", body, flags=re.M).strip())
        else:
            tags = {"tags": ["parameters"]} if "parameters" in kind else {}
            yield nbformat.v4.new_code_cell(body.strip(), metadata=tags)


@pytest.mark.usefixtures("warm_kernels")
def test_the_example_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("PKD_RUNS", str(tmp_path / "runs"))
    (tmp_path / "pkd_utils").mkdir()
    here = f"from pathlib import Path\nfrom pkd_utils.runs import paths\npaths.PROJECT_ROOT = Path({str(tmp_path)!r})"
    notebook = nbformat.v4.new_notebook(
        cells=list(cells((ROOT / "tests/notebooks/example_notebook.py").read_text())),
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}},
    )
    notebook.cells.insert(2, nbformat.v4.new_code_cell(here))
    source = tmp_path / "notebooks" / "background" / "02-estimate-a-mean.ipynb"
    file = tmp_path / "params" / "demo" / "background" / "02-estimate-a-mean.yml"
    for path in (source, file):
        path.parent.mkdir(parents=True)
    nbformat.write(notebook, source)
    file.write_text("run: demo\ndraws: 200\n")
    folder = notebooks.execute(file)
    assert notebooks.run_problems(folder) == [] and len(pd.read_csv(folder / "draws.csv")) == 200
