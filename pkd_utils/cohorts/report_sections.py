"""Sections of MIMIC-CXR radiology reports.

A report is plain text; a section starts on a new line with one space, a name in capitals and a colon (" FINDINGS: ").
Names vary and are mistyped, so they are normalised. The rules follow the section parser that accompanies MIMIC-CXR:
empty impression and findings are dropped, the last occurrence of a section counts (an addendum follows the report), and
a report with neither gives its last paragraph. Its hand-made exceptions for 54 single studies are not repeated here;
they do not reach its sectioned table either.
"""

import re
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from pkd_utils.runs.errors import DataError

SECTION_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
# A rule of underscores separates an addendum; three underscores stand for removed identifiers and stay.
_RULES = re.compile(r"^[ \t]*(?:_{5,}|FINAL (?:REPORT|ADDENDUM))[ \t]*$", flags=re.MULTILINE)
ARCHIVE = "mimic-cxr-reports.zip"
READERS = 16  # threads
BATCH = 64  # reports a thread takes at once
WHERE = "https://physionet.org/content/mimic-cxr/ (mimic-cxr-reports.zip; access is by credential)"

# Names as they stand in reports, by the section that they open. A section that states findings and impression in one
# is an impression, because it is where the conclusion stands.
_NAMES = {
    "impression": [
        "impression", "impressions", "impresson", "imprssion", "impression and recommendation",
        "impression and recommendations", "impression/recommendation", "impression/recommendations",
        "impression and plan", "imp", "final impression", "conclusion", "conclusions", "opinion", "summary",
        "interpretation", "findings and impression", "findings/impression", "findings/ impression",
        "impression/findings", "impression and findings", "conclusion/impression",
    ],
    "findings": [
        "findings", "finding", "findins", "findngs", "fingings", "fidings", "findings/", "pfi/findings",
        "preliminary findings", "report", "chest", "chest findings", "portable chest", "ap chest", "pa chest",
        "ap portable chest", "portable ap chest", "single ap view", "single frontal view of the chest",
        "frontal view of the chest", "ap view of the chest", "upright ap view of the chest",
        "semi-upright portable chest radiograph", "portable upright ap view of the chest", "chest radiograph",
        "chest, two views", "chest, single view", "chest, ap portable", "chest, pa and lateral", "chest pa and lateral",
        "pa and lateral chest", "pa and lateral chest views", "pa and lateral views of the chest",
        "pa and lateral chest radiographs", "two views of the chest", "frontal and lateral views of the chest",
        "frontal and lateral chest radiographs", "frontal and lateral radiographs of the chest",
    ],
    "comparison": [
        "comparison", "comparisons", "comparisions", "comparision", "comparsion", "comparison exam",
        "comparison exams", "comparison film", "comparison study", "comparison studies", "comparison is made to",
        "reference exam", "prior study",
    ],
    "indication": [
        "indication", "indications", "clinical indication", "clinical indications", "history", "clinical history",
        "patient history", "reason for examination", "reason for exam", "reason for study", "clinical information",
        "history/indication", "indication/history",
    ],
    "examination": ["examination", "exam", "type of examination", "type of exam", "study", "procedure"],
    "technique": ["technique", "techniques", "views"],
    "recommendation": ["recommendation", "recommendations", "recommendation(s)"],
    "notification": ["notification", "notifications", "communication"],
    "addendum": ["addendum", "final addendum"],
    "wet read": ["wet read", "wet read version"],
}  # fmt: skip
SECTION_NAMES = {alias: name for name, aliases in _NAMES.items() for alias in aliases}
FALLBACK = ("last_paragraph", "comparison")


def split_sections(report: str) -> dict[str, str]:
    """Split a report, as it is in its file, into sections.

    Returns
    -------
    dict
        Section name (normalised by `SECTION_NAMES`, else lower case) to its text with single spaces, the last
        occurrence of each; empty sections are left out. With neither impression nor findings, `last_paragraph` is the
        report's last paragraph.
    """
    # The line break in front lets a header stand in the first line, too.
    before, *parts = SECTION_HEADER.split("\n" + _RULES.sub("", report.replace("\r\n", "\n")))
    headers, bodies = parts[::2], parts[1::2]
    sections = {}
    for header, body in zip(headers, bodies, strict=True):
        name = " ".join(header.lower().split())
        if body.strip():
            sections[SECTION_NAMES.get(name, name)] = " ".join(body.split())
    if "impression" not in sections and "findings" not in sections:
        last = [before, *bodies][-1]
        paragraphs = [" ".join(block.split()) for block in re.split(r"\n[ \t]*\n", last) if block.strip()]
        # A last section of one paragraph is that section (say, a comparison), not free text at the end.
        if paragraphs and (not headers or len(paragraphs) > 1):
            sections["last_paragraph"] = paragraphs[-1]
    return sections


def report_text(report: str, sections: Sequence[str] = ("findings", "impression")) -> tuple[str, str]:
    """Join the wanted sections of a report.

    Parameters
    ----------
    report : str
    sections : sequence of str
        Joined in this order, as far as the report has them; with none of them, the first of `FALLBACK` stands in.

    Returns
    -------
    (str, str)
        The text, "" if there is none, and which sections it came from ("findings+impression", "last_paragraph", "").
    """
    found = split_sections(report)
    used = [name for name in sections if name in found]
    if not used:
        used = [name for name in FALLBACK if name in found][:1]
    return "\n".join(found[name] for name in used), "+".join(used)


def read_reports(root: Path, studies: pd.DataFrame, sections: Sequence[str]) -> pd.DataFrame:
    """Read the reports of some studies, from files or straight out of `mimic-cxr-reports.zip`.

    Parameters
    ----------
    root : Path
        Folder that holds `files/p10/p10000032/s50414267.txt` ... or the zip file with these members.
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
    archive = None if (root / "files").is_dir() or not (root / ARCHIVE).is_file() else root / ARCHIVE
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
    except UnicodeDecodeError:
        raise DataError(f"Report {name} in {where} is not UTF-8 text; fetch it again.") from None


class ReportFolder:
    """A folder that is read by member name, as a zip file is."""

    def __init__(self, root: Path):
        self.root = root

    def read(self, name: str) -> bytes:
        with open(f"{self.root}/{name}", "rb", buffering=0) as file:  # a pathlib.Path would take as long as the reading
            return file.read()
