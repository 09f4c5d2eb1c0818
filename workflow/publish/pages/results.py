"""Pages of the book that are computed: findings, status, results of other machines, benchmarks, API reference.

Everything here turns files that runs wrote into MyST Markdown under `book/_generated/`; no number is typed. A result
that is not there makes a page that says so, never a failed build. `workflow/write_pages.py` calls `write_all`.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pkd_utils.runs import paths
from pkd_utils.runs.files import atomic_path, read_json
from workflow.publish import book_encoders, book_reports, gate

ROOMS = {
    "runs": "Runs, parameters, files",
    "images": "Images and volumes",
    "statistics": "Metrics, intervals, comparisons",
    "localization": "Maps against regions",
    "demo": "The embedded cohorts (simulated)",
    "cohorts": "Cohorts and tasks",
    "encoders": "Encoders and tokens",
    "distillation": "Teachers, students, heads",
    "studies": "What the studies share",
}
"""One page of the API reference a room: its folder in `pkd_utils`, and its title."""


def cell(value: Any) -> str:
    """One value as the text of a Markdown table cell."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:.3g}" if abs(value) < 0.001 and value else f"{value:.3f}"
        return f"{int(value)}" if value.is_integer() and abs(value) >= 1 else text
    if isinstance(value, dict | list):
        value = json.dumps(value)
    return str(value).replace("|", "\\|").replace("\n", " ")


ABBREVIATIONS = {"auroc": "AUROC", "auprc": "AUPRC", "iou": "IoU", "fpr": "FPR", "mmpkd": "MMPKD", "csv": "CSV"}


def heading(name: Any) -> str:
    """A column's name as people write it: `pixel_auroc` becomes `pixel AUROC`."""
    return " ".join(ABBREVIATIONS.get(word, word) for word in str(name).split("_"))


def merge_spread(table: pd.DataFrame) -> pd.DataFrame:
    """Join columns `<name>_mean` and `<name>_sd` into one column `<name>` that reads `0.72 ± 0.04`."""
    table = table.copy()
    for column in [name for name in table.columns if str(name).endswith("_mean")]:
        name = column.removesuffix("_mean")
        spread = next((f"{name}{end}" for end in ("_sd", "_std") if f"{name}{end}" in table), None)
        if spread is None or name in table:
            continue
        both = [
            "–" if pd.isna(mean) else f"{mean:.2f}" + ("" if pd.isna(sd) else f"\u00a0±\u00a0{sd:.2f}")
            for mean, sd in zip(table[column], table[spread], strict=True)
        ]
        table.insert(table.columns.get_loc(column), name, both)
        table = table.drop(columns=[column, spread])
    return table


