"""Figures of the comparison of maps: small multiples, a panel a metric, cohorts and methods told apart without colour.

Every kind has a colour of Okabe and Ito *and* a marker or line style, so the figures survive grey print.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pkd_utils.localization.suite import LOWER_IS_BETTER
from pkd_utils.runs.errors import DataError
from pkd_utils.studies import figures
from pkd_utils.studies.figures import OKABE_ITO, PALETTE
from pkd_utils.studies.maps.comparison import REFERENCE, TITLES
from pkd_utils.studies.maps.verdicts import METHOD_NAMES

_KINDS = ("blue", "vermilion", "bluish green", "reddish purple", "orange", "sky blue", "black", "yellow")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_REFERENCE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (8, 3)))


def map_label(name: str) -> str:
    """ "attention_mean" -> "attention mean", "grad_cam" -> "Grad-CAM", "reference: uniform" -> "uniform"."""
    named = {"grad_cam": "Grad-CAM", "chefer": "Chefer"}
    return named.get(name, name.removeprefix(REFERENCE).replace("_", " "))


def metric_title(metric: str) -> str:
    """Name of a metric with the direction that is better."""
    return f"{TITLES[metric]} ({'lower' if metric in LOWER_IS_BETTER else 'higher'} is better)"


def map_forest(differences: pd.DataFrame, columns: int = 4, width: float = 2.9) -> Figure:
    """Draw every difference with its interval: one panel a metric, one line a map, one colour and marker a cohort.

    The half of each panel that means "towards the region" is shaded. A filled mark has an interval without zero, an
    open one has zero inside, and a mark without a line has no interval (one student a method).

    Parameters
    ----------
    differences : result of `maps.comparison.compare_maps`, at least one row
    columns : int, panels in a row
    width : float, inches a panel
    """
    if len(differences) == 0:
        raise DataError("map_forest got no difference: no cohort has both a baseline and a distilled student.")
    cohorts = list(dict.fromkeys(differences["cohort"]))
    maps = list(dict.fromkeys(differences["map"]))
    metrics = [m for m in TITLES if (differences["metric"] == m).any()]
    panels = _panels(len(metrics), columns, width, 0.75 + len(maps) * (0.16 + 0.14 * len(cohorts)))
    offsets = np.linspace(-0.3, 0.3, len(cohorts)) if len(cohorts) > 1 else [0.0]
    for ax, metric in zip(panels.axes, metrics, strict=True):
        part = differences[(differences["metric"] == metric) & differences["estimate"].notna()]
        for row in part.to_dict("records"):
            k = cohorts.index(row["cohort"])
            y, colour = maps.index(row["map"]) + offsets[k], OKABE_ITO[_KINDS[k % len(_KINDS)]]
            known = np.isfinite(row["low"])
            if known:
                ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            filled = known and not row["low"] <= 0 <= row["high"]
            face = colour if filled else "white"
            ax.plot(row["estimate"], y, _MARKERS[k % len(_MARKERS)], color=colour, markerfacecolor=face, markersize=5)
        reach = _reach(part)
        ax.set_xlim(-reach, reach)
        towards = (-reach, 0) if metric in LOWER_IS_BETTER else (0, reach)
        ax.axvspan(*towards, color="0.94", zorder=0, linewidth=0)
        ax.axvline(0, color="0.4", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        _map_axis(ax, maps, metric)
    marks = [
        Line2D([], [], color=OKABE_ITO[_KINDS[k % len(_KINDS)]], marker=_MARKERS[k % len(_MARKERS)], label=name)
        for k, name in enumerate(cohorts)
    ]
    title = "distilled minus baseline; shaded side: towards the region"
    panels.legend(handles=marks, loc="outside lower center", ncols=min(4, len(cohorts)), title=title)
    return panels


def map_levels(levels: pd.DataFrame, cohort: str, columns: int = 4, width: float = 2.9) -> Figure:
    """Draw where every map stands: one panel a metric, one line a map, both methods, reference maps as vertical lines.

    Points are means over seeds, lines reach one standard deviation over seeds to either side.

    Parameters
    ----------
    levels : result of `maps.verdicts.levels_table`
    cohort : the one to draw
    columns, width : see `map_forest`
    """
    table = levels[levels["cohort"] == cohort]
    students = table[table["method"] != "reference"]
    if len(students) == 0:
        raise DataError(f"map_levels found no map of cohort {cohort!r}: the table has {sorted(set(levels['cohort']))}.")
    maps = list(dict.fromkeys(students["map"]))
    metrics = [m for m in TITLES if (students["metric"] == m).any()]
    references = list(dict.fromkeys(table.loc[table["method"] == "reference", "map"]))
    drawn = [m for m in METHOD_NAMES if (students["method"] == m).any()]
    offsets = dict(zip(drawn, np.linspace(-0.15, 0.15, len(drawn)) if len(drawn) > 1 else [0.0], strict=True))
    panels = _panels(len(metrics), columns, width, 0.75 + 0.34 * len(maps))
    styles = {name: _REFERENCE_STYLES[k % len(_REFERENCE_STYLES)] for k, name in enumerate(references)}
    markers = {"baseline": "s", "mmpkd": "o"}
    for ax, metric in zip(panels.axes, metrics, strict=True):
        for row in table[(table["metric"] == metric) & table["mean"].notna()].to_dict("records"):
            if row["method"] == "reference":
                ax.axvline(row["mean"], color="0.45", linewidth=1.1, linestyle=styles[row["map"]], zorder=0)
                continue
            y, colour = maps.index(row["map"]) + offsets[row["method"]], PALETTE[row["method"]]
            if np.isfinite(row["sd"]):
                ends = [row["mean"] - row["sd"], row["mean"] + row["sd"]]
                ax.plot(ends, [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            ax.plot(row["mean"], y, markers[row["method"]], color=colour, markersize=5)
        _map_axis(ax, maps, metric)
    marks = [Line2D([], [], color=PALETTE[m], marker=markers[m], label=METHOD_NAMES[m]) for m in drawn]
    marks += [Line2D([], [], color="0.45", linestyle=styles[name], label=map_label(name)) for name in references]
    panels.legend(handles=marks, loc="outside lower center", ncols=4)
    return panels


def detectable_curves(table: pd.DataFrame, size: float = 3.4) -> Figure:
    """Draw the smallest detectable difference by number of seeds: one panel a distribution, one line a family's size.

    Parameters
    ----------
    table : result of `power.detectable_table`; impossible cases (infinite) are left out of the line
    size : float, inches a panel
    """
    if len(table) == 0:
        raise DataError("detectable_curves got an empty table; give one row a number of seeds.")
    names = list(dict.fromkeys(table["distribution"]))
    figure, axes = plt.subplots(
        1, len(names), figsize=(size * len(names), size * 0.85), squeeze=False, sharey=True, layout="constrained"
    )
    for ax, name in zip(axes.flat, names, strict=True):
        for k, (tests, part) in enumerate(table[table["distribution"] == name].groupby("tests")):
            shown = part[np.isfinite(part["detectable"])].sort_values("seeds")
            label = "one test" if tests == 1 else f"{tests} tests (Holm)"
            style = {"color": OKABE_ITO[_KINDS[k % len(_KINDS)]], "marker": _MARKERS[k % len(_MARKERS)]}
            ax.plot(shown["seeds"], shown["detectable"], label=label, markersize=4, **style)
        ax.set(xlabel="seeds a method", title=name)
        ax.set_ylim(bottom=0)
    axes.flat[0].set_ylabel("detectable difference\n(standard deviations over seeds)")
    axes.flat[0].legend()
    return figure


def randomisation_curves(sanity: pd.DataFrame, stage: str = "stage", value: str = "rank_correlation") -> Figure:
    """Draw how far maps stay the same while weights are made random, stage by stage; one line a map.

    Parameters
    ----------
    sanity : DataFrame with columns map, `stage` and `value`; other columns (methods, seeds) are averaged over
    stage : column of the stages, drawn in the order of their first appearance
    value : column of the rank correlation with the trained model's map, 1 = unchanged
    """
    missing = [c for c in ("map", stage, value) if c not in sanity.columns]
    if missing or len(sanity) == 0:
        raise DataError(f"randomisation_curves needs rows with column {', '.join(missing) or 'map'}; run 08 again.")
    order = list(dict.fromkeys(sanity[stage]))
    mean = sanity.groupby([stage, "map"])[value].mean().unstack().reindex(order)[list(dict.fromkeys(sanity["map"]))]
    figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for k, name in enumerate(mean.columns):
        style = {"color": OKABE_ITO[_KINDS[k % len(_KINDS)]], "marker": _MARKERS[k % len(_MARKERS)], "markersize": 4}
        ax.plot(range(len(order)), mean[name], label=map_label(name), **style)
    ax.axhline(0, color="0.4", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
    ax.set_xticks(range(len(order)), [str(s) for s in order], rotation=40, ha="right")
    ax.set(ylabel="rank correlation\nwith the trained map", xlabel="made random, from the head down")
    figure.legend(loc="outside right center")
    return figure


def choose_cases(per_image: pd.DataFrame, cohort: str, map_name: str, metric: str = "pixel_auroc") -> dict[str, str]:
    """Images of the gallery: {"best": image_id, "median": ..., "worst": ...} by the mean over all students.

    Both methods and all seeds count alike: choosing by one method's own score would show it at its luckiest.

    Parameters
    ----------
    per_image : table of `maps.comparison.MapRuns`
    cohort, map_name : of its columns; metric : column to rank by (ties by image_id)
    """
    part = per_image[(per_image["cohort"] == cohort) & (per_image["map"] == map_name)]
    mean = part.groupby("image_id")[metric].mean().dropna()
    if len(mean) < 3:
        raise DataError(
            f"{cohort}: {len(mean)} images have {metric} for {map_name}; best, median and worst need three."
        )
    order = mean.reset_index().sort_values([metric, "image_id"])["image_id"].tolist()
    if metric in LOWER_IS_BETTER:
        order.reverse()
    return {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}


def case_gallery(
    cases: Mapping[str, str],
    images: Mapping[str, np.ndarray],
    boxes: Mapping[str, np.ndarray],
    maps: Mapping[str, Mapping[str, np.ndarray]],
    values: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Draw the chosen images under each method's map: one row a method, reference boxes solid.

    Show only what the cohort permits: the caller checks `shareable_images`.

    Parameters
    ----------
    cases : result of `choose_cases`
    images : grey (H, W) by image_id; boxes : (K, 4) by image_id
    maps : method -> image_id -> (h, w) map; values : method -> image_id -> metric, shown in the title
    """
    shown, titles, references, layers = [], [], [], []
    for method, by_image in maps.items():
        for case, image_id in cases.items():
            shown.append(images[image_id])
            references.append(boxes[image_id])
            layers.append(by_image[image_id])
            value = "" if values is None else f" {values[method][image_id]:.2f}"
            titles.append(f"{case}, {METHOD_NAMES[method]}{value}")
    return figures.show_radiograph_grid(shown, titles, reference=references, maps=layers, columns=len(cases), size=2.1)


def _panels(count: int, columns: int, width: float, height: float) -> Figure:
    """A figure of `count` panels, no more, in rows of `columns`."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows + 0.6), squeeze=False, sharey=True, layout="constrained"
    )
    for ax in axes.flat[count:]:
        ax.remove()
    return figure


def _map_axis(ax: Axes, maps: Sequence[str], metric: str) -> None:
    ax.set_yticks(range(len(maps)), [map_label(name) for name in maps])
    ax.set_ylim(len(maps) - 0.5, -0.5)
    ax.locator_params(axis="x", nbins=4)
    direction = "lower" if metric in LOWER_IS_BETTER else "higher"
    ax.set_title(f"{TITLES[metric]}\n({direction} is better)", fontsize=10)


def _reach(part: pd.DataFrame) -> float:
    """Half width of a panel: the farthest end of an interval, with some room; 1 where nothing is drawn."""
    ends = part[["estimate", "low", "high"]].abs().to_numpy()
    largest = np.nanmax(ends) if len(ends) else 0.0
    return 1.08 * largest if largest > 0 else 1.0
