"""The gate must bite: every leak and every half-finished run that is planted here has to be found."""

import base64
import json
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from pkd_utils.runs import files, paths
from workflow.publish import committed, gate, leaks, site

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PNG = base64.b64decode(DOT)
# Made up for this test; none of them is an identifier of a real image, study or patient.
IMAGE_ID = "0a1b2c3d-11112222-33334444-55556666-77778888"
SIMULATED = {"title": "Embedded cohort", "simulated": True, "shareable_text": True, "shareable_images": True}
OPEN = {"title": "Open films", "simulated": False, "shareable_text": True, "shareable_images": True}


def stream(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def display(**data):
    return nbformat.v4.new_output("display_data", data={k.replace("_", "/"): v for k, v in data.items()})


def code(source, *outputs, count=1, alt=None):
    cell = nbformat.v4.new_code_cell(source, execution_count=count, outputs=list(outputs))
    if alt:
        cell.metadata["mystnb"] = {"image": {"alt": alt}}
    return cell


IMAGE = display(image_png=DOT)


def make_run(folder: Path, cells, cohort=SIMULATED, title="# Prepare simulated data"):
    """A finished run folder as `run.Run.finish` and `notebooks.execute` leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(title), *cells])
    notebook.metadata["papermill"] = {"output_path": "/somewhere/else.ipynb"}
    nbformat.write(notebook, folder / "notebook.ipynb")
    files.write(folder / "table.csv", pd.DataFrame({"rows": [3]}))
    facts = {"bytes": (folder / "table.csv").stat().st_size, "sha256": files.file_sha256(folder / "table.csv")}
    record = {"reference": "mmpkd/embedded/01-prepare-data/demo", "notebook": "mmpkd/01-prepare-data"}
    record |= {"artefacts": {"table.csv": facts}, "cohort": cohort, "upstream": {}}
    record |= {"seconds": 3.2, "device": "2 cores", "commit": "0123456789abcdef"}
    files.write_json(folder / "run.json", record)
    return folder


def findings(tmp_path, *cells, cohort=SIMULATED, **options):
    return gate.run_findings(make_run(tmp_path / "run", cells, cohort, **options))


# --- runs that are not whole -------------------------------------------------------------------------------------


def test_a_whole_run_passes(tmp_path):
    assert findings(tmp_path, code("show()", IMAGE, alt="A dot.")) == []


KILLED = code("train()", count=None)
KILLED.metadata["papermill"] = {"status": "completed", "exception": None}  # what papermill says of a killed kernel
ERROR = nbformat.v4.new_output("error", ename="ValueError", evalue="bad", traceback=["ValueError: bad"])


@pytest.mark.parametrize(
    ("cells", "word"),
    [
        ([code("load()"), KILLED], "was not run"),
        ([code("load()"), code("import sys; sys.exit(0)", count=2), code("run.finish([])", count=None)], "was not run"),
        ([code("fail()", ERROR)], "ValueError"),
        ([code("a = 1", count=2), code("b = 2", count=1)], "first to last"),
        ([code("show()", IMAGE)], "alt text"),
    ],
    ids=["killed", "sys.exit", "error", "order", "alt text"],
)
def test_runs_that_are_not_whole_are_refused(tmp_path, cells, word):
    assert any(word in line for line in findings(tmp_path, *cells))


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.json", None), ("table.csv", None), ("table.csv", "rows\n4\n"), ("table.csv", "rows\n12345\n")],
)
def test_missing_or_changed_file_is_refused(tmp_path, name, content):
    folder = make_run(tmp_path / "run", [code("load()")])
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    assert any(name in line for line in gate.run_findings(folder))


# --- cohorts that permit everything ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leak",
    [IMAGE_ID, IMAGE_ID.upper(), "p12345678/s51234567", "12345678", "51234567.0", "[['12345678', 3]]", "12,345,678"],
)
@pytest.mark.parametrize("place", ["stdout", "html", "source"])
def test_identifiers_pass_only_where_they_are_simulated(tmp_path, leak, place):
    if place == "html":
        cell = code("table", display(text_html=f"<table><tr><td>{leak}</td></tr></table>"))
    else:
        cell = code(f"x = '{leak}'" if place == "source" else "x", *([stream(leak)] if place == "stdout" else []))
    found = findings(tmp_path, cell, cohort=OPEN)
    assert any("identifiers" in line for line in found) and leak.lower() not in " ".join(found).lower()
    assert findings(tmp_path, cell, cohort=SIMULATED) == []
    assert findings(tmp_path, cell, cohort={**SIMULATED, "simulated": "yes"})


def test_simulated_run_must_say_so(tmp_path):
    found = findings(tmp_path, code("x"), title="# Results")
    assert found == ['it shows simulated data and never says "simulated"']


# --- copying into the book ---------------------------------------------------------------------------------------


def test_nothing_is_copied_if_one_run_fails(tmp_path):
    good = make_run(tmp_path / "good", [code("x")])
    bad = make_run(tmp_path / "bad", [code("x", count=None)])
    found = gate.collect({"mmpkd/01-prepare-data": good, "mmpkd/02-train-teacher": bad}, tmp_path / "book")
    assert found and all(line.startswith("mmpkd/02-train-teacher: ") for line in found)
    assert not (tmp_path / "book").exists()


def test_copies_are_clean_say_which_run_they_show_and_replace_old_ones(tmp_path):
    folder, generated = make_run(tmp_path / "run", [code("x")]), tmp_path / "book"
    assert gate.collect({"mmpkd/03-distil-student.grid": folder}, generated) == []
    assert gate.collect({"mmpkd/03-distil-student.baseline": folder}, generated) == []
    assert [p.name for p in generated.rglob("*.ipynb")] == ["03-distil-student.baseline.ipynb"]
    page = nbformat.read(generated / "mmpkd/03-distil-student.baseline.ipynb", as_version=4)
    assert "papermill" not in page.metadata
    assert "mmpkd/embedded/01-prepare-data/demo" in page.cells[1].source and "Simulated" in page.cells[1].source
    entry = json.loads((generated / gate.MANIFEST).read_text())[0]
    assert entry["page"] == "mmpkd/03-distil-student.baseline" and entry["simulated"] is True
    before = (generated / "mmpkd/03-distil-student.baseline.ipynb").stat().st_mtime_ns
    gate.collect({"mmpkd/03-distil-student.baseline": folder}, generated)
    assert (generated / "mmpkd/03-distil-student.baseline.ipynb").stat().st_mtime_ns == before


def test_no_runs_is_an_error(tmp_path):
    assert gate.collect({}, tmp_path / "book")


# --- the built book ----------------------------------------------------------------------------------------------


def make_site(tmp_path, body="", other=""):
    """The smallest built book: a home page and one notebook page with one image."""
    html, generated = tmp_path / "html", tmp_path / "book" / "_generated"
    (html / "book" / "_generated" / "mmpkd").mkdir(parents=True)
    (html / "_images").mkdir()
    generated.mkdir(parents=True)
    cells = [code("show()", IMAGE, stream(IMAGE_ID), alt="A dot.")]
    gate.collect({"mmpkd/01-prepare-data": make_run(tmp_path / "run", cells)}, generated)
    (html / "index.html").write_text(f"<html><body><p>Home</p>{other}</body></html>")
    (html / "_images" / "dot.png").write_bytes(PNG)
    body = '<p>Simulated</p><img src="../../../_images/dot.png" alt="A dot.">' + body
    (html / "book/_generated/mmpkd/01-prepare-data.html").write_text(f"<html><body>{body}</body></html>")
    return html, generated


def test_clean_site_passes(tmp_path):
    assert site.site_findings(*make_site(tmp_path, body=f"<p>{IMAGE_ID}</p>")) == []


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ("<img src='x.png'>", "alt text"),
        ("<img src='x.png' alt=' '>", "alt text"),
        ("<img src='_images/x.png' alt='x.png'>", "file name"),
        ("<script src='https://cdn.example/x.js'></script>", "another site"),
        ("<link rel='stylesheet' href='//fonts.example/a.css'>", "another site"),
        ("<a class='download' href='_downloads/a.ipynb'>x</a>", "download"),
        (f"<p>{IMAGE_ID}</p>", "identifiers"),
        ("<pre><span>'p12345678'</span></pre>", "identifiers"),
        ("<script>const URL = 'https://unpkg.com/x'</script>", "CDN"),
    ],
)
def test_planted_faults_of_a_page_are_found(tmp_path, other, word):
    found = site.site_findings(*make_site(tmp_path, other=other))
    assert any(word in line for line in found) and IMAGE_ID not in " ".join(found)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("_sources/book/index.md", b"x"),
        ("_downloads/a/x.ipynb", b"x"),
        ("book/x.ipynb", b"x"),
        ("book/_generated/mmpkd/02.html", b"<div class='cell_output'>x</div>"),
    ],
)
def test_planted_files_of_a_site_are_found(tmp_path, name, content):
    html, generated = make_site(tmp_path)
    (html / name).parent.mkdir(parents=True, exist_ok=True)
    (html / name).write_bytes(content)
    assert site.site_findings(html, generated)


def findings_of_an_offer(tmp_path, name, cell, images):
    """What is found in a book whose page, which may show images or not, offers a notebook of `_generated`."""
    link = "<a class='download' href='../../../_downloads/a/x.ipynb'>x</a> simulated"
    html, generated = make_site(tmp_path, body=link)
    (generated / name).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), generated / name)
    (html / "_downloads/a").mkdir(parents=True)
    (html / "_downloads/a/x.ipynb").write_bytes((generated / name).read_bytes())
    manifest = files.read_json(generated / "manifest.json")
    files.write_json(generated / "manifest.json", [entry | {"images": images} for entry in manifest])
    return site.site_findings(html, generated)


@pytest.mark.parametrize("images", [True, False])
def test_a_notebook_is_offered_by_its_open_page_alone(tmp_path, images):
    found = findings_of_an_offer(tmp_path, "mmpkd/01-prepare-data.ipynb", code("x"), images)
    assert (found == []) == images and any("offers a download" in line for line in found) == (not images)


@pytest.mark.parametrize("result", [None, "p10000001"])
def test_a_closed_page_offers_a_source_without_results_alone(tmp_path, result):
    cell = code("x", *([stream(result)] if result else []))
    found = findings_of_an_offer(tmp_path, f"{gate.SOURCES}/mmpkd/01-prepare-data.ipynb", cell, False)
    assert any("offers a download" in line for line in found) == bool(result)
    assert any("x.ipynb: a file of this kind" in line for line in found) == bool(result)


def test_the_note_offers_what_may_be_taken_and_opened(tmp_path, monkeypatch):
    record = {"reference": "mmpkd/b/05-compare/d", "seconds": 1, "device": "cpu"}
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path)
    (tmp_path / "CITATION.cff").write_text("repository-code: https://github.com/o/r\n")
    closed = gate.run_note(record | {"cohort": {"shareable_text": True}}, "mmpkd/05-compare.mass")
    assert "<../sources/mmpkd/05-compare.ipynb>" in closed and "05-compare.mass.ipynb" not in closed
    assert "github/o/r/blob/main/notebooks/mmpkd/05-compare.ipynb" in closed
    note = gate.run_note(record | {"cohort": SIMULATED}, "mmpkd/05-compare.mass")
    assert "<05-compare.mass.ipynb>" in note and "github/o/r/blob/main/notebooks/mmpkd/05-compare.ipynb" in note
    (tmp_path / "CITATION.cff").write_text("title: x\n")
    assert "Colab" not in gate.run_note(record | {"cohort": SIMULATED}, "mmpkd/05-compare.mass")


def test_site_without_manifest_and_simulated_page_that_does_not_say_so_are_refused(tmp_path):
    html, generated = make_site(tmp_path)
    page = html / "book/_generated/mmpkd/01-prepare-data.html"
    page.write_text(page.read_text().replace("Simulated", ""))
    assert any("simulated" in line for line in site.site_findings(html, generated))
    html, generated = make_site(tmp_path / "other")
    (generated / gate.MANIFEST).unlink()
    assert site.site_findings(html, generated)


def notebook_of(text):
    """A notebook file of one cell; its id could be taken for a patient's."""
    cell = code(f"'{text}'")
    cell.id = "12345678"
    return nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))


