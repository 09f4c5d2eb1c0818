"""Sections of MIMIC-CXR radiology reports.

A report is plain text; a section starts on a new line with a name in capitals and a colon (" FINDINGS: "). Names vary,
are mistyped, joined ("FINDINGS/IMPRESSION") or the study's title ("CHEST, TWO VIEWS"), so they are normalised. The
rules follow the section parser that accompanies MIMIC-CXR (`section_parser.py` of MIT-LCP): a name that holds
"impression" is one, then "findings" and so on; a title is findings; empty impression and findings are dropped; the last
occurrence of a section counts (an addendum follows the report); and a report with neither gives the paragraphs below
the last header's own. Where that parser would lose text, these rules keep it: a name that it does not know goes on with
the findings or impression that it stands in, headers may follow each other line by line, and a title after findings
adds to them. "NDICATION" is an indication here, and so is what says "reason" or "indication" though it names the chest.
Its hand-made exceptions for 54 single studies are not repeated; they do not reach its sectioned table either.
"""

import re
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from pkd_utils.runs.errors import DataError

SECTION_HEADER = re.compile(r"\n[ \t]*([A-Z][A-Z0-9 ()/,.&;'\"#+_-]+):(?=\D|$)")
# A rule of underscores separates an addendum; three underscores stand for removed identifiers and stay.
_RULES = re.compile(r"^[ \t]*(?:_{5,}|FINAL (?:REPORT|ADDENDUM))[ \t]*$", flags=re.MULTILINE)
ARCHIVE = "mimic-cxr-reports.zip"
READERS = 16  # threads
BATCH = 64  # reports a thread takes at once
WHERE = "https://physionet.org/content/mimic-cxr/ (mimic-cxr-reports.zip; access is by credential)"

# What a name holds, by the section that it opens; the first that fits counts, here as in `section_parser.py`. A section
# that states findings and impression in one is an impression, because it is where the conclusion stands.
_WORDS = {
    "impression": ("impression", "conclusion", "opinion", "summary", "interpretation"),
    "findings": ("finding",),
    "indication": ("indication", "history", "reason", "clinical"),
    "comparison": ("comparison", "reference exam", "prior study"),
    "addendum": ("addendum",),
    "recommendation": ("recommendation",),
    "notification": ("notification", "communication"),
    "wet read": ("wet read", "wetread"),
}
# Whole names that hold none of these, or another one.
_NAMES = {
    "imp": "impression", "report": "findings", "pfi": "wet read", "technique": "technique", "techniques": "technique",
    "views": "technique", "examination": "examination", "exam": "examination", "study": "examination",
    "type of examination": "examination", "type of exam": "examination", "procedure": "examination", "date": "date",
}  # fmt: skip
_TITLE = re.compile(
    r"chest|portable|bedside|radiograph|x-?ray|\bfilms?\b|\bviews?\b|frontal|lateral|\bpa and lat|upright|supine|erect|"
    r"lordotic|decubitus|\b(ap|pa)\b|\bribs\b|bone window"
)
_LIKE = 0.86  # a typo or two: "comparsion", "finidngs"; but "compression" is no impression
SECTIONS = (*_WORDS, "technique", "examination", "last_paragraph")
# What stands in for the findings or impression that a report lacks, the other of the two first.
FALLBACK = ("impression", "findings", "last_paragraph", "addendum", "wet read", "comparison")


@lru_cache(maxsize=10_000)
def section_name(header: str) -> tuple[str, str]:
    """The section that a header opens, and how it is known: "name", "title" (of the study, so findings) or ""."""
    name = " ".join(header.lower().split())
    if name in _NAMES:
        return _NAMES[name], "name"
    words = [word for word in re.findall("[a-z]+", name) if len(word) > 5]
    for section, parts in _WORDS.items():
        like = (SequenceMatcher(None, word, part + ending) for word in words for part in parts for ending in ("", "s"))
        if any(part in name for part in parts) or any(match.ratio() >= _LIKE for match in like):
            return section, "name"
    if _TITLE.search(name):
        return "findings", "title"
    exact = get_close_matches(name, _NAMES, 1, _LIKE)
    return (_NAMES[exact[0]], "name") if exact and len(name) > 5 else (name, "")


