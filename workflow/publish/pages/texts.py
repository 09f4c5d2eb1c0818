"""The page section of the reports study on Open-i: from reports that give the label away to another patient's."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from pkd_utils.runs.files import read_json
from pkd_utils.studies import figures
from pkd_utils.studies.reports.contrasts import METHOD_NAMES
from workflow.publish.pages.forests import CORRECTED, forest
from workflow.publish.pages.markdown import bullets, drawing, folded, folded_facts, markdown_table

PREFIX = "reports-openi_"
RELATIONS = "reports-openi_relations.json"
TEXTS = ("whole", *(f"{what}_removed" for what in ("names", "synonyms", "sentences", "sides")))
TEXTS += ("indication", "other_patient")
MARKS = (
    "Texts with something removed were read before numbers of lists and loose marks went with it; where sentences "
    "went, these alone told a label with an AUROC of up to 0.64. [They have to be read again](../limits.md)."
)
CONTROLS = ("image_only", "self_distilled", "self_restart", "permuted_distilled")
ALONE = ("image_only", "text_only", "teacher", "report_distilled")


def stored_of(files: list[Path]) -> dict[str, dict[str, Any]]:
    """The stored results by the name of their text, from the whole report to another patient's."""
    found = {file.stem.removeprefix(PREFIX): file for file in files if file.stem.startswith(PREFIX)}
    return {text: read_json(found[text]) for text in TEXTS if text in found}


def rows_of(results: dict[str, dict[str, Any]], name: str) -> pd.DataFrame:
    """One table of the results together, each row with its text."""
    return pd.DataFrame([row | {"text": text} for text, result in results.items() for row in result[name]])


def gains(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Students distilled from the report against each control: a row a task, text and control, corrected intervals."""
    table = rows_of(results, "differences")
    return table[(table["method"] == "report_distilled") & table["against"].isin(CONTROLS)]


def levels(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """AUC of image alone, text alone, both, and the student; a row a task and text."""
    table = rows_of(results, "scores").pivot_table("mean", ["task", "text"], "method", sort=False)
    table = table[[method for method in ALONE if method in table]].rename(columns=METHOD_NAMES)
    return table.round(3).reset_index().replace("_", " ", regex=True)


def gain_figure(table: pd.DataFrame) -> plt.Figure:
    """A panel a task, a line a text, a mark a control."""
    names = {"panel": table["task"].str.replace("_", " "), "line": table["text"].str.replace("_", " ")}
    marks = "minus " + table["against"].map(METHOD_NAMES)
    table = table.drop(columns=["low", "high"]).rename(columns=CORRECTED)
    return forest(table.assign(**names, mark=marks), "difference in AUC")


def relations(stored: Path) -> str:
    """What small models read of each label from each text and from the image (01-prepare-tasks), beside guessing."""
    if not stored.exists():
        return ""
    table = pd.DataFrame(read_json(stored)["relations"])
    chance = "; ".join(f"{row.title} {row.chance:.3f}" for row in table.drop_duplicates("title").itertuples())
    shown = table[["title", "source", "auc", "auc_low", "auc_high", "chance", "bits", "bits_low", "bits_high"]].round(3)
    return (
        f"AUC is one-versus-rest, micro-averaged, as in the paper: guessing by frequency has {chance}. So an AUC near "
        "that says nothing of the label. Words, and a floor from thumbnails, beside it, with intervals over studies:"
        f"\n\n{folded('What each text and the image say of the label', markdown_table(shown))}"
    )


def notes_of(results: dict[str, dict]) -> list[str]:
    """What the results' readers must know; before a note that some texts' results lack stand the texts that have it."""
    having: dict[str, list[str]] = {}
    for text, result in results.items():
        for note in result["parameters"]["notes"]:
            having.setdefault(note, []).append(text.replace("_", " "))
    return [note if len(texts) == len(results) else f"{', '.join(texts)}: {note}" for note, texts in having.items()]


def section(files: list[Path], generated: Path) -> str:
    """The section as Markdown, its figure drawn into `generated`; "" without a stored result."""
    results = stored_of(files)
    if not results:
        return ""
    table, one = gains(results), next(iter(results.values()))
    figures.use_style()
    clear = table[(table["p_holm"] <= 0.05) & (table["difference"] > 0)]
    other = "other_patient" not in results
    absent = [text.replace("_", " ") for text in TEXTS if text not in results]
    half = (table["high_corrected"] - table["low_corrected"]) / 2
    said = (
        f"The student distilled from a report, less each control, on Open-i's films: of {len(table)} differences "
        f"{len(clear)} lie above zero after Holm's method, which runs over the students of a task and text. Half an "
        f"interval is {half.min():.3f} to {half.max():.3f} AUC wide: these seeds tell no smaller gain from none. "
        + (f"No result is stored of: {', '.join(absent)}." if absent else "")
        + (" Another patient's report is refused where a report of one task tells labels of the other." * other)
    )
    shown = table[["task", "text", "against", "difference", "low_corrected", "high_corrected", "p_holm", "seeds"]]
    shown = shown.rename(columns={"low_corrected": "low", "high_corrected": "high", "p_holm": "p (Holm)"}).round(3)
    related = relations(files[0].parent / RELATIONS)
    facts = {k: {text: r.get(k) for text, r in results.items()} for k in ("commit", "seconds", "identity")}
    alt = "Differences in AUC with intervals over seeds: a panel a task, a line a text of the report, a mark a control."
    return "\n\n".join([
        "## Open-i: from a report that gives the label away to one that says nothing",
        said,
        bullets([*notes_of(results), MARKS]),
        drawing(gain_figure(table), generated / "openi-reports.png", alt),
        f"**AUC, mean over seeds**\n\n{markdown_table(levels(results))}",
        folded(f"All differences ({len(shown)} rows)", markdown_table(shown)),
        related,
        folded_facts("Provenance", facts | {k: one.get(k) for k in ("device", "versions")}),
    ])  # fmt: skip
