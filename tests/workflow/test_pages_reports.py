"""The page "When are reports useful?": its tables agree with the code, its parameters exist, findings appear."""

import inspect
import re

import pandas as pd

from pkd_utils.cohorts.tasks import age, build, mimic, splits
from pkd_utils.cohorts.tasks.outcomes import outcome
from pkd_utils.demo.chest import outcomes
from pkd_utils.distillation.heads import training
from pkd_utils.distillation.heads.modules import METHODS
from pkd_utils.encoders import load_image_encoder
from pkd_utils.runs import files, parameters, paths
from pkd_utils.studies.reports import heads
from pkd_utils.studies.reports.claims import VERDICTS
from pkd_utils.studies.reports.contrasts import KINDS
from pkd_utils.studies.reports.paper_claims import CLAIMS
from workflow.publish import pages
from workflow.publish.pages import home, papers, reports

BOOK = paths.PROJECT_ROOT / "book"
PAGE = (BOOK / "reports" / "the-study.md").read_text()


def test_tasks_are_the_papers():
    table = reports.tasks_table()
    assert list(reports.TASKS) == ["mimic_5x1200", "age", "discharge_3_day", *build.INSPECT_TASKS]
    assert table["images"].tolist() == ["6,000", "35,242", "18,490", "5,449", "5,651", "9,375"]
    assert table["held out"].tolist() == ["200 of each class", "10%", "10%", "25%", "25%", "25%"]


def test_sizes_show_every_row_of_the_papers_tables():
    table = reports.sizes_table().set_index("task")
    assert table.loc["Age", "the paper's"] == "317 (150); 792, 1,585 (100); 3,171 (50)"
    shown = sum(len(re.findall(r"\d[\d,]*\d(?=, |\b \()", text)) for text in table["the paper's"])
    assert shown == len(pd.read_csv(paths.resolve(splits.TRAINING_SIZES)))
    assert all(re.fullmatch(r"[\d,]+(, [\d,]+)* \(\d+\)", text) for text in table["the demonstration's"])


def test_every_claim_has_a_row_in_words():
    rows = reports.fragments()["reports-claims"].splitlines()[2:]
    assert len(rows) == len(CLAIMS)
    for row, claim in zip(rows, CLAIMS, strict=True):
        assert claim.said in row and claim.where in row and "_" not in row
        assert row.count(" minus ") == len([line for line in claim.lines if line.high != line.low])
    assert reports.KINDS.keys() == KINDS.keys()
    age = next(" ".join(row.split()) for row in rows if "**Age is what reports tell least.**" in row)
    assert "| image only minus report only; some encoder; Age (all); less each of MIMIC 5x1200, 3-Day" in age
    assert "| above 0 | reports alone |" in age


def test_what_the_paper_says_stands_under_every_figure_of_which_it_says_something():
    said = {number for claim in CLAIMS for number in papers.numbers_of(claim.where)}
    assert said == {4, 5, 6, 9, 11, 12, *range(15, 21)}  # of 7, 8, 10, 13 and 14 nothing but what they show


def test_methods_scores_and_verdicts_on_the_page_are_the_codes():
    named = re.findall(r"`(\w+)`", PAGE.split("| method | in the code")[1].split("\n\n")[0])
    assert sorted(named) == sorted(METHODS)
    source = inspect.getsource(heads.score_heads)
    for column in re.findall(r"^\| `(auc\w*)`", PAGE, re.M):
        assert f'"{column}"' in source
    assert all(f"**{verdict}**" in PAGE for verdict in VERDICTS)


