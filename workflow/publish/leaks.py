"""What must not be shown: identifiers, reports and pixels of data under a use agreement.

Pure functions on text, and what a run's own tables say must not be shown (`Secrets`). No message ever repeats what was
found: it says what kind of thing it is and where, so that a log is as safe as a page.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pkd_utils.runs import files, run, showing

DICOM_ID = re.compile(r"(?<![0-9a-f-])[0-9a-f]{8}(?:-[0-9a-f]{8}){4}(?![0-9a-f-])", re.I)
BARE_DICOM_ID = re.compile(r"(?<![0-9a-z])[0-9a-f]{40}(?![0-9a-z])", re.I)
# Subjects are 8 digits that start with 1, studies 8 digits that start with 5, in file names as p1... and s5...
NUMBERED_ID = re.compile(r"(?<![0-9A-Za-z.])(?:p?1\d{7}|s?5\d{7})(?![0-9A-Za-z]|\.0*[1-9])")
PREFIXED_ID = re.compile(r"(?<![0-9A-Za-z])(?:p1\d{7}|s5\d{7})(?![0-9A-Za-z])")
# INSPECT names a volume PE and seven hexadecimal digits; PE00000.. is nobody.
INSPECT_ID = re.compile(r"(?<![0-9A-Za-z])PE(?!00000)[0-9a-f]{7}(?![0-9A-Za-z])")
DOI = re.compile(r"10\.\d{4,9}/[^\s\"'<>]+")
GROUPED = re.compile(r"(?<!\d)\d{1,3}(?:([,_ '])\d{3})(?:\1\d{3})+(?!\d)")

# The one path that PhysioNet prints on MIMIC-CXR's public page to explain the folders, and the beginning of a SHA-256
# that stands in the file name of EfficientNet-Lite0's weights; 2 ** 24, a size in bytes on a page of the API; the one
# volume that public code names to explain INSPECT's file names.
PUBLIC_EXAMPLES = {
    "10000032",
    "50414267",
    "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014",
    "57934424",
    "16777216",
    "pe452890e",
}

SECTION = re.compile(
    r"\b(?:FINAL REPORT|(?:FINDINGS?|IMPRESSION|INDICATION|COMPARISON|EXAMINATION|TECHNIQUE|HISTORY|CONCLUSION)"
    r"\s*:\s+\w+(?:\W+\w+){2})"
)
FINDING_WORDS = {"atelectasis", "cardiomegaly", "cardiomediastinal", "consolidation", "consolidations", "edema"}
FINDING_WORDS |= {"effusion", "effusions", "heart", "hilar", "lung", "lungs", "mediastinal", "opacities", "opacity"}
FINDING_WORDS |= {"pleural", "pneumonia", "pneumothorax", "pulmonary", "silhouette", "vascular"}
REPORT_WORDS = {"acute", "bilateral", "clear", "enlarged", "evidence", "focal", "improved", "increased", "interval"}
REPORT_WORDS |= {"left", "mild", "moderate", "new", "no", "normal", "right", "seen", "severe", "small", "stable"}
REPORT_WORDS |= {"there", "unchanged", "unremarkable", "without", "worsening"}
ENCODED = re.compile(r"data:(?!image/svg\+xml)[\w/+.-]+;base64,|[A-Za-z0-9+/]{100,}|(?:[A-Za-z0-9+/=]{50,}\s+){3}")
BAR = re.compile(r"\|[#█▏▎▍▌▋▊▉ 0-9]*\|")
SHADES = re.compile("[\u2580-\u259f]")
INTEGER = re.compile(r"(?<![\d.])\d{1,5}(?![\d.])")
SHINGLE_WORDS = 5


def words(text: str) -> list[str]:
    """Lower-case words of a text; numbers and signs are dropped."""
    return re.findall(r"[^\W\d_]+", text.lower())


def plain(text: str) -> str:
    """Characters in their usual form, and digits in groups (10,000,032) together."""
    return GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), unicodedata.normalize("NFKC", text))


def identifiers(text: str, prefixed_only: bool = False) -> set[str]:
    """Strings that look like MIMIC's subject, study and image ids, or INSPECT's image ids.

    Parameters
    ----------
    text : str
        Any text. DOIs, which may hold such digits, are left out.
    prefixed_only : bool
        Look for `p1...` and `s5...` only, not for bare numbers: for source code, where any number may stand.

    Returns
    -------
    set of str
        Without the documented public example and without the prefix letters.
    """
    text = plain(DOI.sub(" ", text))
    found = {match.lower() for match in DICOM_ID.findall(text) + INSPECT_ID.findall(text)}
    found |= {match.lstrip("ps") for match in (PREFIXED_ID if prefixed_only else NUMBERED_ID).findall(text)}
    return found - PUBLIC_EXAMPLES


def like_a_report(text: str) -> bool:
    """Whether a line has a report's heading with words behind it, or tells of a finding as a radiologist does."""
    said = set(words(text))
    return bool(SECTION.search(text) or (FINDING_WORDS & said and REPORT_WORDS & said))


