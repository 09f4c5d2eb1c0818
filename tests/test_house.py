"""The house stays one that people can live in: rooms, arrows, names, sizes, nothing dead."""

import ast
import importlib
import json
import re
import subprocess
import sys

import pytest

from pkd_utils.runs.paths import PROJECT_ROOT

ROOMS = {"runs", "images", "statistics", "localization", "demo", "cohorts", "encoders", "distillation", "studies"}
BESIDE = {"notebooks", "workflow", "faults"}  # what tests of no room are about
OURS = ("pkd_utils", "workflow", "tests", "benchmarks")
PROMISED = {
    "pkd_utils.distillation": ["soft_labels", "distillation_loss"],
    "pkd_utils.localization": ["pixel_auroc", "boxes_from_map", "best_iou", "false_positive_rate"],
    "pkd_utils.encoders": ["load_image_encoder", "load_text_encoder"],
    "pkd_utils.cohorts": ["load_cohort"],
    "pkd_utils.cohorts.report_sections": ["report_text"],
    "pkd_utils.cohorts.label_terms": ["surviving_terms", "remove_label_terms"],
    "pkd_utils.images.ct.volumes": ["read_volume", "find_volumes"],
    "pkd_utils.images.ct.radiograph": ["make_radiograph"],
    "pkd_utils.images.dicom": ["read_grey", "read_header"],
    "pkd_utils.images.decode": ["read_image"],
    "pkd_utils.encoders.weights": ["read_weights"],
    "pkd_utils.statistics.comparisons": ["mann_whitney"],
    "pkd_utils.runs.parameters": ["read_file", "resolve"],
}


def sources(*folders: str):
    """Python files of these folders, with their text."""
    for folder in folders:
        for file in sorted((PROJECT_ROOT / folder).rglob("*.py")):
            yield file.relative_to(PROJECT_ROOT).as_posix(), file.read_text()


def own_private(name: str) -> bool:
    """Whether a name is private: one underscore, not the two of `__init__`."""
    return name.startswith("_") and not name.startswith("__")


def private_names_used(text: str) -> list[str]:
    """Private names of other modules of ours that this source imports, reads, or patches by name."""
    tree, modules, found = ast.parse(text), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            modules |= {alias.asname or alias.name for alias in node.names}
            found += [alias.name for alias in node.names if own_private(alias.name)]
            found += [part for part in node.module.split(".") if own_private(part)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            found += [f"{node.value.id}.{node.attr}"] if own_private(node.attr) else []
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr" and len(node.args) > 1:
            target, name = node.args[:2]
            known = isinstance(target, ast.Name) and target.id in modules and isinstance(name, ast.Constant)
            found += [f"{target.id}.{name.value}"] if known and own_private(name.value) else []
    return found


def test_the_library_holds_its_rooms_and_nothing_else():
    here = {path.name for path in (PROJECT_ROOT / "pkd_utils").iterdir() if path.name != "__pycache__"}
    assert here == ROOMS | {"__init__.py", "__main__.py"}


def test_tests_mirror_the_rooms():
    tests = PROJECT_ROOT / "tests"
    for file in tests.rglob("test_*.py"):
        room = file.relative_to(tests).parent.as_posix()
        beside = room == "." or room.split("/")[0] in BESIDE
        assert beside or (PROJECT_ROOT / "pkd_utils" / room).is_dir(), f"{file} tests no room"
    assert {path.name for path in tests.iterdir() if path.is_dir()} >= ROOMS


def test_no_private_name_crosses_a_file():
    crossing = {file: names for file, text in sources(*OURS) if (names := private_names_used(text))}
    assert not crossing


@pytest.mark.parametrize(
    ("imported", "used"),
    [("_x", ""), ("run as _x", ""), ("run", "run._x"), ("run", "monkeypatch.setattr(run, '_x', 1)")],
)
def test_a_crossing_private_name_is_seen(imported, used):
    text = f"from pkd_utils.runs import {imported}\n{used}"
    assert bool(private_names_used(text)) == ("as" not in imported)
    assert not private_names_used(text.replace("_x", "x"))


def test_no_file_of_the_library_is_longer_than_a_reader_can_hold():
    long = {file: n for file, text in sources("pkd_utils", "workflow") if (n := len(text.splitlines())) > 400}
    assert not long, "past 400 lines a file becomes a folder with a public face"


def test_no_p_value_is_printed_by_digits_of_its_own():
    """`comparisons.p_text` and `p_columns` know what is too small for them; "p = 0.000" is no number."""
    texts = [one for one in sources("pkd_utils", "workflow") if one[0] != "pkd_utils/statistics/comparisons.py"]
    texts += [(file.name, file.read_text()) for file in (PROJECT_ROOT / "notebooks").rglob("*.ipynb")]
    by_hand = re.compile(r"""\bp (= )?\{[^}]*:\.\d|\{[^{}]*\b(\w+_)?p(_\w+)?(['"]\])?:\.\d""")
    assert not [(file, found[0]) for file, text in texts for found in by_hand.finditer(text)]


@pytest.mark.parametrize("module", PROMISED)
def test_promised_names_are_there(module):
    assert not [name for name in PROMISED[module] if not hasattr(importlib.import_module(module), name)]


def test_arrows_point_down():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    answer = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-500:]


def test_nothing_in_the_library_is_dead(tmp_path):
    """Every function, class, method and option-holding attribute is used by the library, a notebook or the workflow."""
    for notebook in (PROJECT_ROOT / "notebooks").rglob("*.ipynb"):
        cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
        (tmp_path / f"{notebook.stem.replace('-', '_')}.py").write_text("\n".join("".join(c["source"]) for c in cells))
    snakefile = (PROJECT_ROOT / "workflow" / "Snakefile").read_text()
    used = re.findall(r"(?:\w+\.)+\w+|\)\.\w+", snakefile)
    (tmp_path / "snakefile.py").write_text("\n".join(name.replace(")", "x") for name in used))
    (tmp_path / "overridden.py").write_text("manager.kernel_spec")  # what a base class of others calls
    command = [sys.executable, "-m", "vulture", "pkd_utils", "workflow", "benchmarks", "book", str(tmp_path)]
    answer = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    dead = [line for line in answer.stdout.splitlines() if line.startswith("pkd_utils")]
    assert not dead, "\n".join(dead)
