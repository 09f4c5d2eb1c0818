"""The page "What can go wrong": each test that it names is there, and each test of this folder stands on it."""

import ast
import re

from pkd_utils.runs.paths import PROJECT_ROOT

HERE = "tests/faults/"
# Neighbours of what the page names: the other side of a promise, or its means.
WITHOUT_A_LINE = {
    "test_parameters_that_say_so_may_be_negative_none_or_of_another_step",
    "test_views_that_no_picture_has",
    "test_a_quoted_comma_is_no_field",
    "test_a_source_without_pictures_has_none",
    "test_what_stands_under_a_header_is_found_again",
    "test_there_is_no_network_where_the_notebooks_are_run",
}


def found_in(path: str) -> set[str]:
    tree = ast.parse((PROJECT_ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_each_promise_has_its_test():
    page = (PROJECT_ROOT / "book" / "what-can-go-wrong.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("| ") and row != "| promise | test |"]
    named = [re.fullmatch(r"\| .+ \| `(tests/[\w/]+\.py)::(test_\w+)` \|", row) for row in rows]
    assert rows and all(named), [row for row, match in zip(rows, named, strict=True) if not match]
    absent = [match[0] for match in named if match[2] not in found_in(match[1])]
    assert not absent, absent
    files = {path.name for path in (PROJECT_ROOT / HERE).glob("test_*.py")} - {"test_page.py"}
    ours = {(HERE + file, test) for file in files for test in found_in(HERE + file) - WITHOUT_A_LINE}
    assert ours == {match.groups() for match in named if match[1].startswith(HERE)}
