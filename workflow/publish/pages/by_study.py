"""The contents of a profile with runs that `book/_toc.yml`, written for `demo`, does not list, such as `paper`.

Its prose is kept; the runs follow below their study, beside its paper's tables and figures, a chapter a notebook.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat

from workflow.publish.gate import write_text
from workflow.publish.pages import papers
from workflow.publish.pages.contents import GENERATED, all_of

CAPTIONS = {"mmpkd": "Attention with privileged information"}  # else of the part that has the study's first run
PAPER = "beside-the-paper"  # <study>/<this>: the tables and figures of the study's paper, beside ours


def page_of_run(file: str) -> str:
    """The page of a run that an entry names, `mmpkd/03-distil-student.grid`; "" if it is of no run."""
    page = file.removeprefix(GENERATED)
    return page if page != file and re.search(r"/\d\d-", page) else ""


def prose(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries but for runs; what stood below a run takes its place."""
    found = []
    for entry in entries:
        below = prose(entry.get("sections", []))
        whole = {name: value for name, value in {**entry, "sections": below}.items() if value}
        found += below if page_of_run(entry["file"]) else [whole]
    return found


def heading(notebook: Path) -> str:
    """The title of a notebook: its first line."""
    return nbformat.read(notebook, as_version=4).cells[0].source.split("\n")[0].removeprefix("# ")


def chapters(study: str, records: dict[str, dict[str, Any]], generated: Path) -> list[dict[str, Any]]:
    """A chapter a notebook of a study: its first run, and the others, a cohort after another, below it."""
    steps: dict[str, list[str]] = {}
    for page in sorted(records):
        if page.startswith(f"{study}/"):
            steps.setdefault(page.partition(".")[0], []).append(page)
    found = []
    for step, pages in steps.items():
        cohorts = list(dict.fromkeys(record["parameters"]["cohort"] for record in records.values()))
        pages.sort(key=lambda page: cohorts.index(records[page]["parameters"]["cohort"]))
        title = f"{int(step.split('/')[1][:2])} {heading(generated / f'{pages[0]}.ipynb')}"
        named = [page.partition(".")[2] or records[page]["parameters"]["cohort"].replace("_", "-") for page in pages]
        first, *others = [{"file": GENERATED + page, "title": name} for page, name in zip(pages, named, strict=True)]
        first["title"] = f"{title}: {first['title']}" if others else title
        found.append(first | ({"sections": others} if others else {}))
    return found


def by_study(toc: dict[str, Any], records: dict[str, dict[str, Any]], generated: Path) -> dict[str, Any]:
    """The prose of a table of contents, and below each study's caption its paper's page and its runs."""
    parts: dict[str, dict[str, Any]] = {}
    for part in toc["parts"]:
        runs = [page for file in (entry["file"] for entry in all_of(part["chapters"])) if (page := page_of_run(file))]
        study = runs[0].split("/")[0] if runs else part["caption"]
        here = parts.setdefault(study, {"caption": CAPTIONS.get(study, part["caption"]), "chapters": []})
        here["chapters"] += prose(part["chapters"])
    for study in dict.fromkeys(page.split("/")[0] for page in records):
        here = parts.setdefault(study, {"caption": study, "chapters": []})
        if study in papers.STUDIES:
            here["chapters"].insert(0, {"file": f"{GENERATED}{study}/{PAPER}"})
            write_text(generated / study / f"{PAPER}.md", papers.page(study, records, generated))
        here["chapters"] += chapters(study, records, generated)
    return {**toc, "parts": [part for part in parts.values() if part["chapters"]]}
