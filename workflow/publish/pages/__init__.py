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
    """Write every generated page of the book, given the profile whose runs the gate has copied.

    Returns the pages of the table of contents that this build has no run for; each became a page that says so.
    """
    generated, stored = book / "_generated", book / "results"
    manifest = read_json(generated / gate.MANIFEST) if (generated / gate.MANIFEST).exists() else []
    folders = gate.profile_pages(profile) if manifest else {}
    compared = folders.get("mmpkd/05-compare")
    every_map = next((name for name in folders if name.startswith("mmpkd/09-")), None)
    attention = home.attention_findings(compared), home.all_maps_findings(folders.get(every_map), every_map)
    effects = [name for name in folders if name.startswith("reports/06-")]
    effect = min(effects, key=lambda name: not name.endswith(".both"), default=None)  # of both cohorts, if there is one
    files = sorted(stored.glob("*.json"))
    measured = [file for file in files if file.name.startswith("benchmark")]
    own = (transfer.STORED, pretraining.STORED, pretraining.EXPLORED)
    apart = ("benchmark", texts.PREFIX, *(Path(name).stem for name in own))  # have their own sections or page
    real = [file for file in files if not file.stem.startswith(apart)]
    sections = (
        transfer.section(stored / transfer.STORED, generated),
        texts.section(files, generated),
        pretraining.section(stored / pretraining.STORED, generated),
    )
    configured = yaml.safe_load((paths.PROJECT_ROOT / "_config.yml").read_text())
    cited = yaml.safe_load((paths.PROJECT_ROOT / "CITATION.cff").read_text())
    readme = (paths.PROJECT_ROOT / "notebooks" / "README.md").read_text()
    written = {
        "front": front.front(book, generated, compared),
        "findings": "\n\n".join(attention),
        "findings-reports": home.reports_findings(folders.get(effect), effect),
        "findings-case-or-label": transfer.finding(stored / transfer.STORED),
        "findings-pretraining": pretraining.finding(stored / pretraining.STORED),
        "findings-lesions": lesions.finding(stored / lesions.STORED, generated),
        "status": results.status_page(manifest),
        "open-data": results.results_page("\n\n".join(filter(None, sections)), real, forests.drawn(real, generated)),
        "benchmarks": bench.page(measured, generated),
        "gpu": bench.on_gpus(measured),
        "cite": cite.page(cited, int(configured["copyright"])),
        "notebooks": notebooks_page(readme, [entry["page"] for entry in manifest]),
        **encoders.fragments(stored),
        **reports.fragments(),
    }
    for name, text in written.items():
        write_text(generated / f"{name}.md", text)
    write_contents(profile, book, {entry["page"]: entry["run"] for entry in manifest})
    absent = []
    for page in filter(None, map(by_study.page_of_run, toc_files(generated / TOC))):
        placeholder = generated / f"{page}.md"
        if (generated / f"{page}.ipynb").exists():
            placeholder.unlink(missing_ok=True)
        else:
            absent.append(page)
            said = f"This build of the book (profile `{profile}`) holds no run of this notebook."
            write_text(placeholder, f"# {page}\n\n{said}")
    return absent


def write_contents(profile: str, book: Path, records: dict[str, dict[str, Any]]) -> None:
    """Write the contents of the book that is built: `book/_toc.yml`, fitted to the pages of these runs."""
    generated = book / "_generated"
    toc = yaml.safe_load((book / "_toc.yml").read_text())
    announcement = generated / "announcement.txt"  # read by book/_ext
    announcement.unlink(missing_ok=True)
    if profile == QUICK:
        prose = "".join(file.read_text() for file in sorted(book.glob("*.md")) + sorted(book.glob("[!_]*/*.md")))
        linked = set(re.findall(r"_generated/(\w+/[\w.-]*\w)", prose))
        toc = contents.quick(toc, set(records), linked)
        write_text(announcement, contents.ANNOUNCEMENT)
    elif set(records) - {name.removeprefix(contents.GENERATED) for name in toc_files(book / "_toc.yml")}:
        toc = by_study.by_study(toc, records, generated)
    write_text(generated / TOC, yaml.safe_dump(toc, sort_keys=False))
