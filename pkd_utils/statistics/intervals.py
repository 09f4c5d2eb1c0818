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
_End = Annotated[float, Field(allow_inf_nan=True)]
Bounds = tuple[_End, _End]  # what a score, or a difference of two, can be; infinite for one without bounds
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
    error: float | None = None  # of a t interval: standard error and degrees of freedom
    freedom: float | None = None


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
    clusters : (N,) patient of each case: all cases of a patient are drawn together
    n : number of cases, where `statistic` is a function and there are no clusters
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
def training_interval(baseline, treatment, patients=None, level: Level = 0.95, bounds: Bounds = (-1, 1)) -> Interval:
    """Interval of treatment minus baseline for new trainings on new patients: Student's t, seeds drawn jointly.

    Both methods of a seed share weights, order and augmentation, so what is drawn is a seed with both of its sides. Let
    r be the differences of seeds (over images), c those of patients (over seeds). Seeds and patients are crossed, and
    the variance of the mean is estimated as in a two-way analysis of variance,

        v = var(r) / S + var(c) / P - (residual variance) / (S P),

    at least either of the first two; the residual, which both of them hold, is counted once. Degrees of freedom are
    Satterthwaite's, which are too many with two or three seeds: the interval is never shorter than the plain paired t
    interval over seeds, mean(r) +- t sqrt(var(r) / S). `interval_coverage` simulates it. With one seed (a student
    against a reference map) patients alone vary.

    Parameters
    ----------
    baseline, treatment : (S, N) finite; row s of both is the same seed, column i the same image
    patients : (N,) patient of each image, at least two; default: every image its own
    bounds : what a difference of the scores can be; an end beyond is drawn in to it

    Returns
    -------
    Interval with its `error` and `freedom`
    """
    baseline, treatment = seeds_by_images(baseline, treatment)
    if len(baseline) != len(treatment):
        raise DataError(f"{len(baseline)} seeds of the baseline, {len(treatment)} of the treatment: pair them first.")
    difference = treatment - baseline
    index, units = cluster_index(patients, difference.shape[1])
    if units < 2:
        raise DataError("An interval for new patients needs images of at least two patients.")
    # A value a seed and patient: the seed's mean, and how far that patient's images, few or many, carry it off.
    by_seed = difference.mean(1, keepdims=True)
    sums = np.array([np.bincount(index, row) for row in difference - by_seed])
    values = by_seed + sums * units / len(index)
    seeds, estimate = len(values), float(values.mean())
    patient = values.mean(0).var(ddof=1) / units
    if seeds == 1:
        return _t_interval(estimate, patient, units - 1, level, bounds, "Student's t over patients", units)
    seed = values.mean(1).var(ddof=1) / seeds
    residual = values - values.mean(1, keepdims=True) - values.mean(0) + estimate
    freedom = np.array([seeds - 1, units - 1, (seeds - 1) * (units - 1)])
    parts = np.array([seed, patient, (residual**2).sum() / freedom[2] / values.size])
    variance = max(seed + patient - parts[2], seed, patient)
    degrees = variance**2 / (parts**2 / freedom).sum() if variance else seeds - 1.0
    choices = [(variance, degrees), (seed, seeds - 1.0)]
    variance, degrees = max(choices, key=lambda one: stats.t.ppf((1 + level) / 2, one[1]) * np.sqrt(one[0]))
    return _t_interval(estimate, variance, degrees, level, bounds, "Student's t over seeds and patients", units)


