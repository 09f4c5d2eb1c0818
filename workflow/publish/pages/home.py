"""The home page's findings, from what the notebooks that compare have written."""

from pathlib import Path

import pandas as pd

from pkd_utils.runs.files import read_json
from pkd_utils.studies.reports.claims import VERDICTS
from workflow.publish import gate
from workflow.publish.pages.markdown import bullets, folded, markdown_table


def _kind(folder: Path) -> str:
    simulated = gate.Permission.of(read_json(folder / "run.json")).simulated
    return "simulated data" if simulated else "data under the cohort's own licence"


def attention_findings(folder: Path | None) -> str:
    """The home page's findings from a finished run of mmpkd/05-compare."""
    if folder is None:
        return "*No run has been compared yet: `make book` runs the demonstration and writes its findings here.*"
    verdict = read_json(folder / "verdict.json")
    return "\n\n".join([
        f"**{verdict['headline']}**",
        bullets(verdict["findings"]),
        markdown_table(pd.read_csv(folder / "table1.csv")),
        f"Ours: {_kind(folder)}; mean ± standard deviation over seeds. "
        "[The whole comparison](_generated/mmpkd/05-compare).",
    ])  # fmt: skip


def all_maps_findings(folder: Path | None, page: str | None) -> str:
    """One sentence a cohort from notebook mmpkd/09's `verdict.json`, for the home page; empty where it has not run."""
    if folder is None:
        return ""
    sentences = bullets(cohort["sentence"] for cohort in read_json(folder / "verdict.json")["cohorts"])
    lead = f"By every map and metric, in radiographs and mammograms ([the whole comparison](_generated/{page})):"
    return f"{lead}\n\n{sentences}"


def reports_findings(folder: Path | None, page: str | None) -> str:
    """The home page's findings from a finished run of reports/06-distillation-effect, whose page this is."""
    if folder is None:
        missing = "The second study has not been run in this copy of the book"
        return f"*{missing}: `make book` runs it and writes its findings here.*"
    found, table = read_json(folder / "verdict.json"), pd.read_csv(folder / "verdicts.csv")
    claims = {verdict: "; ".join(table.loc[table["verdict"] == verdict, "claim"]) for verdict in VERDICTS}
    return "\n\n".join([
        f"**{found['headline']}**",
        bullets(f"*{verdict}*: {names}" for verdict, names in claims.items() if names),
        folded("Finding by finding", bullets(found["findings"])),
        f"Ours: {_kind(folder)}; differences in AUC with corrected intervals over seeds. "
        f"[The whole comparison](_generated/{page}), and [how verdicts are reached](reports/the-study.md).",
    ])  # fmt: skip
