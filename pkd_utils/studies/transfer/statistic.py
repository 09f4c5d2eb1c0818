"""From out-of-fold scores to a claim: a bootstrap that crosses partitions with patients, and three tests in one.

Within a fold the AUROC is the mean of the placement values V of the positives (the share of negatives that score lower)
and of those of the negatives (the share of positives that score higher). A resample of patients reweights them,

    A*(w) = sum w_i V_i / sum w_i (positives) + sum w_j V_j / sum w_j (negatives) - A,

exact to first order (DeLong et al., 1988), so that all arms of all resamples are one matrix product. Partitions are
drawn, too, independently of patients (Owen, 2007, whose pigeonhole bootstrap counts what partitions do to single
patients three times; here it counts once, see `Resamples.sampled`).
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from pkd_utils.statistics.comparisons import holm
from pkd_utils.statistics.intervals import cluster_index, draw_counts
from pkd_utils.studies.transfer import arms
from pkd_utils.studies.transfer.experiment import Partition
from pkd_utils.studies.transfer.protocol import Protocol

MEAN = "mean of all"  # over the outcomes of a setting
TAUGHT, CLEANED, NOTHING, UNSURE = "the case is taught", "labels are cleaned", "no useful transfer", "cannot tell"


@dataclass
class Resamples:
    """AUROC in one cell, and how far each resample is from it: of every arm, or of one, then without the last axis."""

    estimate: np.ndarray | float  # (arms,)
    partitions: np.ndarray  # (B, arms): partitions drawn, patients as they are; made wider for their small number
    patients: np.ndarray  # (B, arms): patients drawn, partitions as they are
    rest: np.ndarray  # (B, arms): both drawn, less the two

    def arm(self, name: str) -> "Resamples":
        """Of one arm."""
        at = list(arms.ARMS).index(name)
        return Resamples(float(self.estimate[at]), self.partitions[:, at], self.patients[:, at], self.rest[:, at])

    def __sub__(self, other: "Resamples") -> "Resamples":
        """Draw by draw."""
        return Resamples(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def sampled(self) -> tuple[float, np.ndarray]:
        """The AUROC, or difference, of one arm, and that of each resample (B,).

        What partitions do to single patients is part of both kinds of draws, so that their sum holds it twice. As in
        `intervals.training_interval` the variance is the sum less that of the rest, at least either alone: the sum of
        the two deviations is scaled to it.
        """
        partition, patient, rest = (kind.var() for kind in (self.partitions, self.patients, self.rest))
        wanted = max(partition + patient - rest, partition, patient)
        scale = np.sqrt(wanted / (partition + patient)) if wanted else 1.0
        return self.estimate, self.estimate + scale * (self.partitions + self.patients)

    def difference(self, one: str, other: str) -> tuple[float, np.ndarray]:
        """AUROC of one arm minus that of the other, and the same of each resample (B,)."""
        return (self.arm(one) - self.arm(other)).sampled()


def resampled(partitions: Sequence[Partition], patients: np.ndarray, resamples: int, seed: int) -> dict:
    """`Resamples` of every cell; all cells share the draws of patients and of partitions."""
    rng = np.random.default_rng(seed)
    index, units = cluster_index(patients, None)
    counts = draw_counts(rng.integers(units, size=(resamples, units)), units)
    weights = np.concatenate([np.ones((1, len(index))), counts[:, index]]).astype(np.float32)
    number = len(partitions)
    share = draw_counts(rng.integers(number, size=(resamples, number)), number) / number
    # Standard deviation and tails of a mean of so few.
    few = np.sqrt(number / (number - 1)) * stats.t.ppf(0.975, number - 1) / stats.norm.ppf(0.975)
    found = {}
    for cell in partitions[0].values:
        each = np.array([_reweighted(p.values[cell], p.labels[cell], weights) for p in partitions])  # (R, 1 + B, arms)
        estimate, patient = each[:, 0].mean(0), each[:, 1:].mean(0)
        partition = share @ each[:, 0]
        both = np.einsum("br,rba->ba", share, each[:, 1:])
        rest = both - partition - patient + estimate
        found[cell] = Resamples(estimate, few * (partition - estimate), patient - estimate, rest)
    return found


def _reweighted(values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC (B, arms) of placement values (arms, N) under weights (B, N)."""
    parts = []
    for label in (1, 0):
        rows = np.flatnonzero((labels == label) & ~np.isnan(values[0]))
        drawn = weights[:, rows]
        drawn[drawn.sum(1) == 0] = 1  # few positives: a resample without any keeps the estimate
        parts.append((drawn @ values[:, rows].T.astype(np.float32)) / np.maximum(drawn.sum(1, keepdims=True), 1))
    positive, negative = parts
    return (positive + negative - negative[:1]).astype(np.float64)


