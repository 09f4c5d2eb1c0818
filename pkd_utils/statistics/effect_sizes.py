"""Effect sizes of two small samples by order alone: Cliff's delta, Vargha and Delaney's A, and their intervals.

Over seeds the paper gives a p-value of the Mann-Whitney test; delta says by how much, A how often: A = P(a > b) +
P(a = b) / 2 = (delta + 1) / 2 = U / (n m). Both are computed over all n m pairs, which is exact. Three intervals:

- "newcombe" (default): Newcombe (2006), Statistics in Medicine 25, 559-573, method 5: the A whose standard error,
  taken *at that A*, puts the observed one z errors away. It stays an interval where all pairs agree, which five
  seeds against five often do, and it holds its level there (tests/test_effect_sizes.py simulates it).
- "cliff": Cliff (1996), unbiased variance over the dominance matrix, asymmetric form, Student t with n + m - 2
  degrees of freedom, as in R's effsize. Zero wide where all pairs agree, so it then says nothing.
- "bootstrap": percentiles of delta under resampling of both samples; exact, over all resamples with their
  probabilities, where there are few enough (7 against 7), otherwise drawn. Also zero wide where all pairs agree.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from scipy import optimize, stats

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.comparisons import mann_whitney
from pkd_utils.statistics.intervals import draw_counts

METHODS = ("newcombe", "cliff", "bootstrap")
_MOST_RESAMPLES = 4_000_000  # pairs of resamples that the exact bootstrap looks at


@dataclass(frozen=True)
class DominanceEffect:
    """Result of `cliffs_delta`: delta in [-1, 1] with its interval; `vargha_delaney` is the same as a share."""

    delta: float
    low: float
    high: float
    level: float
    method: str
    n: tuple[int, int]

    @property
    def vargha_delaney(self) -> tuple[float, float, float]:
        """A = (delta + 1) / 2 with its interval: how often a value of the first sample is the larger, ties half."""
        return tuple((value + 1) / 2 for value in (self.delta, self.low, self.high))


def cliffs_delta(
    a, b, level: float = 0.95, method: str = "newcombe", resamples: int = 10_000, seed: int = 0
) -> DominanceEffect:
    """Cliff's delta P(a > b) - P(a < b) of two independent samples, with an interval.

    Parameters
    ----------
    a, b : (n,), (m,) finite; for example one value a seed. Intervals "cliff" and "bootstrap" need two of each.
    level : float in (0, 1)
    method : {"newcombe", "cliff", "bootstrap"}; see the module
    resamples, seed : of the bootstrap, where it is drawn

    Returns
    -------
    DominanceEffect
    """
    if not 0 < level < 1:
        raise DataError(f"level is {level}: give a number between 0 and 1.")
    if method not in METHODS:
        raise DataError(f"Interval {method!r} is unknown: use one of {', '.join(METHODS)}.")
    test = mann_whitney(a, b)  # also checks the values
    n, m = test.n
    if min(n, m) < 2 and method != "newcombe":
        raise DataError(f"{n} and {m} values have no {method!r} interval: give two of each, or method='newcombe'.")
    dominance = np.sign(np.subtract.outer(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)))
    delta = float(dominance.mean())
    if method == "newcombe":
        low, high = (2 * value - 1 for value in newcombe_interval((delta + 1) / 2, n, m, level))
        how = "Newcombe (2006), method 5"
    elif method == "cliff":
        low, high = _cliff_interval(dominance, level)
        how = "Cliff (1996), unbiased variance, t"
    else:
        low, high, how = _bootstrap_interval(dominance, level, resamples, seed)
    return DominanceEffect(delta, low, high, level, how, (n, m))


def vargha_delaney_a(a, b) -> float:
    """Vargha and Delaney's A: the share of pairs in which the first sample is larger, ties half; 0.5 is no effect.

    Parameters
    ----------
    a, b : (n,), (m,) finite
    """
    test = mann_whitney(a, b)
    return test.u / (test.n[0] * test.n[1])


def newcombe_interval(a: float, n: int, m: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of A = U / (n m) from its value and the sample sizes alone (Newcombe, 2006, method 5).

    The ends solve |a - x| = z sqrt(V(x)) with, for h = (n + m) / 2 - 1,
    V(x) = x (1 - x) (1 + h (1 - x) / (2 - x) + h x / (1 + x)) / (n m).

    Parameters
    ----------
    a : float in [0, 1]
    n, m : int, sample sizes
    level : float in (0, 1)
    """
    if not 0 <= a <= 1 or min(n, m) < 1:
        raise DataError(f"A = {a} of {n} and {m} values: A lies between 0 and 1, samples hold at least one value.")
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


def _cliff_interval(dominance: np.ndarray, level: float) -> tuple[float, float]:
    """Asymmetric interval of Cliff (1996) from the matrix of signs (n, m)."""
    n, m = dominance.shape
    delta = dominance.mean()
    rows, columns = dominance.mean(1) - delta, dominance.mean(0) - delta
    variance = (m**2 * (rows**2).sum() + n**2 * (columns**2).sum() - ((dominance - delta) ** 2).sum()) / (
        n * m * (n - 1) * (m - 1)
    )
    # The unbiased estimate can be negative; Cliff's floor is that of no variance between rows or columns.
    variance = max(variance, (1 - delta**2) / (n * m - 1))
    t = stats.t.ppf((1 + level) / 2, n + m - 2)
    half = t * np.sqrt(variance * ((1 - delta**2) ** 2 + t**2 * variance))
    scale = 1 - delta**2 + t**2 * variance
    if scale == 0:
        return float(delta), float(delta)
    ends = (delta - delta**3 + np.array([-half, half])) / scale
    return float(max(ends[0], -1)), float(min(ends[1], 1))


@cache
def _resamples(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every way to draw n of n with replacement, as counts (K, n), with its probability (K,)."""
    bars = np.array(list(combinations(range(2 * n - 1), n - 1)), dtype=int).reshape(-1, n - 1)
    ends = np.column_stack([np.full(len(bars), -1), bars, np.full(len(bars), 2 * n - 1)])
    counts = np.diff(ends, axis=1) - 1
    log_factorial = np.concatenate([[0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return counts, np.exp(log_factorial[n] - log_factorial[counts].sum(1) - n * np.log(n))


def _bootstrap_interval(dominance, level: float, resamples: int, seed: int) -> tuple[float, float, str]:
    n, m = dominance.shape
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if max(n, m) <= 9 and len(_resamples(n)[0]) * len(_resamples(m)[0]) <= _MOST_RESAMPLES:
        (rows, p), (columns, q) = _resamples(n), _resamples(m)
        values = np.rint(rows @ dominance @ columns.T).reshape(-1)  # n m delta, a whole number
        cumulative = np.bincount((values + n * m).astype(int), np.outer(p, q).reshape(-1), 2 * n * m + 1).cumsum()
        # Rounding may leave the last sum a hair under 1.
        found = np.searchsorted(cumulative, tails * cumulative[-1])
        low, high = (found - n * m) / (n * m)
        return float(low), float(high), "percentile, all resamples"
    rng = np.random.default_rng(seed)
    rows, columns = draw_counts(rng, resamples, n), draw_counts(rng, resamples, m)
    drawn = ((rows @ dominance) * columns).sum(1) / (n * m)
    low, high = np.quantile(drawn, tails)
    return float(low), float(high), f"percentile, {resamples} resamples"
