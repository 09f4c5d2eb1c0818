"""Pages of the book that are computed: findings, status, results of other machines, benchmarks, tables of facts.

Everything here turns files that runs wrote into MyST Markdown under `book/_generated/`; no number is typed. A result
that is not there makes a page that says so, never a failed build. `python -m workflow.publish.pages` calls `write_all`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from pkd_utils.runs import paths
from pkd_utils.runs.files import read_json
from pkd_utils.runs.profiles import QUICK
from workflow.publish import gate
from workflow.publish.gate import write_text
from workflow.publish.pages import (
    bench,
    by_study,
    cite,
    contents,
    encoders,
    forests,
    front,
    home,
    lesions,
    pretraining,
    reports,
    results,
    texts,
    transfer,
)

TOC = "_toc.yml"  # in book/_generated: the contents of the book that is built


def notebooks_page(readme: str, pages: Iterable[str]) -> str:
    """`notebooks/README.md` as a page: links to notebooks become links to their executed pages, where they exist."""
    pages = sorted(pages)

    def target(match: re.Match) -> str:
        text, notebook = match.group(1), match.group(2)
        here = [page for page in pages if page == notebook or page.startswith(notebook + ".")]
        return f"[{text}]({here[0]})" if here else text

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\.ipynb\)", target, readme)


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
    write_text(generated / "front.md", front.front(book, generated, folders.get("mmpkd/05-compare")))
    findings = home.attention_findings(folders.get("mmpkd/05-compare"))
    every_map = next((name for name in folders if name.startswith("mmpkd/09-")), None)
    findings += "\n\n" + home.all_maps_findings(folders.get(every_map), every_map)
    write_text(generated / "findings.md", findings.strip())
    effects = [name for name in folders if name.startswith("reports/06-")]
    effect = min(effects, key=lambda name: not name.endswith(".both"), default=None)  # of both cohorts, if there is one
    write_text(generated / "findings-reports.md", home.reports_findings(folders.get(effect), effect))
    write_text(generated / "status.md", results.status_page(manifest))
    stored = sorted([*(book / "results").glob("*.csv"), *(book / "results").glob("*.json")])
    measured = [file for file in stored if file.name.startswith("benchmark")]
    write_text(generated / "findings-case-or-label.md", transfer.finding(book / "results" / transfer.STORED))
    write_text(generated / "findings-pretraining.md", pretraining.finding(book / "results" / pretraining.STORED))
    write_text(generated / "findings-lesions.md", lesions.finding(book / "results" / lesions.STORED, generated))
    own = (transfer.STORED, pretraining.STORED, pretraining.EXPLORED)
    apart = ("benchmark", texts.PREFIX, *(Path(name).stem for name in own))  # have their own sections or page
    real = [file for file in stored if not file.stem.startswith(apart)]
    parts = (
        transfer.section(book / "results" / transfer.STORED, generated),
        texts.section(stored, generated),
        pretraining.section(book / "results" / pretraining.STORED, generated),
    )
    first = "\n\n".join(part for part in parts if part)
    write_text(
        generated / "open-data.md",
        results.results_page(
            "Results on real, open data",
            "These results come from runs that `make book` cannot repeat, because the data are not part of the "
            "repository. Each was written by the run itself, as a small file in `book/results/`. "
            "[How to run them](../reproduce.md)." + f"\n\n{first}" * bool(first),
            real,
            "*No such result is stored in this copy of the repository. `make open-data DATA=<folder>` makes them.*",
            forests.drawn(real, generated),
        ),
    )
    write_text(generated / "benchmarks.md", bench.page(measured, generated))
    write_text(generated / "gpu.md", bench.on_gpus(measured))
    for name, text in (encoders.fragments(book / "results") | reports.fragments()).items():
        write_text(generated / f"{name}.md", text)
    configured = yaml.safe_load((paths.PROJECT_ROOT / "_config.yml").read_text())
    cited = yaml.safe_load((paths.PROJECT_ROOT / "CITATION.cff").read_text())
    write_text(generated / "cite.md", cite.page(cited, int(configured["copyright"])))
    readme = paths.PROJECT_ROOT / "notebooks" / "README.md"
    write_text(generated / "notebooks.md", notebooks_page(readme.read_text(), [entry["page"] for entry in manifest]))
    toc = yaml.safe_load((book / "_toc.yml").read_text())
    announcement = generated / "announcement.txt"  # read by book/_ext
    announcement.unlink(missing_ok=True)
    if profile == QUICK:
        prose = "".join(file.read_text() for file in sorted(book.glob("*.md")) + sorted(book.glob("[!_]*/*.md")))
        linked = set(re.findall(r"_generated/(\w+/[\w.-]*\w)", prose))
        toc = contents.quick(toc, {entry["page"] for entry in manifest}, linked)
        write_text(announcement, contents.ANNOUNCEMENT)
    records = {entry["page"]: entry["run"] for entry in manifest}
    listed = {name.removeprefix(contents.GENERATED) for name in toc_files(book / "_toc.yml")}
    if profile != QUICK and set(records) - listed:
        toc = by_study.by_study(toc, records, generated)
    write_text(generated / TOC, yaml.safe_dump(toc, sort_keys=False))
    absent = []
    for name in toc_files(generated / TOC):
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
