"""Print the built book as one PDF, its pages in the order of the contents, with Chromium: `make pdf`."""

import asyncio
import base64
import posixpath
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from bs4 import BeautifulSoup

from pkd_utils.runs.files import atomic_path
from workflow import browse
from workflow.publish.pages import TOC, toc_files

TARGET = browse.ROOT / "_build" / "book.pdf"
PIECE = 1 << 24  # bytes
STYLE = """
body { max-width: 46rem; margin: 0 auto; } .bd-article { padding: 0 !important; }
article.page { break-before: page; } .headerlink, .run-note a, button, .copybtn { display: none !important; }
pre { white-space: pre-wrap !important; overflow-wrap: anywhere; font-size: 0.7rem !important; }
table { font-size: 0.65rem !important; } img, table.dataframe { break-inside: avoid; }
"""


def one_page(html: Path, names: list[str]) -> str:
    """The articles of the named pages as one page: anchors and links between them lead within it."""
    head, articles = None, []
    places = {f"{name}.html": name.replace("/", "-").replace(".", "-") for name in names}
    for page, place in places.items():
        if not (html / page).exists():
            continue
        soup = BeautifulSoup((html / page).read_text(), "html.parser")
        folder = posixpath.dirname(page)
        head = head or soup.head
        if head is soup.head:
            for tag in [*head.find_all("link", href=True), *head.find_all("script", src=True)]:
                name = "href" if tag.name == "link" else "src"
                tag[name] = (html / folder / urldefrag(tag[name].partition("?")[0]).url).resolve().as_uri()
        article = soup.find("article", class_="bd-article")
        article.name, article["class"], article["id"] = "article", ["bd-article", "page"], place
        for tag in article.find_all(id=True):
            tag["id"] = f"{place}--{tag['id']}"
        for tag in article.find_all("img", src=True):
            tag["src"] = (html / folder / unquote(tag["src"])).resolve().as_uri()
        for tag in article.find_all("a", href=True):
            address, mark = urldefrag(tag["href"])
            if not urlsplit(address).scheme:
                other = places.get(posixpath.normpath(posixpath.join(folder, address)) if address else page)
                tag["href"] = "#" + (f"{other}--{mark}" if mark else str(other))
        for tag in article.find_all("details"):
            tag["open"] = ""
        articles.append(str(article))
    style = f"<style>{STYLE}</style>"
    return f'<!doctype html><html data-theme="light">{head}<body>{style}{"".join(articles)}</body></html>'


async def print_pdf(page: Path, target: Path) -> None:
    """Let Chromium print a page, once its formulas are set."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        browser = browse.Browser(browse.program(), Path(scratch))
        try:
            await browser.open()
            await browser.go(page)
            await browser.say("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 0) : 0")
            options = {"printBackground": True, "preferCSSPageSize": True, "generateDocumentOutline": True}
            # In pieces: as one answer the book is larger than what the connection reads at once.
            printed = await browser.ask("Page.printToPDF", transferMode="ReturnAsStream", **options)
            with atomic_path(target) as temporary, open(temporary, "wb") as file:
                piece = {"eof": False}
                while not piece["eof"]:
                    piece = await browser.ask("IO.read", handle=printed["stream"], size=PIECE)
                    file.write(base64.b64decode(piece["data"]) if piece["base64Encoded"] else piece["data"].encode())
        finally:
            browser.close()


def main() -> int:
    html = browse.ROOT / "_build" / "html"
    if browse.program() is None or not (html / "index.html").exists():
        print("pdf: this needs Chromium and the built book (make pages).", file=sys.stderr)
        return 1
    names = list(dict.fromkeys(toc_files(browse.ROOT / "book" / "_generated" / TOC)))
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "book.html"
        page.write_text(one_page(html, names))
        asyncio.run(print_pdf(page, TARGET))
    print(f"The book as PDF: {TARGET} ({TARGET.stat().st_size / 1e6:.0f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
