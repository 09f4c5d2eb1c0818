"""Figures of stored results: differences with their intervals, a panel a metric or task."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from pkd_utils.runs.files import read_json
from pkd_utils.studies import figures
from pkd_utils.studies.maps.figures import metric_title
from pkd_utils.studies.reports.contrasts import METHOD_NAMES
from workflow.publish.pages.lesions import ARMS, arms_figure
from workflow.publish.pages.markdown import drawing

METRICS = ("pixel_auroc", "iou", "fpr")
STYLES = tuple(zip(("blue", "orange", "bluish green", "reddish purple", "sky blue", "black"), "osD^vP", strict=True))
CORRECTED = {"difference": "estimate", "low_corrected": "low", "high_corrected": "high"}


def forest(table: pd.DataFrame, xlabel: str, columns: int = 3) -> plt.Figure:
    """Draw estimates with their intervals; a mark is filled where its interval leaves out zero.

    Parameters
    ----------
    table : columns `panel`, `line`, `mark` (names), `estimate`, `low`, `high`
    xlabel : str
    columns : int, panels in a row
    """
    panels, lines, marks = (list(dict.fromkeys(table[name])) for name in ("panel", "line", "mark"))
    height = 1.0 + len(lines) * (0.16 + 0.13 * len(marks))
    width = 3.6 if len(panels) > 1 else 6.4
    figure, axes = figures.panels(len(panels), columns, width, height, below=0.5, sharey=True)
    for ax, panel in zip(axes, panels, strict=True):
        for k, mark in enumerate(marks):
            rows = table[(table["panel"] == panel) & (table["mark"] == mark)]
            colour, marker = STYLES[k]
            colour = figures.OKABE_ITO[colour]
            y = [lines.index(line) + 0.66 / len(marks) * (k - (len(marks) - 1) / 2) for line in rows["line"]]
            ax.hlines(y, rows["low"], rows["high"], color=colour, linewidth=1.6)
            ax.plot(rows["estimate"], y, marker, color=colour, markersize=5, label=mark)
        ax.axvline(0, color="0.4", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
        ax.set_title(panel, fontsize=10)
        ax.locator_params(axis="x", nbins=5)
    for ax in axes[:: min(columns, len(panels))]:
        ax.set_yticks(range(len(lines)), lines)
        ax.set_ylim(len(lines) - 0.5, -0.5)
    if len(marks) == 1:
        figure.supxlabel(xlabel, fontsize=10)
    else:
        handles = dict(pair[::-1] for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True))
        ncols = min(columns, len(panels), len(marks))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=ncols, title=xlabel)
    return figure


def differences(result: dict[str, Any]) -> tuple[pd.DataFrame, str]:
    """The differences of a stored result for `forest`, and what is subtracted; an empty table if it holds none."""
    if rows := result.get("the paper's question"):  # mmpkd/09
        table = pd.DataFrame(rows)
        table = table[table["metric"].isin(METRICS)].assign(mark="")
        names = {"panel": table["metric"].map(metric_title), "line": table["cohort"].str.split("/").str[-1]}
        return table.assign(**names), "student with reports minus baseline"
    if rows := result.get("side AUROC"):  # mmpkd/10
        table = pd.DataFrame(rows)
        table = table[table["against"] != ""].rename(columns={"finding": "line"})
        return table.assign(panel="AUROC of the side", mark="minus " + table["against"]), "student with reports"
    if rows := result.get("image by image"):  # mmpkd/05
        ends = {"difference": "estimate", "low, new seeds": "low", "high, new seeds": "high"}
        table = pd.DataFrame(rows).drop(columns=["low", "high"]).rename(columns=ends)
        return table.assign(panel=table["metric"], line="new trainings", mark=""), "student with reports minus baseline"
    if rows := result.get("differences"):  # reports/06
        table = pd.DataFrame(rows).drop(columns=["low", "high"]).rename(columns=CORRECTED)
        if "against" in table:
            table = table[(table["against"] == "image_only") & (table["method"] != "image_restart")]
        table = table[table["size"] == table.groupby("task")["size"].transform("max")]
        panel = table["task"].str.replace("_", " ") + table["size"].map(", {} images".format)
        names = {"panel": panel, "line": table["encoder"], "mark": table["method"].map(METHOD_NAMES)}
        return table.assign(**names), "minus the image alone, AUC"
    return pd.DataFrame(), ""


def told(table: pd.DataFrame) -> str:
    """How many differences are clear of zero, and what these intervals could not have told."""
    table = table.dropna(subset=["low", "high"])
    if table.empty:
        return "One training a method has no interval, so nothing can be told of these differences."
    above, below = int((table["low"] > 0).sum()), int((table["high"] < 0).sum())
    half = (table["high"] - table["low"]) / 2
    return (
        f"Of {len(table)} differences, {above} {'lies' if above == 1 else 'lie'} above zero with the whole interval, "
        f"{below} below. Half an interval is {half.min():.3f} to {half.max():.3f}: smaller ones cannot be told here."
    )


def drawn(stored: list[Path], generated: Path) -> dict[str, str]:
    """The figure, as Markdown, of each stored result that has one, by the name of its file."""
    figures.use_style()
    made = {}
    for file in stored:
        result = read_json(file)
        table, minus = differences(result)
        if result.get(ARMS):
            made[file.stem] = arms_figure(result, file.stem, generated)
            table = pd.DataFrame(result[ARMS]).query("against == 'baseline'")
        elif len(table):
            alt = f"{result['title']}: {minus}, with intervals, a panel a metric or task."
            made[file.stem] = drawing(forest(table, minus), generated / f"{file.stem}-forest.png", alt)
        if file.stem in made:
            made[file.stem] += f"\n\n{told(table)}"
    return made