def with_means(found: dict) -> dict:
    """The cells, and for each setting of several outcomes their mean."""
    joined = dict(found)
    for setting in dict.fromkeys(name for name, _ in found):
        own = [astuple(values) for (name, _), values in found.items() if name == setting]
        if len(own) > 1:
            joined[setting, MEAN] = Resamples(*(np.mean(parts, axis=0) for parts in zip(*own, strict=True)))
    return joined


def gains(found: dict, level: float) -> pd.DataFrame:
    """Every arm against image only, in every cell.

    Returns
    -------
    DataFrame: setting, outcome, arm, auroc, gain, low, high (of the gain, percentile interval)
    """
    rows = []
    for (setting, outcome), values in found.items():
        for arm, auroc in zip(arms.ARMS, values.estimate, strict=True):
            gain, drawn = values.difference(arm, arms.IMAGE_ONLY)
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
            rows.append((setting, outcome, arm, auroc, gain, low, high))
    return pd.DataFrame(rows, columns=["setting", "outcome", "arm", "auroc", "gain", "low", "high"])


def claims(found: dict, protocol: Protocol) -> pd.DataFrame:
    """Which cells claim a gain of a report arm, and how each reads.

    A claim needs the report above image only *and* above self-distillation *and* above its own permuted control: the
    largest of three one-sided p-values is that of the claim (intersection-union), and Holm's procedure corrects it over
    the outcomes of a setting at (1 - level) / 2. Their mean is a cell of its own. Readings:

    - the case is taught: claimed, and where labels are flipped above the text's soft labels permuted within the true
      class as well;
    - labels are cleaned: claimed, but not above those;
    - no useful transfer: not claimed, and against one of the three the gain is below the margin (its upper bound at
      1 - (1 - level) / 6: three chances);
    - cannot tell: neither; `detectable` is the gain over the least certain of the three controls that would have been
      told with the protocol's power. That it is told over all three is less likely, unless the other two are clear.

    Returns
    -------
    DataFrame: setting, outcome, report, over_image, over_self and over_permuted (each with _low and _high), p, upper
    (the least of the three bounds that are held against the margin), kept (share of the gain that labels permuted in
    the true class keep), p_holm, claimed, detectable, reading
    """
    rows, level = [], protocol.level
    for (setting, outcome), values in found.items():
        for report, permuted in arms.REPORT_ARMS.items():
            row = {"setting": setting, "outcome": outcome, "report": report}
            error, upper, p = [], [], []
            for title, control in (("image", arms.IMAGE_ONLY), ("self", arms.SELF), ("permuted", permuted)):
                difference, drawn = values.difference(report, control)
                low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
                row |= {f"over_{title}": difference, f"over_{title}_low": low, f"over_{title}_high": high}
                error.append(drawn.std(ddof=1))
                upper.append(np.quantile(drawn, 1 - (1 - level) / 6))
                p.append((1 + (drawn <= 0).sum()) / (1 + len(drawn)))
            cleaned, drawn = values.difference(report, arms.CLEAN_PERMUTED)
            gain = row["over_image"]
            row |= {"p": max(p), "error": max(error), "upper": min(upper)}
            row["beyond_cleaning_low"] = np.quantile(drawn, (1 - level) / 2)
            row["kept"] = 1 - cleaned / gain if report == arms.TEXT and gain > 0 else np.nan
            rows.append(row)
    table = pd.DataFrame(rows)
    alone = table["outcome"] == MEAN
    table["p_holm"] = table["p"]
    family = table[~alone].groupby(["setting", "report"])
    table.loc[~alone, "p_holm"] = family["p"].transform(holm)
    tests = family["p"].transform("size").reindex(table.index).fillna(1)
    alpha = (1 - level) / 2
    table["claimed"] = table["p_holm"] <= alpha
    bar = stats.norm.isf(alpha / tests) + stats.norm.ppf(protocol.power)
    table["detectable"] = bar * table.pop("error")
    table["reading"] = [_reading(row, protocol, protocol.settings[row.setting].flips > 0) for row in table.itertuples()]
    return table.drop(columns=["beyond_cleaning_low"])


def _reading(row, protocol: Protocol, flipped: bool) -> str:
    if row.claimed:
        return CLEANED if flipped and row.beyond_cleaning_low <= 0 else TAUGHT
    return NOTHING if row.upper < protocol.margin else UNSURE


