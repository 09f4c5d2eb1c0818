"""Status of the book's runs, and results that `make book` cannot repeat."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from pkd_utils.runs.files import read_json
from workflow.publish.pages.markdown import bullets, folded, folded_facts, markdown_table

LEAD = (
    "These results come from runs that `make book` cannot repeat, because the data are not part of the repository. "
    "Each was written by the run itself, as a small file in `book/results/`. [How to run them](../reproduce.md)."
)
NONE = "*No such result is stored in this copy of the repository. `make open-data DATA=<folder>` makes them.*"


def status_page(manifest: list[dict[str, Any]]) -> str:
    """Commit, seconds, device and versions of every run in the book."""
    if not manifest:
        return "# Status of this book\n\nNo run has passed the gate yet: `make book` fills this page."
    records = [entry["run"] for entry in manifest]
    rows = [
        {
            "page": f"[{entry['page']}]({entry['page']})",
            "seconds": f"{record['seconds']:.1f}",
            "started (UTC)": record["started"].replace("T", " ").removesuffix("Z"),
            "commit": f"`{(record['commit'] or 'none')[:10]}`" + ("+" if record["uncommitted_changes"] else ""),
            "run": f"`{record['identity'][:10]}`",
            "data": (record.get("cohort") or {}).get("title") or "–",
        }
        for entry, record in zip(manifest, records, strict=True)
    ]
    total = sum(float(row["seconds"]) for row in rows)
    machines = sorted({f"{record['device']}; {record['threads']} threads a notebook" for record in records})
    versions = {"python": {record["python"] for record in records}}
    for name in sorted({name for record in records for name in record["versions"]}):
        versions[name] = {record["versions"][name] for record in records if name in record["versions"]}
    table = [{"package": name, "version": ", ".join(sorted(found))} for name, found in versions.items()]
    return "\n\n".join([
        "# Status of this book",
        f"Every page below was executed by papermill and passed the gate; together they took {total / 60:.1f} minutes "
        "of notebook time. A `+` after a commit says that tracked files had changes that were not committed.",
        markdown_table(pd.DataFrame(rows)),
        f"## Machine\n\n{bullets(machines)}",
        f"## Versions\n\n{markdown_table(pd.DataFrame(table))}",
    ])  # fmt: skip


def _captioned(caption: str, table: pd.DataFrame, most: int) -> str:
    """A table under its caption; a long one is folded."""
    if len(table) > most:
        return folded(f"{caption or 'All'} ({len(table)} rows)", markdown_table(table))
    return (f"**{caption}**\n\n" if caption else "") + markdown_table(table)


def result_section(file: Path, figure: str = "") -> str:
    """A result that `Run.publish` wrote, with the table beside it, as a section; the run's record is folded.

    Where there is a `figure`, in Markdown, notes and tables are folded below it.
    """
    result = read_json(file)
    notes = bullets(result.get("notes", []))
    parts = [f"## {result['title']}", result["text"], figure]
    parts.append(folded("Sentence by sentence", notes) if figure and notes else notes)
    facts, tables = {}, {}
    for name, value in result.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            tables[name.replace("_", " ").capitalize()] = pd.DataFrame(value)
        elif name not in ("title", "text", "notes"):
            facts[name] = value
    if file.with_suffix(".csv").exists():
        tables[""] = pd.read_csv(file.with_suffix(".csv"))
    parts += [_captioned(caption, table, 0 if figure else 30) for caption, table in tables.items()]
    return "\n\n".join(part for part in [*parts, folded_facts("Provenance", facts)] if part)


def results_page(first: str, files: Iterable[Path], figures: dict[str, str]) -> str:
    """The page of results on real data: what stands `first`, and a section a file, with its figure if it has one."""
    sections = [result_section(file, figures.get(file.stem, "")) for file in files] or [NONE]
    return "\n\n".join(part for part in ["# Results on real, open data", LEAD, first, *sections] if part)
