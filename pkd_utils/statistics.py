"""Statistics of runs and of images: what five seeds can say, and what they cannot.

The paper reports mean and standard deviation over five seeds and a Mann-Whitney U test between the seeds of two
methods. With n and m values the exact two-sided p cannot be below 2 / C(n + m, n): 2 / 252 = 0.0079 for five against
five, however large the difference. Beside it stand effect sizes, bootstrap intervals that resample whole patients
(images of a patient are not independent), and the comparison per image that many images allow and five seeds do not.

A bootstrap statistic here is a function of case weights: it takes weights (B, N), counts of how often each case is
drawn, and returns (B,) values, so that thousands of resamples are a few matrix products.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np
from scipy import stats

from pkd_utils.errors import DataError

_WEIGHT_CELLS = 4_000_000  # largest weight matrix made at once


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
class Interval:
    """A bootstrap interval."""

    estimate: float  # the statistic of the data
    low: float
    high: float
    level: float
    method: str
    resamples: int
    undefined: int  # resamples in which the statistic was NaN; the interval is that of the others
    units: int  # what was resampled: patients (clusters), or cases without them


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


def bootstrap_interval(
    statistic,
    clusters=None,
    n: int | None = None,
    resamples: int = 5000,
    level: float = 0.95,
    method: str = "bca",
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a mean, or of any statistic of case weights, resampling cases or whole clusters.

    Parameters
    ----------
    statistic : (N,) finite values, or function
        Values: their mean. A function takes weights (B, N) and returns (B,), for example
        `lambda w: metrics.weighted_auroc(targets, scores, w)`; give `n` or `clusters` with it.
    clusters : (N,), optional
        Patient of each case: all cases of a patient are drawn together.
    n : int, optional
        Number of cases, where `statistic` is a function and there are no clusters.
    resamples, level, seed : int, float in (0, 1), int
    method : {"bca", "percentile"}
        Quantiles of the resampled statistic; "bca" corrects them for bias and skewness, with the acceleration from
        leaving out one cluster at a time (Efron, 1987). BCa falls back to nothing silently: where it cannot be computed
        (all resamples on one side of the estimate, or no variation) the percentile interval is returned and named.

    Returns
    -------
    Interval
    """
    if not callable(statistic):
        values = _finite(statistic, "values")
        n, statistic = len(values), weighted_mean(values)
    if not 0 < level < 1 or resamples < 1 or method not in ("bca", "percentile"):
        raise DataError(
            f"level={level}, resamples={resamples}, method={method!r}: need 0 < level < 1, 1 or more, bca/percentile."
        )
    index, units = _clusters(clusters, n)
    if units < 2:
        raise DataError("A bootstrap interval needs at least two patients (clusters) or cases to draw from.")
    rng = np.random.default_rng(seed)
    estimate = float(statistic(np.ones((1, len(index))))[0])
    drawn = _batched(statistic, lambda size, _: draw_counts(rng, size, units), index, resamples, units)
    defined = drawn[~np.isnan(drawn)]
    if np.isnan(estimate) or not len(defined):
        raise DataError(
            "The statistic is undefined on these data, so it has no interval: look at it before resampling."
        )
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    used = "percentile"
    if method == "bca":
        left_out = _batched(statistic, lambda size, start: 1 - np.eye(size, units, start), index, units, units)
        corrected = _bca_tails(defined, estimate, left_out, tails)
        if corrected is not None:
            tails, used = corrected, "bca"
    low, high = np.quantile(defined, tails)
    return Interval(estimate, float(low), float(high), level, used, resamples, len(drawn) - len(defined), units)


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


