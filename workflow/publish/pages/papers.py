"""Each paper's tables and figures in its own order, beside ours: cohorts side by side, from runs that passed the gate.

Pictures are those of the pages: outputs of cells that carry a tag `figure-4` in their notebook. Sentences of the paper
and the verdicts on them come from `reports/06-distillation-effect`, numbers of the papers from `book/reported`.
"""

import re
import shutil
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from pkd_utils.runs import files, paths, showing
from pkd_utils.runs.run import find_run
from pkd_utils.studies.maps import claims
from workflow.publish.executed import digest
from workflow.publish.pages.markdown import bullets, folded, grid, image, markdown_table
from workflow.publish.pages.reports import TASKS

Records = dict[str, dict[str, Any]]  # page -> run.json
COMPARED, JUDGED = "mmpkd/05-compare", "reports/06-distillation-effect"
WIDE = "---\nhtml_theme.sidebar_secondary.remove: true\n---"
PICTURES = "beside"  # folder of the pages' pictures


@dataclass(frozen=True)
class Figure:
    """Figures of a paper that one kind of cell of ours draws."""

    name: str  # as the paper numbers them
    what: str
    notebook: str
    tag: str  # of the cells
    tasks: tuple[str, ...] = ()  # of cells that draw one picture a task: those that are these figures


FIGURES = (
    Figure("Figure 4", "sample efficiency of the encoders", "reports/05-sample-efficiency", "figure-4"),
    Figure("Figure 5", "distillation on Readmission and MIMIC 5x1200", JUDGED, "figure-5",
           ("readmission_12_month", "mimic_5x1200")),
    Figure("Figure 6", "distillation on 3-Day Discharge", JUDGED, "figure-5", ("discharge_3_day",)),
    Figure("Figure 7", "Figure 4 by AUPRC", "reports/05-sample-efficiency", "figure-7"),
    Figure("Figure 8", "Figure 5 by AUPRC", JUDGED, "figure-8"),
    Figure("Figure 9", "distillation on Pulmonary Embolism", JUDGED, "figure-5", ("pulmonary_embolism",)),
    Figure("Figure 10", "distillation on 12-Month PH", JUDGED, "figure-5", ("ph_12_month",)),
    Figure("Figure 11", "distillation on Age", JUDGED, "figure-5", ("age",)),
    Figure("Figure 12", "3-Day Discharge, seed by seed, with the teacher", JUDGED, "figure-12"),
    Figure("Figures 13 and 14", "Readmission and MIMIC 5x1200, seed by seed", JUDGED, "figure-13",
           ("readmission_12_month", "mimic_5x1200")),
    Figure("Figures 15 and 16", "heads", "reports/07-ablations", "figure-15"),
    Figure("Figures 17 and 18", "temperatures", "reports/07-ablations", "figure-17"),
    Figure("Figures 19 and 20", "text encoders", "reports/07-ablations", "figure-19"),
)  # fmt: skip


def title(record: dict[str, Any]) -> str:
    """What the data of a run are."""
    return (record.get("cohort") or {}).get("title") or record["parameters"]["cohort"]


def first_of_cohorts(notebook: str, records: Records) -> Records:
    """The first run of a notebook of each cohort; of a run over several cohorts only where there is no other."""
    found: dict[str, str] = {}
    for page, record in records.items():
        if page.partition(".")[0] == notebook:
            found.setdefault(record["parameters"]["cohort"], page)
    first = {page: records[page] for page in found.values()}
    return {page: record for page, record in first.items() if "; " not in title(record)} or first


def pictures(page: str, figure: Figure, record: dict[str, Any], generated: Path) -> list[tuple[bytes, str]]:
    """Pictures and alt texts of a run's page that are this figure of the paper."""
    words = {one["sha256"]: " ".join(one["texts"]) for one in record.get("figures", [])}
    named = [re.sub(r"\d+x\d+", r"\\d+x\\d+", re.escape(TASKS[task][0])) for task in figure.tasks]  # MIMIC 3x9, too
    found = []
    for cell in nbformat.read(generated / f"{page}.ipynb", as_version=4).cells:
        if figure.tag in cell.metadata.get("tags", []):
            alt = cell.metadata["mystnb"]["image"]["alt"]
            shown = (one["data"]["image/png"] for one in cell.outputs if "image/png" in one.get("data", {}))
            found += [(b64decode(one), alt) for one in shown]
    wanted = re.compile("|".join(named))
    return [(png, alt) for png, alt in found if not named or wanted.search(words[digest(png)])]