def test_parameters_on_the_page_exist():
    functions = (
        splits.split_task, build.build_task, age.age, mimic.five_findings, mimic.discharge,
        outcome, heads.load_study, training.HeadConfig, load_image_encoder,
    )  # fmt: skip
    known = {name for function in functions for name in inspect.signature(function).parameters}
    for notebook in (paths.PROJECT_ROOT / "notebooks" / "reports").glob("*.ipynb"):
        cells = parameters.code_cells(notebook)
        declared = next(cell["source"] for cell in cells if "parameters" in cell["metadata"]["tags"])
        known |= set(re.findall(r"^(\w+): ", declared, re.M))
    sections = PAGE.split("## What the paper says")[1].split("## Limits")[0]
    readings, left_open = sections.split("## What the paper leaves open")
    named = set()
    for table, column in ((readings, 3), (left_open, 2)):
        cells = [row.split("|")[column] for row in table.splitlines() if row.startswith("| ")]
        named |= {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert {"balance", "drawn", "crops", "epochs_of", "co_labels", "deaths", "group", "teacher_view"} <= named
    assert named <= known | set(METHODS)


def test_code_named_on_the_page_exists():
    named = re.findall(r"`((?:distillation|studies|statistics)(?:\.\w+)+)\.(\w+)`", PAGE)
    assert len(named) > 5
    for module, name in named:
        source = (paths.PROJECT_ROOT / "pkd_utils" / f"{module.replace('.', '/')}.py").read_text()
        assert re.search(rf"^(def|class) {name}\b", source, re.M), name


def test_equations_of_the_outcomes_are_the_codes():
    page = (BOOK / "data" / "embedded-cohort.md").read_text()
    letters = {"h": "heart_failure", "i": "infection", "m": "immobility", "d": "heart_disease"}
    lines = re.findall(r"\\log r_\\text\{.+?\} &= (-[\d.]+)((?: \+ [\d.]+\\,\w)+)", page)
    for (constant, terms), weights in zip(lines, (outcomes.READMISSION, outcomes.HYPERTENSION), strict=True):
        written = dict.fromkeys(weights, 0.0) | {"constant": float(constant)}
        written |= {letters[letter]: float(value) for value, letter in re.findall(r"([\d.]+)\\,(\w)", terms)}
        assert written == weights
    assert f"a mean of {outcomes.FOLLOW_UP:,.0f} days" in " ".join(page.split())


def test_findings_of_the_second_study(tmp_path):
    files.write_json(tmp_path / "run.json", {"cohort": {"simulated": True}})
    verdict = {"headline": "Of 2 findings 1 holds here.", "findings": ["A: yes.", "B: no."]}
    files.write_json(tmp_path / "verdict.json", verdict)
    table = pd.DataFrame({"claim": ["A", "B", "C"], "verdict": ["cannot tell", "holds here", "cannot tell"]})
    files.write(tmp_path / "verdicts.csv", table)
    text = home.reports_findings(tmp_path, "reports/06-distillation-effect")
    assert "- *holds here*: B\n- *cannot tell*: A; C\n" in text and "*does not hold here*" not in text
    parts = ("**Of 2 findings", "- A: yes.\n- B: no.", "simulated data", "(_generated/reports/06-distillation-effect)")
    assert all(part in text for part in parts)


def test_the_home_page_shows_the_joint_run(tmp_path, monkeypatch):
    files.write_json(tmp_path / "_generated" / "manifest.json", [{"page": "reports/06-a.both", "run": {}}])
    (tmp_path / "results").mkdir()
    (tmp_path / "_toc.yml").write_text("root: book/index\nchapters: [{file: book/_generated/reports/06-a.both}]\n")
    for name in ("mimic", "both", "both-heads"):
        files.write_json(tmp_path / name / "verdict.json", {"headline": f"Of {name}.", "findings": []})
        files.write_json(tmp_path / name / "run.json", {})
        files.write(tmp_path / name / "verdicts.csv", pd.DataFrame({"claim": ["A"], "verdict": ["holds here"]}))
    runs = {f"reports/06-a.{name}": tmp_path / name for name in ("mimic", "both", "both-heads")}
    monkeypatch.setattr(pages.gate, "profile_pages", lambda profile: runs)
    monkeypatch.setattr(pages.results, "status_page", lambda manifest: "")
    pages.write_all("paper", tmp_path)
    text = (tmp_path / "_generated/findings-reports.md").read_text()
    assert "**Of both.**" in text and "(_generated/reports/06-a.both)" in text


def test_the_page_of_findings_includes_both_studies():
    front = (BOOK / "findings.md").read_text()
    assert front.index("{include} _generated/findings.md") < front.index("{include} _generated/findings-reports.md")
