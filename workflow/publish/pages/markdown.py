"""Values, tables and figures as Markdown."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pkd_utils.runs.files import atomic_path
from pkd_utils.statistics.comparisons import p_columns

FORMATS = ["png"]  # of drawings; `paper_figures` wants PDF too


def cell(value: Any) -> str:
    """One value as the text of a Markdown table cell."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:.3g}" if abs(value) < 0.001 and value else f"{value:.3f}"
        return f"{int(value)}" if value.is_integer() and abs(value) >= 1 else text
    if isinstance(value, dict | list):
        value = json.dumps(value)
    return str(value).replace("|", "\\|").replace("\n", " ")


ABBREVIATIONS = {"auroc": "AUROC", "auprc": "AUPRC", "iou": "IoU", "fpr": "FPR", "mmpkd": "MMPKD", "csv": "CSV"}


def heading(name: Any) -> str:
    """A column's name as people write it: `pixel_auroc` becomes `pixel AUROC`."""
    return " ".join(ABBREVIATIONS.get(word, word) for word in str(name).split("_"))


def merge_spread(table: pd.DataFrame) -> pd.DataFrame:
    """Join columns `<name>_mean`, `<name>_sd` and, if there, `<name>_marks` into one `<name>`: `0.72 ± 0.04 *`."""
    for column in [name for name in table.columns if str(name).endswith("_mean")]:
        name = column.removesuffix("_mean")
        spread = next((f"{name}{end}" for end in ("_sd", "_std") if f"{name}{end}" in table), None)
        if spread is None or name in table:
            continue
        marks = table.get(f"{name}_marks", pd.Series("", table.index))
        both = [
            "–" if pd.isna(mean) else f"{mean:.2f}" + ("" if pd.isna(sd) else f"\u00a0±\u00a0{sd:.2f}")
            for mean, sd in zip(table[column], table[spread], strict=True)
        ]
        starred = [" " + mark.replace("*", r"\*") if isinstance(mark, str) and mark else "" for mark in marks]
        table = table.assign(**{column: [value + mark for value, mark in zip(both, starred, strict=True)]})
        table = table.rename(columns={column: name}).drop(columns=[spread, f"{name}_marks"], errors="ignore")
    return table


def markdown_table(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table; names lose their underscores, means and spreads are joined, p is told."""
    table = merge_spread(table)
    align = ["right" if pd.api.types.is_numeric_dtype(table[name]) else "left" for name in table.columns]
    headers = [cell(heading(name)) for name in table.columns]
    return p_columns(table).map(cell).to_markdown(index=False, headers=headers, colalign=align, disable_numparse=True)


def drawing(figure: Figure, file: Path, alt: str, folder: str = "") -> str:
    """Save a figure and return it as Markdown; `folder` is that of the file as the page sees it."""
    for kind in FORMATS:
        with atomic_path(file.with_suffix(f".{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata={"Software" if kind == "png" else "CreationDate": None})
    plt.close(figure)
    return image(file.name, alt, folder)


def image(name: str, alt: str, folder: str = "") -> str:
    """A picture as Markdown."""
    return f"```{{image}} {folder}{name}\n:alt: {alt}\n```"


def folded(title: str, text: str) -> str:
    """A text that opens when its title is clicked."""
    return f":::{{dropdown}} {title}\n\n{text}\n\n:::"


def folded_facts(title: str, facts: dict[str, Any]) -> str:
    """Names and values in two columns, folded."""
    rows = [f"| {cell(name.replace('_', ' '))} | {cell(value)} |" for name, value in facts.items()]
    return folded(title, "\n".join(["| | |", "|---|---|", *rows]))


def bullets(sentences: Iterable[str]) -> str:
    """Sentences as a list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def grid(columns: Iterable[tuple[int, str]]) -> str:
    """Texts side by side on a wide screen, each so many twelfths wide."""
    items = [f":::{{grid-item}}\n:columns: 12 12 {width} {width}\n\n{text}\n:::" for width, text in columns]
    return "::::{grid} 12\n:gutter: 3\n\n" + "\n\n".join(items) + "\n::::"


def interval(estimate: float, low: float, high: float, digits: int = 3) -> str:
    """A difference with its interval."""
    return f"{estimate:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