def side_by_side(figure: Figure, records: Records, generated: Path) -> str:
    """A figure of the paper as ours, a column a cohort; or that there is none."""
    columns = []
    for page, record in first_of_cohorts(figure.notebook, records).items():
        shown = []
        for number, (png, alt) in enumerate(pictures(page, figure, record, generated), start=1):
            study, step = page.split("/")
            file = generated / study / PICTURES / f"{step}-{figure.name.replace(' ', '-').lower()}-{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png)
            shown.append(image(file.name, f"{alt} {title(record)}.", f"{PICTURES}/"))
        if shown:
            columns.append("\n\n".join([f"[{title(record)}]({page.split('/')[1]})", *shown]))
    if not columns:
        return "*No finished run shows this.*"
    return grid((12 // len(columns), column) for column in columns)


def table(record: dict[str, Any], name: str) -> pd.DataFrame:
    """A table that a run wrote, without small counts where its cohort is credentialed."""
    read = pd.read_csv(find_run(record["reference"]) / name)
    closed = showing.permitted(record.get("cohort"))["credentialed"]
    return showing.without_small_counts(read) if closed else read


def numbers_of(where: str) -> set[int]:
    """Numbers of the figures that a place in the paper names: `5.2, Figure 5c, d` is {5}; `Figures 15, 16` is both."""
    found = re.findall(r"Figures? ([\d, ]+)", where)
    return {int(number) for one in found for number in re.findall(r"\d+", one)}


def judged(records: Records) -> pd.DataFrame:
    """The paper's sentences with our verdicts: of both cohorts together if they were compared so, else of each."""
    runs = [record for page, record in records.items() if page.partition(".")[0] == JUDGED]
    joint = [record for record in runs if "; " in title(record)]
    chosen = joint[:1] or first_of_cohorts(JUDGED, records).values()
    tables = [table(record, "verdicts.csv").assign(data=title(record)) for record in chosen]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["where"])


def said_of(name: str, verdicts: pd.DataFrame) -> str:
    """What the paper says of a figure or table, and what came out here, as a folded table."""
    if name.startswith("Figure"):
        numbers = {int(number) for number in re.findall(r"\d+", name)}
        rows = verdicts[[bool(numbers_of(where) & numbers) for where in verdicts["where"]]]
    else:
        rows = verdicts[[name in where for where in verdicts["where"]]]
    if rows.empty:
        return ""
    shown = rows[["said", "verdict", "difference", "low", "high", "data"]].rename(columns={"said": "the paper"})
    told = "; ".join(f"{count} {verdict}" for verdict, count in rows["verdict"].value_counts().items())
    return folded(f"What the paper says of it ({told})", markdown_table(shown.round(3)))


def table_1(records: Records) -> str:
    """The first paper's Table 1, row by row; of data sets without a finished run its numbers alone."""
    runs = first_of_cohorts(COMPARED, records)
    ours = {record["parameters"]["paper_dataset"]: record for record in runs.values()}
    reported = claims.reported()
    rows, notes = [], []
    for dataset in reported.loc[reported["metric"] != "AUROC", "dataset"].unique():
        if dataset in ours:
            rows.append(table(ours[dataset], "table1.csv").assign(data=dataset))
            notes.append(f"{dataset}: {claims.whose_data(ours[dataset]['cohort'])}")
        else:
            theirs = reported[(reported["dataset"] == dataset) & (reported["metric"] != "AUROC")]
            wide = theirs.pivot(index="metric", columns="method", values=["mean", "sd", "marks"])
            wide.columns = [f"paper_{method.lower()}_{what}" for what, method in wide.columns]
            rows.append(wide.reset_index().assign(data=f"{dataset}: not run"))
    whole = pd.concat(rows, ignore_index=True)
    first = ["data", "metric"]
    order = [*first, *sorted((name for name in whole if name not in first), key=lambda name: "baseline" not in name)]
    return f"{markdown_table(whole[order])}\n\nThe paper's columns are of its own data, and here:\n\n{bullets(notes)}"


def in_words(records: Records) -> str:
    """What else the first paper reports, beside ours, cohort by cohort: sentences of the runs that compare."""
    parts = []
    for page, record in first_of_cohorts(COMPARED, records).items():
        verdict = files.read_json(find_run(record["reference"]) / "verdict.json")
        said = bullets(verdict["findings"])
        parts.append(f"**[{title(record)}]({page.split('/')[1]}).** {verdict['headline']}\n\n{said}")
    return "\n\n".join(parts)


def training_sizes(records: Records) -> str:
    """Tables 3 to 7 of the second paper, beside the sizes of ours."""
    reported = pd.read_csv(paths.resolve("book/reported/bergstrom2025-table3-7.csv"))
    runs = first_of_cohorts("reports/01-prepare-tasks", records).values()
    tables = [table(record, "sizes.csv") for record in runs]
    ours = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["task", "samples", "epochs"])
    rows = []
    for task, group in reported.groupby("task", sort=False):
        mine = ours[ours["task"] == task]
        rows.append({
            "table": group["source"].iloc[0].removeprefix("Table "),
            "task": TASKS[task][0],
            "the paper's images": ", ".join(f"{n:,}" for n in group["samples"]),
            "ours": ", ".join(f"{n:,}" for n in mine["samples"]) or "not run",
            "the paper's epochs": ", ".join(map(str, group["epochs"])),
            "our epochs": ", ".join(map(str, mine["epochs"])) if len(mine) else "",
        })  # fmt: skip
    return markdown_table(pd.DataFrame(rows))


