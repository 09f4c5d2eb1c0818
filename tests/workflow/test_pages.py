"""Computed pages: what runs wrote appears, what is missing is said, and the table of contents is whole."""

import re
from fnmatch import fnmatch

import nbformat
import pandas as pd
import pytest
import yaml

from pkd_utils.encoders import IMAGE_ENCODERS, TEXT_ENCODERS
from pkd_utils.runs import files, notebooks, paths, profiles
from workflow.publish import gate, pages, site
from workflow.publish.pages import by_study, contents, encoders, home, markdown, reports, results

BOOK = paths.PROJECT_ROOT / "book"


def prose_pages():
    """Committed pages, relative to book/."""
    names = (page.relative_to(BOOK).as_posix() for page in BOOK.rglob("*.md"))
    return sorted(name for name in names if not name.startswith(("_", "results/", "reported/")))


RECORD = {
    "reference": "mmpkd/embedded/05-compare/demo",
    "seconds": 12.34,
    "started": "2026-11-21T18:00:00Z",
    "commit": "0123456789abcdef",
    "uncommitted_changes": True,
    "identity": "f" * 64,
    "device": "2 cores",
    "threads": 1,
    "python": "3.11.7",
    "versions": {"torch": "2.13.0"},
    "cohort": {"title": "Embedded cohort", "simulated": True},
}


def test_table_joins_means_with_spreads_and_escapes_bars():
    table = pd.DataFrame({"method": ["a|b", "c"], "iou_mean": [0.154, None], "iou_sd": [0.04, 0.1], "n": [5, 5]})
    text = re.sub(" {2,}", " ", markdown.markdown_table(table))
    assert re.sub("-+", "-", text).splitlines() == [
        "| method | IoU | n |",
        "|:-|:-|-:|",
        "| a\\|b | 0.15\u00a0±\u00a00.04 | 5 |",
        "| c | – | 5 |",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (0.12345, "0.123"),
        (1.23e-5, "1.23e-05"),
        (3.0, "3"),
        ("a\nb", "a b"),
    ],
)
def test_cells(value, text):
    assert markdown.cell(value) == text


def test_findings_show_what_the_compare_run_wrote(tmp_path):
    files.write_json(tmp_path / "run.json", RECORD)
    files.write_json(tmp_path / "verdict.json", {"headline": "No difference.", "findings": ["IoU 0.10 against 0.11."]})
    table = pd.DataFrame({"metric": ["IoU", "FPR"], "iou_mean": [0.11, 0.5], "iou_sd": 0.02, "iou_marks": ["**", ""]})
    table = table.assign(paper_mean=0.1, paper_sd=0.0, paper_marks="")  # a column without any mark
    files.write(tmp_path / "table1.csv", table)
    page = home.attention_findings(tmp_path)
    numbers = ("0.11\u00a0±\u00a00.02 \\*\\* |", "0.50\u00a0±\u00a00.02 ")
    texts = ("**No difference.**", "- IoU 0.10 against 0.11.", "simulated", "_generated/mmpkd/05-compare")
    assert all(text in page for text in (*numbers, *texts)) and "marks" not in page
    assert "No run has been compared yet" in home.attention_findings(None)


def test_status_lists_every_run():
    entry = {"page": "mmpkd/05-compare", "simulated": True, "run": RECORD}
    page = results.status_page([entry, {**entry, "run": {**RECORD, "versions": {"torch": "2.14.0"}, "commit": None}}])
    texts = ("[mmpkd/05-compare](mmpkd/05-compare)", "`0123456789`+", "12.3", "2 cores", "2.13.0, 2.14.0", "`none`")
    assert all(text in page for text in texts)
    assert "No run has passed the gate yet" in results.status_page([])


def test_results_pages_read_csv_and_json_with_provenance(tmp_path):
    files.write(tmp_path / "icu.csv", pd.DataFrame({"label": ["went icu"], "auroc_mean": [0.6], "auroc_sd": [0.1]}))
    icu = {"title": "ICU", "text": "", "reference": "a/b/c/d", "by_fold": [{"fold": 1}], "commit": "abc"}
    files.write_json(tmp_path / "icu.json", icu)
    forests = {"title": "Forests", "text": "Five seeds.", "by_set": [{"set": "mass", "auroc": 0.86}] * 31}
    files.write_json(tmp_path / "rf.json", forests | {"notes": ["Of one machine."]})
    page = results.results_page("First.", sorted(tmp_path.glob("*.json")), {})
    texts = ("First.", "## ICU", "0.60\u00a0±\u00a00.10", "**By fold**", "| commit | abc |", "Provenance", "## Forests")
    assert all(text in page for text in (*texts, "{dropdown} By set (31 rows)", "0.860", "\n\n- Of one machine."))
    assert page.count("## ") == 2 and results.NONE not in page
    assert results.NONE in results.results_page("", [], {})


