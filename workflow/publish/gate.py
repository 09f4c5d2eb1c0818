"""The gate between runs and the book: only whole runs, and nothing of them that may not be shown.

`python -m workflow.publish.gate --profile demo` checks every run of a profile and copies the executed notebooks to
`book/_generated/`; `--html _build/html` checks what the book became; `--committed` checks the files that git knows.
Exit code 1 and one line a finding if anything is wrong; then nothing is copied.

What a run may show stands in its `run.json` under `cohort`, written by the loader: `credentialed`, `simulated`,
`shareable_text`, `shareable_images`. What is not said is not allowed. Of a cohort that is credentialed, or whose text
or images may not be shown, only what is on a short list may stay (`executed.py`).
"""

import argparse
import copy
import json
import re
import sys
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from pkd_utils.runs import files, notebooks, paths, showing
from workflow.publish import executed, leaks
from workflow.publish.executed import digest

GENERATED = paths.PROJECT_ROOT / "book" / "_generated"
MANIFEST = "manifest.json"
SOURCES = "sources"  # below GENERATED: notebooks of restricted runs as they were before they ran


@dataclass(frozen=True)
class Permission:
    """What the pages of a run may show; nothing, unless its cohort says so."""

    simulated: bool = False
    text: bool = False
    images: bool = False

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Permission":
        """Read `run.json`; only the value `true` counts as permission."""
        allowed = showing.permitted(record.get("cohort"))
        return cls(*(allowed[name] for name in showing.PERMISSIONS))

    @property
    def restricted(self) -> bool:
        """Whether only what is on the gate's short list may stay on a page."""
        return not (self.text and self.images)


def output_images(cell: Any) -> list[bytes]:
    """Image outputs of a code cell as the bytes that the book will hold."""
    found = []
    for output in cell.get("outputs", []):
        for kind, value in output.get("data", {}).items():
            if kind.startswith("image/"):
                found.append(value.encode() if kind == "image/svg+xml" else b64decode(value))
    return found


def open_findings(notebook: Any, allowed: Permission) -> list[str]:
    """Say what a notebook whose cohort permits text and images may not show all the same.

    Identifiers, unless they are simulated; and simulated data without the word.
    """
    found = []
    for number, cell in enumerate(notebook.cells, start=1):
        text = re.sub(r'"image/\w+": "[^"]*"', "", json.dumps({**cell, "id": ""}, ensure_ascii=False))
        count = 0 if allowed.simulated else len(leaks.identifiers(text))
        if count:
            found.append(f"cell {number} shows {count} strings that look like MIMIC identifiers")
    if allowed.simulated and not re.search("simulated", json.dumps(notebook, ensure_ascii=False), re.I):
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


def run_findings(folder: Path) -> list[str]:
    """Everything that keeps a finished run's notebook out of the book; an empty list lets it in."""
    found = notebooks.run_problems(folder)
    if found:
        return found
    record = files.read_json(folder / "run.json")
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    allowed = Permission.of(record)
    found += order_findings(notebook) + alt_findings(notebook)
    if not allowed.restricted:
        return found + open_findings(notebook, allowed)
    try:
        return found + executed.findings(notebook, record, folder)
    except FileNotFoundError as error:
        return [*found, f"a run that it read is not here, so that nobody can say what it may not show: {error}"]


def launches(notebook: str) -> list[str]:
    """Links that open a notebook elsewhere, where CITATION.cff has the repository's address on GitHub."""
    cited = yaml.safe_load((paths.PROJECT_ROOT / "CITATION.cff").read_text())
    _, found, place = str(cited.get("repository-code", "")).rstrip("/").partition("https://github.com/")
    path = f"notebooks/{notebook}.ipynb"
    colab = f"[Colab](https://colab.research.google.com/github/{place}/blob/main/{path})"
    binder = f"[Binder](https://mybinder.org/v2/gh/{place}/main?labpath={path})"
    return [colab, binder] if found else []


def run_note(record: dict[str, Any], page: str) -> str:
    """The line under a page's title: which run it shows, and its notebook, of a restricted run without results."""
    said = f"Run `{record['reference']}`: {record['seconds']:.0f} s on {record['device']}"
    if record.get("commit"):
        said += f", commit `{record['commit'][:10]}`" + (" with changes" if record.get("uncommitted_changes") else "")
    data = (record.get("cohort") or {}).get("title")
    if Permission.of(record).simulated:
        said += ". Simulated data" + (f": {data}" if data else "")
    elif data:
        said += f". Data: {data}"
    study, _, step, _ = record["reference"].split("/")
    if Permission.of(record).restricted:
        said += f". {{download}}`Download its source, without results <../{SOURCES}/{study}/{step}.ipynb>`"
    else:
        file = page.split("/")[-1]
        said += f". {{download}}`Download the notebook <{file}.ipynb>`"
    if opened := launches(f"{study}/{step}"):
        said += f", or open it in {' or '.join(opened)}"
    return f"```{{div}} run-note\n{said}.\n```"


