"""Two methods against each other: rank tests, effect sizes, differences paired by image or by seed, verdicts.

The paper reports mean and standard deviation over five seeds and a Mann-Whitney U test between the seeds of two
methods, as if they were independent. With n and m values its exact two-sided p cannot be below 2 / C(n + m, n): 2 / 252
= 0.0079 for five against five, however large the difference. But both methods of a seed share weights, order and
augmentation, so conclusions rest on the differences of seeds: `paired_seeds` here, `intervals.training_interval` where
there is a value an image.
"""

import re
from dataclasses import dataclass
from math import comb
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from scipy import optimize, stats

from pkd_utils.runs.checked import checked
from pkd_utils.statistics.intervals import (
    Bounds,
    Count,
    Interval,
    Level,
    bootstrap_interval,
    cluster_index,
    finite,
    seeds_by_images,
    within,
)

SMALLEST_P = 0.001  # that is printed as a number
EQUIVALENT, DIFFERS = "equivalent", "differs by more"
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


@dataclass(frozen=True)
class PairedComparison:
    """Result of `paired_comparison`; differences are treatment minus baseline."""

    difference: Interval  # mean difference over images
    win_rate: Interval  # share of images in which the treatment is better, ties half
    wilcoxon_p: float  # two-sided, signed ranks of the patients' mean differences
    images: int
    patients: int


@dataclass(frozen=True)
class PairedSeeds:
    """Result of `paired_seeds`, treatment minus baseline."""

    difference: float
    low: float  # of its t interval
    high: float
    p: float  # two-sided, plain paired t
    low_corrected: float  # after Nadeau and Bengio
    high_corrected: float
    p_corrected: float
    error_corrected: float  # standard error of the difference, with seeds - 1 degrees of freedom
    wins: float  # seeds in which the treatment is higher, ties half
    seeds: int


@dataclass(frozen=True)
class Equivalence:
    """Result of `equivalence`: is a difference smaller than a margin?"""

    margin: float
    p: float  # the larger of the two one-sided p
    low: float  # the interval at 1 - 2 alpha, which lies within the margin where p is below alpha
    high: float
    smallest_margin: float  # the margin at which p would be alpha: what these data could have shown
    verdict: str  # "equivalent", "differs by more" or "cannot tell"


@checked
def equivalence(found: Interval, margin: Annotated[float, Field(gt=0)], alpha: Level = 0.05) -> Equivalence:
    """Two one-sided t tests (TOST; Schuirmann, 1987) that a difference lies within -margin to margin.

    p is the larger of P(T > (d + margin) / e) and P(T > (margin - d) / e), with d the difference, e its standard error.
    A p above alpha in a test of no difference says nothing of the kind.

    Parameters
    ----------
    found : what `intervals.training_interval` gives; its `error` and `freedom` are used
    margin : largest difference that does not matter, in units of the score
    alpha : of each one-sided test
    """
    half = float(stats.t.isf(alpha, found.freedom) * found.error)
    low, high = found.estimate - half, found.estimate + half
    room = margin - abs(found.estimate)
    p = float(stats.t.sf(room / found.error, found.freedom)) if found.error else float(room <= 0)
    verdict = EQUIVALENT if p < alpha else DIFFERS if low > margin or high < -margin else UNSURE
    return Equivalence(margin, p, low, high, max(-low, high), verdict)


def welch_test(estimates, errors, freedoms) -> tuple[float, float, float]:
    """Do independent estimates differ among each other? Welch's (1951) F from estimates and their standard errors.

    With w = 1 / error^2, W their sum, m the mean of the k estimates weighted by w, and
    h = sum (1 - w / W)^2 / freedom,

        F = sum w (estimate - m)^2 / (k - 1) / (1 + 2 (k - 2) h / (k^2 - 1))

    has k - 1 and (k^2 - 1) / (3 h) degrees of freedom. Of two estimates it is Welch's t test, squared.

    Parameters
    ----------
    estimates, errors, freedoms : (k,), two or more; for example one a cohort

    Returns
    -------
    F, p, the second degrees of freedom
    """
    d, e, f = (finite(values, "estimates, errors, freedoms") for values in (estimates, errors, freedoms))
    k, w = len(d), 1 / e**2
    h = ((1 - w / w.sum()) ** 2 / f).sum()
    spread = (w * (d - (w * d).sum() / w.sum()) ** 2).sum() / (k - 1)
    value = float(spread / (1 + 2 * (k - 2) * h / (k**2 - 1)))
    freedom = float((k**2 - 1) / (3 * h))
    return value, float(stats.f.sf(value, k - 1, freedom)), freedom


