"""Figures of the comparison of maps: small multiples, a panel a metric, cohorts and methods told apart without colour.

Every kind has a colour of Okabe and Ito *and* a marker or line style, so the figures survive grey print.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pkd_utils.localization.suite import LOWER_IS_BETTER
from pkd_utils.runs.errors import DataError
from pkd_utils.studies import figures
from pkd_utils.studies.figures import OKABE_ITO, PALETTE
from pkd_utils.studies.maps.arms import METHOD_NAMES
from pkd_utils.studies.maps.comparison import REFERENCE, TITLES

_KINDS = ("blue", "vermilion", "bluish green", "reddish purple", "orange", "sky blue", "black", "yellow")
_ARM_MARKERS = {"baseline": "s", "mmpkd": "o", "self": "^", "permuted": "v"}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_REFERENCE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 4)))


def map_label(name: str) -> str:
    """ "attention_mean" -> "attention mean", "grad_cam" -> "Grad-CAM", "reference: uniform" -> "uniform"."""
    named = {"grad_cam": "Grad-CAM", "chefer": "Chefer"}
    return named.get(name, name.removeprefix(REFERENCE).replace("_", " "))


def metric_title(metric: str) -> str:
    """Name of a metric with the direction that is better; "threshold" and other columns keep their own."""
    direction = "lower" if metric in LOWER_IS_BETTER else "higher"
    name = TITLES.get(metric, metric.replace("_", " ").replace(" ap", " AP"))
    return f"{name} ({direction} is better)"


def arm_forest(arms: pd.DataFrame) -> Figure:
    """Draw the gain over the baseline of every arm with its interval: a panel a metric, a line a cohort and arm.

    The half of each panel that means "better" is shaded. A filled mark has an interval without zero, an open one has
    zero inside, and a mark without a line has no interval. A gain that the controls have as well is not the report's.

    Parameters
    ----------
    arms : rows of `controls.compare_arms`; those against the baseline are drawn. A column `paper` (NaN where there is
        none) adds a published difference to the distilled student's line, as a hollow diamond.
    """
    table = arms[arms["against"] == "baseline"]
    cohorts = list(dict.fromkeys(table["cohort"]))
    drawn = [m for m in METHOD_NAMES if (table["method"] == m).any()]
    metrics = list(dict.fromkeys(table["metric"]))
    height = 0.95 + len(cohorts) * (0.16 + 0.22 * len(drawn))
    figure, axes = figures.panels(len(metrics), len(metrics), 2.9, height, below=0.5, sharey=True)
    offsets = np.linspace(-0.27, 0.27, len(drawn)) if len(drawn) > 1 else [0.0]
    styles = {method: {"color": PALETTE[method], "marker": _ARM_MARKERS[method], "markersize": 5} for method in drawn}
    for ax, metric in zip(axes, metrics, strict=True):
        part = table[(table["metric"] == metric) & table["estimate"].notna()]
        for row in part.to_dict("records"):
            y = cohorts.index(row["cohort"]) + offsets[drawn.index(row["method"])]
            style = styles[row["method"]]
            ax.plot([row["low"], row["high"]], [y, y], color=style["color"], linewidth=1.6, solid_capstyle="butt")
            filled = np.isfinite(row["low"]) and not row["low"] <= 0 <= row["high"]
            ax.plot(row["estimate"], y, **style, markerfacecolor=style["color"] if filled else "white")
            if np.isfinite(row.get("paper", np.nan)):
                ax.plot(row["paper"], y, "D", color=PALETTE["paper"], markerfacecolor="none", markersize=6)
        ends = part[[name for name in ("estimate", "low", "high", "paper") if name in part]]
        reach = 1.08 * np.nanmax(ends.abs(), initial=0) or 1.0  # of the farthest end
        ax.set_xlim(-reach, reach)
        better = (-reach, 0) if metric in LOWER_IS_BETTER else (0, reach)
        ax.axvspan(*better, color="0.94", zorder=0, linewidth=0)
        ax.axvline(0, color="0.4", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        _map_axis(ax, cohorts, metric)
    marks = [Line2D([], [], label=METHOD_NAMES[method], **style) for method, style in styles.items()]
    if "paper" in table and table["paper"].notna().any():
        marks.append(Line2D([], [], linestyle="", marker="D", markerfacecolor="none", color="black", label="published"))
    title = "minus the baseline; shaded: better"
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), title=title)
    return figure


def map_levels(levels: pd.DataFrame, cohort: str) -> Figure:
    """Draw where every map stands: one panel a metric, one line a map, both methods, reference maps as vertical lines.

    Points are means over seeds, lines reach one standard deviation over seeds to either side. `levels` is what
    `maps.verdicts.levels_table` gives, of which one cohort is drawn.
    """
    table = levels[levels["cohort"] == cohort]
    students = table[table["method"] != "reference"]
    maps = list(dict.fromkeys(students["map"]))
    metrics = [m for m in TITLES if (students["metric"] == m).any()]
    references = list(dict.fromkeys(table.loc[table["method"] == "reference", "map"]))
    drawn = [m for m in METHOD_NAMES if (students["method"] == m).any()]
    offsets = dict(zip(drawn, np.linspace(-0.15, 0.15, len(drawn)) if len(drawn) > 1 else [0.0], strict=True))
    figure, axes = figures.panels(len(metrics), 3, 3.4, 0.75 + 0.34 * len(maps), below=0.6, sharey=True)
    styles = {name: _reference_style(k) for k, name in enumerate(references)}
    for ax, metric in zip(axes, metrics, strict=True):
        for row in table[(table["metric"] == metric) & table["mean"].notna()].to_dict("records"):
            if row["method"] == "reference":
                ax.axvline(row["mean"], zorder=0, **styles[row["map"]])
                continue
            y, colour = maps.index(row["map"]) + offsets[row["method"]], PALETTE[row["method"]]
            ends = [row["mean"] - row["sd"], row["mean"] + row["sd"]]
            ax.plot(ends, [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            ax.plot(row["mean"], y, _ARM_MARKERS[row["method"]], color=colour, markersize=5)
        _map_axis(ax, maps, metric)
    marks = [Line2D([], [], color=PALETTE[m], marker=_ARM_MARKERS[m], label=METHOD_NAMES[m]) for m in drawn]
    marks += [Line2D([], [], label=map_label(name), **styles[name]) for name in references]
    figure.legend(handles=marks, loc="outside lower center", ncols=4)
    return figure


def detectable_curves(table: pd.DataFrame) -> Figure:
    """Draw the smallest detectable difference by number of seeds: one panel a distribution, one line a family's size.

    `table` is what `power.detectable_table` gives.
    """
    names = list(dict.fromkeys(table["distribution"]))
    figure, axes = figures.panels(len(names), len(names), 3.4, 2.89, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        for k, (tests, part) in enumerate(table[table["distribution"] == name].groupby("tests")):
            shown = part.sort_values("seeds")
            label = "one test" if tests == 1 else f"{tests} tests (Holm)"
            ax.plot(shown["seeds"], shown["detectable"], label=label, **_style(k))
        ax.set(xlabel="seeds", title=name)
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("detectable difference\n(standard deviations of the\ndifferences of seeds)")
    axes[0].legend()
    return figure


def randomisation_curves(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw how far maps stay the same while weights are made random, stage by stage: a panel a table, a line a map.

    Parameters
    ----------
    tables : title -> DataFrame with columns map, stage (drawn in the order of appearance) and rank_correlation with
        the trained model's map, 1 = unchanged; other columns (methods, seeds) are averaged over
    """
    figure, axes = figures.panels(len(tables), len(tables), 3.0 + 3.4 / len(tables), 3.4, sharey=True)
    for ax, (title, sanity) in zip(axes, tables.items(), strict=True):
        mean = sanity.pivot_table("rank_correlation", "stage", "map", sort=False)
        for k, name in enumerate(dict.fromkeys(sanity["map"])):
            ax.plot(range(len(mean)), mean[name], label=map_label(name), **_style(k))
        ax.axhline(0, color="0.4", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
        ax.set_xticks(range(len(mean)), [str(stage) for stage in mean.index], rotation=40, ha="right")
        ax.set(title=title, xlabel="made random")
    axes[0].set_ylabel("rank correlation\nwith the trained map")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def student_dots(per_student: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """Draw every student of every map: one panel a metric, a dot a student, reference maps as horizontal lines.

    Parameters
    ----------
    per_student : DataFrame with columns map, method ("baseline", "distilled", "reference"), metric and value
    metrics : values of its column metric, one panel each
    """
    students = per_student[per_student["method"] != "reference"]
    maps = [name for name in dict.fromkeys(students["map"]) if name != "classifier"]
    references = list(dict.fromkeys(per_student.loc[per_student["method"] == "reference", "map"]))
    figure, axes = figures.panels(len(metrics), 3, 3.1, 2.6, below=0.6, sharex=True)
    for ax, metric in zip(axes, metrics, strict=True):
        values = per_student[per_student["metric"] == metric]
        for role, method, shift in (("baseline", "baseline", -0.13), ("mmpkd", "distilled", 0.13)):
            dots = values[values["method"] == method]
            at = [maps.index(name) + shift for name in dots["map"]]
            ax.plot(at, dots["value"], "o", color=PALETTE[role], markersize=4, alpha=0.8, label=method)
        means = values[values["method"] == "reference"].groupby("map")["value"].mean()
        for k, name in enumerate(references):
            ax.axhline(means[name], label=map_label(name), **_reference_style(k))
        ax.set_title(metric_title(metric), fontsize=9)
        ax.set_xticks(range(len(maps)), [map_label(name) for name in maps], rotation=35, ha="right")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def threshold_curves(curves: pd.DataFrame) -> Figure:
    """Draw the IoU of boxes and of thresholded pixels against the threshold: a line a map, reference maps thin.

    Parameters
    ----------
    curves : DataFrame with columns map, threshold, iou and region_iou; other columns are averaged over
    """
    figure, axes = figures.panels(2, 2, 4.5, 3.6, sharey=True)
    names = list(dict.fromkeys(curves["map"]))
    references = [name for name in names if name.startswith(REFERENCE)]
    for ax, column, title in zip(axes, ("iou", "region_iou"), ("best-matching box", "pixels"), strict=True):
        mean = curves.groupby(["map", "threshold"])[column].mean()
        for name in names:
            style = _reference_style(references.index(name)) if name in references else {"linewidth": 2}
            ax.plot(mean[name].index, mean[name].to_numpy(), label=map_label(name), **style)
        ax.set(title=title, xlabel="threshold", ylabel="IoU")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def choose_cases(values: pd.Series) -> dict[str, str]:
    """Images of a gallery: {"best": image_id, "median": ..., "worst": ...} by their value, ties by image_id.

    Where two methods are shown, give the mean over all students: one method's own score would show it at its luckiest.
    Images without a value (NaN) are not chosen.
    """
    order = values.dropna().sort_index().sort_values(kind="stable").index
    if len(order) < 3:
        raise DataError(f"{len(order)} images have a pixel-wise AUROC; best, median and worst need three.")
    return {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}


def case_gallery(
    cases: Mapping[str, str],
    images: Mapping[str, np.ndarray],
    boxes: Mapping[str, np.ndarray],
    maps: Mapping[str, Mapping[str, np.ndarray]],
    values: Mapping[str, Mapping[str, float]],
    predicted: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    size: float = 2.1,
) -> Figure:
    """Draw the chosen images, a column each, under several maps, a row each; reference boxes are solid.

    Parameters
    ----------
    cases : title -> image_id, such as the result of `choose_cases`
    images : grey (H, W) by image_id; boxes : (K, 4) by image_id
    maps : method or map -> image_id -> (h, w) map; values : the same -> image_id -> metric, shown in the title
    predicted : the same -> image_id -> (K, 4) predicted boxes, dashed
    size : inches an image
    """
    panels = [(row, case, image_id) for row in maps for case, image_id in cases.items()]
    figure = figures.show_radiograph_grid(
        [images[i] for _, _, i in panels],
        [f"{case}, {METHOD_NAMES.get(row, map_label(row))} {values[row][i]:.2f}" for row, case, i in panels],
        reference=[boxes[i] for _, _, i in panels],
        predicted=None if predicted is None else [predicted[row][i] for row, _, i in panels],
        maps=[maps[row][i] for row, _, i in panels],
        columns=len(cases),
        size=size,
    )
    for ax in figure.axes:
        ax.title.set_fontsize(4.5 * size)  # a title is as wide as its image at most
    return figure


def _style(k: int) -> dict[str, object]:
    return {"color": OKABE_ITO[_KINDS[k % len(_KINDS)]], "marker": _MARKERS[k % len(_MARKERS)], "markersize": 4.5}


def _reference_style(k: int) -> dict[str, object]:
    return {"color": "0.45", "linestyle": _REFERENCE_STYLES[k % len(_REFERENCE_STYLES)], "linewidth": 1.1}


def _map_axis(ax: Axes, maps: Sequence[str], metric: str) -> None:
    ax.set_yticks(range(len(maps)), [map_label(name) for name in maps])
    ax.set_ylim(len(maps) - 0.5, -0.5)
    ax.locator_params(axis="x", nbins=4)
    ax.set_title(metric_title(metric).replace(" (", "\n("), fontsize=10)
