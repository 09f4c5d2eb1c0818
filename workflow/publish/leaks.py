"""What must not be shown: identifiers, report text and pixels of data under a use agreement.

Pure functions on text; `gate.py` decides where they are applied. No message ever repeats what was found: it says what
kind of thing it is and where, so that a log is as safe as a page.
"""

import re
from collections.abc import Iterable, Iterator

from bs4 import BeautifulSoup, NavigableString, Tag

DICOM_ID = re.compile(r"(?<![0-9a-f-])[0-9a-f]{8}(?:-[0-9a-f]{8}){4}(?![0-9a-f-])", re.I)
# Subjects are 8 digits that start with 1, studies 8 digits that start with 5, in file names as p1... and s5...
NUMBERED_ID = re.compile(r"(?<![0-9A-Za-z.])(?:p?1\d{7}|s?5\d{7})(?![0-9A-Za-z]|\.\d)")
PREFIXED_ID = re.compile(r"(?<![0-9A-Za-z])(?:p1\d{7}|s5\d{7})(?![0-9A-Za-z])")
# INSPECT names a volume PE and seven hexadecimal digits; PE00000.. is nobody.
INSPECT_ID = re.compile(r"(?<![0-9A-Za-z])PE(?!00000)[0-9a-f]{7}(?![0-9A-Za-z])")
DOI = re.compile(r"10\.\d{4,9}/[^\s\"'<>]+")

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


def words(text: str) -> list[str]:
    """Lower-case words of a text; numbers and signs separate runs and are dropped."""
    return re.findall(r"[a-z]+", text.lower())


FINDING_WORDS = set(
    words(
        "atelectasis cardiomegaly cardiomediastinal consolidation consolidations edema effusion effusions heart hilar "
        "lung lungs mediastinal opacities opacity pleural pneumonia pneumothorax pulmonary silhouette vascular"
    )
)
REPORT_WORDS = set(
    words(
        "acute bilateral clear enlarged evidence focal increased interval is are left mild moderate new no normal "
        "right seen severe small stable there unchanged unremarkable without worsening improved"
    )
)
PROSE_WORDS = 8  # this many words in a row, strange to the project's own source, are foreign prose
SHINGLE_WORDS = 5


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    """All runs of `size` consecutive words."""
    tokens = words(text)
    return {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}


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
    text = DOI.sub(" ", text)
    numbered = (PREFIXED_ID if prefixed_only else NUMBERED_ID).findall(text)
    found = {match.lower() for match in DICOM_ID.findall(text) + INSPECT_ID.findall(text)} | {
        match.lstrip("ps") for match in numbered
    }
    return found - PUBLIC_EXAMPLES


def report_text(text: str, own: Iterable[str] = ()) -> list[str]:
    """Kinds of report text that `text` seems to hold, without repeating it.

    Three nets, because no single one is tight: a section heading followed by words; a sentence that combines a finding
    with a radiologist's verb or adjective; and any `PROSE_WORDS` words in a row most of whose triples of words the
    project's own source (`own`: notebook cells, library modules) does not hold; a sentence with a value filled in
    still counts as ours.

    Returns
    -------
    list of str
        Empty if nothing was found.
    """
    own = list(own)
    own_text = " ".join(" ".join(words(part)) for part in own)
    own_triples = {triple for part in own for triple in shingles(part, 3)}
    found = []
    if SECTION.search(text):
        found.append("a report section heading followed by text")
    foreign = 0
    for sentence in re.split(r"(?<=[.;!?])\s|\n", text):
        tokens = words(sentence)
        if len(tokens) < 3 or " ".join(tokens) in own_text:
            continue
        ends = sentence.rstrip().endswith((".", ";"))
        if ends and FINDING_WORDS & set(tokens) and REPORT_WORDS & set(tokens):
            found.append(f"a sentence of {len(tokens)} words that reads like a report")
    for line in re.split(r"[\n|]", text):
        # Digits and signs break a run, so that tables and progress bars are not prose; commas and full stops do not.
        for stretch in re.split(r"[^A-Za-z\s,.;:'()-]+", line):
            tokens = words(stretch)
            known = [tuple(tokens[i : i + 3]) in own_triples for i in range(len(tokens) - 2)]
            width = PROSE_WORDS - 2
            foreign += sum(2 * sum(known[i : i + width]) < width for i in range(len(known) - width + 1))
    if foreign:
        found.append(f"{foreign} runs of {PROSE_WORDS} words that are not the project's own")
    return found


def repeated_from(text: str, corpus: Iterable[str], own: Iterable[str] = ()) -> int:
    """Number of texts in `corpus` that share `SHINGLE_WORDS` consecutive words with `text` (own source not counted)."""
    shown = shingles(text, SHINGLE_WORDS)
    for part in own:
        shown -= shingles(part, SHINGLE_WORDS)
    if not shown:
        return 0
    return sum(not shown.isdisjoint(shingles(report, SHINGLE_WORDS)) for report in corpus)


INLINE = {"span", "a", "code", "em", "strong", "b", "i", "wbr"}
LINES = {"p", "div", "tr", "li", "pre", "br", "h1", "h2", "h3"}
LOADED = {"stylesheet", "preload", "icon", "modulepreload"}
CLOSED = {"p", "div", "tr", "td", "th", "li", "pre"}


def visible(tag: Tag) -> Iterator[str]:
    """Texts below a tag, a space between elements, none between adjacent words of highlighted code."""
    for child in tag.children:
        if type(child) is NavigableString:
            yield child
        elif isinstance(child, Tag):
            if child.name not in INLINE:
                yield " \n" if child.name in LINES else " "
            yield from visible(child)
            if child.name in CLOSED:
                yield " "


class Page:
    """What the gate asks of an HTML page.

    Attributes
    ----------
    text : str
        What is visible.
    images : list of (str, str or None)
        Source and alt text of every `img`.
    loaded, downloads : list of str
        Addresses of scripts, style sheets, fonts, frames and media; and of what is offered for download.
    scripts : list of str
        Scripts and style sheets that stand in the page.
    """

    def __init__(self, html: str):
        page = BeautifulSoup(html, "html.parser")
        self.images = [(tag.get("src") or "", tag.get("alt")) for tag in page("img")]
        self.loaded = [tag["src"] for tag in page(["script", "iframe", "audio", "video", "source", "embed"], src=True)]
        self.loaded += [tag.get("href") or "" for tag in page("link") if LOADED & set(tag.get("rel") or [])]
        offered = [tag for tag in page("a") if tag.has_attr("download") or "_downloads/" in tag.get("href", "")]
        self.downloads = [tag.get("href") or "" for tag in offered]
        self.scripts = [tag.string or "" for tag in page(["script", "style"])]
        self.text = re.sub(r"[ \t]+", " ", "".join(visible(page)))
