"""Figures of the book: one style, colours by role, and the few plots that several notebooks share.

Colours are the eight of Okabe and Ito, told apart under the common colour vision deficiencies; boxes differ in
line style as well. Figure 1 of the MMPKD paper draws them red and green, which is not repeated here. Boxes are
``(K, 4)`` arrays of ``x0, y0, x1, y1`` in pixels, ``x1`` and ``y1`` exclusive, as in `pkd_utils.localization.metrics`.
"""

import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "bluish green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "reddish purple": "#CC79A7",
}

PALETTE = {
    "baseline": OKABE_ITO["orange"],
    "mmpkd": OKABE_ITO["blue"],
    "self": OKABE_ITO["sky blue"],
    "permuted": OKABE_ITO["reddish purple"],
    "teacher": OKABE_ITO["reddish purple"],
    "paper": OKABE_ITO["black"],
    "reference": OKABE_ITO["sky blue"],
    "predicted": OKABE_ITO["vermilion"],
}
"""Colour of each role, the same on every page."""

BOX_STYLES = {"reference": "-", "predicted": (0, (4, 2))}
"""Line style of each kind of box: solid, dashed."""

ATTENTION_MAP = "cividis"  # perceptually uniform, and the same to readers with a colour vision deficiency


def use_style() -> None:
    """Set matplotlib's defaults for the book: Okabe-Ito colours, readable text, white ground, small PNGs."""
    order = ["blue", "orange", "bluish green", "reddish purple", "sky blue", "vermilion", "black", "yellow"]
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=[OKABE_ITO[name] for name in order]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 10.5,
            "font.size": 10.5,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "figure.facecolor": "white",
            "axes.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 90,
            "savefig.dpi": 90,
            "figure.constrained_layout.use": True,
            "image.cmap": ATTENTION_MAP,
        }
    )


