"""Status of the book's runs, and results and benchmarks that `make book` cannot repeat."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from pkd_utils.runs.files import read_json
from workflow.publish.pages.markdown import cell, markdown_table


def status_page(manifest: list[dict[str, Any]]) -> str:
    """Commit, seconds, device and versions of every run in the book."""
    parts = ["# Status of this book"]
    if not manifest:
        return "# Status of this book\n\nNo run has passed the gate yet: `make book` fills this page."
    records = [entry["run"] for entry in manifest]
    rows = [
        {
            "page": f"[{entry['page']}]({entry['page']})",
            "seconds": f"{float(record.get('seconds') or 0):.1f}",
            "started (UTC)": str(record.get("started") or "–").replace("T", " ").removesuffix("Z"),
            "commit": f"`{(record.get('commit') or 'none')[:10]}`" + ("+" if record.get("uncommitted_changes") else ""),
            "run": f"`{str(record.get('identity') or '–')[:10]}`",
            "data": (record.get("cohort") or {}).get("title") or "–",
        }
        for entry, record in zip(manifest, records, strict=True)
    ]
    total = sum(float(row["seconds"]) for row in rows)
    parts.append(
        f"Every page below was executed by papermill and passed the gate; together they took {total / 60:.1f} minutes "
        "of notebook time. A `+` after a commit says that tracked files had changes that were not committed."
    )
    parts.append(markdown_table(pd.DataFrame(rows)))
    machines = sorted({f"{r.get('device', '–')}; {r.get('threads', '–')} threads a notebook" for r in records})
    parts.append("## Machine\n\n" + "\n".join(f"- {machine}" for machine in machines))
    versions = {"python": sorted({str(r.get("python", "–")) for r in records})}
    for name in sorted({name for r in records for name in r.get("versions", {})}):
        versions[name] = sorted({r["versions"][name] for r in records if name in r.get("versions", {})})
    table = pd.DataFrame([{"package": name, "version": ", ".join(found)} for name, found in versions.items()])
    parts.append("## Versions\n\n" + markdown_table(table))
    return "\n\n".join(parts)


def provenance_block(facts: dict[str, Any]) -> str:
    """Where a result comes from, folded."""
    rows = [f"| {cell(name.replace('_', ' '))} | {cell(value)} |" for name, value in facts.items()]
    return ":::{dropdown} Provenance\n\n| | |\n|---|---|\n" + "\n".join(rows) + "\n\n:::"


def _records(value: Any) -> pd.DataFrame | None:
    """A list of flat dictionaries as a table; anything else is none."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return pd.DataFrame(value)
    return None


def _captioned(caption: str, table: pd.DataFrame, most: int = 30) -> str:
    """A table under its caption; a long one is folded."""
    if len(table) > most:
        return f":::{{dropdown}} {caption or 'All'} ({len(table)} rows)\n\n{markdown_table(table)}\n\n:::"
    return (f"**{caption}**\n\n" if caption else "") + markdown_table(table)


def result_section(files: list[Path], figure: str = "") -> str:
    """One result of `book/results/` as a section: `<name>.csv`, `<name>.json`, or both.

    The CSV is a table. The JSON file is a list of rows, or an object: `title`, `text` (Markdown), `notes` (list of
    str), tables as lists of rows under any name, and single values: provenance, and folded, if the
    object is a run's record (it has a `reference`) or if they stand under `provenance`. Where there is a `figure`, in
    Markdown, notes and tables are folded below it.
    """
    title = files[0].stem.replace("-", " ").replace("_", " ").capitalize()
    value: Any = {}
    tables, stored = [], None
    for file in files:
        if file.suffix == ".csv":
            stored = pd.read_csv(file)
        else:
            value = read_json(file)
    if not isinstance(value, dict):
        value = {"rows": value}
    parts = [f"## {value.get('title', title)}", str(value.get("text") or "")]
    notes = "\n".join(f"- {note}" for note in value.get("notes") or [])
    parts += [figure, f":::{{dropdown}} Sentence by sentence\n\n{notes}\n\n:::" if figure and notes else notes]
    single = {}
    for name, item in value.items():
        table = _records(item)
        if name in ("title", "text", "notes", "provenance"):
            continue
        if table is not None:
            tables.append(("" if name in ("rows", "table") else name.replace("_", " ").capitalize(), table))
        else:
            single[name] = item
    if stored is not None:
        tables.append(("", stored))
    parts += [_captioned(caption, table, 0 if figure else 30) for caption, table in tables]
    provenance = dict(value.get("provenance") or {})
    if "reference" in single:
        provenance, single = {**single, **provenance}, {}
    parts.append("\n".join(f"- {name.replace('_', ' ')}: {cell(item)}" for name, item in single.items()))
    if provenance:
        parts.append(provenance_block(provenance))
    return "\n\n".join(part for part in parts if part)


def results_page(
    title: str, intro: str, files: Iterable[Path], otherwise: str, figures: dict[str, str] | None = None
) -> str:
    """A page of sections, one a file name, with its figure if it has one; `otherwise`: what it says without any."""
    named: dict[str, list[Path]] = {}
    for file in files:
        named.setdefault(file.stem, []).append(file)
    sections = [result_section(group, (figures or {}).get(name, "")) for name, group in named.items()]
    return "\n\n".join([f"# {title}", intro, *(sections or [otherwise])])
