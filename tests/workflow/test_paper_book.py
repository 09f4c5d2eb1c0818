"""`make pages PROFILE=paper`, end to end: small runs of credentialed cohorts become a book that gives nothing away."""

import json
import re
import shutil

import pytest

from pkd_utils.runs import showing
from tests.workflow import paper_profile
from workflow.publish import leaks

pytestmark = pytest.mark.faults
PAGES = "book/_generated"
SIDES = {  # pages on which cohorts stand side by side, and what a reader must find there
    "mmpkd/beside-the-paper": ("Table 1", "Figure 1", "MIMIC-CXR-JPG", "CBIS-DDSM", "Calcification: not run"),
    "reports/beside-the-paper": (
        "Table 2", "Tables 3 to 7", "MIMIC-CXR-JPG", "INSPECT", *(f"Figure {number}:" for number in range(4, 13)),
        "Figures 13 and 14", "Figures 15 and 16", "Figures 17 and 18", "Figures 19 and 20",
    ),
}  # fmt: skip
DRAWN = {"figure-4": 2, "figure-5": 2, "figure-6": 1, "figure-7": 2, "figure-8": 2, "figure-9": 1, "figure-10": 1,
         "figure-11": 1, "figure-12": 1, "figures-13-and-14": 2, "figures-17-and-18": 1}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of the project with finished runs of the small paper profile and their book."""
    root = paper_profile.make(tmp_path_factory.mktemp("paper") / "project")
    paper_profile.command(root, ".venv/bin/python", "-c", paper_profile.RUN_ALL)
    for command in paper_profile.page_commands(root):
        paper_profile.command(root, "bash", "-c", command)
    return root


def test_both_cohorts_stand_side_by_side_with_every_table_and_figure(built):
    for name, wanted in SIDES.items():
        text = (built / "_build/html" / PAGES / f"{name}.html").read_text()
        assert [word for word in wanted if word not in text] == [], name
    pictures = [file.name for file in (built / PAGES / "reports/beside").iterdir()]
    for name, count in DRAWN.items():
        assert sum(f"-{name}-" in picture for picture in pictures) >= count, name
    text = (built / PAGES / "reports/beside-the-paper.md").read_text()
    assert text.count(":::{grid-item}") >= 6 and "What the paper says of it" in text


def test_every_run_has_a_page_that_offers_its_source_alone(built):
    manifest = json.loads((built / PAGES / "manifest.json").read_text())
    # CBIS-DDSM is open: its own pages show it.
    manifest = [entry for entry in manifest if not entry["run"]["parameters"]["cohort"].startswith("cbis")]
    assert len(manifest) > 20 and not any(entry[n] for entry in manifest for n in ("text", "images", "simulated"))
    assert all(showing.permitted(entry["run"]["cohort"])["credentialed"] for entry in manifest)
    executed = {(built / PAGES / f"{entry['page']}.ipynb").read_bytes() for entry in manifest}
    offered = [file for file in (built / "_build/html/_downloads").rglob("*.ipynb") if "mass" not in file.name]
    assert offered and not any(file.read_bytes() in executed for file in offered)
    for file in offered:
        assert not any(cell.get("outputs") for cell in json.loads(file.read_text())["cells"])
    for entry in manifest:
        page = (built / "_build/html" / PAGES / f"{entry['page']}.html").read_text()
        assert re.search(r'href="[^"]*_downloads/[^"]*\.ipynb"', page)


def test_a_planted_sentence_or_identifier_is_refused_on_every_side(built):
    gate = (".venv/bin/python", "-m", "workflow.publish.gate")
    assert paper_profile.command(built, *gate, "--html", "_build/html").returncode == 0
    tables = [file for file in (built / "runs").rglob("01-prepare-tasks/*/privileged.parquet") if not file.is_symlink()]
    report, image = paper_profile.secrets(tables)
    folder = next(one for one in (built / "runs/reports/inspect/06-distillation-effect").iterdir() if one.is_dir())
    names = (*SIDES, "reports/05-sample-efficiency.inspect")
    places = [built / "_build/html" / PAGES / f"{name}.html" for name in names]
    for secret in (report, image):
        for page in places:
            clean = page.read_text()
            page.write_text(clean.replace("</article>", f"<p>{secret}</p></article>"))
            answer = paper_profile.command(built, *gate, "--html", "_build/html", check=False)
            page.write_text(clean)
            assert answer.returncode == 1 and page.stem in answer.stderr and secret not in answer.stderr
        notebook = folder.resolve() / "notebook.ipynb"
        kept = shutil.copy(notebook, built / "kept.ipynb")
        content = json.loads(notebook.read_text())
        outputs = [out for cell in content["cells"] for out in cell.get("outputs", [])]
        printed = next(out for out in outputs if out["output_type"] == "stream")
        printed["text"] = f"{secret}\n"
        notebook.write_text(json.dumps(content))
        answer = paper_profile.command(built, *gate, "--profile", "paper", check=False)
        shutil.copy(kept, notebook)
        assert answer.returncode == 1 and "reports/06" in answer.stderr and secret not in answer.stderr
    assert not leaks.identifiers(answer.stderr)
