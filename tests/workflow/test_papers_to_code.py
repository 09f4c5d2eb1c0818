"""The page "Where each part of the papers is": what it names exists, and no figure or table is missing."""

import pkgutil
import re

import pytest

from pkd_utils.runs import parameters, paths

PAGE = (paths.PROJECT_ROOT / "book" / "papers-to-code.md").read_text()
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if re.match(r"\| [^p-]", line)]


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]}: {row[1]}" for row in ROWS])
def test_notebooks_code_and_parameters_of_a_row_exist(row):
    _, _, notebooks, code, set_by = row
    declared = set()
    for name in named(notebooks):
        cells = parameters.code_cells(paths.PROJECT_ROOT / "notebooks" / f"{name}.ipynb")
        source = next(cell["source"] for cell in cells if "parameters" in cell["metadata"]["tags"])
        declared |= set(re.findall(r"^(\w+): ", source, re.M))
    assert declared and named(code) and set(named(set_by)) <= declared
    for name in named(code):
        assert pkgutil.resolve_name(f"pkd_utils.{name}") is not None


def test_every_table_and_figure_of_both_papers_has_a_place():
    first, second = (text.partition("| place |")[2] for text in PAGE.split("\n## ")[1:])
    assert all(place in first for place in ("Figure 1", "Table 1", "equation (1)", "equation (2)"))
    for kind, last in (("Figure", 20), ("Table", 8)):
        found = set()
        for places in re.findall(rf"{kind}s? ((?:\d+|, | to )+)", second):
            for low, high in re.findall(r"(\d+)(?: to (\d+))?", places):
                found |= set(range(int(low), int(high or low) + 1))
        assert found == set(range(1, last + 1)), kind