def table_2(records: Records) -> str:
    """Table 2 of the second paper, beside ours."""
    tables = [table(record, "table2.csv") for record in first_of_cohorts(JUDGED, records).values()]
    if not tables:
        return "*No finished run shows this.*"
    whole = pd.concat(tables, ignore_index=True).fillna("")
    short = {"training ": "", "text AUC": "text", "image AUC": "image", "image encoder": "encoder"}
    for long, said in (short | {", paper": " (paper)"}).items():
        whole.columns = whole.columns.str.replace(long, said, regex=False)
    return "AUC in percent, mean (standard deviation) over seeds.\n\n" + markdown_table(whole)


def every_run(study: str, records: Records) -> str:
    """All runs of a study: a row a notebook and variant, a column a cohort."""
    own = {page: record for page, record in records.items() if page.startswith(f"{study}/")}
    cohorts = list(dict.fromkeys(record["parameters"]["cohort"] for record in own.values()))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for page, record in own.items():
        step = page.split("/")[1]
        key = step.partition(".")[0], record["parameters"]["run"]
        rows.setdefault(key, {})[record["parameters"]["cohort"]] = f"[{record['seconds']:.0f} s]({step})"
    lines = [{"notebook": step, "run": run} | {name: at.get(name, "") for name in cohorts}
             for (step, run), at in sorted(rows.items())]  # fmt: skip
    whole = pd.DataFrame(lines).rename(columns=lambda name: name.replace("_", "-"))
    return folded(f"Every run ({len(own)})", markdown_table(whole))


def attention(records: Records, generated: Path) -> list[str]:
    """The page of Baur et al."""
    figure_1 = Figure("Figure 1", "attention over images", COMPARED, "figure-1")
    return [
        "# Attention: the paper's tables beside ours",
        "{cite:t}`baur2025`, row by row.",
        "## Table 1: attention maps against regions\n\n" + table_1(records),
        "## What it says in words\n\n" + in_words(records),
        "## Figure 1: attention over images\n\n"
        + side_by_side(figure_1, records, generated)
        + "\n\nImages of a cohort that may not be shown stand on no page.",
    ]


def with_reports(records: Records, generated: Path) -> list[str]:
    """The page of Bergström et al."""
    verdicts = judged(records)
    parts = [
        "# Reports: the paper's tables and figures beside ours",
        "{cite:t}`bergstrom2025` in its own order. Figures 1 to 3 and Tables 1 and 8 explain "
        "[the study](../../reports/the-study.md) and [the encoders](../../reports/the-encoders.md). The paper's own "
        "pictures are not repeated; under each of ours stands what the paper says of its own, with our verdict.",
        "## Tables 3 to 7: training images and epochs\n\n" + training_sizes(records),
        "## Table 2: report against image\n\n" + table_2(records),
        said_of("Table 2", verdicts),
    ]
    for figure in FIGURES:
        parts.append(f"## {figure.name}: {figure.what}\n\n" + side_by_side(figure, records, generated))
        parts.append(said_of(figure.name, verdicts))
    return parts


STUDIES = {"mmpkd": attention, "reports": with_reports}


def page(study: str, records: Records, generated: Path) -> str:
    """The tables and figures of the paper of one of `STUDIES` beside ours, as Markdown.

    `records` are of every run that passed the gate, whose notebooks lie in `generated`; pictures go below it.
    """
    shutil.rmtree(generated / study / PICTURES, ignore_errors=True)
    return "\n\n".join(part for part in [WIDE, *STUDIES[study](records, generated), every_run(study, records)] if part)