def test_links_to_notebooks_lead_to_executed_pages():
    readme = "[x](mmpkd/03-distil-student.ipynb) [y](mmpkd/09-absent.ipynb) [z](other.md)"
    page = pages.notebooks_page(readme, ["mmpkd/03-distil-student.mmpkd", "mmpkd/03-distil-student.baseline"])
    assert page == "[x](mmpkd/03-distil-student.baseline) y [z](other.md)"


ROOMS = sorted(folder.parent.name for folder in (paths.PROJECT_ROOT / "pkd_utils").glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_stands_on_its_rooms_page(room):
    root = paths.PROJECT_ROOT / "pkd_utils"
    files = [file.relative_to(root.parent).with_suffix("") for file in (root / room).rglob("*.py")]
    names = {".".join(file.parts).removesuffix(".__init__") for file in files if file.name != "__main__"}
    listed = re.findall(r"^\.\. automodule:: (\S+)$", (BOOK / "api" / f"{room}.md").read_text(), re.M)
    assert listed == sorted(names), f"book/api/{room}.md must have one automodule a module of pkd_utils/{room}, sorted"
    assert f"]({room}.md)" in (BOOK / "api" / "index.md").read_text()


def test_contents_name_each_page_once_and_every_prose_page_exists():
    listed = pages.toc_files(BOOK / "_toc.yml")
    assert len(listed) == len(set(listed))
    for name in listed:
        if not name.startswith("book/_generated/"):
            assert (paths.PROJECT_ROOT / f"{name}.md").exists(), name
    prose = {f"book/{name.removesuffix('.md')}" for name in prose_pages()}
    assert prose <= set(listed), "a page in book/ is missing from book/_toc.yml"


def test_every_run_of_the_demo_profile_is_in_the_contents():
    listed = set(pages.toc_files(BOOK / "_toc.yml"))
    for file in (paths.PROJECT_ROOT / "params" / "demo").glob("*/*.yml"):
        for label in profiles.read_runs(file):
            assert f"book/_generated/{'.'.join(filter(None, (profiles.notebook_of(file), label)))}" in listed


def test_every_notebook_has_a_row():
    readme = (paths.PROJECT_ROOT / "notebooks" / "README.md").read_text()
    for file in (paths.PROJECT_ROOT / "notebooks").glob("*/*.ipynb"):
        assert f"]({file.parent.name}/{file.name})" in readme, f"notebooks/README.md has no row for {file.name}"


def test_every_citation_is_in_the_bibliography():
    keys = set(re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.M))
    sources = [(BOOK / name).read_text() for name in prose_pages()]
    sources += [file.read_text() for file in (paths.PROJECT_ROOT / "notebooks").glob("*/*.ipynb")]
    groups = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", "\n".join(sources))
    cited = {key.strip() for group in groups for key in group.split(",")}
    assert cited and cited | {facts.cite for facts in (*IMAGE_ENCODERS.values(), *TEXT_ENCODERS.values())} <= keys


@pytest.mark.parametrize(
    ("page", "fragments"), [("the-encoders", encoders.fragments), ("the-study", lambda results: reports.fragments())]
)
def test_a_page_includes_every_fragment_once(page, fragments, tmp_path):
    text = (BOOK / "reports" / f"{page}.md").read_text()
    assert sorted(re.findall(r"```\{include\} \.\./_generated/(\S+)\.md", text)) == sorted(fragments(tmp_path))


def test_missing_runs_become_pages_that_say_so(tmp_path):
    book = tmp_path / "book"
    (book / "results").mkdir(parents=True)
    toc = {"root": "book/index", "chapters": [{"file": "book/_generated/mmpkd/03-distil-student.grid"}]}
    (book / "_toc.yml").write_text(yaml.safe_dump(toc))
    assert pages.write_all("demo", book) == ["mmpkd/03-distil-student.grid"]
    placeholder = book / "_generated/mmpkd/03-distil-student.grid.md"
    assert "holds no run" in placeholder.read_text()
    assert "No such result" in (book / "_generated/open-data.md").read_text()
    assert "has not been run" in (book / "_generated/findings-reports.md").read_text()
    assert (book / "_generated/reports-claims.md").exists()
    (book / "_generated/mmpkd/03-distil-student.grid.ipynb").write_text("{}")
    assert pages.write_all("demo", book) == [] and not placeholder.exists()


