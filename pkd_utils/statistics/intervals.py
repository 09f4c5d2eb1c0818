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

import numpy as np
from scipy import stats

from pkd_utils.runs.errors import DataError

_WEIGHT_CELLS = 4_000_000  # largest weight matrix made at once


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


def training_interval(
    baseline, treatment, patients, resamples: int = 5000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of treatment minus baseline for new trainings on new patients, widened for few of either.

    `hierarchical_bootstrap`, whose ends are moved away from the estimate by t / z times the root of (variance /
    variance that a bootstrap sees). A bootstrap sees (S - 1) / S of the variance of S seeds, (P - 1) / P of that of P
    patients, and its quantiles are those of a known variance (z), not of an estimated one (t, Satterthwaite's degrees
    of freedom over both methods' seeds and the patients). The factor is 1.0 for many seeds and patients, 1.3 for five
    against five where seeds alone vary. A method of one row (a reference map) has no seeds to draw: there patients
    alone vary.

    Parameters
    ----------
    baseline, treatment : (S, N), (R, N) finite, the same images in the same order
    patients : (N,) patient of each image
    resamples, level, seed : see `intervals.bootstrap_interval`
    """
    baseline, treatment = (np.atleast_2d(np.asarray(v, dtype=np.float64)) for v in (baseline, treatment))
    options = {"resamples": resamples, "level": level, "seed": seed}
    over_patients = bootstrap_interval(treatment.mean(0) - baseline.mean(0), patients, method="percentile", **options)
    z = stats.norm.ppf((1 + level) / 2)
    count = over_patients.units
    seen = [((over_patients.high - over_patients.low) / (2 * z)) ** 2]
    freedom = [count - 1]
    for values in (baseline, treatment):
        if len(values) > 1:
            seen.append(values.mean(1).var() / len(values))
            freedom.append(len(values) - 1)
    seen, freedom = np.array(seen), np.array(freedom)
    true = seen * (freedom + 1) / freedom
    found, how = over_patients, "patients"
    if len(freedom) > 1:
        # Two copies of the one row of a reference map: drawing them changes nothing.
        pair = [values if len(values) > 1 else np.repeat(values, 2, axis=0) for values in (baseline, treatment)]
        found, how = hierarchical_bootstrap(*pair, patients, **options), "patients and seeds"
    if true.sum() == 0:
        widened = 1.0
    else:
        t = stats.t.ppf((1 + level) / 2, true.sum() ** 2 / (true**2 / freedom).sum())
        widened = t / z * np.sqrt(true.sum() / seen.sum())
    low, high = (found.estimate + widened * (end - found.estimate) for end in (found.low, found.high))
    return Interval(found.estimate, low, high, level, f"percentile, {how}, widened", resamples, 0, count)


def interval_coverage(
    seeds: int,
    patients: int,
    seed_share: float,
    studies: int = 200,
    resamples: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """How often the plain hierarchical bootstrap and the widened interval hold the truth, in simulated studies.

    Seeds of either method and patients (one image each) deviate normally; the true difference is zero.

    Parameters
    ----------
    seeds, patients : int, two or more of each
    seed_share : float in [0, 1], share of the variance of the mean difference that comes from seeds
    studies : int, simulated; the standard error of a coverage near 0.95 is 0.22 / sqrt(studies)
    resamples, level, seed : of the intervals and of the draws

    Returns
    -------
    dict: "plain", "widened": shares of the studies
    """
    rng = np.random.default_rng(seed)
    held = {"plain": 0, "widened": 0}
    sd_seed, sd_patient = np.sqrt(seed_share * seeds / 2), np.sqrt((1 - seed_share) * patients)
    who = np.arange(patients)
    for study in range(studies):
        baseline, treatment = sd_seed * rng.standard_normal((2, seeds, 1)) + np.zeros(patients)
        treatment = treatment + sd_patient * rng.standard_normal(patients)
        for name, interval in (("plain", hierarchical_bootstrap), ("widened", training_interval)):
            found = interval(baseline, treatment, who, resamples, level, study)
            held[name] += found.low <= 0 <= found.high
    return {name: count / studies for name, count in held.items()}
