"""Every table and figure of the book that may be shown, for a paper: `make paper-figures`.

Into `_build/paper-figures/`, tables as CSV and LaTeX, figures as PDF and PNG. Figures of stored results are drawn
anew; those of notebooks are what the run kept of the pictures that passed the gate. Tables of a run are taken where
the cohort lets everything be shown, as far as they have a reader's size and no row an image or patient; of other runs
there is what `book/results/` stores.
"""

import argparse
import shutil
import sys
from base64 import b64decode
from pathlib import Path

import nbformat
import pandas as pd

from pkd_utils.runs import paths, run, showing
from pkd_utils.runs.files import read_json
from workflow.publish import gate, pages
from workflow.publish.pages import markdown

TARGET = paths.PROJECT_ROOT / "_build" / "paper-figures"


MOST_ROWS = 60


def readable(file: Path) -> pd.DataFrame | None:
    """A run's table, or None if it is empty, long, or has a row an image or patient."""
    table = pd.read_csv(file) if file.read_text().strip() else pd.DataFrame()
    return None if table.empty or len(table) > MOST_ROWS or showing.IDENTIFIERS & set(table) else table


def write_table(table: pd.DataFrame, file: Path) -> None:
    """A table as CSV and as LaTeX."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(file.with_suffix(".csv"), index=False)
    columns = {name: markdown.heading(name).replace("_", " ") for name in table}
    plain = table.rename(columns=columns).map(lambda value: markdown.cell(value).replace("\\|", "|"))
    file.with_suffix(".tex").write_text(latex(plain))


def latex(table: pd.DataFrame) -> str:
    """A table of texts in LaTeX's booktabs."""
    special = {sign: f"\\{sign}" for sign in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    rows = [[str(value).translate(str.maketrans(special)) for value in row] for row in [table.columns, *table.values]]
    head, *body = [" & ".join(row) + r" \\" for row in rows]
    lines = [f"\\begin{{tabular}}{{{'l' * table.shape[1]}}}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def take(png: Path, folder: Path) -> None:
    """A figure as PNG and PDF."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (png, png.with_suffix(".pdf")):
        shutil.copy(file, folder)


def of_notebook(notebook: Path, folder: Path, name: str) -> int:
    """The pictures of a page's notebook, as the run kept them in `folder`; returns their number."""
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.outputs]
    passed = {b64decode(data["image/png"]) for data in outputs if "image/png" in data}
    kept = [file for file in sorted(folder.glob("figures/*.png")) if file.read_bytes() in passed]
    for png in kept:
        take(png, TARGET / name)
    return len(kept)


def of_results(stored: Path) -> int:
    """The tables of one file of book/results; returns their number."""
    value = pd.read_csv(stored).to_dict("records") if stored.suffix == ".csv" else read_json(stored)
    tables = value.items() if isinstance(value, dict) else [("table", value)]
    found = 0
    for name, rows in tables:
        if isinstance(rows, list) and rows and isinstance(rows[0], dict) and name != "figures":
            write_table(pd.DataFrame(rows), TARGET / "results" / f"{stored.stem}-{name.replace(' ', '-')}")
            found += 1
    return found


def collect(profile: str, book: Path) -> tuple[int, int]:
    """Write everything; returns the numbers of tables and of figures."""
    generated = book / "_generated"
    manifest = generated / gate.MANIFEST
    if not manifest.exists():
        raise FileNotFoundError("No run has passed the gate yet: build the book first (make pages).")
    markdown.FORMATS.append("pdf")
    pages.write_all(profile, book)
    drawings = [file for file in generated.glob("*.png") if file.with_suffix(".pdf").exists()]
    for png in drawings:
        take(png, TARGET / "results")
    figures, tables = len(drawings), sum(map(of_results, sorted((book / "results").glob("*.[cj]s*"))))
    for entry in read_json(manifest):
        folder = run.find_run(entry["run"]["reference"])
        figures += of_notebook(generated / f"{entry['page']}.ipynb", folder, entry["page"])
        if entry["text"] and entry["images"]:
            for file in sorted(folder.glob("*.csv")):
                if (table := readable(file)) is not None:
                    write_table(table, TARGET / entry["page"] / file.stem)
                    tables += 1
    return tables, figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="demo", help="profile whose runs the book shows")
    try:
        tables, figures = collect(parser.parse_args().profile, paths.PROJECT_ROOT / "book")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{tables} tables as CSV and LaTeX, {figures} figures as PDF and PNG: {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
