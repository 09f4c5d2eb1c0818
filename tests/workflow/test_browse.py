"""`make test-pages` finds in a page what its reader would trip over, and nothing in a good one."""

import asyncio
import subprocess
import sys
from collections import Counter

import pytest

from workflow import browse, print_book

needs_chromium = pytest.mark.skipif(not browse.program(), reason="Chromium is not installed here")
pytestmark = [pytest.mark.slow, needs_chromium]
PAGE = '<!doctype html><meta charset="utf-8"><body style="margin: 0"><article style="width: 390px">{}</article>'
LINE = "x" * 300
FAULTS = {
    "cut": f'<div style="overflow: hidden"><table><tr><td>{LINE}</table></div>',
    "code or text that must be scrolled": f'<pre style="overflow: auto">{LINE}</pre>',
    "scrolls without a hint": f'<div style="overflow: auto"><table><tr><td>{LINE}</table></div>',
    "wider than the screen": '<div style="width: 1500px">wide</div>',
    "no alt text": '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">',
    "error in the console": "<script>throw Error('no')</script>",
    "request to the network": '<script src="http://127.0.0.1:9/a.js"></script>',
}


def test_each_fault_is_found_on_its_page_and_none_on_a_good_one(tmp_path):
    hint = "background: linear-gradient(red, blue); overflow: auto"
    (tmp_path / "good.html").write_text(PAGE.format(f'<pre>short</pre><div style="{hint}"><table><td>{LINE}</table>'))
    for name, body in FAULTS.items():
        (tmp_path / f"{name}.html").write_text(PAGE.format(body))
    command = [sys.executable, browse.__file__, "--html", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = Counter(line.split(", ")[0].removesuffix(".html") for line in said.stdout.splitlines() if " px, " in line)
    assert set(found) == set(FAULTS), said.stdout + said.stderr
    assert all(f"{name}.html, " in said.stdout and f"px, {name}: " in said.stdout for name in FAULTS), said.stdout
    assert said.returncode == 1


def test_a_book_is_printed_whole_in_pieces(tmp_path, monkeypatch):
    for name, other in (("a", "b"), ("b", "a")):
        link = f'<article class="bd-article"><p id="x">{name}<a href="{other}.html#x">to {other}</a></article>'
        (tmp_path / f"{name}.html").write_text(f"<html><head><title>{name}</title></head><body>{link}</body></html>")
    book = print_book.one_page(tmp_path, ["a", "b", "not built"])
    assert 'id="a--x"' in book and 'href="#a--x"' in book and 'href="#b--x"' in book
    (tmp_path / "book.html").write_text(book)
    monkeypatch.setattr(print_book, "PIECE", 1000)  # the real book has more than one answer may hold
    asyncio.run(print_book.print_pdf(tmp_path / "book.html", tmp_path / "book.pdf"))
    printed = (tmp_path / "book.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and printed.rstrip().endswith(b"%%EOF") and len(printed) > 5000
    assert printed.count(b"/Type /Page\n") == 2
