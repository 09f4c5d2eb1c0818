"""What difference can a few seeds detect? Power of our paired design, and of the paper's test for its Table 1.

Ours: a seed trains both methods, and the t interval of the differences of seeds decides. Its power is that of Student's
t: `detectable_differences` for results at hand, `detectable_table` by the number of seeds.

The paper's: the two-sided Mann-Whitney U test sees n trainings of one method and m of the other. Let the treatment's
values be b_j plus a shift. U counts the pairs in which the treatment is larger, so it reaches a critical value u
exactly when the shift exceeds the u-th smallest difference a_i - b_j. One simulated study therefore gives the shift
from which on it would be significant, and the distribution of that shift over studies is the whole power curve: no
search, no grid. (A t test of differences of mean m and standard deviation s has the shift t s / sqrt(n) - m.)
Critical values are exact, by counting; draws are seeded.

A rejection on the wrong side is no detection and is not counted. Shifts are in units of the values: give standard
deviations of 1 for standardised differences. Among m tests, Holm's procedure asks alpha / m of a difference that
stands alone; where all differences are real the bar falls, up to alpha for the last.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from scipy import optimize, stats

from pkd_utils.runs.checked import checked
from pkd_utils.statistics.intervals import Count, Level

Size = Annotated[int, Field(ge=1, le=30)]  # values a method; the exact distribution of U is counted up to 30
Tails = Annotated[float, Field(gt=2)] | None  # degrees of freedom of Student's t, above 2 (variance); None: normal

FAMILIES = (1, 3, 9)  # tests that Holm's procedure corrects together: one alone, a table's metrics, all of Table 1
HEAVY = 3.0  # degrees of freedom, for trainings of which one in a while fails
RUNS = 5  # seeds a method of Table 1
_CELLS = 4_000_000  # pairwise differences held at once


@dataclass(frozen=True)
class Detectable:
    """Smallest difference found with the wanted power; `low`, `high`: 95 % bounds of the simulation's own error."""

    difference: float  # infinite where the smallest possible p-value is above alpha
    low: float
    high: float


def u_distribution(n: int, m: int) -> np.ndarray:
    """Counts (n m + 1,) of the C(n + m, n) equally likely rankings that give U = 0, 1, ..., without ties."""
    counts = np.zeros(n * m + 1, dtype=np.int64)
    counts[0] = 1
    for i in range(1, m + 1):  # Gaussian binomial: times (1 - x^(n+i)), divided by (1 - x^i)
        if n + i <= n * m:
            counts[n + i :] -= counts[: -(n + i)].copy()
        for start in range(i):
            counts[start::i] = np.cumsum(counts[start::i])
    return counts


def critical_u(n: int, m: int, alpha: float = 0.05) -> int | None:
    """Smallest U whose exact two-sided p is at most alpha; None where even complete separation is not enough."""
    upper = np.cumsum(u_distribution(n, m)[::-1])[::-1]  # rankings with U or more
    enough = np.flatnonzero(2 * upper <= alpha * comb(n + m, n) * (1 + 1e-12))
    return int(enough[0]) if len(enough) else None


