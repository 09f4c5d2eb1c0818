"""Figures of the experiment: gains with their intervals, cell by cell, along the flips, and on the map."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pkd_utils.studies import figures
from pkd_utils.studies.figures import OKABE_ITO
from pkd_utils.studies.transfer import arms, gain_map

STYLES = {
    arms.TEXT: ("blue", "o"),
    arms.JOINT: ("sky blue", "s"),
    arms.SELF: ("orange", "D"),
    arms.PERMUTED: ("reddish purple", "v"),
    arms.CLEAN_PERMUTED: ("vermilion", "^"),
    arms.RANDOM: ("bluish green", "P"),
    arms.ORACLE: ("black", "*"),
}
"""Colour and marker of the arms that figures show."""


def gain_figure(gains: pd.DataFrame, panels: Sequence[tuple[str, str]], margin: float, columns: int = 3) -> Figure:
    """AUROC gain over image only of the arms of `STYLES`, with intervals, a panel a cell.

    Parameters
    ----------
    gains : DataFrame, of `statistic.gains`
    panels : (setting, outcome) of each panel
    margin : AUROC below which a gain is of no use; shaded on both sides of zero
    """
    figure, axes = figures.panels(len(panels), columns, 3.1, 2.1, below=0.4, beside=1.9, sharey=True)
    for ax, (setting, outcome) in zip(axes, panels, strict=True):
        cell = gains[(gains["setting"] == setting) & (gains["outcome"] == outcome)].set_index("arm")
        ax.axvspan(-margin, margin, color="0.92", zorder=0)
        ax.axvline(0, color="0.5", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        for place, (arm, (colour, marker)) in enumerate(STYLES.items()):
            row, colour = cell.loc[arm], OKABE_ITO[colour]
            ax.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
            ax.plot(row["gain"], place, marker, color=colour, markersize=6)
        ax.set_yticks(range(len(STYLES)), list(STYLES))
        ax.set_ylim(len(STYLES) - 0.5, -0.5)
        ax.set_title(fill(f"{setting}: {outcome}", 36), fontsize=9.5)
        ax.tick_params(labelsize=8.5)
        ax.locator_params(axis="x", nbins=4)
    figure.supxlabel("gain in AUROC over image only", fontsize=10)
    return figure


def outcome_figure(gains: pd.DataFrame, setting: str, outcomes: Sequence[str], names: dict[str, str]) -> Figure:
    """AUROC gain over image only in one setting, with intervals: a line an outcome, a mark an arm of `names`."""
    figure, ax = plt.subplots(figsize=(6.2, 0.55 * len(outcomes) + 1.1), layout="constrained")
    offsets = np.linspace(-0.26, 0.26, len(names)) if len(names) > 1 else [0.0]
    for (arm, name), offset in zip(names.items(), offsets, strict=True):
        colour, marker = STYLES[arm]
        rows = gains[(gains["setting"] == setting) & (gains["arm"] == arm)].set_index("outcome").loc[list(outcomes)]
        y = np.arange(len(outcomes)) + offset
        ax.hlines(y, rows["low"], rows["high"], color=OKABE_ITO[colour], linewidth=2.2)
        ax.plot(rows["gain"], y, marker, color=OKABE_ITO[colour], markersize=7, label=name)
    ax.axvline(0, color="0.4", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
    ax.set_yticks(range(len(outcomes)), list(outcomes))
    ax.set(ylim=(len(outcomes) - 0.5, -0.5), xlabel="gain in AUROC over the image alone")
    figure.legend(loc="outside lower center", ncols=len(names))
    return figure


def ladder_figure(gains: pd.DataFrame, steps: dict[float, str], outcome: str) -> Figure:
    """Gain of each arm along the share of flipped labels, with intervals; the oracle is the ceiling.

    `steps` names the setting of each share.
    """
    figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    shares = sorted(steps)
    for number, (arm, (colour, marker)) in enumerate(STYLES.items()):
        cells = gains[(gains["outcome"] == outcome) & (gains["arm"] == arm)].set_index("setting")
        cells = cells.loc[[steps[share] for share in shares]]
        at = [100 * share + 0.35 * (number - len(STYLES) / 2) for share in shares]
        error = [cells["gain"] - cells["low"], cells["high"] - cells["gain"]]
        style = {"color": OKABE_ITO[colour], "marker": marker, "markersize": 5, "linewidth": 1.3, "label": arm}
        ax.errorbar(at, cells["gain"], yerr=error, elinewidth=1, **style)
    ax.axhline(0, color="0.5", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
    ax.set_xticks([100 * share for share in shares])
    ax.set(xlabel="flipped training and validation labels (%)", ylabel="gain in AUROC over image only")
    figure.legend(loc="outside right center", fontsize=8.5)
    return figure


def map_figure(table: pd.DataFrame) -> Figure:
    """Gain of each cell by what the report adds, and by what the regression says with its outcome, or size, held out.

    `table` is of `gain_map.cells`; of a map that is too small the first panel alone is drawn.
    """
    shares, sizes = sorted(table["flips"].unique()), sorted(table["size"].unique())
    order = ("black", "blue", "sky blue", "orange", "reddish purple", "vermilion")
    colours = {share: OKABE_ITO[colour] for share, colour in zip(shares, order, strict=False)}
    markers = dict(zip(sizes, "vosD^P*X", strict=False))
    gains = table[["gain"]].to_numpy()
    ways = gain_map.HELD if gain_map.large(table) else ()
    along = [table["added"], *(gain_map.held_out(table, by, gains)[0][0, :, 0] for by in ways)]
    figure, axes = figures.panels(len(along), len(along), 3.1, 3.6, beside=1.6, sharey=True)
    for ax, places in zip(axes, along, strict=True):
        for at, row in zip(places, table.itertuples(), strict=True):
            colour = colours[row.flips]
            ax.plot([at, at], [row.low, row.high], color=colour, linewidth=0.9, alpha=0.5)
            face = colour if row.claimed else "white"
            ax.plot(at, row.gain, markers[row.size], color=colour, markerfacecolor=face, markersize=5)
        ax.axhline(0, color="0.5", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
        ax.locator_params(axis="x", nbins=5)
    axes[0].axvline(0, color="0.5", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
    axes[0].set(xlabel="bits that the report adds", ylabel="gain in AUROC over image only")
    for ax, by, places in zip(axes[1:], ways, along[1:], strict=True):
        ax.set(xlabel=f"gain said by other {by}s")
        ax.plot(*[[np.nanmin(places), np.nanmax(places)]] * 2, color="0.5", linewidth=1, zorder=0)
    grey = {"color": "0.3", "linestyle": "", "markersize": 5}
    marks = [Line2D([], [], color=colours[share], linewidth=4, label=f"{share:.0%} flipped") for share in shares]
    marks += [Line2D([], [], marker=markers[size], label=f"{size} studies", **grey) for size in sizes]
    marks += [Line2D([], [], marker="o", label="filled: claimed", **grey)]
    marks += [Line2D([], [], marker="o", label="hollow: not", markerfacecolor="white", **grey)]
    figure.legend(handles=marks, loc="outside right center", fontsize=8.5)
    return figure