def mean_sd(values) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Mean and standard deviation over seeds of finite values (S, ...), the paper's "mean +- sd".

    The standard deviation divides by n - 1 (the paper's divisor is not stated in the paper) and is NaN for one value.
    """
    values = finite(values, "values")
    mean = values.mean(0)
    return mean, values.std(0, ddof=1) if len(values) > 1 else np.full_like(mean, np.nan)[()]


def mann_whitney(a, b) -> MannWhitney:
    """Two-sided Mann-Whitney U test of two independent samples, exact where that can be computed.

    Without ties and up to 10,000 pairs p is exact; with ties it is exact by all permutations up to 200,000 of them;
    otherwise by the normal approximation with correction for ties and continuity. Samples of one value are samples.

    Parameters
    ----------
    a, b : (n,), (m,) finite; for example one value a seed
    """
    a, b = finite(a, "a"), finite(b, "b")
    n, m, both = len(a), len(b), np.concatenate([a, b])
    splits, values = comb(n + m, n), len(np.unique(both))
    ties = values < n + m
    permute = ties and splits <= 200_000
    if values == 1:
        u, p = n * m / 2, 1.0  # nothing differs, and the approximation would divide by zero
    elif permute and min(n, m) == 1:  # scipy permutes no sample of one value: its splits are counted
        each = stats.rankdata(both) - 1  # U of every value alone against the rest
        alone = each[0] if n == 1 else each[-1]
        p = min(1.0, 2 * min((each >= alone).mean(), (each <= alone).mean()))
        u = alone if n == 1 else n * m - alone
    else:
        method = "asymptotic" if ties or n * m > 10_000 else "exact"
        method = stats.PermutationMethod(n_resamples=np.inf) if permute else method
        u, p = stats.mannwhitneyu(a, b, alternative="two-sided", method=method)
    return MannWhitney(float(u), float(p), min(1.0, 2 / splits), 2 * float(u) / (n * m) - 1)


@checked
def cliffs_delta(a, b, level: Level = 0.95) -> Interval:
    """Cliff's delta P(a > b) - P(a < b) of independent samples (n,), (m,), in [-1, 1], with Newcombe's interval."""
    a, b = finite(a, "a"), finite(b, "b")
    delta = float(np.sign(np.subtract.outer(a, b)).mean())
    low, high = (2 * value - 1 for value in newcombe_interval((delta + 1) / 2, len(a), len(b), level))
    return Interval(delta, low, high, level, "Newcombe (2006), method 5", len(a) + len(b))


def newcombe_interval(a: float, n: int, m: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of A = P(a > b) + P(a = b) / 2 = U / (n m) = (delta + 1) / 2 from its value and the sample sizes alone.

    Newcombe (2006), Statistics in Medicine 25, 559-573, method 5: the A whose standard error, taken *at that A*, puts
    the observed one z errors away. It stays an interval where all pairs agree, which five seeds against five often do,
    and it holds its level there (`tests/statistics/test_comparisons.py` simulates it).
    The ends solve |a - x| = z sqrt(V(x)) with, for h = (n + m) / 2 - 1,
    V(x) = x (1 - x) (1 + h (1 - x) / (2 - x) + h x / (1 + x)) / (n m).
    """
    z, h = stats.norm.ppf((1 + level) / 2), (n + m) / 2 - 1

    def excess(x: float, observed: float) -> float:
        variance = x * (1 - x) * (1 + h * (1 - x) / (2 - x) + h * x / (1 + x)) / (n * m)
        return observed - x - z * np.sqrt(variance)

    def lower_end(observed: float) -> float:
        if observed == 0:
            return 0.0
        # At an observed 1 the upper bracket would itself be a root: there the variance is 0.
        return float(optimize.brentq(excess, 0.0, min(observed, 1 - 1e-12), args=(observed,)))

    return lower_end(a), 1 - lower_end(1 - a)  # V is symmetric about 1/2


def holm(p_values) -> np.ndarray:
    """Holm's step-down adjusted p-values (m,): p of rank k times (m - k + 1), made monotone, at most 1."""
    p = finite(p_values, "p_values")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(stepped, 1)[np.argsort(order)]


def p_text(p: float) -> str:
    """How a p-value is printed: "p = 0.012", but "p < 0.001" below that, which no rounding makes a zero."""
    return f"p {_digits(p)}" if p < SMALLEST_P else f"p = {_digits(p)}"


def p_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its p-values, the columns in whose name "p" is a word, as texts to show; a dash for NaN."""
    numbers = table.select_dtypes("number")
    names = [name for name in numbers if "p" in re.split("[^a-z]+", str(name).lower())]
    return table.assign(**{name: table[name].map(_digits) for name in names})


def _digits(p: float) -> str:
    return "–" if pd.isna(p) else f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"


@checked
def paired_comparison(
    baseline,
    treatment,
    patients=None,
    larger_is_better: bool = True,
    resamples: Count = 5000,
    level: Level = 0.95,
) -> PairedComparison:
    """Compare two methods image by image, each image's values averaged over the seeds of its method first.

    Every image is its own control, so the many images carry the comparison rather than five seeds. It speaks about the
    trained models at hand, averaged over their seeds; for new trainings see `intervals.training_interval`.

    Parameters
    ----------
    baseline, treatment : (S, N), (R, N), or (N,) for one seed; finite
        The same N images in the same order; the numbers of seeds may differ.
    patients : (N,), optional
        Intervals resample patients; the Wilcoxon test, which assumes independent pairs, takes one mean a patient.
    larger_is_better : False for the false positive rate; it turns the win rate and nothing else
    resamples, level : see `bootstrap_interval` (BCa)
    """
    baseline, treatment = seeds_by_images(baseline, treatment)
    difference = treatment.mean(0) - baseline.mean(0)
    wins = (np.sign(difference if larger_is_better else -difference) + 1) / 2
    options = {"clusters": patients, "resamples": resamples, "level": level}
    index, units = cluster_index(patients, len(difference))
    per_patient = np.bincount(index, difference) / np.bincount(index)
    return PairedComparison(
        difference=bootstrap_interval(difference, **options),
        win_rate=bootstrap_interval(wins, **options),
        wilcoxon_p=float(stats.wilcoxon(per_patient).pvalue) if per_patient.any() else 1.0,
        images=len(difference),
        patients=units,
    )


@checked
def paired_seeds(
    baseline, treatment, evaluation_share: Level | None = None, level: Level = 0.95, bounds: Bounds = (-1, 1)
) -> PairedSeeds:
    """Compare two methods seed by seed, on the images at hand.

    A seed is a new split, a new training subset and a new initialisation at once. Seeds share most of their images, so
    their scores are not independent and plain tests over them are too sure of themselves: beside the paired t test
    stands the corrected resampled one, which widens the variance by the share of images that is evaluated on.

    Parameters
    ----------
    baseline, treatment : (S,) finite, the same seeds in the same order, at least two
    evaluation_share : float in (0, 1), optional
        Evaluation images over all images of a seed's split. The corrected variance of the mean difference is
        (1 / S + share / (1 - share)) s^2 in place of s^2 / S: the correction for heads trained on the whole training
        part, cautious for those trained on a subset. Where seeds are evaluated on random subsets of one test set, this
        share of it, their means correlate by just that share. Without it the corrected values are NaN.
    level, bounds : see `intervals.training_interval`
    """
    baseline, treatment = finite(baseline, "baseline"), finite(treatment, "treatment")
    difference = treatment - baseline
    n, mean, variance = len(difference), float(difference.mean()), float(difference.var(ddof=1))
    quantile = stats.t.ppf((1 + level) / 2, n - 1)

    def judged(factor: float) -> tuple[float, float, float, float]:
        error = float(np.sqrt(factor * variance))
        if error == 0:
            return mean, mean, 1.0 if mean == 0 else 0.0, error
        ends = within(mean, float(quantile * error), bounds)
        return *ends, float(2 * stats.t.sf(abs(mean) / error, n - 1)), error

    plain = judged(1 / n)[:3]
    corrected = (np.nan,) * 4
    if evaluation_share is not None:
        corrected = judged(1 / n + evaluation_share / (1 - evaluation_share))
    wins = float((np.sign(difference) + 1).sum() / 2)
    return PairedSeeds(mean, *plain, *corrected, wins, n)
