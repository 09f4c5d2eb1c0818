"""The project's own words: what its notebooks and its library can print, and what the pages of its book are made of."""

import ast
import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pkd_utils.runs import paths
from workflow.publish import leaks

LIKE_REPORTS = ("label_terms", "report_sections")  # modules that list what reports say
LIBRARY = Path(__file__).resolve().parents[2] / "pkd_utils"
# What Python, pandas and matplotlib say themselves.
SAID = ["nan", "inf", "none", "true", "false", "dtype", "int", "float", "object", "str", "bool", "name", "length"]
SAID += ["rows columns", "rows x columns", "rows × columns", "x", "×", "it", "s", "e", "Figure size x with Axes"]
PROGRESS = re.compile(r"\d+%\|[^|]*\| [\d.]+[kMG]?/[\d.?]+[kMG]? \[[\d:]+<[\d:?]+, +[\d.?]+(\w+/\w+)\]")
COUNTED = re.compile(r"[^,\d]+ \d+(?:, [^,\d]+ \d+)+")  # "not readmitted 18, readmitted within 12 months 43"
SIZED = re.compile(r"\bPulmonary Embolism, [\d,]+ images")  # a task and a training size, as verdicts name them
PLACEHOLDER = re.compile(r"\n|\{[^}]*\}|%[.\d]*\w")

Phrase = tuple[str, ...]


def strings(source: str) -> Iterator[str]:
    """Texts in Python code that may be printed: constants and names; no docstrings, no messages of errors."""
    tree = ast.parse(source)
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            skipped |= {one.value for one in node.body[:1] if isinstance(one, ast.Expr)}
        elif isinstance(node, ast.Raise):
            skipped |= set(ast.walk(node))
    for node in ast.walk(tree):
        match node:
            case _ if node in skipped:
                continue
            case ast.Constant(value=str(value)):
                yield value
            case ast.keyword(arg=str(name)) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


@functools.cache
def library_code() -> tuple[str, ...]:
    """Code of the library, but for what is made to sound like a report."""
    files = [file for file in sorted(LIBRARY.rglob("*.py")) if "demo" not in file.parts]
    return tuple(file.read_text() for file in files if file.stem not in LIKE_REPORTS)


def notebook_texts(root: Path, kinds: tuple[str, ...] = ("code", "markdown")) -> list[str]:
    """Sources of the cells of a project's committed notebooks."""
    notebooks = [json.loads(file.read_text()) for file in sorted((root / "notebooks").glob("*/*.ipynb"))]
    cells = [cell for notebook in notebooks for cell in notebook["cells"] if cell["cell_type"] in kinds]
    return ["".join(cell["source"]) for cell in cells]


def phrases(texts: Iterable[str]) -> set[Phrase]:
    """Texts as sequences of words; what a value is put into ends one and begins another."""
    return {tuple(found) for text in texts for part in PLACEHOLDER.split(text) if (found := leaks.words(part))}


@functools.cache
def library_phrases() -> frozenset[Phrase]:
    """Phrases of the library and of the tables of the papers' numbers."""
    reported = [file.read_text() for file in sorted((LIBRARY.parent / "book" / "reported").glob("*.csv"))]
    fields = [field for text in reported for field in re.split(r"[,\n]", text)]
    return frozenset(phrases([*SAID, *fields, *(text for code in library_code() for text in strings(code))]))


@functools.cache
def own_phrases(root: Path) -> frozenset[Phrase]:
    """Phrases of the library and of the notebooks of a project."""
    code = notebook_texts(root, ("code",))
    return library_phrases() | phrases(text for source in code for text in strings(source))


@functools.cache
def library_shingles() -> np.ndarray:
    """Runs of words of the library and of the book's prose."""
    prose = [file for pattern in ("*.md", "book/*.md", "book/[a-z]*/*.md") for file in LIBRARY.parent.glob(pattern)]
    return leaks.shingles([*library_code(), *(file.read_text() for file in prose)])


@functools.cache
def own_shingles(root: Path) -> np.ndarray:
    """Runs of words that the project wrote itself: a report that has them too is not told by them."""
    return np.union1d(library_shingles(), leaks.shingles(notebook_texts(root)))


class Vocabulary:
    """Whether a line is made of the project's own phrases, of numbers and of what the run's record names."""

    def __init__(self, record: dict[str, Any]):
        names = ("cohort", "parameters", "labels", "tasks", "encoder", "reference", "upstream", "identity", "notebook")
        said = json.dumps([record.get(name) for name in names], ensure_ascii=False)
        self.said = set(re.findall(r"[^\W_]+", said.lower()))
        self.phrases = own_phrases(paths.PROJECT_ROOT) | phrases(re.findall(r'"((?:[^"\\]|\\.)*)"', said))
        self.longest = max(map(len, self.phrases))
        self.labels = f"({', '.join(map(str, record.get('labels') or []))})"  # as headlines name what was trained

    def covers(self, line: str) -> bool:
        """Whether all words of a line are whole phrases, one after another; a line cut by "..." may end within one."""
        line = PROGRESS.sub(lambda match: match[1].replace("/", " ") + " ", line)
        tokens = [part for part in re.findall(r"[^\W_]+", line.lower()) if not self._is_name(part)]
        said = leaks.words(" ".join(tokens))
        reached = [True] + [False] * len(said)
        for at in range(len(said)):
            if reached[at]:
                for end in range(at + 1, min(at + self.longest, len(said)) + 1):
                    reached[end] |= tuple(said[at:end]) in self.phrases
        if line.rstrip().endswith(("...", "…")) and not reached[-1]:
            return any(reached[at] and self._begins(tuple(said[at:])) for at in range(len(said)))
        return reached[-1]

    def _is_name(self, token: str) -> bool:
        """Whether letters and digits together are a name in the run's record, or the short identity of something."""
        mixed = re.search(r"\d", token) and re.search(r"[^\W\d]", token)
        return bool(mixed and (token in self.said or re.fullmatch("[0-9a-f]{16}", token)))

    def _begins(self, rest: Phrase) -> bool:
        """Whether some phrase begins with these words, the last of them cut anywhere."""
        *whole, last = rest
        return any(
            len(one) >= len(rest) and one[: len(whole)] == tuple(whole) and one[len(whole)].startswith(last)
            for one in self.phrases
        )

    def strange(self, text: str) -> int:
        """How many lines of a text are not the project's own, read like a report, or hold a long whole number."""
        lines = leaks.plain(text).replace("\r", "\n").split("\n")
        parts = (line.split(", ") if COUNTED.fullmatch(line) else [line] for line in lines)
        return sum(self._strange(part) for several in parts for part in several)

    def _strange(self, line: str) -> bool:
        number = any(found not in self.said for found in re.findall(r"(?<![\d.\w])\d{7,}", line))
        phrase = tuple(leaks.words(line))
        return (
            number
            or not self.covers(line)
            or (leaks.like_a_report(SIZED.sub("", line.replace(self.labels, ""))) and phrase not in self.phrases)
        )
