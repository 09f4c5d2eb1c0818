"""Figures of what mmpkd/05 stored, every arm against the baseline, and the home page's paragraph on real lesions."""

from pathlib import Path
from typing import Any

import pandas as pd

from pkd_utils.runs.files import read_json
from pkd_utils.studies import figures
from pkd_utils.studies.maps.figures import arm_forest
from workflow.publish.pages.markdown import bullets, drawing

STORED = "breast-usg-biopsied.json"
ARMS = "arms against each other"
FIRST = ("Prediction: ", "Obj. AUROC: ")  # of the notes, what the home page tells: the primary endpoint before others


def arms_figure(result: dict[str, Any], name: str, generated: Path, folder: str = "") -> str:
    """The gains over the baseline, drawn into `generated`, as Markdown; "" where a result holds none.

    `folder` is that of the figure as the page sees it.
    """
    table = pd.DataFrame(result.get(ARMS, []))
    if table.empty:
        return ""
    figures.use_style()
    alt = f"{result['title']}: gains over the baseline with intervals, a panel a metric, a line an arm."
    return drawing(arm_forest(table), generated / f"{name}-arms.png", alt, folder)


def finding(stored: Path, generated: Path) -> str:
    """The home page's paragraph on the biopsied lesions of BrEaST, or a sentence that there is none."""
    if not stored.exists():
        return "*No result on real lesions is stored in this copy of the book: `make open-data` makes one.*"
    result = read_json(stored)
    told = bullets(note for start in FIRST for note in result["notes"] if note.startswith(start))
    figure = arms_figure(result, stored.stem, generated, "_generated/")
    where = "[All rows and limits](_generated/open-data), and [the data](data/breast-usg)."
    lead = (
        "Real breast ultrasound with lesion masks; the teacher reads the radiologist's BI-RADS descriptors. The "
        "primary endpoint of the protocol is the prediction; where the attention lies is secondary."
    )
    return "\n\n".join(part for part in (lead, told, f"**{result['text']}**", figure, where) if part)
