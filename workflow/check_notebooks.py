"""Refuse notebooks that may not be committed: `python workflow/check_notebooks.py [--strict] [FILES]`.

A committed notebook has run: every code cell has a count, some have outputs, none an error, figures have alt text, and
what imports, draws or writes is folded away. It carries no metadata of the run that made it (papermill's). A code cell
should have at most 40 lines (parameters may have more) of at most 88 columns, because the book's page cuts longer ones:
a warning, an error with `--strict`. pre-commit and the tests run this.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES, MOST_COLUMNS = 40, 88
PLUMBING = re.compile(r"\A(?:import|from) |\brun\.(?:show|save|publish)\(")
"""Cells that import, draw or write: from four lines they fold away on the page, which is for the method."""
FOLDED = {"hide-input", "parameters"}  # parameters are always seen


def code_cells(notebook: dict) -> list[tuple[int, dict]]:
    return [(n, cell) for n, cell in enumerate(notebook["cells"], 1) if cell["cell_type"] == "code"]


def faults(notebook: dict) -> list[str]:
    """Why a notebook may not be committed, a sentence each."""
    code = code_cells(notebook)
    found = []
    if not any(cell["outputs"] for _, cell in code):
        found.append("has no outputs: run make notebooks")
    if "papermill" in notebook["metadata"]:
        found.append("has papermill's metadata: run make notebooks")
    for number, cell in code:
        if cell["source"] and cell["execution_count"] is None:
            found.append(f"cell {number} has no execution count: run make notebooks")
        if "papermill" in cell["metadata"] or "injected-parameters" in cell["metadata"].get("tags", []):
            found.append(f"cell {number} was written by papermill: commit the source, not the executed copy")
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            found.append(f"cell {number} ends in an error")
        source, folded = "".join(cell["source"]), FOLDED & set(cell["metadata"].get("tags", []))
        if len(source.splitlines()) > 3 and PLUMBING.search(source) and not folded:
            found.append(f"cell {number} imports, draws or writes: tag it hide-input, so that its page folds it")
        drawn = any("image/png" in output.get("data", {}) for output in cell["outputs"])
        if drawn and not cell["metadata"].get("mystnb", {}).get("image", {}).get("alt"):
            found.append(f"cell {number} shows a figure without alt text: say it in mystnb.image.alt of its metadata")
    return found


def long_cells(notebook: dict) -> list[str]:
    """Cells that the book's page would cut or that no reader takes in at once, a sentence each."""
    found = []
    for number, cell in code_cells(notebook):
        lines = "".join(cell["source"]).splitlines()
        if len(lines) > MOST_LINES and "parameters" not in cell["metadata"].get("tags", []):
            found.append(f"cell {number} has {len(lines)} lines, more than {MOST_LINES}: split it")
        wide = max(map(len, lines), default=0)
        if wide > MOST_COLUMNS:
            found.append(f"cell {number} has a line of {wide} columns, more than {MOST_COLUMNS}")
    return found


def main(names: list[str]) -> int:
    strict, bad = "--strict" in names, False
    files = [Path(name) for name in names if name != "--strict"]
    for path in files or sorted((ROOT / "notebooks").glob("*/*.ipynb")):
        notebook = json.loads(path.read_text())
        wrong, long = faults(notebook), long_cells(notebook)
        for sentence in wrong + long:
            print(f"{path.parent.name}/{path.name} {sentence}.", file=sys.stderr)
        bad = bad or bool(wrong) or (strict and bool(long))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
