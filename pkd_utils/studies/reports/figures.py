"""Figures of the radiology-reports study: sample efficiency, methods side by side, seed by seed, and ablations."""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.intervals import seed_interval
from pkd_utils.studies.figures import OKABE_ITO, panels
from pkd_utils.studies.reports.contrasts import GROUPS, METHOD_NAMES, encoder_group

METHOD_STYLES = {
    "image_only": ("orange", "o"),
    "self_distilled": ("sky blue", "s"),
    "self_restart": ("bluish green", "v"),
    "permuted_distilled": ("black", "P"),
    "report_distilled": ("blue", "D"),
    "teacher": ("reddish purple", "^"),
}
"""Colour and marker of each method that is drawn, the same on every page."""

READINGS = {"auc_other_half": "epoch chosen on other patients", "auc": "chosen on those reported, as in the paper"}
"""Scores of `heads.score_heads` that stand beside each other in a figure, the headline first."""

_LINES = dict(zip((*GROUPS, ""), ("-", "--", "-.", ":"), strict=True))
_MARKERS = "osD^vPXd*<>"


def sample_efficiency(scores: pd.DataFrame, titles: dict[str, str], column: str = "auc", level: float = 0.90) -> Figure:
    """Figures 4 and 7: score of the image-only head against the number of training images, one panel a task.

    Parameters
    ----------
    scores : rows of `reports.heads.score_heads` of one method
    titles : title of each task, in the order of the panels
    column : "auc", "auprc", ...
    level : of the t interval over seeds that is shaded

    Line style tells the kind of pretraining, marker and colour the encoder.
    """
    tasks = [task for task in titles if task in set(scores["task"])]
    figure, axes = panels(len(tasks), 3, 3.0, 2.7, below=0.6)
    encoders = list(dict.fromkeys(scores["encoder"]))
    for ax, task in zip(axes, tasks, strict=False):
        for i, encoder in enumerate(encoders):
            rows = scores[(scores["task"] == task) & (scores["encoder"] == encoder)]
            points = {size: seed_interval(group[column], level) for size, group in rows.groupby("size")}
            if not points:
                continue
            sizes, found = list(points), list(points.values())
            colour = f"C{i % 8}"
            ax.fill_between(sizes, [p.low for p in found], [p.high for p in found], color=colour, alpha=0.15, lw=0)
            ax.plot(sizes, [p.estimate for p in found], _LINES[encoder_group(encoder)], color=colour,
                    marker=_MARKERS[i % len(_MARKERS)], label=IMAGE_ENCODERS[encoder].title)  # fmt: skip
        ax.set(xscale="log", title=titles[task], xlabel="training images")
        ticks = sorted(scores.loc[scores["task"] == task, "size"].unique())
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    for ax in axes[::3]:
        ax.set_ylabel(column.split("_")[0].upper())
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def methods_by_encoder(
    scores: pd.DataFrame, title: str, columns: Sequence[str] = tuple(READINGS), level: float = 0.95
) -> Figure:
    """Figures 5, 6 and 8 to 11: the methods side by side for every encoder of one task, one panel a training size.

    Points are means over seeds, bars t intervals at `level`. Of two readings the first is filled, the other hollow; one
    that no head has is left out.
    """
    sizes = sorted(scores["size"].unique())
    encoders = list(dict.fromkeys(scores["encoder"]))
    present = [m for m in METHOD_STYLES if m in set(scores["method"])]
    if not present:
        raise DataError(f"None of the methods {', '.join(METHOD_STYLES)} is among the scores of {title}.")
    columns = [column for column in columns if scores[column].notna().any()]
    lines = list(itertools.product(present, columns))
    tall = 1.6 + (0.15 + 0.11 * len(lines)) * len(encoders)
    figure, axes = panels(len(sizes), len(sizes), 3.2, tall, below=0.7, sharey=True)
    for ax, size in zip(axes, sizes, strict=True):
        for k, (method, column) in enumerate(lines):
            colour, marker = OKABE_ITO[METHOD_STYLES[method][0]], METHOD_STYLES[method][1]
            for y, encoder in enumerate(encoders):
                rows = scores[(scores["encoder"] == encoder) & (scores["size"] == size) & (scores["method"] == method)]
                if (values := rows[column].dropna()).empty:
                    continue
                point, at = seed_interval(values, level), y + (k - (len(lines) - 1) / 2) * 0.8 / len(lines)
                ax.plot([point.low, point.high], [at, at], color=colour, linewidth=1.4)
                ax.plot(
                    point.estimate, at, marker, color=colour, markersize=4.5, markerfacecolor=_face(column, columns)
                )
        ax.set(title=f"{size} training images", xlabel=columns[0].split("_")[0].upper())
        ax.locator_params(axis="x", nbins=4)  # more would touch the next panel's
    axes[0].set_yticks(range(len(encoders)), [IMAGE_ENCODERS[e].title for e in encoders])
    axes[0].set_ylim(len(encoders) - 0.5, -0.5)
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(handles=_key(present, columns), loc="outside lower center", ncols=2)
    return figure


