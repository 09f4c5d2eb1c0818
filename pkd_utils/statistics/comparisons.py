"""Two methods against each other: rank tests, paired differences, corrections, verdicts."""

from dataclasses import dataclass
from math import comb

import numpy as np
from scipy import stats

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.intervals import Interval, _clusters, _finite, _seeds_by_images, bootstrap_interval

TOWARDS, AWAY, UNSURE, ONE_STUDENT = "towards the region", "away from it", "cannot tell", "one student a method"


def judge(low: float, high: float, larger_is_better: bool = True) -> str:
    """Where an interval of differences lies: "towards the region", "away from it" or "cannot tell" (it holds zero)."""
    if not np.isfinite(low) or not np.isfinite(high):
        return ONE_STUDENT
    if low <= 0 <= high:
        return UNSURE
    return TOWARDS if (low > 0) == larger_is_better else AWAY


@dataclass(frozen=True)
class MannWhitney:
    """Result of `mann_whitney`; `u` counts pairs in which the first sample is larger, ties half."""

    u: float
    p: float
    smallest_p: float  # 2 / C(n + m, n): no data of these sizes give less
    cliffs_delta: float  # P(a > b) - P(a < b) = 2 u / (n m) - 1
    n: tuple[int, int]
    method: str  # how p was computed: "exact", "exact permutation" (with ties) or "normal approximation"

    @property
    def rank_biserial(self) -> float:
        """Rank-biserial correlation of two independent samples: the same number as Cliff's delta."""
        return self.cliffs_delta


@dataclass(frozen=True)
class PairedComparison:
    """Result of `paired_comparison`; differences are treatment minus baseline."""

    difference: Interval  # mean difference over images
    win_rate: Interval  # share of images in which the treatment is better, ties half
    wilcoxon_p: float  # two-sided, signed ranks of the patients' mean differences
    rank_biserial: float  # matched pairs, of the patients: (W+ - W-) / (W+ + W-)
    images: int
    patients: int


def mean_sd(values, axis: int = 0) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Mean and standard deviation over seeds, the paper's "mean +- sd".

    The standard deviation divides by n - 1 (the paper's divisor is not stated in the paper) and is NaN for one value.

    Parameters
    ----------
    values : array, finite; axis : the axis of the seeds
    """
    values = _finite(values, "values", ndim=None)
    count = values.shape[axis]
    mean = values.mean(axis)
    return mean, values.std(axis, ddof=1) if count > 1 else np.full_like(mean, np.nan)[()]


def mann_whitney(a, b) -> MannWhitney:
    """Two-sided Mann-Whitney U test of two independent samples, exact where that can be computed.

    Without ties and up to 10,000 pairs p is exact; with ties it is exact by all permutations up to 200,000 of them;
    otherwise by the normal approximation with correction for ties and continuity.

    Parameters
    ----------
    a, b : (n,), (m,) finite; for example one value a seed

    Returns
    -------
    MannWhitney
    """
    a, b = _finite(a, "a"), _finite(b, "b")
    n, m = len(a), len(b)
    splits = comb(n + m, n)
    ties = len(np.unique(np.concatenate([a, b]))) < n + m
    if not ties and n * m <= 10_000:
        how, method = "exact", "exact"
    elif ties and splits <= 200_000:
        how, method = "exact permutation", stats.PermutationMethod(n_resamples=np.inf)
    else:
        how, method = "normal approximation", "asymptotic"
    if np.ptp(np.concatenate([a, b])) == 0:
        u, p = n * m / 2, 1.0  # nothing differs, and the approximation would divide by zero
    else:
        u, p = stats.mannwhitneyu(a, b, alternative="two-sided", method=method)
    return MannWhitney(float(u), float(p), min(1.0, 2 / splits), 2 * float(u) / (n * m) - 1, (n, m), how)


def holm(p_values) -> np.ndarray:
    """Holm's step-down adjusted p-values: p of rank k times (m - k + 1), made monotone, at most 1.

    Parameters
    ----------
    p_values : (m,), each in [0, 1]
    """
    p = _finite(p_values, "p_values")
    if ((p < 0) | (p > 1)).any():
        raise DataError(f"p-values {p.tolist()} must lie between 0 and 1.")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def paired_comparison(
    baseline,
    treatment,
    patients=None,
    larger_is_better: bool = True,
    resamples: int = 5000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Compare two methods image by image, each image's values averaged over the seeds of its method first.

    Every image is its own control, so the many images carry the comparison rather than five seeds. It speaks about the
    trained models at hand, averaged over their seeds; for the spread over new seeds see `hierarchical_bootstrap`.

    Parameters
    ----------
    baseline, treatment : (S, N), (R, N), or (N,) for one seed; finite
        The same N images in the same order; the numbers of seeds may differ.
    patients : (N,), optional
        Intervals resample patients; the Wilcoxon test, which assumes independent pairs, takes one mean a patient.
    larger_is_better : bool
        False for the false positive rate; it turns the win rate and nothing else.
    resamples, level, seed : see `bootstrap_interval` (BCa)

    Returns
    -------
    PairedComparison
    """
    baseline, treatment = _seeds_by_images(baseline, treatment)
    difference = treatment.mean(0) - baseline.mean(0)
    wins = (np.sign(difference if larger_is_better else -difference) + 1) / 2
    options = {"clusters": patients, "resamples": resamples, "level": level, "seed": seed}
    index, units = _clusters(patients, len(difference))
    per_patient = np.bincount(index, difference) / np.bincount(index)
    ranks = stats.rankdata(np.abs(per_patient[per_patient != 0]))
    signed = (ranks * np.sign(per_patient[per_patient != 0])).sum()
    return PairedComparison(
        difference=bootstrap_interval(difference, **options),
        win_rate=bootstrap_interval(wins, **options),
        wilcoxon_p=float(stats.wilcoxon(per_patient).pvalue) if len(ranks) else 1.0,
        rank_biserial=float(signed / ranks.sum()) if len(ranks) else 0.0,
        images=len(difference),
        patients=units,
    )
