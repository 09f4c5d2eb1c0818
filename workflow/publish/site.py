"""The gate's second half: the built book. Every file is known by its hash, or looked through word by word."""

import json
import re
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat

from pkd_utils.runs import paths, run
from workflow.publish import gate, leaks
from workflow.publish.executed import digest
from workflow.publish.sources import Sources, is_of_the_theme, tokens
from workflow.publish.vocabulary import own_shingles

# What Sphinx writes itself; anything else in _static is a file of the theme or of book/_static.
WRITTEN = re.compile(
    r"_static/(?:basic\.css|copybutton\.js|language_data\.js|pygments\.css|documentation_options\.js)"
    r"|objects\.inv|\.buildinfo|(?!_static/|_images/|_sources/|_downloads/)[\w./-]+\.html"
)
# What `pages` draws of book/results, and of a run that may show images.
OF_RESULTS = ("case-or-label-*.png", "*-arms.png", "*-forest.png", "*-bars.png", "home-*.png")
OF_RESULTS += ("openi-reports.png", "openi-pretraining.png")
DRAWING = re.compile(r"\.(?:png|jpe?g|gif|svg)$", re.I)
LOADING = {"script": "src", "iframe": "src", "audio": "src", "video": "src", "source": "src", "embed": "src"}
LOADING |= {"link": "href", "object": "data"}
PIXELS = {"canvas", "video", "object", "embed", "iframe", "image", "rect", "foreignobject", "picture"}
COLOUR = re.compile(r"#[0-9a-f]{3,8}\b|\b\d+px", re.I)
VERSION = re.compile(r"\?v=[0-9a-f]{8}\b|(?<=_downloads/)[0-9a-f]{32}/|\.[0-9a-f]{64}\.css|(?<=: )[0-9a-f]{32}\b")
CITED = re.compile(r"\[[A-Za-z+]+\d\d[a-z]?\]")


def is_external(address: str) -> bool:
    return bool(urlsplit(address).netloc) or address.startswith("//")


def decoded(content: bytes, name: str) -> str | None:
    """A file's text, or None if it is not plain UTF-8."""
    try:
        if name.endswith("objects.inv"):
            head, _, packed = content.partition(b"zlib.\n")
            content = head + b"\n" + zlib.decompress(packed)
        return None if b"\0" in content else content.decode("utf-8")
    except (UnicodeDecodeError, zlib.error):
        return None


def downloads(page: leaks.Units) -> list[dict[str, str]]:
    """Links of a page to files to take home."""
    links = (given for tag, given in page.tags if tag == "a")
    return [given for given in links if "download" in given or "_downloads/" in given.get("href", "")]


def page_findings(name: str, page: leaks.Units, may_offer: bool) -> list[str]:
    """What a page must hold to: alt texts, nothing from other sites, no pixels but image files, downloads if it may."""
    found = []
    for tag, given in page.tags:
        address = given.get(LOADING.get(tag, ""), "")
        if tag == "img":
            source, alt = given.get("src", ""), given.get("alt", "")
            if not alt.strip():
                found.append(f"{name}: the image {Path(source).name[:60]} has no alt text")
            elif source and unquote(source).split("/")[-1] == alt:
                found.append(f"{name}: the alt text of {alt[:60]} is only its file name")
            address = source
        if is_external(address) and not (tag == "link" and given.get("rel") in ("canonical", "license")):
            found.append(f"{name}: loads {urlsplit(address).netloc} from another site")
        if tag in PIXELS or address.startswith("data:") or given.get("srcdoc"):
            found.append(f"{name}: shows an image that is no file of its own (<{tag}>)")
        if tag != "body" and re.search(r"background|url\(|rgb|#[0-9a-f]{3}", given.get("style", ""), re.I):
            found.append(f"{name}: colours a <{tag}>, which could be a pixel")
    if not may_offer and downloads(page):
        found.append(f"{name}: offers a download")
    scripts = [text for where, text in page.found if where in ("script", "style")]
    if any("https://unpkg.com" in script or "https://cdn" in script for script in scripts):
        found.append(f"{name}: a script names a CDN")
    if any(re.search(r"@import\s+[\"']?(?:url\()?[\"']?https?:", script) for script in scripts):
        found.append(f"{name}: a style sheet is imported from another site")
    return found


class Site:
    """The findings of a built book."""

    def __init__(self, html: Path, generated: Path, manifest: list[dict[str, Any]]):
        self.html, self.found = html, []
        # A page of the book is <html>/book/_generated/<page>.html.
        self.entries = {f"book/_generated/{entry['page']}.html": entry for entry in manifest}
        self.closed = {name: one for name, one in self.entries.items() if not (one["text"] and one["images"])}
        self.sources, own = Sources(generated), own_shingles(paths.PROJECT_ROOT)
        self.drawings = {digest(item.read_bytes()) for item in committed_drawings(generated.parent)}
        self.drawings |= {one for entry in manifest for one in entry["images_sha256"]}
        # The pages' own drawings of stored results, which are aggregates; a notebook's lie in folders below.
        self.drawings |= {digest(item.read_bytes()) for name in OF_RESULTS for item in generated.glob(name)}
        # Executed notebooks that may be taken home: their pages show all that they hold.
        opened = [generated / f"{e['page']}.ipynb" for name, e in self.entries.items() if name not in self.closed]
        self.notebooks = {digest(file.read_bytes()) for file in opened if file.exists()}
        # Of the others only what they were before they ran.
        without = [file for file in (generated / gate.SOURCES).rglob("*.ipynb") if holds_no_result(file)]
        self.without = {digest(file.read_bytes()) for file in without}
        self.seen: dict[tuple[bool, str, str], list[str]] = {}
        try:
            folders = [run.find_run(entry["run"]["reference"]) for entry in self.closed.values()]
            self.secrets = leaks.Secrets.of(folders, own)
        except FileNotFoundError as error:
            self.secrets = leaks.Secrets.of([], own)
            self.found.append(f"the runs of pages are not here to compare with: {error}")
        self.found += [f"{name}: this page was not built" for name in self.entries if not (html / name).exists()]
        for item in sorted(html.rglob("*")):
            if item.is_file():
                self._file(item.relative_to(html).as_posix(), item.read_bytes())
        self._search_index()

    def _file(self, name: str, content: bytes) -> None:
        known = digest(content)
        if name.startswith("_images/"):
            if known not in self.drawings:
                self.found.append(f"{name}: comes from no run that may show images, and is no committed file")
        elif (
            (name.startswith("_static/") and (known in self.drawings or is_of_the_theme(name, content)))
            or (name.startswith("_downloads/") and known in self.notebooks | self.without)
            or name == "searchindex.js"
        ):
            return
        elif not WRITTEN.fullmatch(name):
            self.found.append(f"{name}: a file of this kind does not belong into the book")
        elif (text := decoded(content, name)) is None:
            self.found.append(f"{name}: is not plain text in UTF-8")
        elif name.endswith(".html"):
            self._page(name, leaks.Units(text))
        else:
            text = (COLOUR if name.endswith(".css") else VERSION).sub("", text)
            if unknown := self.sources.unknown(text):
                self.found.append(f"{name}: holds {unknown} words that stand in no source of the book")
            self.found += [f"{name}: {what}" for what in self._leaks(text, False)]

    def _search_index(self) -> None:
        """What Sphinx searches are words of the pages, all looked through by now, without their ends."""
        file = self.html / "searchindex.js"
        text = file.read_text() if file.exists() else ""
        text = re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), text)
        if stems := set(self.sources.strange(text)):
            shown = {token for _, _, said in self.seen for token in tokens(said)}
            begun = {token[:end] for token in shown for end in range(1, len(token) + 1)}
            forms = ({stem, stem[:-1] + "y", stem[: max(3, len(stem) - 2)]} for stem in stems)  # any is ani there
            if unknown := sum(not form & begun for form in forms):
                self.found.append(f"searchindex.js: holds {unknown} words that stand on no page")
        if self.secrets.repeated(text) or leaks.ENCODED.search(text):
            self.found.append("searchindex.js: holds words of a report that a run has read, or a picture in letters")

    def _page(self, name: str, page: leaks.Units) -> None:
        may_offer = name in self.entries and (name not in self.closed or self._offers(name, page))
        self.found += page_findings(name, page, may_offer)
        entry = self.entries.get(name)
        simulated = bool(entry and entry["simulated"])
        if simulated and not any("simulated" in text.lower() for _, text in page.found):
            self.found.append(f'{name}: shows simulated data and never says "simulated"')
        outputs = any(where == "div@class" and "cell_output" in text for where, text in page.found)
        if name.startswith("book/_generated/") and entry is None and outputs:
            self.found.append(f"{name}: shows notebook output that did not go through the gate")
        if name in self.closed:
            self._closed_images(name, page, entry)
        for where, text in page.found:
            key = (simulated, where, text)
            if key not in self.seen:
                self.seen[key] = self._unit(where, text, simulated, name in self.closed)
            self.found += [f"{name}, {where}: {what}" for what in self.seen[key]]

    def _offers(self, name: str, page: leaks.Units) -> bool:
        """Whether all that a page offers to download are notebooks without results."""
        offered = [(self.html / name).parent / unquote(given.get("href", "")) for given in downloads(page)]
        return all(file.is_file() and digest(file.read_bytes()) in self.without for file in offered)

    def _closed_images(self, name: str, page: leaks.Units, entry: dict[str, Any]) -> None:
        """On a page that may not show everything, only the images that passed the gate with it."""
        for tag, given in page.tags:
            file = (self.html / name).parent / unquote(given.get("src", ""))
            if tag == "img" and not (file.is_file() and digest(file.read_bytes()) in entry["images_sha256"]):
                self.found.append(f"{name}: shows an image that did not go through the gate with it")

    def _unit(self, where: str, text: str, simulated: bool, closed: bool) -> list[str]:
        """What is wrong with one text of a page."""
        text = VERSION.sub("", text)
        drawn = where == "path@d" and len(text) < 1000
        unknown = 0 if CITED.fullmatch(text) or drawn else self.sources.unknown(text, where != "dt")
        found = [f"{unknown} words that stand in no source of the book"] if unknown else []
        prose = where not in ("dt", "script", "style") and "@" not in where
        if closed and prose and self.sources.composed(text):
            found.append("words in an order that no source has")
        return found + self._leaks(text, simulated)

    def _leaks(self, text: str, simulated: bool) -> list[str]:
        ids = self.secrets.named(text) + (0 if simulated else len(leaks.identifiers(text)))
        found = [f"{ids} identifiers"] if ids else []
        if self.secrets.repeated(text):
            found.append("words of a report that a run has read")
        return found + (["what may be a picture in letters"] if leaks.ENCODED.search(text) else [])


def holds_no_result(notebook: Path) -> bool:
    """Whether no cell of a notebook has an output."""
    return not any(cell.get("outputs") for cell in nbformat.read(notebook, as_version=4).cells)


def committed_drawings(book: Path) -> list[Path]:
    """Images and style files of the book's own folder; what was generated is not among them."""
    files = [item for item in book.rglob("*") if item.is_file() and "_generated" not in item.parts]
    return [item for item in files if DRAWING.search(item.name) or "_static" in item.parts]


def site_findings(html: Path, generated: Path) -> list[str]:
    """Say what is wrong with a built book, a line a finding; none repeats an identifier or a report.

    The manifest in `generated`, `book/_generated`, says what each notebook's page may show.
    """
    if not (html / "index.html").exists():
        return [f"{html} holds no index.html: build the book first (make pages)"]
    manifest = generated / "manifest.json"
    if not manifest.exists():
        return [f"{manifest} is missing: the notebooks did not go through the gate (make pages)"]
    return Site(html, generated, json.loads(manifest.read_text())).found
