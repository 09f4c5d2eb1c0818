"""The gate between runs and the book: only whole runs, and nothing of them that may not be shown.

`python -m workflow.publish.gate --profile demo` checks every run of a profile and copies the executed notebooks to
`book/_generated/`; `--html _build/html` checks what the book became; `--committed` checks the files that git knows.
Exit code 1 and one line a finding if anything is wrong; then nothing is copied.

What a run may show stands in its `run.json` under `cohort`, written by the loader: `simulated`, `shareable_text`,
`shareable_images`. What is not said is not allowed.
"""

import argparse
import hashlib
import json
import re
import sys
from base64 import b64decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from pkd_utils.runs import files, notebooks, paths, run
from workflow.publish import leaks

GENERATED = paths.PROJECT_ROOT / "book" / "_generated"
MANIFEST = "manifest.json"
TEXT_TYPES = ("text/plain", "text/html", "text/markdown", "text/latex", "application/json")


@dataclass(frozen=True)
class Permission:
    """What the pages of a run may show; nothing, unless its cohort says so."""

    simulated: bool = False
    text: bool = False
    images: bool = False

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Permission":
        """Read `run.json`; only the value `true` counts as permission."""
        cohort = record.get("cohort") or {}
        names = ("simulated", "shareable_text", "shareable_images")
        return cls(*(cohort.get(name) is True for name in names))


def output_texts(cell: Any) -> Iterator[str]:
    """Texts of a code cell's outputs, HTML reduced to what it shows."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.text
        for kind, value in output.get("data", {}).items():
            if kind == "text/html":
                yield leaks.Page(value).text
            elif kind in TEXT_TYPES:
                yield value if isinstance(value, str) else json.dumps(value)


def output_images(cell: Any) -> list[bytes]:
    """Image outputs of a code cell as the bytes that the book will hold."""
    found = []
    for output in cell.get("outputs", []):
        for kind, value in output.get("data", {}).items():
            if kind.startswith("image/"):
                found.append(value.encode() if kind == "image/svg+xml" else b64decode(value))
    return found


def image_findings(cell: Any) -> list[str]:
    """Ways in which a cell shows pixels or what nobody can check."""
    found = []
    if output_images(cell):
        found.append("shows an image")
    if cell.get("attachments"):
        found.append("holds an attached image")
    for output in cell.get("outputs", []):
        for kind, value in output.get("data", {}).items():
            if kind == "text/html" and re.search(
                r"<(?:img|svg|canvas|video|object|embed|iframe|script)\b", value, re.I
            ):
                found.append("shows an image inside HTML")
            elif not kind.startswith("image/") and kind not in TEXT_TYPES:
                found.append(f"has output of type {kind}, which cannot be checked")
    if cell.cell_type == "markdown" and re.search(r"!\[|<img\b|data:image", cell.source):
        found.append("shows an image in its text")
    return found


def own_source(notebook: Any) -> list[str]:
    """The project's own words: the notebook's cells and the library, which hold no patient's data.

    The simulator's phrases and the label terms are left out: they are made to sound like reports.
    """
    root = paths.PROJECT_ROOT / "pkd_utils"
    modules = [item for item in sorted(root.rglob("*.py")) if "demo" not in item.parts and item.stem != "label_terms"]
    return [cell.source for cell in notebook.cells] + [module.read_text() for module in modules]


def content_findings(
    notebook: Any, allowed: Permission, corpus: Iterable[str] = (), known: Iterable[str] = ()
) -> list[str]:
    """Say what an executed notebook shows that its run's cohort does not permit.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        The executed notebook.
    allowed : Permission
        From the run's `run.json`.
    corpus : iterable of str
        The run's own report texts, if it has any at hand: outputs may not repeat them.
    known : iterable of str
        Further harmless texts, such as the cohort's title and citation.

    Returns
    -------
    list of str
        One sentence a finding, with the cell's number and without the thing itself.
    """
    found = []
    shown = []
    own = [] if allowed.text else [*own_source(notebook), *known]
    for number, cell in enumerate(notebook.cells, start=1):
        texts = list(output_texts(cell)) if cell.cell_type == "code" else []
        shown += [*texts, cell.source]
        if not allowed.simulated:
            count = len(leaks.identifiers("\n".join([*texts, cell.source])))
            if count:
                found.append(f"cell {number} shows {count} strings that look like MIMIC identifiers")
        if not allowed.images:
            found += [
                f"cell {number} {what}, and the cohort is not marked shareable_images" for what in image_findings(cell)
            ]
        if not allowed.text:
            for text in texts:
                found += [
                    f"cell {number} shows {what}, and the cohort is not marked shareable_text"
                    for what in leaks.report_text(text, own)
                ]
            repeated = leaks.repeated_from("\n".join(texts), corpus, own) if texts else 0
            if repeated:
                found.append(f"cell {number} repeats words of {repeated} report texts of its own run")
    if allowed.simulated and not re.search("simulated", "\n".join(shown), re.I):
        found.append('it shows simulated data and never says "simulated"')
    return found


def order_findings(notebook: Any) -> list[str]:
    """Say whether cells were run in order, once each: counts must be 1, 2, 3 ... over the cells that hold code."""
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if not counts:
        return ["it has no code cells"]
    if counts != list(range(1, len(counts) + 1)):
        return ["its cells were not run once each, from first to last"]
    return []


def alt_findings(notebook: Any) -> list[str]:
    """Name the cells that show an image without alt text in `metadata.mystnb.image.alt`."""
    found = []
    for number, cell in enumerate(notebook.cells, start=1):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if cell.cell_type == "code" and output_images(cell) and not str(alt).strip():
            found.append(f"cell {number} shows an image without alt text (cell metadata mystnb.image.alt)")
    return found


def report_corpus(folder: Path, record: dict[str, Any]) -> Iterator[str]:
    """Report texts that a run and the runs it read have stored (`privileged.parquet`, column `text`)."""
    import pandas as pd

    folders = [folder]
    for reference in record.get("upstream", {}):
        folders.append(run.find_run(reference))
    for file in [item for place in folders for item in sorted(place.rglob("privileged.parquet"))]:
        table = pd.read_parquet(file)
        if "text" in table:
            yield from table["text"].dropna().astype(str)


def run_findings(folder: Path) -> list[str]:
    """Everything that keeps a finished run's notebook out of the book; an empty list lets it in."""
    found = notebooks.run_problems(folder)
    if found:
        return found
    record = files.read_json(folder / "run.json")
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    for name, facts in record["artefacts"].items():
        if "sha256" in facts and files.file_sha256(folder / name) != facts["sha256"]:
            found.append(f"artefact {name} is not the one that run.json describes")
    allowed = Permission.of(record)
    corpus = [] if allowed.text else report_corpus(folder, record)
    known = [str(value) for value in (record.get("cohort") or {}).values()]
    found += order_findings(notebook) + alt_findings(notebook)
    return found + content_findings(notebook, allowed, corpus, known)