def placebo_errors(found: dict, level: float) -> tuple[int, int]:
    """Cells in which two shufflings of the same soft labels differ by their interval, and all single cells."""
    wrong, cells = 0, 0
    for (_, outcome), values in found.items():
        if outcome != MEAN:
            drawn = values.difference(arms.AGAIN, arms.PERMUTED)[1]
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
            wrong, cells = wrong + (low > 0 or high < 0), cells + 1
    return wrong, cells


def doses(partitions: Sequence[Partition]) -> pd.DataFrame:
    """Mean |s - y| over training studies, lambda and T, means over folds and partitions, of every arm in every cell.

    `edge` is the share of fits whose penalty is the smallest or the largest of the grid.
    """
    rows = pd.concat([partition.choices for partition in partitions], ignore_index=True)
    ends = rows["l2"].isin([rows["l2"].min(), rows["l2"].max()])
    rows = rows.assign(edge=ends, followed=rows["weight"] > 0)
    keys = ["setting", "outcome", "arm"]
    mean = rows.groupby(keys, sort=False)[["weight", "followed", "edge"]].mean()
    mean["dose"] = rows[rows["weight"] > 0].groupby(keys, sort=False)["dose"].mean()
    return mean.reset_index()


def sentences(claims: pd.DataFrame, protocol: Protocol) -> list[str]:
    """What each setting says of the text teacher, the primary one first; after it the joint teacher's where it
    reads otherwise.

    `claims` holds one outcome a setting: its only one, or the mean.
    """
    first = claims["setting"] != protocol.primary
    found = []
    for row in claims.assign(first=first).sort_values("first", kind="stable").itertuples():
        if row.report == arms.TEXT:
            name = f"{row.setting}, {row.outcome}" + (" (primary endpoint)" if not row.first else "")
            found.append(f"{name}: {_told(row)}")
            reading = row.reading
        elif row.reading != reading:
            found.append(f"{row.setting}, {row.outcome}, joint teacher: {_told(row)}")
    return found


def _told(row) -> str:
    gap = [
        f"{getattr(row, f'over_{over}'):+.4f} ({getattr(row, f'over_{over}_low'):+.4f} to "
        f"{getattr(row, f'over_{over}_high'):+.4f}) over {title}"
        for over, title in (("image", "image only"), ("self", "self-distilled"), ("permuted", "permuted"))
    ]
    known = row.reading == CLEANED and not np.isnan(row.kept)
    kept = f", of which labels permuted in the true class keep {row.kept:.0%}" if known else ""
    end = f" (would have told {row.detectable:.4f})" if row.reading == UNSURE else ""
    return f"{', '.join(gap)}{kept}: {row.reading}{end}."


def controls(gains: pd.DataFrame, claims: pd.DataFrame, ladder: dict[float, str], outcome: str) -> list[str]:
    """Whether the positive controls came out: what must be claimed, what must not, and the ladder of flips.

    `ladder` names the setting of each share of flips, `outcome` the one to look at.
    """
    text = claims[claims["report"] == arms.TEXT].set_index("setting")
    found = []
    for name, wanted in (("semi-synthetic", True), ("semi-synthetic-shuffled", False)):
        if name in text.index:
            claimed = bool(text.loc[[name], "claimed"].iloc[0])
            said = "claimed" if claimed else "not claimed"
            found.append(f"Control {name}: {said}, {'as it must be' if claimed == wanted else 'which is a failure'}.")
    shares = sorted(ladder)
    if len(shares) > 1:
        table = gains[gains["outcome"] == outcome].pivot(index="setting", columns="arm", values="gain")
        table = table.loc[[ladder[share] for share in shares]]
        rises = bool((np.diff(table[arms.TEXT]) > 0).all())
        over = (table[arms.TEXT] - table[arms.ORACLE])[np.array(shares) > 0]  # at 0 % the oracle has no other labels
        above = float(over.max())
        below = "stays below the oracle's" if above <= 0 else f"lies above the oracle's by up to {above:.4f}"
        why = "" if above <= 0 else " (true labels are no ceiling for a text that knows more of a case than its label)"
        steps = ", ".join(f"{100 * s:g} %: {g:+.4f}" for s, g in zip(shares, table[arms.TEXT], strict=True))
        said = "as it must be" if rises and above <= 0 else "which the protocol calls a failure"
        found.append(
            f"Control ladder ({steps}): the gain {'rises' if rises else 'does not rise'} with every step of flips and, "
            f"with flips, {below}, {said}{why}."
        )
    return found
