"""What readers take with them: tables and figures for a paper, the book as one page, how to cite it."""

import json
import re
from base64 import b64encode

import nbformat
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup

from pkd_utils.runs import paths
from workflow import paper_figures, print_book
from workflow.publish.pages import bench, cite


def test_a_table_is_csv_and_latex_with_its_signs_escaped(tmp_path):
    table = pd.DataFrame({"gain_%": ["a & b", "1_2"], "auroc": [0.51234, None]})
    paper_figures.write_table(table, tmp_path / "sub" / "gains")
    assert pd.read_csv(tmp_path / "sub" / "gains.csv").equals(table)
    lines = (tmp_path / "sub" / "gains.tex").read_text().splitlines()
    assert lines[0] == r"\begin{tabular}{ll}" and lines[2] == r"gain \% & AUROC \\"
    assert lines[4:6] == [r"a \& b & 0.512 \\", r"1\_2 & – \\"]


@pytest.mark.parametrize(
    ("text", "taken"), [("a,b\n1,2\n", True), ("", False), ("patient_id,b\n1,2\n", False), ("a\n" + "1\n" * 61, False)]
)
def test_tables_of_rows_an_image_or_patient_stay(tmp_path, text, taken):
    (tmp_path / "t.csv").write_text(text)
    assert (paper_figures.readable(tmp_path / "t.csv") is not None) == taken


def test_figures_of_a_notebook_are_those_that_its_page_shows(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_figures, "TARGET", tmp_path / "paper")
    (tmp_path / "figures").mkdir()
    for number, kind in [(1, "png"), (1, "pdf"), (2, "png"), (2, "pdf")]:
        (tmp_path / "figures" / f"figure-{number}.{kind}").write_bytes(f"{number} {kind}".encode())
    shown = nbformat.v4.new_output("display_data", {"image/png": b64encode(b"2 png").decode()})
    cells = [nbformat.v4.new_code_cell("", outputs=[shown]), nbformat.v4.new_markdown_cell("")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "page.ipynb")
    assert paper_figures.of_notebook(tmp_path / "page.ipynb", tmp_path, "study") == 1
    assert sorted(file.name for file in (tmp_path / "paper" / "study").iterdir()) == ["figure-2.pdf", "figure-2.png"]


def test_the_pages_become_one_whose_links_lead_within_it(tmp_path):
    for name, body in {
        "book/index": '<a href="sub/other.html#part">x</a><a href="#top">y</a><img src="../_images/a%20b.png" alt="a">',
        "book/sub/other": '<h2 id="part">Part</h2><a href="https://example.org/x">z</a><details>d</details>',
    }.items():
        page = tmp_path / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        head = '<head><link rel="stylesheet" href="../_static/book.css?v=1"></head>'
        page.write_text(f'<html>{head}<body><nav>n</nav><article class="bd-article">{body}</article></body></html>')
    one = BeautifulSoup(print_book.one_page(tmp_path, ["book/index", "book/none", "book/sub/other"]), "html.parser")
    links = [tag["href"] for tag in one.find_all("a")]
    assert links == ["#book-sub-other--part", "#book-index--top", "https://example.org/x"]
    assert one.find(id="book-sub-other--part").text == "Part" and one.nav is None and one.details.has_attr("open")
    assert one.img["src"] == (tmp_path / "_images" / "a b.png").as_uri()
    assert one.link["href"] == (tmp_path / "_static" / "book.css").as_uri()


def test_every_work_of_the_citation_has_an_entry_of_its_own():
    cited = yaml.safe_load((paths.PROJECT_ROOT / "CITATION.cff").read_text())
    page = cite.page(cited, 2026)
    keys = re.findall(r"^@\w+\{(\w+),$", page, re.M)
    assert len(keys) == len(set(keys)) == 1 + len(cited["references"]) and "baur2025" in keys and "pkdutils2026" in keys
    assert all(work["title"] in page for work in cited["references"]) and "year = {2016}" in page
    found = cite.page(cited | {"repository-code": "https://example.org"}, 2026)
    assert "url" not in page and "url = {https://example.org}" in found


def test_pages_say_that_nothing_ran_on_a_gpu_until_a_benchmark_names_one(tmp_path):
    for name, machine in (("a", {"cpu": "a CPU"}), ("b", {"cpu": "a CPU", "gpu": "an H200"})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "machine": machine}))
    without = [tmp_path / "a.json"]
    assert "Not yet run on a GPU" in bench.on_gpus(without) and "Not yet run on a GPU" in bench.page(without, tmp_path)
    named = bench.on_gpus([*without, tmp_path / "b.json"])
    assert "an H200" in named and "Not yet" not in named
