"""Intervals: of a mean or any statistic over patients, of the difference of two methods, over seeds.

Images of a patient are not independent, so a bootstrap here draws whole patients. `scipy.stats.bootstrap` draws their
numbers; a statistic given as a function takes case weights (B, N), counts of how often each case is drawn, and returns
(B,) values, so that thousands of resamples are a few matrix products.
"""

import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy import stats

from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError

Level = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CELLS = 4_000_000  # largest matrix of draws or weights made at once


@dataclass(frozen=True)
class Interval:
    """An interval; `resamples` and `undefined` are of a bootstrap."""

    estimate: float  # the statistic of the data
    low: float
    high: float
    level: float
    method: str
    units: int  # what varies: patients (clusters) or cases that were resampled, seeds, or values
    resamples: int = 0
    undefined: int = 0  # resamples in which the statistic was NaN; the interval is that of the others


@checked
def bootstrap_interval(
    statistic,
    clusters=None,
    n: int | None = None,
    resamples: Count = 5000,
    level: Level = 0.95,
    method: Literal["bca", "percentile"] = "bca",
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
    """
    values = None if callable(statistic) else finite(statistic, "values")
    index, units = cluster_index(clusters, n if values is None else len(values))
    if units < 2:
        raise DataError("A bootstrap interval needs at least two patients (clusters) or cases to draw from.")
    if values is None:

        def of_patients(drawn, axis=-1):
            counts = draw_counts(drawn.reshape(-1, drawn.shape[-1]), units)
            return np.asarray(statistic(counts[:, index]), dtype=np.float64).reshape(drawn.shape[:-1])
    else:
        sums, sizes = np.bincount(index, values), np.bincount(index)

        def of_patients(drawn, axis=-1):
            return sums[drawn].sum(axis) / sizes[drawn].sum(axis)

    def bootstrap(method: str, **options):
        options |= {"method": method, "confidence_level": level, "batch": max(1, CELLS // len(index))}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # undefined resamples are counted below
            rng = np.random.default_rng(seed)
            return stats.bootstrap((np.arange(units),), of_patients, vectorized=True, rng=rng, **options)

    estimate = float(of_patients(np.arange(units)))
    drawn = bootstrap("percentile", n_resamples=resamples).bootstrap_distribution
    defined = drawn[~np.isnan(drawn)]
    if np.isnan(estimate) or not len(defined):
        raise DataError("The statistic is undefined on these data, so it has no interval: look at it first.")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    used = "percentile"
    if method == "bca":
        kept = SimpleNamespace(bootstrap_distribution=defined)
        with np.errstate(invalid="ignore", divide="ignore"):
            corrected = bootstrap("BCa", n_resamples=0, bootstrap_result=kept).confidence_interval
        if corrected.low <= corrected.high:  # neither is NaN
            (low, high), used = corrected, "bca"
    return Interval(estimate, float(low), float(high), level, used, units, resamples, len(drawn) - len(defined))


@checked
def hierarchical_bootstrap(
    baseline, treatment, patients=None, resamples: Count = 5000, level: Level = 0.95, seed: int = 0
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
    baseline, treatment = seeds_by_images(baseline, treatment)
    if min(len(baseline), len(treatment)) < 2:
        raise DataError("hierarchical_bootstrap draws seeds: give at least two seeds of each method.")
    index, units = cluster_index(patients, baseline.shape[1])
    rng = np.random.default_rng(seed)
    seeds = [
        draw_counts(rng.integers(len(values), size=(resamples, len(values))), len(values)) / len(values)
        for values in (baseline, treatment)
    ]
    drawn = []
    size = max(1, CELLS // len(index))
    for start in range(0, resamples, size):
        part = slice(start, min(start + size, resamples))
        weights = draw_counts(rng.integers(units, size=(part.stop - start, units)), units)[:, index]
        means = [
            (weights @ values.T * shares[part]).sum(1) / weights.sum(1)
            for values, shares in zip((baseline, treatment), seeds, strict=True)
        ]
        drawn.append(means[1] - means[0])
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    estimate = float(treatment.mean() - baseline.mean())
    return Interval(estimate, float(low), float(high), level, "percentile, seeds and patients", units, resamples)


def training_interval(
    baseline, treatment, patients, resamples: Count = 5000, level: Level = 0.95, seed: int = 0
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
    patients : (N,) patient of each image; resamples, level, seed : see `bootstrap_interval`
    """
    baseline, treatment = (np.atleast_2d(np.asarray(v, dtype=np.float64)) for v in (baseline, treatment))
    options = {"resamples": resamples, "level": level, "seed": seed}
    over_patients = bootstrap_interval(treatment.mean(0) - baseline.mean(0), patients, method="percentile", **options)
    z = stats.norm.ppf((1 + level) / 2)
    count = over_patients.units
    drawn = [values for values in (baseline, treatment) if len(values) > 1]
    seen = np.array([((over_patients.high - over_patients.low) / (2 * z)) ** 2]
                    + [values.mean(1).var() / len(values) for values in drawn])  # fmt: skip
    freedom = np.array([count - 1, *(len(values) - 1 for values in drawn)])
    true = seen * (freedom + 1) / freedom
    found, how = over_patients, "patients"
    if drawn:
        # Two copies of the one row of a reference map: drawing them changes nothing.
        pair = [values if len(values) > 1 else np.repeat(values, 2, axis=0) for values in (baseline, treatment)]
        found, how = hierarchical_bootstrap(*pair, patients, **options), "patients and seeds"
    if true.sum() == 0:
        widened = 1.0
    else:
        t = stats.t.ppf((1 + level) / 2, true.sum() ** 2 / (true**2 / freedom).sum())
        widened = t / z * np.sqrt(true.sum() / seen.sum())
    low, high = (found.estimate + widened * (end - found.estimate) for end in (found.low, found.high))
    return Interval(found.estimate, low, high, level, f"percentile, {how}, widened", count, resamples)


@checked
def interval_coverage(
    seeds: Count,
    patients: Count,
    seed_share: Annotated[float, Field(ge=0, le=1)],
    studies: Count = 200,
    resamples: Count = 500,
    level: Level = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """How often the plain hierarchical bootstrap and the widened interval hold the truth, in simulated studies.

    Seeds of either method and patients (one image each) deviate normally; the true difference is zero.

    Parameters
    ----------
    seeds, patients : int, two or more of each
    seed_share : share of the variance of the mean difference that comes from seeds
    studies : int, simulated; the standard error of a coverage near 0.95 is 0.22 / sqrt(studies)

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


@checked
def seed_interval(values, level: Level = 0.90) -> Interval:
    """Mean over seeds with Student's t interval, of finite values (S,); with one seed the interval is NaN.

    The paper shades 90 % intervals in Figures 4 and 7 and draws 95 % bars in Figures 5, 6 and 8; how they were computed
    is not stated in the paper.
    """
    values = finite(values, "values")
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Interval(mean, np.nan, np.nan, level, "none, one seed", n)
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Interval(mean, mean - half, mean + half, level, "Student's t over seeds", n)


def draw_counts(drawn: np.ndarray, units: int) -> np.ndarray:
    """How often each of `units` is among the numbers drawn (B, K): float64 (B, units)."""
    flat = drawn + np.arange(len(drawn))[:, None] * units
    return np.bincount(flat.reshape(-1), minlength=len(drawn) * units).reshape(-1, units).astype(np.float64)


def finite(values, name: str) -> np.ndarray:
    """`values` as float64, refused where one is not finite or there is none."""
    values = np.asarray(values, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad) or not values.size:
        what = f"{values[tuple(bad[0])]} at position {bad[0].tolist()}" if len(bad) else "empty"
        raise DataError(f"{name} is {what}: select the cases where it is defined first.")
    return values


def seeds_by_images(baseline, treatment) -> tuple[np.ndarray, np.ndarray]:
    """Both as finite (seeds, images), the images paired."""
    baseline, treatment = finite(np.atleast_2d(baseline), "baseline"), finite(np.atleast_2d(treatment), "treatment")
    if baseline.shape[1] != treatment.shape[1]:
        raise DataError(
            f"{baseline.shape[1]} images of the baseline, {treatment.shape[1]} of the treatment: pair them first."
        )
    return baseline, treatment


def cluster_index(clusters, n: int | None) -> tuple[np.ndarray, int]:
    """Index of each case's cluster, and the number of clusters; every case its own where none are given."""
    if clusters is None:
        return np.arange(n), n
    clusters = np.asarray(clusters)
    missing = sum(c is None or c != c for c in clusters.tolist())
    if missing or (n is not None and len(clusters) != n):
        raise DataError(f"{len(clusters)} patient ids, {missing} of them missing, for {n} cases: give one a case.")
    names, index = np.unique(clusters.astype(str), return_inverse=True)
    return index, len(names)