def hierarchical_bootstrap(
    baseline, treatment, patients=None, resamples: int = 5000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of the mean difference when seeds and patients are both drawn anew.

    Each resample draws the seeds of either method independently, and the patients once for both. It answers "would new
    trainings, on new patients, differ?". With S seeds a bootstrap sees only (S - 1) / S of their variance, so at five
    seeds the interval is somewhat too narrow.

    Parameters
    ----------
    baseline, treatment : (S, N), (R, N) finite, at least two seeds each; the same images in the same order
    patients : (N,), optional; resamples, level, seed : see `bootstrap_interval`
    """
    baseline, treatment = _seeds_by_images(baseline, treatment)
    if min(len(baseline), len(treatment)) < 2:
        raise DataError("hierarchical_bootstrap draws seeds: give at least two seeds of each method.")
    rng = np.random.default_rng(seed)
    seeds = [draw_counts(rng, resamples, len(values)) / len(values) for values in (baseline, treatment)]
    done = 0

    def difference(weights: np.ndarray) -> np.ndarray:
        nonlocal done
        part = slice(done, done + len(weights))
        done = part.stop
        total = weights.sum(1)
        means = [
            (weights @ values.T * s[part]).sum(1) / total
            for values, s in zip((baseline, treatment), seeds, strict=True)
        ]
        return means[1] - means[0]

    index, units = _clusters(patients, baseline.shape[1])
    drawn = _batched(difference, lambda size, _: draw_counts(rng, size, units), index, resamples, units)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    estimate = float(treatment.mean() - baseline.mean())
    return Interval(estimate, float(low), float(high), level, "percentile, seeds and patients", resamples, 0, units)


def weighted_mean(values) -> Callable[[np.ndarray], np.ndarray]:
    """The mean of `values` (N,) as a function of case weights (B, N), for `bootstrap_interval`."""
    values = np.asarray(values, dtype=np.float64)
    return lambda weights: weights @ values / weights.sum(1)


def draw_counts(rng: np.random.Generator, size: int, units: int) -> np.ndarray:
    """How often each of `units` is drawn in `size` resamples with replacement: float64 (size, units)."""
    drawn = rng.integers(units, size=(size, units)) + np.arange(size)[:, None] * units
    return np.bincount(drawn.reshape(-1), minlength=size * units).reshape(size, units).astype(np.float64)


def _batched(statistic, make_counts, index, total: int, units: int) -> np.ndarray:
    """The statistic under `total` sets of cluster counts, as many sets at a time as fit."""
    size = max(1, _WEIGHT_CELLS // len(index))
    results = []
    for start in range(0, total, size):
        counts = make_counts(min(size, total - start), start)
        results.append(np.asarray(statistic(counts[:, index]), dtype=np.float64))
    return np.concatenate(results)


def _bca_tails(drawn, estimate, left_out, tails) -> np.ndarray | None:
    """Tail probabilities of the bias-corrected and accelerated interval, or None where they do not exist."""
    below = (
        (drawn < estimate).mean() + (drawn <= estimate).mean()
    ) / 2  # ties half: statistics of few cases are discrete
    spread = left_out.mean() - left_out
    scale = (spread**2).sum()
    if not 0 < below < 1 or not scale > 0 or np.isnan(scale):
        return None
    bias, acceleration = stats.norm.ppf(below), (spread**3).sum() / (6 * scale**1.5)
    z = bias + stats.norm.ppf(tails)
    if (acceleration * z >= 1).any():
        return None
    return stats.norm.cdf(bias + z / (1 - acceleration * z))


def _finite(values, name: str, ndim: int | None = 1) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if (ndim is not None and values.ndim != ndim) or values.size == 0:
        raise DataError(f"{name} has shape {values.shape}: give {ndim or 'any'} dimension(s), not empty.")
    if not np.isfinite(values).all():
        where = np.argwhere(~np.isfinite(values))[0].tolist()
        raise DataError(
            f"{name} is {values[tuple(where)]} at position {where}: select the cases where it is defined first."
        )
    return values


def _seeds_by_images(baseline, treatment) -> tuple[np.ndarray, np.ndarray]:
    baseline = _finite(np.atleast_2d(baseline), "baseline", 2)
    treatment = _finite(np.atleast_2d(treatment), "treatment", 2)
    if baseline.shape[1] != treatment.shape[1]:
        raise DataError(
            f"{baseline.shape[1]} images of the baseline, {treatment.shape[1]} of the treatment: pair them first."
        )
    return baseline, treatment


def _clusters(clusters, n: int | None) -> tuple[np.ndarray, int]:
    """Index of each case's cluster, and the number of clusters; every case its own where none are given."""
    if clusters is None:
        if n is None:
            raise DataError("A statistic given as a function needs n, the number of cases, or clusters.")
        return np.arange(n), n
    clusters = np.asarray(clusters)
    if clusters.ndim != 1 or (n is not None and len(clusters) != n):
        raise DataError(f"clusters has shape {clusters.shape}, for {n} cases: give the patient of every case.")
    if any(c is None or c != c for c in clusters.tolist()):
        raise DataError("A case has no patient id in clusters: give one for every case.")
    names, index = np.unique(clusters.astype(str), return_inverse=True)
    return index, len(names)
