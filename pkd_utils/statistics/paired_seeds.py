"""What five or ten seeds can say: intervals over seeds as the figures of Bergström et al. show them, and paired tests.

A seed is a new split, a new training subset and a new initialisation at once. Seeds share most of their images, so
their scores are not independent and plain tests over them are too sure of themselves; `paired_seeds` therefore also
gives the corrected resampled t test (Nadeau and Bengio, 2003), which widens the variance by the share of images that
is evaluated on.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from pkd_utils.runs.errors import DataError


@dataclass(frozen=True)
class SeedInterval:
    """Mean over seeds, t interval of that mean, and the number of seeds."""

    mean: float
    low: float
    high: float
    level: float
    seeds: int


@dataclass(frozen=True)
class PairedSeeds:
    """Treatment minus baseline over the same seeds.

    `difference` with its t interval; `p` two-sided, plain paired t; `low_corrected`, `high_corrected`, `p_corrected`
    after Nadeau and Bengio; `wins` seeds in which the treatment is higher, ties half.
    """

    difference: float
    low: float
    high: float
    p: float
    low_corrected: float
    high_corrected: float
    p_corrected: float
    wins: float
    seeds: int
    level: float


def seed_interval(values, level: float = 0.90) -> SeedInterval:
    """Mean over seeds with Student's t interval.

    The paper shades 90 % intervals in Figures 4 and 7 and draws 95 % bars in Figures 5, 6 and 8; how they were computed
    is not stated in the paper.

    Parameters
    ----------
    values : (S,) finite, one a seed; with one seed the interval is NaN
    level : float in (0, 1)
    """
    values = _finite(values)
    _check_level(level)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return SeedInterval(mean, np.nan, np.nan, level, n)
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return SeedInterval(mean, mean - half, mean + half, level, n)


def paired_seeds(baseline, treatment, evaluation_share: float | None = None, level: float = 0.95) -> PairedSeeds:
    """Compare two methods seed by seed.

    Parameters
    ----------
    baseline, treatment : (S,) finite, the same seeds in the same order, at least two
    evaluation_share : float in (0, 1), optional
        Evaluation images over all images of a seed's split. The corrected variance of the mean difference is
        (1 / S + share / (1 - share)) s^2 in place of s^2 / S: the correction for heads trained on the whole training
        part, cautious for those trained on a subset. Without it the corrected values are NaN.
    level : float in (0, 1)

    Raises
    ------
    DataError
        Different lengths, fewer than two seeds, or values that are not finite.
    """
    baseline, treatment = _finite(baseline), _finite(treatment)
    _check_level(level)
    if len(baseline) != len(treatment) or len(baseline) < 2:
        raise DataError(f"Give the same two or more seeds of both methods, not {len(baseline)} and {len(treatment)}.")
    if evaluation_share is not None and not 0 < evaluation_share < 1:
        raise DataError(f"evaluation_share is {evaluation_share}: give a share between 0 and 1.")
    difference = treatment - baseline
    n, mean, variance = len(difference), float(difference.mean()), float(difference.var(ddof=1))
    quantile = stats.t.ppf((1 + level) / 2, n - 1)

    def judged(factor: float) -> tuple[float, float, float]:
        error = np.sqrt(factor * variance)
        if error == 0:
            return mean, mean, 1.0 if mean == 0 else 0.0
        return mean - quantile * error, mean + quantile * error, float(2 * stats.t.sf(abs(mean) / error, n - 1))

    plain = judged(1 / n)
    corrected = (np.nan,) * 3
    if evaluation_share is not None:
        corrected = judged(1 / n + evaluation_share / (1 - evaluation_share))
    wins = float((np.sign(difference) + 1).sum() / 2)
    return PairedSeeds(mean, *plain, *corrected, wins, n, level)


def _finite(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(values) or not np.isfinite(values).all():
        raise DataError("Values over seeds must be finite numbers, one a seed, at least one.")
    return values


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise DataError(f"level is {level}: give a number between 0 and 1.")
