"""The home page's findings, from what the notebooks that compare have written."""

from pathlib import Path
from typing import Any

import pandas as pd

from pkd_utils.runs.files import read_json
from pkd_utils.studies.reports.claims import VERDICTS
from workflow.publish import gate
from workflow.publish.pages.markdown import markdown_table


def _kind(record: dict[str, Any]) -> str:
    return "simulated data" if gate.Permission.of(record).simulated else "data under the cohort's own licence"


def attention_findings(folder: Path | None) -> str:
    """The home page's findings from the compare notebook's artefacts.

    Parameters
    ----------
    folder : Path or None
        Finished run with, each optional, `verdict.json` (`headline`: str, `findings`: list of str),
        `table1.csv` and `statistics.csv` (columns `<metric>_mean`, `<metric>_sd` are joined).
    """
    if folder is None or not folder.exists():
        return "*No run has been compared yet: `make book` runs the demonstration and writes its findings here.*"
    record = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    parts = []
    if (folder / "verdict.json").exists():
        verdict = read_json(folder / "verdict.json")
        parts.append(f"**{verdict['headline']}**")
        parts.append("\n".join(f"- {sentence}" for sentence in verdict["findings"]))
    if (folder / "table1.csv").exists():
        parts.append(markdown_table(pd.read_csv(folder / "table1.csv")))
    said = f"Ours: {_kind(record)}; mean ± standard deviation over seeds."
    parts.append(f"{said} [The whole comparison](_generated/mmpkd/05-compare).")
    return "\n\n".join(part for part in parts if part)


def all_maps_findings(folder: Path | None, page: str | None) -> str:
    """One sentence a cohort from notebook mmpkd/09's `verdict.json`, for the home page; empty where it has not run."""
    if folder is None or not (folder / "verdict.json").exists():
        return ""
    sentences = [f"- {cohort['sentence']}" for cohort in read_json(folder / "verdict.json")["cohorts"]]
    lead = f"By every map and metric, in radiographs and mammograms ([the whole comparison](_generated/{page})):"
    return "\n\n".join([lead, "\n".join(sentences)])


def reports_findings(folder: Path | None, page: str | None) -> str:
    """The home page's findings of the second study.

    Parameters
    ----------
    folder : Path or None
        Finished run of reports/06-distillation-effect with `verdict.json` (`headline`: str, `findings`: list of str)
        and, optional, `verdicts.csv` (columns `claim` and `verdict`).
    page : str or None
        Where the reader finds the whole comparison, relative to `book/_generated`.
    """
    if folder is None or not (folder / "verdict.json").exists():
        missing = "The second study has not been run in this copy of the book"
        return f"*{missing}: `make book` runs it and writes its findings here.*"
    found = read_json(folder / "verdict.json")
    record = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    sentences = "\n".join(f"- {sentence}" for sentence in found["findings"])
    names = []
    if (folder / "verdicts.csv").exists():
        table = pd.read_csv(folder / "verdicts.csv")
        groups = [(verdict, table.loc[table["verdict"] == verdict, "claim"]) for verdict in VERDICTS]
        names = [f"- *{verdict}*: {'; '.join(claims)}" for verdict, claims in groups if len(claims)]
    return "\n\n".join([
        f"**{found['headline']}**",
        *(["\n".join(names)] if names else []),
        f":::{{dropdown}} Finding by finding\n\n{sentences}\n\n:::",
        f"Ours: {_kind(record)}; differences in AUC with corrected intervals over seeds. "
        f"[The whole comparison](_generated/{page}), and [how verdicts are reached](reports/the-study.md).",
    ])  # fmt: skip