def panels(
    count: int, columns: int, width: float, height: float, below: float = 0.0, beside: float = 0.0, **options
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes in rows of `columns`, `width` x `height` inches each; `below`, `beside` for a legend."""
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (width * columns + beside, height * rows + below)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
    for ax in axes.flat[count:]:
        ax.remove()
    return figure, list(axes.flat[:count])


def show_radiograph_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    reference: Sequence[np.ndarray] | None = None,
    predicted: Sequence[np.ndarray] | None = None,
    maps: Sequence[np.ndarray] | None = None,
    columns: int = 4,
    size: float = 2.3,
) -> Figure:
    """Draw radiographs in a grid, each with its title, boxes and, if given, its attention map.

    Parameters
    ----------
    images : (H, W) arrays; uint8 is shown from 0 to 255, float from its own minimum to its own maximum
    titles : one an image
    reference, predicted : (K, 4) arrays, one an image
    maps : (h, w) float arrays, one an image: the patch grid or larger, stretched over the image
    columns : int, images in a row
    size : float, inches an image
    """
    figure, axes = panels(len(images), columns, size, 1.15 * size)
    layers = {role: b for role, b in (("reference", reference), ("predicted", predicted)) if b is not None}
    for i, ax in enumerate(axes):
        image = np.asarray(images[i])
        limits = {"vmin": 0, "vmax": 255} if image.dtype == np.uint8 else {}
        ax.imshow(image, cmap="gray", interpolation="nearest", **limits)
        ax.set_axis_off()
        if maps is not None:
            extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
            ax.imshow(maps[i], cmap=ATTENTION_MAP, alpha=0.55, extent=extent, interpolation="nearest")
        for role, boxes in layers.items():
            _draw_boxes(ax, boxes[i], role)
        ax.set_title(titles[i])
    if layers:
        handles = [
            Line2D([], [], color=PALETTE[role], linestyle=BOX_STYLES[role], linewidth=2, label=f"{role} box")
            for role in layers
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(layers))
    return figure


def _draw_boxes(ax: Axes, boxes: np.ndarray, role: str) -> None:
    """Draw boxes in the colour and line style of their role, with a dark rim that shows on bright tissue."""
    rim = [patheffects.Stroke(linewidth=3.2, foreground="black", alpha=0.6), patheffects.Normal()]
    style = {"edgecolor": PALETTE[role], "linestyle": BOX_STYLES[role], "linewidth": 1.8, "path_effects": rim}
    for x0, y0, x1, y1 in np.asarray(boxes, dtype=float).reshape(-1, 4):
        # Pixel centres lie on whole numbers.
        ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, **style))


def learning_curves(histories: Mapping[str, pd.DataFrame], columns: Sequence[str] | None = None) -> Figure:
    """Draw training histories: one panel a column, one colour a method; seeds as thin lines under their mean.

    Parameters
    ----------
    histories : method's name -> DataFrame
        Column `epoch`, numeric columns, and columns `seed`, `fold` where several runs are stacked. Names that
        are roles of `PALETTE` ("baseline", "mmpkd", "teacher") take that role's colour.
    columns : names of the columns to draw; by default every numeric column but `epoch`, `seed` and `fold`
    """
    if columns is None:
        numbers = next(iter(histories.values())).select_dtypes("number").columns
        columns = [column for column in numbers if column not in ("epoch", "seed", "fold")]
    figure, axes = panels(len(columns), len(columns), 3.4, 2.72, below=0.22 * -(-len(histories) // 3))
    for ax, column in zip(axes, columns, strict=True):
        for i, (name, table) in enumerate(histories.items()):
            colour = PALETTE.get(name.lower(), f"C{i}")
            runs = [c for c in ("fold", "seed") if c in table.columns]
            if runs and len(table[runs].drop_duplicates()) > 1:
                for _, run in table.groupby(runs):
                    ax.plot(run["epoch"], run[column], color=colour, alpha=0.35, linewidth=0.8)
            mean = table.groupby("epoch")[column].mean()
            marker = "o" if len(mean) == 1 else None  # a single epoch draws no line
            ax.plot(mean.index, mean.to_numpy(), color=colour, linewidth=2, marker=marker, label=name)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set(xlabel="epoch", ylabel=re.sub(r"\bauc\b|\bauroc\b", lambda m: m[0].upper(), column.replace("_", " ")))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def forest(
    table: pd.DataFrame,
    estimate: str = "estimate",
    null: float | None = 0.0,
    xlabel: str = "",
    paper: str | None = None,
    roles: Sequence[str] | None = None,
) -> Axes:
    """Draw estimates with their intervals, one row of `table` a line, top to bottom.

    Parameters
    ----------
    table : DataFrame with the columns label, low, high and the one named by `estimate`
    null : value of no effect, drawn as a vertical line; None for none
    paper : name of a column with a published value (NaN where there is none), drawn as a black diamond
    roles : one role of `PALETTE` a row; blue by default
    """
    _, ax = plt.subplots(figsize=(6.4, 0.8 + 0.36 * len(table)), layout="constrained")
    for y, (_, row) in enumerate(table.iterrows()):
        colour = PALETTE[roles[y]] if roles is not None else PALETTE["mmpkd"]
        ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        ax.plot(row[estimate], y, "o", color=colour, markersize=6)
        if paper is not None and np.isfinite(row[paper]):
            ax.plot(row[paper], y, "D", markerfacecolor="none", color=PALETTE["paper"], markersize=6)
    if null is not None:
        ax.axvline(null, color="0.5", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
    ax.set_yticks(range(len(table)), [str(v) for v in table["label"]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(xlabel)
    if paper is not None:
        marks = [
            Line2D([], [], color=PALETTE["mmpkd"], marker="o", label="here, with its interval"),
            Line2D([], [], color="black", marker="D", markerfacecolor="none", linestyle="", label="published"),
        ]
        ax.legend(handles=marks, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def heat_table(
    grid: pd.DataFrame, xlabel: str = "temperature T", ylabel: str = "weight λ", value_format: str = "{:.3f}"
) -> Axes:
    """Draw a table of numbers as coloured cells with their values, e.g. a lambda x T grid.

    Parameters
    ----------
    grid : DataFrame of floats, index = rows (lambda), columns = columns (T); NaN is drawn as a dash
    """
    values = grid.to_numpy(dtype=float)
    rows, columns = values.shape
    _, ax = plt.subplots(figsize=(1.4 + 0.8 * columns, 1.0 + 0.45 * rows), layout="constrained")
    layer = ax.imshow(values, cmap=ATTENTION_MAP, aspect="auto")
    for i in range(rows):
        for j in range(columns):
            finite = np.isfinite(values[i, j])
            dark = finite and layer.norm(values[i, j]) < 0.5
            text = value_format.format(values[i, j]) if finite else "–"
            ax.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    ax.set_xticks(range(columns), [f"{c}" for c in grid.columns])
    ax.set_yticks(range(rows), [f"{r}" for r in grid.index])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax
