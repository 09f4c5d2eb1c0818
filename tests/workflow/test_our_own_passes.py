"""What our notebooks show of a credentialed cohort passes the gate: truly executed, and line by line."""

import json
import shutil

import nbformat
import pytest
import yaml

from pkd_utils import demo
from pkd_utils.runs import notebooks, parameters, paths
from pkd_utils.runs.files import read_json
from pkd_utils.studies.reports.paper_claims import CLAIMS
from workflow.publish import executed, gate
from workflow.publish.vocabulary import Vocabulary

NOTEBOOKS = sorted((paths.PROJECT_ROOT / "notebooks").glob("*/*.ipynb"))
TASKS = {"tasks": ["mimic_5x1200", "age", "discharge_3_day"], "relate": ["report", "image"]}
CREDENTIALED = {"title": "Simulated chest radiographs in the layout of MIMIC-CXR-JPG", "credentialed": True}


def shown_lines(cell):
    """Lines that a cell prints, and the cells of its tables."""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        texts = [output.get("text", "")]
        if "text/html" in data:
            texts += [text for _, text in executed.Table(data["text/html"]).units]
        elif not executed.FIGURE.fullmatch(data.get("text/plain", "")):
            texts.append(data.get("text/plain", ""))
        yield from (line for text in texts for line in text.split("\n"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_lines_and_tables_of_committed_notebooks_are_of_our_own_words(file):
    name = f"{file.parent.name}/{file.stem}"
    vocabulary = Vocabulary({"cohort": CREDENTIALED, "parameters": parameters.resolve(name, {})})
    for number, cell in enumerate(nbformat.read(file, as_version=4).cells, start=1):
        if 'print(privileged["text"].iloc[0])' in cell.source:  # a simulated report, shown nowhere else
            continue
        assert [line for line in shown_lines(cell) if vocabulary.strange(line)] == [], number
        tables = [out.data["text/html"] for out in cell.get("outputs", []) if "text/html" in out.get("data", {})]
        assert not [table for table in tables if executed.Table(table).strange], number


def test_the_papers_sentences_are_of_our_own_words():
    vocabulary = Vocabulary({"cohort": CREDENTIALED})
    said = [text for claim in CLAIMS for text in (claim.name, claim.said, claim.where, claim.family, claim.needs)]
    assert [text for text in said if vocabulary.strange(text)] == []


@pytest.mark.parametrize(
    ("notebook", "more"), [("mmpkd/01-prepare-data", {}), ("reports/01-prepare-tasks", TASKS)], ids=["mmpkd", "reports"]
)
@pytest.mark.usefixtures("warm_kernels")
def test_an_executed_notebook_of_a_credentialed_cohort_passes(notebook, more, tmp_path, monkeypatch):
    root = tmp_path / "mimic"
    demo.ensure_source("mimic_cxr", paths.resolve("data/embedded-smoke"), 60, 0, workers=1)
    shutil.copytree(paths.resolve("data/embedded-smoke"), root, ignore=shutil.ignore_patterns("SIMULATED.txt"))
    monkeypatch.setenv("PKD_RUNS", str(tmp_path / "runs"))
    file = tmp_path / "params" / f"{notebook}.yml"
    file.parent.mkdir(parents=True)
    values = {"cohort": "real", "data_root": str(root), "simulate_patients": 0, **more}
    file.write_text(yaml.safe_dump({"base": values}))
    folder = notebooks.execute(file)
    assert read_json(folder / "run.json")["cohort"]["credentialed"] is True
    assert gate.run_findings(folder) == []
    text = (folder / "notebook.ipynb").read_text()
    assert "hidden" in text and (notebook.startswith("reports") or "images are not shown" in text)
    planted = json.loads(text)
    planted["cells"][-1]["outputs"][0]["text"] = "Heart size is normal. The lungs are clear."
    (folder / "notebook.ipynb").write_text(json.dumps(planted))
    assert any("not of the project's own words" in line for line in gate.run_findings(folder))


def test_labels_classes_and_tasks_in_our_sentences_make_no_report_but_a_report_stays_one():
    named = {"labels": ["Edema", "Pleural Effusion"], "tasks": ["no embolism", "pulmonary embolism"]}
    vocabulary = Vocabulary({"cohort": CREDENTIALED, **named})
    assert vocabulary.strange("no embolism 63, pulmonary embolism 11") == 0
    assert vocabulary.strange("there is no verdict on attention (Edema, Pleural Effusion)") == 0
    for report in ("no pulmonary embolism 63", "No pleural effusion, lungs clear", "no verdict (Pleural Effusion)"):
        assert vocabulary.strange(report) > 0