def encoded(text: str) -> bool:
    """Whether a text may be a picture: base64, hexadecimal, shades of letters, or hundreds of whole numbers."""
    return bool(ENCODED.search(text) or SHADES.search(BAR.sub("", text)) or len(INTEGER.findall(text)) > 500)


INLINE = {"span", "a", "code", "em", "strong", "b", "i", "wbr", "sub", "sup", "cite", "kbd", "small", "img"}


class Units(HTMLParser):
    """The texts of an HTML page: its paragraphs, cells and titles, every attribute's value, comments.

    Attributes
    ----------
    found : list of (str, str)
        Where (`p`, `td`, `img@alt`, `comment`) and text; adjacent words of one paragraph stay together.
    tags : list of (str, dict)
        Every tag with its attributes.
    """

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._text: list[str] = []
        self._at = ""
        self.feed(html)
        self.close()
        self._end("")

    def _end(self, tag: str) -> None:
        text = "".join(self._text).strip()
        if text:
            self.found.append((self._at, text))
        self._text, self._at = [], tag

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in INLINE:
            self._end(tag)
        self.found += [(f"{tag}@{name}", value) for name, value in attrs if value]

    def handle_endtag(self, tag: str) -> None:
        if tag not in INLINE:
            self._end("")

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", data))

    handle_decl = handle_pi = unknown_decl = handle_comment


def shingles(texts: Iterable[str]) -> np.ndarray:
    """Hashes of all runs of `SHINGLE_WORDS` words, (K,) uint64, sorted and without repetition."""
    codes: list[int] = []
    for text in texts:
        codes += [hash(word) & 0xFFFFFFFFFFFFFFFF or 1 for word in words(text)] + [0]
    array = np.array(codes, dtype=np.uint64)
    total, whole = np.zeros(max(len(array) - SHINGLE_WORDS + 1, 0), np.uint64), True
    for shift in range(SHINGLE_WORDS):
        part = array[shift : shift + len(total)]
        total = total * np.uint64(0x9E3779B97F4A7C15) + part
        whole = whole & (part != 0)  # no run goes over the end of a text
    return np.unique(total[whole])


@dataclass(frozen=True)
class Secrets:
    """What runs have read and must not show: their report texts' shingles, and their identifiers."""

    reports: np.ndarray
    ids: frozenset[str]

    @classmethod
    def of(cls, folders: Iterable[Path], own: np.ndarray) -> "Secrets":
        """Of runs and all runs that they read, and those read, and so on; the project's `own` words are no secret."""
        parts = [_of_table(item, item.stat().st_mtime_ns) for item in _tables(folders)]
        reports = np.unique(np.concatenate([np.zeros(0, np.uint64), *(part.reports for part in parts)]))
        return cls(reports[~among(reports, own)], frozenset().union(*(part.ids for part in parts)))

    def repeated(self, text: str) -> bool:
        """Whether a text has `SHINGLE_WORDS` words in a row from a report."""
        return len(self.reports) > 0 and bool(among(shingles([text]), self.reports).any())

    def named(self, text: str) -> int:
        """How many of the identifiers stand in a text."""
        found = re.findall(r"[^\W_]+(?:[-_.]+[^\W_]+)*", plain(text))
        tokens = {part for token in found for part in (token, *re.split(r"[-_.]+", token))}
        return len({canonical(token) for token in tokens} & self.ids)


def among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which values are among the sorted `known`, which are one or more, (K,) bool."""
    return known[np.searchsorted(known, values).clip(max=len(known) - 1)] == values


def canonical(identifier: str) -> str:
    """An identifier without its signs and capitals."""
    return re.sub(r"[\W_]", "", identifier.lower())


def _tables(folders: Iterable[Path]) -> Iterator[Path]:
    """Parquet tables of runs and of all that they read."""
    waiting, seen = list(folders), set()
    while waiting:
        folder = waiting.pop()
        if folder not in seen:
            seen.add(folder)
            waiting += [run.find_run(one) for one in files.read_json(folder / "run.json").get("upstream", {})]
            yield from sorted(folder.glob("*.parquet"))


@functools.cache
def _of_table(file: Path, _changed: int) -> Secrets:
    names = [name for name in pq.read_schema(file).names if name == "text" or name in showing.IDENTIFIERS]
    table = pd.read_parquet(file, columns=names).reset_index()
    ids = {canonical(str(one)) for name in set(table) & showing.IDENTIFIERS for one in table[name].dropna().unique()}
    long = {one for one in ids if len(one) >= 5 and re.search(r"\d", one)}
    return Secrets(shingles(table["text"].dropna().astype(str)) if "text" in table else shingles([]), frozenset(long))
