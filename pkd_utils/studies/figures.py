"""Figures of the book: one style, colours by role, and the few plots that several notebooks share.

Colours are the eight of Okabe and Ito, told apart under the common colour vision deficiencies; boxes differ in
line style as well. Figure 1 of the MMPKD paper draws them red and green, which is not repeated here. Boxes are
``(K, 4)`` arrays of ``x0, y0, x1, y1`` in pixels, ``x1`` and ``y1`` exclusive, as in `pkd_utils.localization.metrics`.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from pkd_utils.runs.errors import DataError

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
    "teacher": OKABE_ITO["reddish purple"],
    "paper": OKABE_ITO["black"],
    "reference": OKABE_ITO["sky blue"],
    "predicted": OKABE_ITO["vermilion"],
    "region": OKABE_ITO["yellow"],
}
"""Colour of each role, the same on every page."""

BOX_STYLES = {"reference": "-", "predicted": (0, (4, 2)), "region": (0, (1, 1.5))}
"""Line style of each kind of box: solid, dashed, dotted."""

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


def show_radiograph_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    boxes: Sequence[np.ndarray | None] | None = None,
    reference: Sequence[np.ndarray | None] | None = None,
    predicted: Sequence[np.ndarray | None] | None = None,
    maps: Sequence[np.ndarray | None] | None = None,
    columns: int = 4,
    size: float = 2.3,
) -> Figure:
    """Draw radiographs in a grid, each with its title, boxes and, if given, its attention map.

    Parameters
    ----------
    images : sequence of (H, W) arrays
        uint8 is shown from 0 to 255, float from its own minimum to its own maximum.
    titles : sequence of str, one an image
    boxes, reference, predicted : sequences of (K, 4) float arrays or None, one an image
        Plain regions, reference regions and predicted regions: x0, y0, x1, y1 in pixels of the image shown.
    maps : sequence of (h, w) float arrays or None, one an image, stretched over the image
    columns : int, images in a row
    size : float, inches an image

    Raises
    ------
    DataError
        When a list's length differs from the number of images, or an image, map or box has a wrong shape.
    """
    count = len(images)
    if count == 0:
        raise DataError("show_radiograph_grid got no image; give at least one (H, W) array.")
    layers = {"titles": titles, "boxes": boxes, "reference": reference, "predicted": predicted, "maps": maps}
    for name, values in layers.items():
        if values is not None and len(values) != count:
            raise DataError(f"{name} has {len(values)} entries for {count} images; give one entry an image.")
    columns = min(columns, count)
    rows = -(-count // columns)
    title_room = 1.0 if titles is None else 1.15
    figure, axes = plt.subplots(
        rows, columns, figsize=(size * columns, size * rows * title_room), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[count:]:
        ax.remove()
    for i, ax in enumerate(axes.flat[:count]):
        if maps is not None and maps[i] is not None:
            attention_overlay(ax, images[i], maps[i])
        else:
            _show_image(ax, images[i])
        for role, sets in (("region", boxes), ("reference", reference), ("predicted", predicted)):
            if sets is not None and sets[i] is not None:
                draw_boxes(ax, sets[i], role, np.shape(images[i])[:2])
        if titles is not None:
            ax.set_title(titles[i])
    shown = [role for role, sets in (("reference", reference), ("predicted", predicted)) if sets is not None]
    if shown:
        figure.legend(handles=box_legend(shown), loc="outside lower center", ncols=len(shown))
    return figure


def attention_overlay(
    ax: Axes,
    image: np.ndarray,
    attention: np.ndarray,
    reference: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    alpha: float = 0.55,
    limits: tuple[float, float] | None = None,
    interpolation: str = "nearest",
) -> AxesImage:
    """Lay an attention map over a radiograph.

    Parameters
    ----------
    ax : matplotlib Axes
    image : (H, W) array
    attention : (h, w) float array, finite; the patch grid or larger, stretched over the image
    reference, predicted : (K, 4) float arrays, boxes in pixels of `image`
    alpha : float in [0, 1], opacity of the map
    limits : (low, high) of the colour scale; the map's own minimum and maximum by default
    interpolation : str, of matplotlib; "nearest" shows the patches as they are

    Returns
    -------
    AxesImage
        The map's layer, for a colour bar.
    """
    attention = np.asarray(attention, dtype=float)
    if attention.ndim != 2 or attention.size == 0:
        raise DataError(f"An attention map has shape {attention.shape}; give (h, w), heads already averaged.")
    if not np.isfinite(attention).all():
        raise DataError("An attention map holds values that are not finite; look at the model that made it.")
    height, width = _show_image(ax, image)
    low, high = limits if limits is not None else (attention.min(), attention.max())
    layer = ax.imshow(
        attention,
        cmap=ATTENTION_MAP,
        alpha=alpha,
        vmin=low,
        vmax=high,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation=interpolation,
    )
    for role, boxes in (("reference", reference), ("predicted", predicted)):
        if boxes is not None:
            draw_boxes(ax, boxes, role, (height, width))
    return layer


def draw_boxes(ax: Axes, boxes: np.ndarray, role: str, shape: tuple[int, int]) -> list[Rectangle]:
    """Draw boxes in the colour and line style of their role, with a dark rim that shows on bright tissue.

    Parameters
    ----------
    ax : matplotlib Axes with the image
    boxes : (K, 4) float array: x0, y0, x1, y1 in pixels, x1 and y1 exclusive
    role : "reference", "predicted" or "region"
    shape : (H, W) of the image
    """
    if role not in BOX_STYLES:
        raise DataError(f"Box role {role!r} is unknown; use one of {sorted(BOX_STYLES)}.")
    boxes = np.asarray(boxes, dtype=float)
    if boxes.size == 0:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f"{role} boxes have shape {boxes.shape}; give (K, 4): x0, y0, x1, y1.")
    height, width = shape
    drawn = []
    for x0, y0, x1, y1 in boxes:
        inside = -1 <= x0 < x1 <= width + 1 and -1 <= y0 < y1 <= height + 1  # one pixel of rounding is allowed
        if not inside:
            raise DataError(
                f"{role} box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty or outside its "
                f"{height} x {width} image; give x0, y0, x1, y1 in pixels of the image shown."
            )
        rectangle = Rectangle(
            (x0 - 0.5, y0 - 0.5),  # pixel centres lie on whole numbers
            x1 - x0,
            y1 - y0,
            fill=False,
            edgecolor=PALETTE[role],
            linestyle=BOX_STYLES[role],
            linewidth=1.8,
            path_effects=[
                patheffects.Stroke(linewidth=3.2, foreground="black", alpha=0.6),
                patheffects.Normal(),
            ],
        )
        drawn.append(ax.add_patch(rectangle))
    return drawn


def box_legend(roles: Sequence[str] = ("reference", "predicted")) -> list[Line2D]:
    """Legend handles for kinds of boxes: ``figure.legend(handles=box_legend(), ...)``."""
    return [
        Line2D([], [], color=PALETTE[role], linestyle=BOX_STYLES[role], linewidth=2, label=f"{role} box")
        for role in roles
    ]


def learning_curves(
    history: pd.DataFrame | Mapping[str, pd.DataFrame],
    columns: Sequence[str] | None = None,
    size: float = 3.4,
) -> Figure:
    """Draw training histories: one panel a column, one colour a method; seeds as thin lines under their mean.

    Parameters
    ----------
    history : DataFrame, or mapping from a method's name to its DataFrame
        Column `epoch`, numeric columns, and columns `seed`, `fold` where several runs are stacked. Names that
        are roles of `PALETTE` ("baseline", "mmpkd", "teacher") take that role's colour.
    columns : names of the columns to draw; by default every numeric column but `epoch`, `seed` and `fold`
    size : float, inches of a panel's width
    """
    histories = {"": history} if isinstance(history, pd.DataFrame) else dict(history)
    if not histories or any(len(table) == 0 for table in histories.values()):
        raise DataError("learning_curves got an empty history; give tables with at least one epoch.")
    first = next(iter(histories.values()))
    if columns is None:
        columns = [c for c in first.select_dtypes("number").columns if c not in ("epoch", "seed", "fold")]
    for name, table in histories.items():
        missing = [c for c in ("epoch", *columns) if c not in table.columns]
        if missing:
            raise DataError(f"History {name!r} has no column {', '.join(missing)}; it has {', '.join(table.columns)}.")
    if not columns:
        raise DataError("learning_curves found no numeric column beside epoch and seed; give one.")
    figure, axes = plt.subplots(
        1, len(columns), figsize=(size * len(columns), size * 0.8), squeeze=False, layout="constrained"
    )
    for ax, column in zip(axes.flat, columns, strict=True):
        for i, (name, table) in enumerate(histories.items()):
            colour = PALETTE.get(name.lower(), f"C{i}")
            runs = [c for c in ("fold", "seed") if c in table.columns]
            if runs and len(table[runs].drop_duplicates()) > 1:
                for _, run in table.groupby(runs):
                    ax.plot(run["epoch"], run[column], color=colour, alpha=0.35, linewidth=0.8)
            mean = table.groupby("epoch")[column].mean()
            marker = "o" if len(mean) == 1 else None  # a single epoch draws no line
            ax.plot(mean.index, mean.to_numpy(), color=colour, linewidth=2, marker=marker, label=name or None)
        ax.set(xlabel="epoch", ylabel=column.replace("_", " "))
    if isinstance(history, Mapping):
        axes.flat[0].legend()
    return figure


def forest(
    table: pd.DataFrame,
    label: str = "label",
    estimate: str = "estimate",
    low: str = "low",
    high: str = "high",
    null: float | None = 0.0,
    xlabel: str = "",
    paper: str | None = None,
    roles: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw estimates with their intervals, one row of `table` a line, top to bottom.

    Parameters
    ----------
    table : DataFrame with the columns named by `label`, `estimate`, `low` and `high`
    null : value of no effect, drawn as a vertical line; None for none
    xlabel : str, what is estimated, with its unit
    paper : name of a column with a published value (NaN where there is none), drawn as a black diamond
    roles : one role of `PALETTE` a row; blue by default
    """
    wanted = [label, estimate, low, high] + ([paper] if paper else [])
    missing = [c for c in wanted if c not in table.columns]
    if missing:
        raise DataError(
            f"forest needs column {', '.join(missing)}; the table has {', '.join(map(str, table.columns))}."
        )
    if len(table) == 0:
        raise DataError("forest got an empty table; give one row an estimate.")
    if roles is not None and len(roles) != len(table):
        raise DataError(f"forest got {len(roles)} roles for {len(table)} rows; give one a row.")
    crossed = ~((table[low] <= table[estimate]) & (table[estimate] <= table[high]))
    if crossed.any():
        raise DataError(f"The interval of {table.loc[crossed, label].iloc[0]!r} does not hold its estimate.")
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 0.8 + 0.36 * len(table)), layout="constrained")
    for y, (_, row) in enumerate(table.iterrows()):
        colour = PALETTE[roles[y]] if roles is not None else PALETTE["mmpkd"]
        ax.plot([row[low], row[high]], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        ax.plot(row[estimate], y, "o", color=colour, markersize=6)
        if paper is not None and np.isfinite(row[paper]):
            ax.plot(row[paper], y, "D", markerfacecolor="none", color=PALETTE["paper"], markersize=6)
    if null is not None:
        ax.axvline(null, color="0.5", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
    ax.set_yticks(range(len(table)), [str(v) for v in table[label]])
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
    grid: pd.DataFrame,
    xlabel: str = "temperature T",
    ylabel: str = "weight λ",
    title: str = "",
    value_format: str = "{:.3f}",
    mark: tuple[object, object] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a table of numbers as coloured cells with their values, e.g. a lambda x T grid.

    Parameters
    ----------
    grid : DataFrame of floats, index = rows (lambda), columns = columns (T); NaN is drawn as a dash
    value_format : format of a cell's number
    mark : (row label, column label) of a cell to frame, e.g. the configuration used elsewhere
    """
    values = grid.to_numpy(dtype=float)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).any():
        raise DataError(f"heat_table got a grid of shape {values.shape} without a finite number; nothing to draw.")
    rows, columns = values.shape
    if ax is None:
        _, ax = plt.subplots(figsize=(1.4 + 0.8 * columns, 1.0 + 0.45 * rows), layout="constrained")
    layer = ax.imshow(values, cmap=ATTENTION_MAP, aspect="auto")
    for i in range(rows):
        for j in range(columns):
            finite = np.isfinite(values[i, j])
            dark = finite and layer.norm(values[i, j]) < 0.5
            text = value_format.format(values[i, j]) if finite else "–"
            ax.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    if mark is not None:
        if mark[0] not in grid.index or mark[1] not in grid.columns:
            raise DataError(f"heat_table cannot mark {mark}: no such row and column in the grid.")
        i, j = grid.index.get_loc(mark[0]), grid.columns.get_loc(mark[1])
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=OKABE_ITO["vermilion"], linewidth=3))
    ax.set_xticks(range(columns), [f"{c}" for c in grid.columns])
    ax.set_yticks(range(rows), [f"{r}" for r in grid.index])
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


def _show_image(ax: Axes, image: np.ndarray) -> tuple[int, int]:
    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0:
        raise DataError(f"A radiograph has shape {image.shape}; give a grey (H, W) array.")
    limits = {"vmin": 0, "vmax": 255} if image.dtype == np.uint8 else {}
    ax.imshow(image, cmap="gray", interpolation="nearest", **limits)
    ax.set_axis_off()
    return image.shape
