"""The gate's second half: the built book and the committed files."""

import hashlib
import json
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

from workflow.publish import leaks

SITE_FILES = {".html", ".js", ".css", ".map", ".png", ".svg", ".jpg", ".gif", ".ico", ".woff", ".woff2", ".ttf"}
SITE_FILES |= {".inv", ".txt", ".json", ".po", ".mo", ".buildinfo"}
DATA_FILES = {".dcm", ".jpg", ".jpeg", ".nii", ".gz", ".tgz", ".zip", ".parquet", ".npy", ".npz", ".pt", ".pth"}
DATA_FILES |= {".pkl", ".safetensors", ".h5", ".xml", ".tif", ".tiff"}
DRAWING = re.compile(r"\.(?:png|jpe?g|gif|svg)$", re.I)


def _is_external(address: str) -> bool:
    return bool(urlsplit(address).netloc) or address.startswith("//")


def _page_findings(name: str, page: leaks.Page, html: str) -> list[str]:
    """What every page must hold to: alt texts, nothing from other sites, no download."""
    found = []
    for source, alt in page.images:
        if not (alt or "").strip():
            found.append(f"{name}: the image {Path(source).name[:60]} has no alt text")
        elif source and not source.startswith("data:") and unquote(source).split("/")[-1] == alt:
            found.append(f"{name}: the alt text of {alt[:60]} is only its file name")
        if _is_external(source):
            found.append(f"{name}: an image is loaded from another site")
    found += [f"{name}: loads {address} from another site" for address in page.loaded if _is_external(address)]
    if re.search(r"@import\s+[\"']?(?:url\()?[\"']?https?:", html):
        found.append(f"{name}: a style sheet is imported from another site")
    if any("https://unpkg.com" in script or "https://cdn" in script for script in page.scripts):
        found.append(f"{name}: a script names a CDN")
    found += [f"{name}: offers {address} for download" for address in page.downloads]
    return found


def _image_findings(html: Path, manifest: list[dict], committed: Path) -> list[str]:
    """Every image of the book must come from a run that may show images, or from a committed file."""
    known = {digest for entry in manifest if entry["images"] for digest in entry["images_sha256"]}
    known |= {
        hashlib.sha256(item.read_bytes()).hexdigest()
        for item in committed.rglob("*")
        if item.is_file() and DRAWING.search(item.name) and "_generated" not in item.parts
    }
    return [
        f"_images/{item.name}: comes from no run that may show images"
        for item in sorted((html / "_images").glob("*"))
        if hashlib.sha256(item.read_bytes()).hexdigest() not in known
    ]


def site_findings(html: Path, generated: Path) -> list[str]:
    """Say what is wrong with a built book.

    Parameters
    ----------
    html : Path
        `_build/html`.
    generated : Path
        `book/_generated`, whose `manifest.json` says what each notebook's page may show.

    Returns
    -------
    list of str
        One line a finding; none repeats an identifier or a report.
    """
    if not (html / "index.html").exists():
        return [f"{html} holds no index.html: build the book first (make pages)"]
    manifest_file = generated / "manifest.json"
    if not manifest_file.exists():
        return [f"{manifest_file} is missing: the notebooks did not go through the gate (make pages)"]
    manifest = json.loads(manifest_file.read_text())
    # A page of the book is <html>/book/_generated/<page>.html.
    entries = {f"book/_generated/{entry['page']}.html": entry for entry in manifest}
    found = []
    for folder in ("_sources", "_downloads"):
        if (html / folder).exists():
            found.append(f"{folder}/ is in the built book: sources and downloads are not published")
    found += [
        f"{item.relative_to(html)}: a file of this kind does not belong into the book"
        for item in sorted(html.rglob("*"))
        if item.is_file() and (item.suffix or item.name) not in SITE_FILES
    ]
    found += [f"{name}: this page was not built" for name in entries if not (html / name).exists()]

    simulated_ids: set[str] = set()
    for item in sorted(html.rglob("*.html")):
        name = item.relative_to(html).as_posix()
        if name.startswith("_static/"):
            continue
        source = item.read_text(encoding="utf-8")
        page = leaks.Page(source)
        found += _page_findings(name, page, source)
        entry = entries.get(name)
        ids = leaks.identifiers(page.text)
        if entry and entry["simulated"]:
            simulated_ids |= ids
            if "simulated" not in page.text.lower():
                found.append(f'{name}: shows simulated data and never says "simulated"')
        elif ids:
            found.append(f"{name}: shows {len(ids)} strings that look like MIMIC identifiers")
        if name.startswith("book/_generated/") and entry is None and "cell_output" in source:
            found.append(f"{name}: shows notebook output that did not go through the gate")
        if entry and not entry["images"] and re.search(r"src=\"(?:[^\"]*_images/|data:image)", source):
            found.append(f"{name}: shows an image, and its cohort is not marked shareable_images")
        if entry and not entry["text"] and leaks.SECTION.search(page.text):
            found.append(f"{name}: shows a report section, and its cohort is not marked shareable_text")
    for item in [html / "searchindex.js", html / "objects.inv"]:
        text = item.read_text(encoding="utf-8", errors="ignore") if item.exists() else ""
        if leaks.identifiers(text, prefixed_only=True) - simulated_ids:
            found.append(f"{item.name}: holds strings that look like MIMIC identifiers")
    return found + _image_findings(html, manifest, generated.parent)


def _committed_file_findings(name: str, path: Path, root: Path) -> list[str]:
    """What is wrong with one committed file."""
    found = []
    may_hold = name.startswith(("tests/", "pkd_utils/encoders/stand_ins/"))
    if path.suffix.lower() in DATA_FILES and not (may_hold and (path.parent / "SIMULATED.txt").exists()):
        found.append(f"{name}: data files are not committed (tests and stand-ins may, beside a SIMULATED.txt)")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return found
    if len(str(root)) > 5 and f"{root}/" in text:
        found.append(f"{name}: names a folder of this machine")
    small_data = name.startswith(("book/results/", "book/reported/"))
    ids = leaks.identifiers(text, prefixed_only=not small_data)
    # Made-up identifiers are what tests and the simulator consist of; a notebook that shows them says "simulated".
    made_up = name.startswith(("tests/", "pkd_utils/demo/"))
    if path.suffix == ".ipynb":
        made_up = "simulated" in text.lower()
    if ids and not made_up:
        found.append(f"{name}: holds {len(ids)} strings that look like MIMIC identifiers")
    if small_data and leaks.SECTION.search(text):
        found.append(f"{name}: holds report text")
    return found


def committed_findings(root: Path) -> list[str]:
    """Say which files that git knows hold identifiers, data or paths of this machine.

    Parameters
    ----------
    root : Path
        A git work tree.
    """
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    found = []
    for name in filter(None, listing.split("\0")):
        path = root / name
        if path.is_file() and not name.startswith("book/_static/mathjax/"):
            found += _committed_file_findings(name, path, root)
    return found