def seed_by_seed(
    scores: pd.DataFrame, title: str, methods: Sequence[str] = ("image_only", "report_distilled")
) -> Figure:
    """Figures 12 to 14: every seed of one task by itself, the methods joined; rows are encoders, columns sizes.

    Figures 13 and 14 show the image-only head and the one distilled from reports, Figure 12 the teacher as well. Filled
    and hollow as in `methods_by_encoder`.
    """
    sizes, encoders = sorted(scores["size"].unique()), list(dict.fromkeys(scores["encoder"]))
    methods = [method for method in methods if method in set(scores["method"])]
    columns = [column for column in READINGS if scores[column].notna().any()]
    inches = (1.4 + 2.6 * len(sizes), 1.6 + 1.5 * len(encoders))
    figure, axes = _grid(title, encoders, sizes, inches, "AUC", "seed")
    for (i, encoder), (j, size) in itertools.product(enumerate(encoders), enumerate(sizes)):
        ax, rows = axes[i, j], scores[(scores["encoder"] == encoder) & (scores["size"] == size)]
        for k, column in enumerate(columns):
            wide = rows[rows["method"].isin(methods)].pivot(index="seed", columns="method", values=column)
            at = wide.index + (k - (len(columns) - 1) / 2) * 0.3
            ax.vlines(at, wide.min(axis=1), wide.max(axis=1), color="0.7", linewidth=1, zorder=0)
            for method in wide:
                colour, marker = METHOD_STYLES[method]
                ax.plot(at, wide[method], marker, color=OKABE_ITO[colour], markersize=4.5,
                        markerfacecolor=_face(column, columns))  # fmt: skip
        ax.set_xticks(sorted(scores["seed"].unique()))
    figure.legend(handles=_key(methods, columns), loc="outside lower center", ncols=2)
    return figure


def ablation(table: pd.DataFrame, title: str, label: str) -> Figure:
    """Figures 15 to 20 as differences: one task and axis of `ablations.compare`; rows are encoders, columns sizes.

    Bars are the corrected intervals over seeds. Of two readings the headline is filled, the other hollow.
    """
    sizes, encoders, values, columns = (list(dict.fromkeys(table[name]))
                                        for name in ("size", "encoder", "value", "column"))  # fmt: skip
    pairs = list(dict.fromkeys(zip(table["what"], table["against"], strict=True)))
    colours = [OKABE_ITO[name] for name in ("sky blue", "blue", "black")[: len(pairs)]]
    inches = (1.2 + len(sizes) * max(2.6, 0.75 * len(values)), 1.8 + 2.0 * len(encoders))
    figure, axes = _grid(title, encoders, sizes, inches, "difference in AUC", label)
    lines = list(itertools.product(range(len(pairs)), columns))
    for (i, encoder), (j, size) in itertools.product(enumerate(encoders), enumerate(sizes)):
        ax, found = axes[i, j], table[(table["encoder"] == encoder) & (table["size"] == size)]
        ax.axhline(0, color="0.5", linewidth=1, linestyle=(0, (2, 2)))
        for k, (pair, column) in enumerate(lines):
            rows = found[(found["column"] == column) & (found["what"] == pairs[pair][0])]
            rows = rows[rows["against"] == pairs[pair][1]]
            at = [values.index(value) + (k - (len(lines) - 1) / 2) * 0.75 / len(lines) for value in rows["value"]]
            ends = np.abs(rows[["low_corrected", "high_corrected"]].to_numpy().T - rows["difference"].to_numpy())
            ax.errorbar(at, rows["difference"], yerr=ends, fmt="sDo"[pair], color=colours[pair], markersize=4.5,
                        markerfacecolor=_face(column, columns))  # fmt: skip
        names = [METHOD_NAMES.get(v, v).replace(", ", ",\n") if isinstance(v, str) else f"{v:g}" for v in values]
        ax.set_xticks(range(len(values)), names)
        ax.set_xlim(-0.6, len(values) - 0.4)
    marks = [Line2D([], [], color=colour, marker=mark, label=f"{one} minus {other}")
             for (one, other), colour, mark in zip(pairs, colours, "sDo", strict=False)]  # fmt: skip
    figure.legend(handles=[*marks, *_key([], columns)], loc="outside lower center", ncols=1)
    return figure


def relations_by_source(related: pd.DataFrame) -> Figure:
    """AUC and information of each label by what it is read from, rows of `reports.relations.relate`; one row a task."""
    titles = list(dict.fromkeys(related["title"]))
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.75 * len(titles) + 1.2), sharey=True)
    styles = {"report": ("s", "blue"), "image": ("o", "orange"), "state": ("D", "bluish green")}
    poorer = [source for source in dict.fromkeys(related["source"]) if source not in styles]
    styles |= {source: (mark, "sky blue") for source, mark in zip(poorer, "v^<>PXd", strict=False)}
    spread = 0.36 if poorer else 0.2
    shifts = np.linspace(-spread, spread, len(styles))
    for ax, value, limit in ((axes[0], "auc", "chance"), (axes[1], "bits", "entropy")):
        for shift, (name, (mark, colour)) in zip(shifts, styles.items(), strict=True):
            rows = related[related["source"] == name]
            places = [titles.index(title) + shift for title in rows["title"]]
            error = np.abs(rows[[f"{value}_low", f"{value}_high"]].to_numpy().T - rows[value].to_numpy())
            ax.errorbar(rows[value], places, xerr=error, fmt=mark, color=OKABE_ITO[colour], label=name, capsize=2)
        limits = related.drop_duplicates("title")[limit]
        ax.plot(limits, range(len(titles)), "|", color="0.5", markersize=16, label="guessing (left), entropy (right)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    axes[0].set(yticks=range(len(titles)), yticklabels=titles, xlabel="AUC on unseen patients")
    axes[0].invert_yaxis()
    axes[1].set_xlabel("information about the label, bits")
    return figure


def _face(column: str, columns: Sequence[str]) -> str | None:
    """Of the marker: filled for the headline."""
    return None if column == columns[0] else "white"


def _key(methods: Sequence[str], columns: Sequence[str]) -> list[Line2D]:
    """Legend of methods and of readings, where there are both."""
    marks = [Line2D([], [], color=OKABE_ITO[METHOD_STYLES[method][0]], marker=METHOD_STYLES[method][1], linestyle="",
                    label=METHOD_NAMES[method]) for method in methods]  # fmt: skip
    words = [READINGS[column.replace("auprc", "auc")] for column in columns]
    return marks + [Line2D([], [], color="0.3", marker="o", linestyle="", markerfacecolor=face, label=label)
                    for label, face in zip(words, ("0.3", "white"), strict=False)]  # fmt: skip


def _grid(
    title: str, encoders: Sequence[str], sizes: Sequence[int], inches: tuple[float, float], what: str, label: str
) -> tuple[Figure, np.ndarray]:
    """A figure of panels (encoders, sizes) with its titles and labels."""
    figure, axes = plt.subplots(len(encoders), len(sizes), figsize=inches, sharex=True, sharey="row", squeeze=False,
                                layout="constrained")  # fmt: skip
    figure.suptitle(title, x=0.01, ha="left")
    for ax, size in zip(axes[0], sizes, strict=True):
        ax.set_title(f"{size} training images")
    for ax, encoder in zip(axes[:, 0], encoders, strict=True):
        ax.set_ylabel(f"{IMAGE_ENCODERS[encoder].title}\n{what}", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel(label)
    return figure, axes