def run_note(record: dict[str, Any]) -> str:
    """The line under a page's title that says which run it shows."""
    said = f"Run `{record['reference']}`: {record['seconds']:.0f} s on {record['device']}"
    if record.get("commit"):
        said += f", commit `{record['commit'][:10]}`" + (" with changes" if record.get("uncommitted_changes") else "")
    data = (record.get("cohort") or {}).get("title")
    if Permission.of(record).simulated:
        said += ". Simulated data" + (f": {data}" if data else "")
    elif data:
        said += f". Data: {data}"
    return f"```{{div}} run-note\n{said}.\n```"


def copy_page(folder: Path, page: str, generated: Path) -> dict[str, Any]:
    """Copy a run's notebook to `<generated>/<page>.ipynb`, without papermill's paths; returns its manifest entry."""
    record = files.read_json(folder / "run.json")
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
    first = next((i for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"), -1)
    notebook.cells.insert(first + 1, nbformat.v4.new_markdown_cell(run_note(record), id="run-note"))
    text = nbformat.writes(notebook)
    target = generated / f"{page}.ipynb"
    # An unchanged file keeps its date, so that Sphinx does not render the page again.
    if not target.exists() or target.read_text() != text:
        with files.atomic_path(target) as temporary:
            temporary.write_text(text)
    allowed = Permission.of(record)
    images = [hashlib.sha256(image).hexdigest() for cell in notebook.cells for image in output_images(cell)]
    return {"page": page, **vars(allowed), "images_sha256": images, "run": record}


def collect(pages: dict[str, Path], generated: Path = GENERATED) -> list[str]:
    """Check runs and, if all pass, copy their notebooks into the book and write its manifest.

    Parameters
    ----------
    pages : dict
        Page name (`mmpkd/03-distil-student.baseline`) -> folder of the finished run.
    generated : Path
        `book/_generated`. Notebooks there that are not in `pages` are removed: they belong to an earlier profile.

    Returns
    -------
    list of str
        Findings, one line each, naming the page. If there are any, nothing is copied.
    """
    found = [f"{page}: {what}" for page, folder in pages.items() for what in run_findings(folder)]
    if not pages:
        found = ["There are no runs to show: run the profile first (make runs)."]
    if found:
        return found
    for old in sorted(generated.rglob("*.ipynb")) if generated.exists() else []:
        if old.relative_to(generated).as_posix().removesuffix(".ipynb") not in pages:
            old.unlink()
    entries = [copy_page(folder, page, generated) for page, folder in pages.items()]
    files.write_json(generated / MANIFEST, entries)
    return []


def profile_pages(profile: str) -> dict[str, Path]:
    """Page name -> run folder of every run that `params/<profile>/` describes."""
    return {job.name: job.folder for job in notebooks.plan(profile)}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    from workflow.publish import site

    parser = argparse.ArgumentParser(prog="python -m workflow.publish.gate", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", help="check this profile's runs and copy them to book/_generated")
    parser.add_argument("--html", type=Path, help="check a built book")
    parser.add_argument("--committed", action="store_true", help="check the files that git knows")
    parser.add_argument("--generated", type=Path, default=GENERATED, help="default book/_generated")
    given = parser.parse_args(arguments)
    if not (given.profile or given.html or given.committed):
        parser.error("say what to check: --profile NAME, --html FOLDER or --committed")
    found: list[str] = []
    if given.profile:
        pages = profile_pages(given.profile)
        found += collect(pages, given.generated)
        if not found:
            print(f"gate: {len(pages)} runs of the profile {given.profile} are whole and may be shown")
    if given.html:
        found += site.site_findings(given.html, given.generated)
    if given.committed:
        found += site.committed_findings(paths.PROJECT_ROOT)
    for line in found:
        print(f"gate: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