def test_a_profile_of_other_runs_keeps_the_prose_and_has_a_chapter_a_notebook(tmp_path):
    records = {}
    for page, cohort in (("reports/02-encode.mimic-mrm", "mimic_cxr"), ("reports/02-encode.inspect-mrm", "inspect"),
                         ("reports/02-encode.mimic-c2l", "mimic_cxr")):  # fmt: skip
        records[page] = {"parameters": {"cohort": cohort, "run": "mrm"}, "cohort": {"title": cohort}, "seconds": 1.0}
        file = tmp_path / f"{page}.ipynb"
        file.parent.mkdir(exist_ok=True)
        cells = [nbformat.v4.new_markdown_cell("# Encode images and reports\n\n**Question.**")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
    toc = by_study.by_study(yaml.safe_load((BOOK / "_toc.yml").read_text()), records, tmp_path)
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    listed = pages.toc_files(tmp_path / "_toc.yml")
    prose = [name for name in pages.toc_files(BOOK / "_toc.yml") if not by_study.page_of_run(name)]
    assert set(prose) < set(listed) and len(set(listed)) == len(listed)
    parts = {part["caption"]: part["chapters"] for part in toc["parts"]}
    first, *middle, last = parts["Reports as privileged information"]
    assert first == {"file": "book/_generated/reports/beside-the-paper"} and middle
    assert last["title"] == "2 Encode images and reports: mimic-c2l"
    assert [one["title"] for one in last["sections"]] == ["mimic-mrm", "inspect-mrm"]
    page = (tmp_path / "reports" / "beside-the-paper.md").read_text()
    assert "## Figure 4" in page and "No finished run shows this" in page and "Every run (3)" in page


def test_unchanged_pages_keep_their_date(tmp_path):
    page = tmp_path / "page.md"
    gate.write_text(page, "a")
    before = page.stat().st_mtime_ns
    gate.write_text(page, "a\n")
    assert page.stat().st_mtime_ns == before
    gate.write_text(page, "b")
    assert page.read_text() == "b\n"


def test_the_home_page_says_a_sentence_a_cohort_of_all_maps(tmp_path):
    assert home.all_maps_findings(None, None) == ""
    cohorts = [{"sentence": "Masses (simulated): cannot tell."}, {"sentence": "Radiographs: it moves."}]
    files.write_json(tmp_path / "verdict.json", {"headline": "?", "cohorts": cohorts})
    text = home.all_maps_findings(tmp_path, "mmpkd/09-compare-all-maps")
    assert "(_generated/mmpkd/09-compare-all-maps)" in text
    assert "- Masses (simulated): cannot tell.\n- Radiographs: it moves." in text


def test_a_quick_book_has_each_notebook_once_and_no_page_without_a_run(tmp_path):
    def listed(toc):
        (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
        return [name.removeprefix(contents.GENERATED) for name in pages.toc_files(tmp_path / "_toc.yml")]

    names = {f"{file.parent.name}/{file.stem}" for file in (paths.PROJECT_ROOT / "notebooks").glob("*/*.ipynb")}
    assert names == {job.name for job in notebooks.plan("quick")}
    whole, linked = yaml.safe_load((BOOK / "_toc.yml").read_text()), {"mmpkd/05-compare.mass"}
    toc = contents.quick(whole, names, linked)
    assert all(part["chapters"] for part in toc["parts"]) and len(listed(toc)) == len(set(listed(toc)))
    shown = [name for name in listed(toc) if re.search(r"/\d\d-", name)]
    assert set(shown) == names | linked
    others = {name for name in listed(whole) if not re.search(r"/\d\d-", name)}
    assert others == set(listed(toc)) - set(shown)
    order = [name for name in shown if "mmpkd/01" <= name < "mmpkd/04"]
    assert order == ["mmpkd/01-prepare-data", "mmpkd/02-train-teacher", "mmpkd/03-distil-student"]
    assert contents.quick(whole, set(listed(whole)) - others, set()) == whole


def test_every_figure_that_the_pages_draw_of_stored_results_passes_the_gate():
    sources = paths.PROJECT_ROOT.glob("workflow/publish/pages/*.py")
    drawn = [name for file in sources for name in re.findall(r'generated / f?"([^"]*\.png)"', file.read_text())]
    assert len(drawn) > 5
    for name in drawn:
        shown = re.sub(r"{[^}]*}", "x", name)
        assert any(fnmatch(shown, pattern) for pattern in site.OF_RESULTS), f"{name} is not in site.OF_RESULTS"