def write_text(target: Path, text: str) -> None:
    """Write a page, and leave an unchanged one alone, so that Sphinx does not render it again."""
    text = text.rstrip() + "\n"
    if not target.exists() or target.read_text() != text:
        with files.atomic_path(target) as temporary:
            temporary.write_text(text)


def without_results(notebook: Any) -> Any:
    """An executed notebook as it was before it ran: no output, no count, no injected parameters."""
    source = copy.deepcopy(notebook)
    source.cells = [cell for cell in source.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in source.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return source


def copy_page(folder: Path, page: str, generated: Path) -> dict[str, Any]:
    """Copy a run's notebook to `<generated>/<page>.ipynb`, without papermill's paths; returns its manifest entry."""
    record = files.read_json(folder / "run.json")
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
    allowed = Permission.of(record)
    if allowed.restricted:
        study, _, step, _ = record["reference"].split("/")
        write_text(generated / SOURCES / study / f"{step}.ipynb", nbformat.writes(without_results(notebook)))
    first = next((i for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"), -1)
    notebook.cells.insert(first + 1, nbformat.v4.new_markdown_cell(run_note(record, page), id="run-note"))
    write_text(generated / f"{page}.ipynb", nbformat.writes(notebook))
    images = [digest(image) for cell in notebook.cells for image in output_images(cell)]
    return {"page": page, **vars(allowed), "images_sha256": images, "run": record}


def collect(pages: dict[str, Path], generated: Path) -> list[str]:
    """Check runs and, if all pass, copy their notebooks into `book/_generated` and write its manifest.

    `pages` maps names (`mmpkd/03-distil-student.baseline`) to folders of finished runs; other notebooks there, of an
    earlier profile, are removed. Findings are a line each, naming the page; if there are any, nothing is copied.
    """
    if not pages:
        return ["There are no runs to show: run the profile first (make runs)."]
    if found := [f"{page}: {what}" for page, folder in pages.items() for what in run_findings(folder)]:
        return found
    for old in sorted(generated.rglob("*.ipynb")) if generated.exists() else []:
        if old.relative_to(generated).as_posix().removesuffix(".ipynb") not in pages:
            old.unlink()  # sources too: those of these pages are written anew
    entries = [copy_page(folder, page, generated) for page, folder in pages.items()]
    files.write_json(generated / MANIFEST, entries)
    return []


def profile_pages(profile: str, left_out: dict[str, str] | None = None) -> dict[str, Path]:
    """Page name -> run folder of every run that `params/<profile>/` describes and that is finished.

    `left_out` is filled with page name -> why it is not there: data or weights are not here, or it has not been run.
    """
    left_out = {} if left_out is None else left_out
    jobs = notebooks.plan(profile, left_out=left_out)
    left_out.update({job.name: "not finished yet" for job in jobs if job.state == "to run"})
    return {job.name: job.folder for job in jobs if job.state != "to run"}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    from workflow.publish import committed, site

    parser = argparse.ArgumentParser(prog="python -m workflow.publish.gate", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", help="check this profile's runs and copy them to book/_generated")
    parser.add_argument("--html", type=Path, help="check a built book")
    parser.add_argument("--committed", action="store_true", help="check the files that git knows")
    given = parser.parse_args(arguments)
    if not (given.profile or given.html or given.committed):
        parser.error("say what to check: --profile NAME, --html FOLDER or --committed")
    found: list[str] = []
    if given.profile:
        left_out: dict[str, str] = {}
        pages = profile_pages(given.profile, left_out)
        found += collect(pages, GENERATED)
        if not found:
            print(f"gate: {len(pages)} runs of the profile {given.profile} are whole and may be shown")
            print(*(f"gate: {line}" for line in notebooks.said_of(left_out)), sep="\n", end="\n" * bool(left_out))
    if given.html:
        found += site.site_findings(given.html, GENERATED)
    if given.committed:
        found += committed.committed_findings(paths.PROJECT_ROOT)
    for line in found:
        print(f"gate: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