def markdown_table(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table; names lose their underscores, means and spreads are joined."""
    table = merge_spread(table)
    header = "| " + " | ".join(cell(heading(name)) for name in table.columns) + " |"
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    rule = "|" + "|".join("---:" if number else "---" for number in numeric) + "|"
    rows = ["| " + " | ".join(cell(value) for value in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join([header, rule, *rows])


def write_text(path: Path, text: str) -> None:
    """Write a page, and leave an unchanged one alone, so that Sphinx does not render it again."""
    text = text.rstrip() + "\n"
    if not path.exists() or path.read_text() != text:
        with atomic_path(path) as temporary:
            temporary.write_text(text)


# --- home page ---------------------------------------------------------------------------------------------------


def findings_page(folder: Path | None, page: str = "mmpkd/05-compare") -> str:
    """The home page's findings from the compare notebook's artefacts.

    Parameters
    ----------
    folder : Path or None
        Finished run with, each optional, `verdict.json` (`headline`: str, `findings`: list of str),
        `table1.csv` and `statistics.csv` (columns `<metric>_mean`, `<metric>_sd` are joined).
    page : str
        Where the reader finds the whole comparison, relative to `book/_generated`.
    """
    if folder is None or not folder.exists():
        return "*No run has been compared yet: `make book` runs the demonstration and writes its findings here.*"
    record = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    parts = []
    if (folder / "verdict.json").exists():
        verdict = read_json(folder / "verdict.json")
        if isinstance(verdict, str):
            verdict = {"headline": verdict}
        if verdict.get("headline"):
            parts.append(f"**{verdict['headline']}**")
        sentences = verdict.get("findings") or verdict.get("sentences") or []
        parts.append("\n".join(f"- {sentence}" for sentence in sentences))
    if (folder / "table1.csv").exists():
        parts.append(markdown_table(pd.read_csv(folder / "table1.csv")))
    kind = "simulated data" if gate.Permission.of(record).simulated else "data under the cohort's own licence"
    parts.append(f"Ours: {kind}; mean ± standard deviation over seeds. [The whole comparison](_generated/{page}).")
    return "\n\n".join(part for part in parts if part)


def all_maps_findings(folder: Path | None, page: str | None) -> str:
    """One sentence a cohort from notebook mmpkd/09's `verdict.json`, for the home page; empty where it has not run."""
    if folder is None or not (folder / "verdict.json").exists():
        return ""
    sentences = [f"- {cohort['sentence']}" for cohort in read_json(folder / "verdict.json")["cohorts"]]
    lead = f"By every map and metric, in radiographs and mammograms ([the whole comparison](_generated/{page})):"
    return "\n\n".join([lead, "\n".join(sentences)])


# --- status ------------------------------------------------------------------------------------------------------


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


# --- results that `make book` cannot repeat ----------------------------------------------------------------------


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


def result_section(files: list[Path]) -> str:
    """One result of `book/results/` as a section: `<name>.csv`, `<name>.json`, or both.

    The CSV is a table. The JSON file is a list of rows, or an object: `title`, `text` (Markdown), `notes` (list of
    str), tables as lists of rows under any name, and single values: provenance, and folded, if the
    object is a run's record (it has a `reference`) or if they stand under `provenance`.
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
    parts.append("\n".join(f"- {note}" for note in value.get("notes") or []))
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
    parts += [_captioned(caption, table) for caption, table in tables]
    provenance = dict(value.get("provenance") or {})
    if "reference" in single:
        provenance, single = {**single, **provenance}, {}
    parts.append("\n".join(f"- {name.replace('_', ' ')}: {cell(item)}" for name, item in single.items()))
    if provenance:
        parts.append(provenance_block(provenance))
    return "\n\n".join(part for part in parts if part)


def results_page(title: str, intro: str, files: Iterable[Path], otherwise: str) -> str:
    """A page of sections, one a file name; `otherwise` is what it says when there are none."""
    named: dict[str, list[Path]] = {}
    for file in files:
        named.setdefault(file.stem, []).append(file)
    sections = [result_section(group) for group in named.values()]
    return "\n\n".join([f"# {title}", intro, *(sections or [otherwise])])


# --- notebooks and API -------------------------------------------------------------------------------------------


def notebooks_page(readme: str, pages: Iterable[str]) -> str:
    """`notebooks/README.md` as a page: links to notebooks become links to their executed pages, where they exist."""
    pages = sorted(pages)

    def target(match: re.Match) -> str:
        text, notebook = match.group(1), match.group(2)
        here = [page for page in pages if page == notebook or page.startswith(notebook + ".")]
        return f"[{text}]({here[0]})" if here else text

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\.ipynb\)", target, readme)


def modules() -> list[str]:
    """Names of the library's public modules without `pkd_utils.`, sorted."""
    root = paths.PROJECT_ROOT / "pkd_utils"
    found = []
    for file in root.rglob("*.py"):
        parts = file.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts and not any(part.startswith("_") for part in parts):
            found.append(".".join(parts))
    return sorted(found)


def room_of(module: str) -> str:
    """The room of a module: its folder."""
    return module.split(".")[0]


def api_pages(names: Iterable[str]) -> dict[str, str]:
    """One page a room (`api/<room>`) and an overview (`api/index`), as Markdown for sphinx.ext.autodoc."""
    members: dict[str, list[str]] = {room: [] for room in ROOMS}
    for name in sorted(names):
        members[room_of(name)].append(name)
    pages, overview = {}, []
    for room, title in ROOMS.items():
        parts = [f"# {title}"]
        for name in members[room]:
            parts.append(f"## `pkd_utils.{name}`")
            parts.append(
                f"```{{eval-rst}}\n.. automodule:: pkd_utils.{name}\n   :members:\n   :ignore-module-all:\n```"
            )
        if not members[room]:
            parts.append("This build of the library has no module here.")
        else:
            listed = ", ".join(f"`{name}`" for name in members[room])
            overview.append(f"| [{title}]({room}.md) | {listed} |")
        pages[f"api/{room}"] = "\n\n".join(parts)
    pages["api/index"] = (
        "# API reference\n\nThe library under the notebooks, `pkd_utils`, from its docstrings. Arrows point downward: "
        "notebooks use training, training uses models and distillation, these use encoders, cohorts and images.\n\n"
        "| room | modules |\n|---|---|\n" + "\n".join(overview)
    )
    return pages


# --- everything --------------------------------------------------------------------------------------------------


def toc_files(toc: Path) -> list[str]:
    """Files that the table of contents names, in order, without suffix."""

    def walk(node: Any) -> Iterable[str]:
        if isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for item in node:
                yield from walk(item)

    return list(walk(yaml.safe_load(toc.read_text())))


def write_all(profile: str, book: Path) -> list[str]:
    """Write every generated page of the book.

    Parameters
    ----------
    profile : str
        Profile whose runs the gate has copied; named on placeholder pages.
    book : Path
        The folder `book/`.

    Returns
    -------
    list of str
        Pages of the table of contents that this build has no run for; each became a page that says so.
    """
    generated = book / "_generated"
    manifest = read_json(generated / gate.MANIFEST) if (generated / gate.MANIFEST).exists() else []
    folders = gate.profile_pages(profile) if manifest else {}
    compare = "mmpkd/05-compare" if "mmpkd/05-compare" in folders else None
    findings = findings_page(folders.get(compare), compare) if compare else findings_page(None)
    every_map = next((name for name in folders if name.startswith("mmpkd/09-")), None)
    findings += "\n\n" + all_maps_findings(folders.get(every_map), every_map)
    write_text(generated / "findings.md", findings.strip())
    effect = next((name for name in folders if name.startswith("reports/06-")), None)
    write_text(generated / "findings-reports.md", book_reports.findings_page(folders.get(effect), effect))
    write_text(generated / "status.md", status_page(manifest))
    results = sorted([*(book / "results").glob("*.csv"), *(book / "results").glob("*.json")])
    measured = [file for file in results if file.name.startswith("benchmark")]
    write_text(
        generated / "open-data.md",
        results_page(
            "Results on real, open data",
            "These results come from runs that `make book` cannot repeat, because the data are not part of the "
            "repository. Each was written by the run itself, as a small file in `book/results/`. "
            "[How to run them](../reproduce.md).",
            [file for file in results if file not in measured],
            "*No such result is stored in this copy of the repository. `make open-data DATA=<folder>` makes them.*",
        ),
    )
    write_text(
        generated / "benchmarks.md",
        results_page(
            "Benchmarks",
            "What is fast here, against what, measured by `make bench`.",
            measured,
            "*No measurement is stored in this copy of the repository. `make bench` makes one.*",
        ),
    )
    for name, text in (book_encoders.fragments(book / "results") | book_reports.fragments()).items():
        write_text(generated / f"{name}.md", text)
    readme = paths.PROJECT_ROOT / "notebooks" / "README.md"
    write_text(generated / "notebooks.md", notebooks_page(readme.read_text(), [entry["page"] for entry in manifest]))
    for name, text in api_pages(modules()).items():
        write_text(generated / f"{name}.md", text)

    absent = []
    for name in toc_files(book / "_toc.yml"):
        page = name.removeprefix("book/_generated/")
        if page == name:
            continue
        notebook, placeholder = generated / f"{page}.ipynb", generated / f"{page}.md"
        is_notebook = re.search(r"/\d\d-", page)
        if notebook.exists():
            placeholder.unlink(missing_ok=True)
        elif is_notebook:
            absent.append(page)
            write_text(
                placeholder, f"# {page}\n\nThis build of the book (profile `{profile}`) holds no run of this notebook."
            )
    return absent
