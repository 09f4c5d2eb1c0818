"""The files that git knows: text of known kinds, without identifiers, reports, pixels and folders of this machine."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pkd_utils.runs import files, showing
from workflow.publish import leaks
from workflow.publish.executed import KNOWN_METADATA, flat
from workflow.publish.sources import Sources

TEXT_FILES = {".py", ".md", ".ipynb", ".yml", ".yaml", ".toml", ".txt", ".json", ".csv", ".css", ".js", ".bib", ".cff"}
TEXT_FILES |= {".lock", ".html", ".cfg", ".sh", ".gitignore", "LICENSE", "Makefile", "Snakefile", "run"}
MARK = "book/_static/favicon.svg"  # the book's own mark, read as text: a few shapes
SMALL = re.compile(r"[1-9](?:\.0+)?")
MOST_NUMBERS = 64  # in one list of a file of results


def committed_findings(root: Path) -> list[str]:
    """Say which files that git knows in a work tree hold identifiers, data or paths of this machine."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    names = [name for name in listing.split("\0") if (root / name).is_file() and "/mathjax/" not in name]
    sources = Sources(None)
    return [f"{name}: {what}" for name in names for what in _findings(name, root / name, root, sources)]


def _findings(name: str, path: Path, root: Path, sources: Sources) -> Iterator[str]:
    """What is wrong with one committed file."""
    if (path.suffix or path.name) not in TEXT_FILES and name != MARK:
        simulated = name.startswith(("tests/", "pkd_utils/encoders/stand_ins/"))
        if not (simulated and (path.parent / "SIMULATED.txt").exists()) and not _published_picture(path):
            yield "data files are not committed (tests and stand-ins may, beside a SIMULATED.txt)"
        return
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if name == MARK and re.search(r"<image|data:|href", text):
        yield "holds a picture"
    if "\0" in text:
        yield "is not plain text in UTF-8"
        return
    if len(str(root)) > 5 and f"{root}/" in text:
        yield "names a folder of this machine"
    if name.startswith(("tests/", "pkd_utils/demo/")):  # made-up identifiers are what these consist of
        return
    if path.suffix == ".ipynb":
        yield from _notebook(json.loads(text))
        return
    ids = len(leaks.identifiers(text, prefixed_only=path.suffix == ".py"))
    if path.suffix in (".md", ".csv", ".txt", ".yml"):
        ids += len(leaks.BARE_DICOM_ID.findall(text))
    if ids:
        yield f"holds {ids} strings that look like MIMIC identifiers"
    if path.suffix in (".md", ".css", ".html", ".csv", ".json", ".yml", ".txt") and leaks.ENCODED.search(text):
        yield "holds what may be a picture in letters"
    if name.startswith(("book/results/", "book/reported/")):
        yield from _results(path, text, sources)


def _published_picture(path: Path) -> bool:
    """A picture beside the results of a run whose cohort may show images."""
    beside = path.with_suffix(".json")
    facts = files.read_json(beside).get("cohort") if beside.exists() and path.parent.name == "results" else None
    return path.suffix == ".png" and showing.permitted(facts)["shareable_images"]


def _notebook(notebook: dict[str, Any]) -> Iterator[str]:
    """Identifiers only in cells, and only where the notebook says that they are simulated; no attachments."""
    metadata = [notebook.get("metadata", {}), *(cell["metadata"] for cell in notebook["cells"])]
    said = [pair for one in metadata for pair in flat(one)]
    known = re.compile(r"(?:tags=[\w-]+|mystnb\.image\.alt=.*|" + KNOWN_METADATA.pattern + ")", re.S)
    if any(not known.fullmatch(f"{path}={value}") or leaks.identifiers(value) for path, value in said):
        yield "has unknown metadata, or identifiers in it"
    text = json.dumps(notebook["cells"], ensure_ascii=False)
    ids = leaks.identifiers(re.sub(r'"(?:image/png|id)": "[^"]*"', "", text))  # a cell's id may be eight digits
    if ids and "simulated" not in text.lower():
        yield f"holds {len(ids)} strings that look like MIMIC identifiers"
    if '"attachments"' in text:
        yield "holds an attachment"


def _results(path: Path, text: str, sources: Sources) -> Iterator[str]:
    """Means and counts of runs, in words of the project; no row of any patient, no sentence of a report."""
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str)
        if showing.IDENTIFIERS & set(table):
            yield "has a row a patient or image"
        texts = [str(value) for value in table.stack()]
        rows = table.to_dict("records")
    elif path.suffix == ".json":
        values = list(_values(json.loads(text)))
        rows = [value for value in values if isinstance(value, dict)]
        texts = [value for value in values if isinstance(value, str)]
        if any(isinstance(value, list) and len(value) > MOST_NUMBERS for value in values):
            yield f"has a list of more than {MOST_NUMBERS} numbers"
    else:
        return
    beside = path.with_suffix(".json")
    facts = files.read_json(beside) if beside.exists() else {}
    closed = isinstance(facts, dict) and "cohort" in facts and showing.permitted(facts["cohort"])["credentialed"]
    if closed and any(showing.is_count(name) and SMALL.fullmatch(str(row[name])) for row in rows for name in row):
        yield f"has counts below {showing.SMALL} of a credentialed cohort"
    strange = sum(_strange(one, sources) for one in texts)
    if strange:
        yield f"has {strange} texts that are not of the project's own words"


def _strange(text: str, sources: Sources) -> bool:
    """Whether a text has words that nobody wrote here, reads like a report, or is HTML."""
    report = leaks.like_a_report(text) and sources.composed(text)
    unknown = any(token.isalpha() for token in sources.strange(text))
    return unknown or report or bool(re.search("<[a-z]", text) or leaks.BARE_DICOM_ID.search(text))


def _values(value: Any) -> Iterator[Any]:
    """Texts of a JSON value but for commits, machines and files, its keys, its lists of numbers, and its rows."""
    if isinstance(value, dict):
        yield value
        for key, one in value.items():
            yield str(key)
            if key not in ("commit", "device", "processor", "cpu", "upstream", "artefacts"):
                yield from _values(one)
    elif isinstance(value, list):
        yield list(_numbers(value))
        for one in value:
            yield from _values(one)
    else:
        yield value


def _numbers(value: Any) -> Iterator[float]:
    """Numbers of a list, and of lists in it."""
    for one in value if isinstance(value, list) else []:
        yield from [one] if isinstance(one, int | float) else _numbers(one)
