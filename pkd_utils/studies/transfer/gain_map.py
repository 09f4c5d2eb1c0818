"""When does a report help? Cells of the experiment on a map, and whether the map tells of cells that it has not seen.

Its axes are what the report adds beyond the image, the share of flipped labels and the number of training studies; its
value is the text teacher's gain in AUROC over image only. `RULE` was written before the verdict on any stored result.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pkd_utils.statistics.comparisons import p_text
from pkd_utils.studies.transfer import arms, statistic
from pkd_utils.studies.transfer.protocol import Setting

RULE = (
    "A ridge regression (penalty 1, standardised axes) of the text teacher's gain on the bits that the report adds,"
    " the share of flips and the logarithm of the training size is fitted on the cells of all outcomes but one, and"
    " asked about those of that one; and likewise with sizes. A share of flips outside the range fitted on is not "
    "asked about. The map *predicts* if in both, over all cells that were asked about, 1. the squared error is "
    "smaller than that of the mean of the cells fitted on (R² above 0), 2. R² is above that of 95 % of the maps "
    "whose gains changed places (settings that ask for the same outcomes, whole, and outcomes that stand in the "
    "same settings, whole), and 3. R² is above that of the same regression without the bits. All cells take part, "
    "controls too, means over outcomes do not. Below three outcomes or three sizes nothing is said."
)
HELD = ("outcome", "size")
AXES = ("added", "flips", "log_size")
LEAST = 3  # outcomes, and sizes, of a map on which something is said
ALPHA = 0.05


def cells(claims: pd.DataFrame, added: pd.DataFrame, settings: dict[str, Setting]) -> pd.DataFrame:
    """The map: one row for each setting and outcome, means over outcomes left out.

    Parameters
    ----------
    claims : DataFrame, of `statistic.claims`
    added : DataFrame: setting, outcome, bits; out of fold, cross-entropy of the observed labels given the image less
        that given image and text
    settings : of the protocol, by name

    Returns
    -------
    DataFrame: setting, outcome, added (bits), flips (share), size, log_size (base 10), gain, low, high (AUROC of the
    text teacher less that of image only, and its interval), claimed
    """
    own = claims[(claims["report"] == arms.TEXT) & (claims["outcome"] != statistic.MEAN)]
    table = own.merge(added, "left", ["setting", "outcome"], validate="one_to_one")
    size = table["setting"].map(lambda name: settings[name].size)
    return pd.DataFrame({
        "setting": table["setting"],
        "outcome": table["outcome"],
        "added": table["bits"],
        "flips": table["setting"].map(lambda name: settings[name].flips),
        "size": size,
        "log_size": np.log10(size),
        "gain": table["over_image"],
        "low": table["over_image_low"],
        "high": table["over_image_high"],
        "claimed": table["claimed"].astype(bool),
    })  # fmt: skip


def large(table: pd.DataFrame) -> bool:
    """Whether there are outcomes and sizes enough for a verdict."""
    return all(table[by].nunique() >= LEAST for by in HELD)


def held_out(
    table: pd.DataFrame, by: str, gains: np.ndarray, axes: Sequence[str] = AXES
) -> tuple[np.ndarray, np.ndarray]:
    """What the cells of all other outcomes, or sizes, say of each cell's gain.

    Parameters
    ----------
    table : DataFrame of n cells
    by : "outcome" or "size": whose cells are held out together
    gains : (n, K), K maps on the same cells
    axes : columns of the regression

    Returns
    -------
    (2, n, K) the regression's gains and the mean of the cells fitted on; NaN where a cell is not asked about; and (n,)
    whether it is
    """
    x, flips = table[[*axes]].to_numpy(), table["flips"].to_numpy()
    said = np.full((2, *gains.shape), np.nan)
    for one in table[by].unique():
        fitted = (table[by] != one).to_numpy()
        asked = ~fitted & (flips >= flips[fitted].min()) & (flips <= flips[fitted].max())
        if asked.any():
            model = make_pipeline(StandardScaler(), Ridge(1.0)).fit(x[fitted], gains[fitted])
            said[0, asked] = model.predict(x[asked]).reshape(-1, gains.shape[1])
            said[1, asked] = gains[fitted].mean(0)
    return said, ~np.isnan(said[1, :, 0])


def r_squared(said: np.ndarray, asked: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """1 less the regression's squared error over that of the mean, (K,), of `held_out`."""
    model, mean = ((gains[asked] - one[asked]) ** 2 for one in said)
    return 1 - model.sum(0) / mean.sum(0)


def moved(table: pd.DataFrame, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows (n, count) whose gains stand in the place of each row's, by the exchanges of `RULE`."""
    place = {key: row for row, key in enumerate(zip(table["setting"], table["outcome"], strict=True))}
    found = np.empty((len(table), count), dtype=int)
    groups = {}
    for name, other in (("setting", "outcome"), ("outcome", "setting")):
        beside = table.groupby(name)[other].agg(frozenset)
        groups[name] = [list(same.index) for _, same in beside.groupby(beside, sort=False)]
    for draw in range(count):
        to = {
            name: {one: another for own in kind for one, another in zip(own, rng.permutation(own), strict=True)}
            for name, kind in groups.items()
        }
        found[:, draw] = [place[to["setting"][setting], to["outcome"][outcome]] for setting, outcome in place]
    return found


def by_rule(r2: float, r2_without: float, p: float) -> bool:
    """The three conditions of `RULE` for one way of holding out."""
    return bool(r2 > 0 and r2 > r2_without and p <= ALPHA)


def judge(table: pd.DataFrame, seed: int, permutations: int = 999) -> pd.DataFrame:
    """How well the map tells of outcomes, and of sizes, that it has not seen, and whether by `RULE` it predicts.

    Returns
    -------
    DataFrame of two rows, by outcome and by size: by, groups, cells (asked about), r2, r2_without (the bits), rank
    (Spearman's, of the gains with what was said), p (of r2), predicts; empty for a map that is too small
    """
    if not large(table):
        return pd.DataFrame()
    gains = table["gain"].to_numpy()
    at = np.column_stack([np.arange(len(table)), moved(table, permutations, np.random.default_rng(seed))])
    rows = []
    for by in HELD:
        said, asked = held_out(table, by, gains[at])
        r2 = r_squared(said, asked, gains[at])
        without = r_squared(*held_out(table, by, gains[:, None], AXES[1:]), gains[:, None])[0]
        p = (r2 >= r2[0] - 1e-9).mean()  # the map as it is among them
        rank = spearmanr(gains[asked], said[0, asked, 0]).statistic
        row = {"by": by, "groups": table[by].nunique(), "cells": asked.sum(), "r2": r2[0], "r2_without": without}
        rows.append(row | {"rank": rank, "p": p, "predicts": by_rule(r2[0], without, p)})
    return pd.DataFrame(rows)


def sentence(judged: pd.DataFrame) -> str:
    """What `judge` found."""
    if judged.empty:
        return f"The map is too small to say whether it predicts: that takes {LEAST} outcomes and {LEAST} sizes."
    told = "; ".join(
        f"held out by {row.by} ({row.groups}; {row.cells} cells) R² {row.r2:.2f}, without the bits "
        f"{row.r2_without:.2f}, {p_text(row.p)}, rank correlation {row.rank:.2f}"
        for row in judged.itertuples()
    )
    failed = [row.by for row in judged.itertuples() if not row.predicts]
    verdict = f"does not predict cells held out by {' or by '.join(failed)}" if failed else "predicts held-out cells"
    return f"The map {verdict}: {told}."
