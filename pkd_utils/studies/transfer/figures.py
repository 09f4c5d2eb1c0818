"""Figures of the experiment: gains with their intervals, cell by cell, and along the flips."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pkd_utils.studies.figures import OKABE_ITO
from pkd_utils.studies.transfer import arms

STYLES = {
    arms.TEXT: ("blue", "o"),
    arms.JOINT: ("sky blue", "s"),
    arms.SELF: ("orange", "D"),
    arms.PERMUTED: ("reddish purple", "v"),
    arms.CLEAN_PERMUTED: ("vermilion", "^"),
    arms.RANDOM: ("yellow", "P"),
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
    rows = -(-len(panels) // columns)
    shape = {"figsize": (3.1 * min(columns, len(panels)) + 1.9, 2.1 * rows + 0.4), "squeeze": False}
    figure, axes = plt.subplots(rows, min(columns, len(panels)), sharey=True, layout="constrained", **shape)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (setting, outcome) in zip(axes.flat, panels, strict=False):
        cell = gains[(gains["setting"] == setting) & (gains["outcome"] == outcome)].set_index("arm")
        ax.axvspan(-margin, margin, color="0.92", zorder=0)
        ax.axvline(0, color="0.5", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        for place, (arm, (colour, marker)) in enumerate(STYLES.items()):
            row, colour = cell.loc[arm], OKABE_ITO[colour]
            ax.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
            ax.plot(row["gain"], place, marker, color=colour, markersize=6)
        ax.set_yticks(range(len(STYLES)), list(STYLES))
        ax.set_ylim(len(STYLES) - 0.5, -0.5)
        ax.set_title(f"{setting}: {outcome}", fontsize=9.5)
        ax.tick_params(labelsize=8.5)
        ax.locator_params(axis="x", nbins=4)
    figure.supxlabel("gain in AUROC over image only", fontsize=10)
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
    figure.legend(loc="outside right upper", fontsize=8.5)
    return figure