@checked
def rejection_shifts(
    n: Size,
    m: Size,
    alphas: Sequence[Level] = (0.05,),
    sd: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 1.0),
    tail_df: Tails = None,
    simulations: Count = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Shift of the treatment from which on a simulated study is significant, float64 (alphas, simulations).

    Parameters
    ----------
    n, m : int, values (seeds) of the baseline and of the treatment, 1 to 30
    alphas : levels of the two-sided test; sd : standard deviations of baseline and treatment
    tail_df : degrees of freedom of Student's t, above 2, scaled to those standard deviations; None: normal
    """
    critical = [critical_u(n, m, alpha) for alpha in alphas]
    ranks = sorted({u - 1 for u in critical if u is not None})
    shifts = np.full((len(alphas), simulations), np.inf)
    if not ranks:
        return shifts
    rng = np.random.default_rng(seed)
    size = max(1, _CELLS // (n * m))
    for start in range(0, simulations, size):
        part = slice(start, min(start + size, simulations))
        a, b = (draws(rng, (part.stop - start, k), tail_df) * s for k, s in ((n, sd[0]), (m, sd[1])))
        differences = np.partition((a[:, :, None] - b[:, None]).reshape(len(a), -1), ranks, axis=1)
        for row, u in enumerate(critical):
            if u is not None:
                shifts[row, part] = differences[:, u - 1]
    return shifts


def power_at(difference: float, n: int, m: int, alpha: float = 0.05, **options) -> float:
    """Share of studies in which a true difference (treatment minus baseline, its size) is found on its own side.

    `options` here and below: `sd` (in whose units differences are), `tail_df`, `simulations`, `seed` of
    `rejection_shifts`.
    """
    return float((rejection_shifts(n, m, (alpha,), **options)[0] < abs(difference)).mean())


@checked
def detectable(n: Size, m: Size, alpha: Level = 0.05, power: Level = 0.8, **options) -> Detectable:
    """Smallest true difference that is found with the wanted power."""
    return _quantile(rejection_shifts(n, m, (alpha,), **options)[0], power)


@checked
def detectable_table(sizes: Sequence[Size], alpha: Level, power: Level, simulations: Count) -> pd.DataFrame:
    """Smallest difference that the paired t test over seeds finds with the wanted power.

    In standard deviations of the differences of seeds, by number of seeds, family and distribution.

    Parameters
    ----------
    sizes : seeds, two or more; alpha : of the family, of k tests each has alpha / k (k of `FAMILIES`)

    Returns
    -------
    DataFrame: seeds, tests, distribution, smallest_sign_flip_p (2 / 2^seeds: no exact test of paired differences gives
    less), detectable, low, high
    """
    rows = []
    for n in sizes:
        for tail_df, name in ((None, "normal"), (HEAVY, f"t with {HEAVY:g} degrees of freedom")):
            drawn = draws(np.random.default_rng(0), (simulations, n), tail_df)
            error, mean = drawn.std(1, ddof=1) / np.sqrt(n), drawn.mean(1)
            for k in FAMILIES:
                found = _quantile(stats.t.isf(alpha / k / 2, n - 1) * error - mean, power)
                facts = {"seeds": n, "tests": k, "distribution": name, "smallest_sign_flip_p": 2.0 ** (1 - n)}
                rows.append({**facts, "detectable": found.difference, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def seeds_needed(difference: float, alpha: float = 0.05, power: float = 0.8, **options) -> int | None:
    """Fewest seeds a method (2 to 30, n against n) that find a difference with the wanted power; None: more."""
    sizes = range(2, 31)
    at = bisect.bisect_left(sizes, power, key=lambda n: power_at(difference, n, n, alpha, **options))
    return sizes[at] if at < len(sizes) else None


@checked
def reported_differences(
    table: pd.DataFrame, alpha: Level, power: Level, simulations: Count, tail_df: Tails = None
) -> pd.DataFrame:
    """Which differences of a published table five runs a method could have detected, taking its standard deviations.

    The question is what the design could find, not what the result "would have had as power": the power at the observed
    difference repeats its p-value (Hoenig and Heisey, 2001), so the smallest detectable difference is the answer, and
    the power at the reported difference is shown for reading only. A standard deviation of few values is itself
    uncertain: `detectable_low` and `detectable_high` follow it over its 95 % interval (chi-squared, 8 degrees).

    Parameters
    ----------
    table : DataFrame with columns dataset, method ("Baseline", "MMPKD"), metric, mean, sd, marks
        As book/reported/mmpkd-table1.csv (Table 1 of the paper).

    Returns
    -------
    DataFrame, a row a dataset and metric
        dataset, metric, difference, sd_baseline, sd_mmpkd, standardised (difference over the root mean square of both
        sd), marked (the paper's "**"), power, detectable, detectable_low, detectable_high, seeds_needed, and for each
        size k of the family (`FAMILIES`) detectable_k and reached_k (|difference| >= detectable_k).
    """
    factors = np.sqrt((2 * RUNS - 2) / stats.chi2.ppf([0.975, 0.025], 2 * RUNS - 2))
    rows = []
    for (dataset, metric), part in table.groupby(["dataset", "metric"], sort=False):
        methods = part.set_index("method")
        base, ours = methods.loc["Baseline"], methods.loc["MMPKD"]
        sd, difference = (float(base["sd"]), float(ours["sd"])), float(ours["mean"] - base["mean"])
        shifts = rejection_shifts(RUNS, RUNS, [alpha / k for k in FAMILIES], sd, tail_df, simulations)
        found = [_quantile(values, power).difference for values in shifts]
        row = {"dataset": dataset, "metric": metric, "difference": difference, "sd_baseline": sd[0], "sd_mmpkd": sd[1]}
        row |= {
            "standardised": difference / np.sqrt(np.mean(np.square(sd))),
            "marked": str(ours.get("marks", "")) == "**",
            "power": float((shifts[0] < abs(difference)).mean()),
            "detectable": found[0],
            "detectable_low": found[0] * factors[0],
            "detectable_high": found[0] * factors[1],
            "seeds_needed": seeds_needed(difference, alpha, power, sd=sd, tail_df=tail_df, simulations=4000),
        }
        for k, one in zip(FAMILIES, found, strict=True):
            row |= {f"detectable_{k}": one, f"reached_{k}": abs(difference) >= one}
        rows.append(row)
    return pd.DataFrame(rows).astype({"seeds_needed": "Int64"})


def detectable_differences(table: pd.DataFrame, alpha: float, power: float) -> np.ndarray:
    """Smallest true difference that each row's interval for new trainings leaves zero out of, with the wanted chance.

    Student's t of the row's standard error and degrees of freedom, taken as those of the next study.

    Parameters
    ----------
    table : DataFrame with columns error, freedom, as `maps.comparison.compare_maps` gives it

    Returns
    -------
    float64 (rows,): NaN without a standard error
    """
    found = np.full(len(table), np.nan)
    for k, (error, freedom) in enumerate(table[["error", "freedom"]].to_numpy(dtype=float)):
        if np.isfinite(error):
            bar = stats.t.isf(alpha / 2, freedom)
            options = {"args": (bar, freedom), "bracket": (0, 10 * bar)}
            found[k] = error * optimize.root_scalar(lambda x, *of: stats.nct.sf(*of, x) - power, **options).root
    return found


def detectable_range(cohorts: int, freedom: float, error: float, alpha: float, power: float) -> float:
    """Distance of two of several estimates at which `comparisons.welch_test` tells by chance `power` that they differ.

    By the noncentral F, where it is hardest: all others lie between the two, at their weighted mean.

    Parameters
    ----------
    cohorts, freedom : number of estimates, and second degrees of freedom of the test
    error : standard error of the difference of the two
    """
    bar = stats.f.isf(alpha, cohorts - 1, freedom)
    options = {"args": (bar, cohorts - 1, freedom), "bracket": (0, 100 * cohorts * bar)}
    return error * optimize.root_scalar(lambda x, *of: stats.ncf.sf(*of, x) - power, **options).root ** 0.5


def draws(rng: np.random.Generator, shape: tuple[int, ...], tail_df: float | None) -> np.ndarray:
    """Values of mean 0 and standard deviation 1, normal or of a scaled Student's t."""
    if tail_df is None:
        return rng.standard_normal(shape)
    return rng.standard_t(tail_df, shape) * np.sqrt((tail_df - 2) / tail_df)


def _quantile(shifts: np.ndarray, power: float) -> Detectable:
    """The wanted quantile of rejection shifts, with the bounds that the number of simulations allows."""
    error = 1.96 * np.sqrt(power * (1 - power) / len(shifts))
    tails = np.clip([power, power - error, power + error], 0, 1)
    return Detectable(*(float(v) for v in np.quantile(shifts, tails, method="higher")))