# --- committed files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        ("notes.md", "nothing", False),
        ("notes.md", f"see {IMAGE_ID}", True),
        ("tests/test_x.py", f"x = '{IMAGE_ID}'", False),
        ("notebooks/a.ipynb", notebook_of("nothing"), False),
        ("notebooks/a.ipynb", notebook_of(IMAGE_ID), True),
        ("notebooks/a.ipynb", notebook_of(f"simulated {IMAGE_ID}"), False),
        ("book/results/a.csv", "label,auroc\nEdema,0.8\n", False),
        ("docs.md", "doi:10.6084/m9.figshare.12275009 and p10/p10000032/s50414267", False),
    ],
)
def test_committed_files_are_checked(tmp_path, name, content, bad):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    subprocess.run(["git", "add", name], cwd=tmp_path, check=True)
    assert bool(committed.committed_findings(tmp_path)) is bad


def test_this_repository_commits_nothing_of_the_kind():
    if not (paths.PROJECT_ROOT / ".git").exists():
        pytest.skip("not a git work tree: committed files cannot be listed")
    assert committed.committed_findings(paths.PROJECT_ROOT) == []


def test_command_line_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    html, generated = make_site(tmp_path, other="<img src='x.png'>")
    monkeypatch.setattr(gate, "GENERATED", generated)
    assert gate.main(["--html", str(html)]) == 1
    assert "alt text" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gate.main([])


def test_identifier_pattern_leaves_ordinary_numbers_alone():
    ordinary = "0.12345678 123456789 1234567 2026-11-21 5.12345678 sha 0123456789abcdef 12345678.5 20261121"
    assert leaks.identifiers(ordinary) == set()


def test_image_ids_of_inspect_are_identifiers_and_its_public_example_is_none():
    named = "PE" + "1234abc"
    assert leaks.identifiers(f"CTPA/{named}.nii.gz") == {named.lower()}
    assert leaks.identifiers(f"CTPA/{named}.nii.gz", prefixed_only=True) == {named.lower()}
    assert not leaks.identifiers("PE452890e, PE0000001, COPE1234abc, PE1234abcd, a PE of 1234567")