def split_sections(report: str) -> dict[str, str]:
    """Split a report, as it is in its file, into sections.

    Returns
    -------
    dict
        Section name (`section_name`) to its text with single spaces, the last occurrence of each; empty sections are
        left out. With neither impression nor findings, `last_paragraph` is what stands below other sections' first
        paragraphs or under unknown names, else what stands before all headers.
    """
    # The line break in front lets a header stand in the first line, too.
    before, *parts = SECTION_HEADER.split("\n" + _RULES.sub("", report.replace("\r\n", "\n")))
    sections, current, free = {}, "", []
    for header, body in zip(parts[::2], parts[1::2], strict=True):
        (name, known), text = section_name(header), " ".join(body.split())
        if not known and current in ("findings", "impression"):
            name, text = current, f"{header.strip()}: {text}".strip()
        if (name == current and not known) or known == "title":
            text = " ".join([sections.get(name, ""), text]).strip()
        if text:
            sections[name] = text
        current = name
        if not known:
            free.append(f"{header.strip()}: {text}")
        elif name not in ("notification", "recommendation"):
            free += _paragraphs(body)[1:]
    if "impression" not in sections and "findings" not in sections:
        opening = _paragraphs(before)
        if not free and ("comparison" not in sections or re.search(r"[a-z]{2}\.(\s|$)", " ".join(opening))):
            free = opening  # not a title in capitals in front of a comparison that tells all
        if free:
            sections["last_paragraph"] = " ".join(free)
    return sections


def _paragraphs(text: str) -> list[str]:
    return [" ".join(block.split()) for block in re.split(r"\n[ \t]*\n", text) if block.strip()]


def report_text(report: str, sections: Sequence[str] = ("findings", "impression")) -> tuple[str, str]:
    """Join the wanted sections of a report.

    Parameters
    ----------
    report : str
    sections : sequence of str
        Some of `SECTIONS`, joined in this order, as far as the report has them. With none of them, and findings or
        impression among them, the first of `FALLBACK` stands in: a report with findings only answers for its
        impression. Other sections, asked for alone, have no stand-in: an indication is not the impression.

    Returns
    -------
    (str, str)
        The text, "" if there is none, and which sections it came from ("findings+impression", "last_paragraph", "").

    Raises
    ------
    DataError
        A section that no report has, none at all, or a string in place of a sequence.
    """
    unknown = [sections] if isinstance(sections, str) else [name for name in sections if name not in SECTIONS]
    if unknown or not sections:
        said = f"sections = {unknown[0]!r}" if unknown else "No section is asked for"
        raise DataError(f"{said}: give a list of some of {', '.join(SECTIONS)}.")
    found = split_sections(report)
    used = [name for name in sections if name in found]
    if not used and {"findings", "impression"} & set(sections):
        used = [name for name in FALLBACK if name in found][:1]
    return "\n".join(found[name] for name in used), "+".join(used)


def read_reports(root: Path, studies: pd.DataFrame, sections: Sequence[str]) -> pd.DataFrame:
    """Read the reports of some studies, from files or straight out of `mimic-cxr-reports.zip`.

    Parameters
    ----------
    root : Path
        Folder that holds `files/p10/p10000032/s50414267.txt` ... or the zip file with these members, which may lie
        beside the pictures' own `files/`.
    studies : DataFrame
        `study_id` and `patient_id`, one row a study.
    sections : sequence of str

    Returns
    -------
    DataFrame
        Indexed by `study_id`: what `report_text` gives, as `text` (NaN where there is none) and `sections`.
    """
    patients = studies["patient_id"]
    names = ("files/p" + patients.str[:2] + "/p" + patients + "/s" + studies["study_id"] + ".txt").tolist()
    archive = root / ARCHIVE
    if not archive.is_file() or (names and (root / names[0]).is_file()):
        archive = None
    rows = []
    with (
        zipfile.ZipFile(archive) if archive else nullcontext(ReportFolder(root)) as source,
        # Threads, because small files on a disk or a network drive are mostly waited for.
        ThreadPoolExecutor(READERS) as pool,
        # Short jobs show no bar: it would be the only unstable output of a cell that loads a small cohort.
        tqdm(total=len(names), desc="reading reports", unit="report", disable=len(names) < 5000) as bar,
    ):
        batches = [names[i : i + BATCH] for i in range(0, len(names), BATCH)]
        for found in pool.map(lambda batch: [_read_one(source, archive or root, n, sections) for n in batch], batches):
            rows += found
            bar.update(len(found))
    table = pd.DataFrame(rows, columns=["text", "sections"], index=pd.Index(studies["study_id"], name="study_id"))
    return table.assign(text=table["text"].replace("", np.nan)).astype("str")


def _read_one(source, where: Path, name: str, sections: Sequence[str]) -> tuple[str, str]:
    try:
        return report_text(source.read(name).decode("utf-8"), sections)
    except (FileNotFoundError, KeyError):
        raise FileNotFoundError(f"Report {name} is missing from {where}; get it from {WHERE}.") from None
    # a folder, a circle of links, a damaged archive, text of another encoding
    except (OSError, zipfile.BadZipFile, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"Report {name} in {where} cannot be read ({error}); fetch it again.") from None


class ReportFolder:
    """A folder that is read by member name, as a zip file is."""

    def __init__(self, root: Path):
        self.root = root

    def read(self, name: str) -> bytes:
        with open(f"{self.root}/{name}", "rb", buffering=0) as file:  # a pathlib.Path would take as long as the reading
            return file.read()
