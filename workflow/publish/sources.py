"""What the files of a built book are made from: the theme's own files by hash, and the words of all its sources."""

import ast
import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
import sphinx

from pkd_utils.runs import paths
from workflow.publish import leaks
from workflow.publish.vocabulary import LIBRARY, LIKE_REPORTS

PACKAGES = ("sphinx", "sphinx_book_theme", "pydata_sphinx_theme", "sphinx_togglebutton", "sphinx_copybutton")
PACKAGES += ("sphinx_thebe", "sphinx_design", "myst_nb", "jupyter_book", "docutils/writers", "pygments/formatters")
PACKAGES += ("pygments/styles", "pygments/token.py", "sphinxcontrib", "pybtex", "pydantic/main.py")
PROJECT = ("book/**/*.md", "book/**/*.csv", "book/**/*.json", "book/**/*.yml", "book/**/*.bib", "book/**/*.py", "*.md")
PROJECT += ("benchmarks/*.py", "notebooks/**/*.md", "pkd_utils/**/*.py", "params/*/*/*.yml")
PROJECT += ("_config.yml", "LICENSE", "CITATION.cff")
TEXT = {".jinja", ".css_t", ".html", ".py", ".js", ".css", ".js_t", ".txt", ".toml", ".conf", ".xml"}
# Sphinx numbers anchors and levels, and names citations: [AGM+18].
MADE = re.compile(r"id\d{1,3}|l\d|tex2jax|processhtmlclass|ipython3|\d{1,4}")


STROKES = str.maketrans("łŁøØđĐ", "lLoOdD")  # letters that Unicode does not take apart


def tokens(text: str) -> list[str]:
    """Words and numbers of a text, without capitals and accents."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.translate(STROKES))
        text = "".join(one for one in text if not unicodedata.combining(one))
    return re.findall(r"[^\W_]+", text.lower())


def theme_files() -> Iterator[Path]:
    """Every file of the packages that build the book."""
    for name in PACKAGES:
        place = Path(sphinx.__file__).parents[1] / name
        yield from [place] if place.is_file() else sorted(place.rglob("*"))


@functools.cache
def files_by_name() -> dict[str, list[Path]]:
    """The theme's files, whatever may become a file of the book, by their names."""
    found: dict[str, list[Path]] = {}
    for file in theme_files():
        found.setdefault(file.name, []).append(file)
    return found


def is_of_the_theme(name: str, content: bytes) -> bool:
    """Whether a file of this name (without the hash that some have in it) and content is part of the theme."""
    name = re.sub(r"\.[0-9a-f]{64}(?=\.css$)", "", name.rsplit("/", 1)[-1])
    return any(file.is_file() and file.read_bytes() == content for file in files_by_name().get(name, []))


@functools.cache
def words_of_the_theme() -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    """Words of its templates and modules."""
    texts = (
        file.read_text(encoding="utf-8", errors="ignore")
        for file in theme_files()
        if file.suffix in TEXT and "locale" not in file.parts and file.stat().st_size < 300_000
    )
    return words_of(texts)


def words_of(texts: Iterable[str]) -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    """Words of texts, and their runs of three words."""
    said, triples = set(), set()
    for text in texts:
        found = tokens(text)
        said.update(found)
        triples.update(zip(found, found[1:], found[2:], strict=False))
    return frozenset(said), frozenset(triples)


def explained(code: str) -> str:
    """What the book's page of a module shows: docstrings and signatures, none of the words that it looks for."""
    shown = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            shown.append(ast.get_docstring(node) or "")
        if isinstance(node, ast.FunctionDef):
            shown.append(f"{node.name} {ast.unparse(node.args)} {ast.unparse(node.returns) if node.returns else ''}")
        if isinstance(node, ast.Name):
            shown.append(node.id)
    return "\n".join(shown)


@functools.cache
def words_of_project(root: Path, results: bool) -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    """Words of what people wrote: prose, docstrings, tables; and, if asked for, of the results of runs."""
    left_out, texts = {"_generated"} if results else {"_generated", "results"}, []
    for file in (file for pattern in PROJECT for file in root.glob(pattern) if not left_out & set(file.parts)):
        text = file.read_text(encoding="utf-8", errors="ignore")
        texts += [str(file.relative_to(root)), explained(text) if file.stem in LIKE_REPORTS else text]
        if file.suffix == ".bib":
            texts.append(re.sub(r"[{}\\\"'`^~]", "", text))
    return words_of(texts)


def generated_texts(generated: Path) -> Iterator[str]:
    """What the pages of runs are written from: the notebooks that passed the gate, and generated prose."""
    for file in sorted(file for kind in ("md", "json", "yml") for file in generated.rglob(f"*.{kind}")):
        yield file.read_text()
    for file in sorted(generated.rglob("*.ipynb")):
        yield file.relative_to(generated).as_posix()
        for cell in nbformat.read(file, as_version=4).cells:
            yield cell.source
            yield str(dict(cell.metadata))
            for output in cell.get("outputs", []):
                yield output.get("text", "")
                for kind, value in output.get("data", {}).items():
                    if kind == "text/html":
                        yield from (text for _, text in leaks.Units(value).found)
                    elif kind.startswith("text/"):
                        yield value


class Sources:
    """The words, and the runs of three words, of the book's sources; without `generated`, of what people wrote."""

    def __init__(self, generated: Path | None):
        self.parts = [words_of_the_theme(), words_of(generated_texts(generated))] if generated else []
        roots = dict.fromkeys((LIBRARY.parent, paths.PROJECT_ROOT))
        self.parts += [words_of_project(root, generated is not None) for root in roots]

    def strange(self, text: str) -> list[str]:
        """The words and numbers of a text that stand in no source."""
        found = (token for token in tokens(text) if not MADE.fullmatch(token))
        return [token for token in found if not any(token in said for said, _ in self.parts)]

    def unknown(self, text: str, numbers: bool = True) -> int:
        """How many words and, if asked for, numbers of a text stand in no source."""
        return sum(numbers or not token.isdigit() for token in self.strange(text))

    def composed(self, text: str) -> bool:
        """Whether words of the sources stand in an order that no source has."""
        found = tokens(text)
        triples = list(zip(found, found[1:], found[2:], strict=False))
        strange = [one for one in triples if not any(one in known for _, known in self.parts)]
        return len(triples) > 2 and 2 * len(strange) > len(triples)