def jackknife_values(statistic, clusters) -> np.ndarray:
    """What each patient adds to a statistic of case weights, such as a macro AUROC, so that it can stand as a mean.

    With P patients and t_(-p) the statistic without patient p, the values P t - (P - 1) t_(-p), moved to the mean t
    (Tukey, 1958; of an AUROC of single images they are the placements that DeLong's variance is made of). Rows of them,
    one a seed, are what `training_interval` takes.

    Parameters
    ----------
    statistic : function of weights (B, N) that returns (B,), as for `bootstrap_interval`
    clusters : (N,) patient of each case, at least two

    Returns
    -------
    float64 (P,), patients in sorted order

    Raises
    ------
    DataError
        If the statistic is undefined on these cases or without one of the patients.
    """
    index, units = cluster_index(clusters, None)
    size = max(1, CELLS // len(index))
    parts = np.array_split(np.arange(units), -(-units // size))
    without = np.concatenate([statistic((index != part[:, None]).astype(np.float64)) for part in parts])
    whole = statistic(np.ones((1, len(index))))[0]
    values = finite(units * whole - (units - 1) * without, "the statistic without one patient")
    return values - values.mean() + whole


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
    """How often `training_interval` and a percentile bootstrap hold the truth, in simulated studies.

    The differences of seeds and of patients (one image each) deviate normally, and so, with a tenth of the variance,
    does what a seed makes of a patient; the true difference is zero. The bootstrap draws seeds and patients with
    replacement, too.

    Parameters
    ----------
    seeds, patients : int, two or more of each
    seed_share : share of the rest of the variance of the mean difference that comes from seeds
    studies : int, simulated; the standard error of a coverage near 0.95 is 0.22 / sqrt(studies)

    Returns
    -------
    dict: "bootstrap", "t": shares of the studies
    """
    rng = np.random.default_rng(seed)
    held = {"bootstrap": 0, "t": 0}
    sd = np.sqrt(np.array([0.9 * seed_share * seeds, 0.9 * (1 - seed_share) * patients, 0.1 * seeds * patients]))
    for _ in range(studies):
        shapes = (seeds, 1), (1, patients), (seeds, patients)
        difference = sum(s * rng.standard_normal(shape) for s, shape in zip(sd, shapes, strict=True))
        found = training_interval(np.zeros_like(difference), difference, level=level, bounds=(-np.inf, np.inf))
        held["t"] += found.low <= 0 <= found.high
        drawn = [draw_counts(rng.integers(k, size=(resamples, k)), k) / k for k in (seeds, patients)]
        low, high = np.quantile((drawn[0] @ difference * drawn[1]).sum(1), [(1 - level) / 2, (1 + level) / 2])
        held["bootstrap"] += low <= 0 <= high
    return {name: count / studies for name, count in held.items()}


@checked
def seed_interval(values, level: Level = 0.90) -> Interval:
    """Mean of an AUC over seeds with Student's t interval, of finite values (S,); with one seed the interval is NaN.

    The paper shades 90 % intervals in Figures 4 and 7 and draws 95 % bars in Figures 5, 6 and 8; how they were computed
    is not stated in the paper. No end lies outside 0 to 1.
    """
    values = finite(values, "values")
    n, method = len(values), "Student's t over seeds"
    if n < 2:
        return Interval(float(values.mean()), np.nan, np.nan, level, "none, one seed", n)
    return _t_interval(float(values.mean()), values.var(ddof=1) / n, n - 1, level, (0, 1), method, n)


def sd_interval(values, level: Level = 0.95) -> Interval:
    """Standard deviation of finite values (S,), one a seed, with its chi-squared interval (normal values assumed).

    s sqrt((S - 1) / c), c the quantiles of chi-squared with S - 1 degrees of freedom; NaN with one seed.
    """
    values = finite(values, "values")
    freedom, method = len(values) - 1, "chi-squared over seeds"
    if not freedom:
        return Interval(np.nan, np.nan, np.nan, level, "none, one seed", 1)
    sd = float(values.std(ddof=1))
    ends = sd * np.sqrt(freedom / stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], freedom))
    return Interval(sd, *map(float, ends), level, method, len(values))


def within(estimate: float, half: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Ends of the interval estimate +- half as far as the bounds of the score allow: it holds the truth as often."""
    if not bounds[0] - 1e-9 <= estimate <= bounds[1] + 1e-9:
        raise DataError(f"The mean is {estimate:.4g}, outside {bounds[0]:g} to {bounds[1]:g}: give the score's bounds.")
    return max(estimate - half, float(bounds[0])), min(estimate + half, float(bounds[1]))


def _t_interval(estimate, variance, freedom, level, bounds, method, units) -> Interval:
    error = float(np.sqrt(variance))
    ends = within(estimate, float(stats.t.ppf((1 + level) / 2, freedom) * error), bounds)
    return Interval(estimate, *ends, level, method, units, error=error, freedom=float(freedom))


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
