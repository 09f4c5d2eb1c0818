"""Effect sizes against definitions, published examples, enumeration and simulated coverage."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.effect_sizes import cliffs_delta, newcombe_interval, vargha_delaney_a

# Example of R's effsize::cliff.delta and of orddom.
TREATMENT = [10, 10, 20, 20, 20, 30, 30, 30, 40, 50]
CONTROL = [10, 20, 30, 40, 40, 50]


def test_delta_and_a_are_the_share_of_pairs():
    got = cliffs_delta(TREATMENT, CONTROL)
    pairs = list(product(TREATMENT, CONTROL))
    assert got.delta == sum((a > b) - (a < b) for a, b in pairs) / len(pairs) == -0.25
    assert got.vargha_delaney[0] == vargha_delaney_a(TREATMENT, CONTROL) == pytest.approx((1 - 0.25) / 2)
    assert cliffs_delta([1, 2], [1, 2]).delta == 0
    assert cliffs_delta([5, 6, 7], [1, 2]).delta == 1 and vargha_delaney_a([1, 2], [5, 6, 7]) == 0


def test_cliffs_interval_is_that_of_r():
    got = cliffs_delta(TREATMENT, CONTROL, method="cliff")
    assert (got.low, got.high) == pytest.approx((-0.7265846, 0.3890062), abs=1e-6)
    assert "Cliff" in got.method and got.n == (10, 6)


def test_newcombe_solves_its_equation():
    a, n, m = 0.76, 5, 7
    low, high = newcombe_interval(a, n, m, 0.9)
    h, z = (n + m) / 2 - 1, stats.norm.ppf(0.95)
    for x in (low, high):
        variance = x * (1 - x) * (1 + h * (1 - x) / (2 - x) + h * x / (1 + x)) / (n * m)
        assert abs(a - x) == pytest.approx(z * np.sqrt(variance))
    assert low < a < high
    assert newcombe_interval(1 - a, n, m, 0.9) == pytest.approx((1 - high, 1 - low))


def test_complete_separation_keeps_an_interval():
    got = cliffs_delta([6, 7, 8, 9, 10], [1, 2, 3, 4, 5])
    assert got.delta == got.high == 1 and 0 < got.low < 0.7
    mirrored = cliffs_delta([1, 2, 3, 4, 5], [6, 7, 8, 9, 10])
    assert (mirrored.low, mirrored.high) == pytest.approx((-1, -got.low))
    # The two others collapse, or nearly, as their text says.
    assert cliffs_delta([6, 7, 8, 9, 10], [1, 2, 3, 4, 5], method="bootstrap").low == 1
    assert cliffs_delta([6, 7, 8, 9, 10], [1, 2, 3, 4, 5], method="cliff").low == 1


def test_bootstrap_of_all_resamples_is_the_enumeration():
    a, b = np.array([1.0, 4.0, 6.0]), np.array([2.0, 3.0, 5.0])
    deltas = []
    for i in product(range(3), repeat=3):
        for j in product(range(3), repeat=3):
            deltas.append(np.sign(np.subtract.outer(a[list(i)], b[list(j)])).mean())
    got = cliffs_delta(a, b, level=0.8, method="bootstrap")
    assert (got.low, got.high) == pytest.approx(np.quantile(deltas, [0.1, 0.9], method="inverted_cdf"))
    assert got.method == "percentile, all resamples"


def test_bootstrap_of_many_values_is_drawn():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.5, 1, 40), rng.normal(size=40)
    got = cliffs_delta(a, b, method="bootstrap", resamples=4000)
    assert got.method == "percentile, 4000 resamples"
    other = cliffs_delta(a, b, method="cliff")
    assert got.low == pytest.approx(other.low, abs=0.05) and got.high == pytest.approx(other.high, abs=0.05)
    assert got == cliffs_delta(a, b, method="bootstrap", resamples=4000), "the same seed gives the same interval"


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_newcombe_holds_its_level_at_five_against_five(shift):
    """Over 4,000 simulated studies; the others fall short, which is why they are not the default."""
    rng = np.random.default_rng(3)
    truth = stats.norm.cdf(shift / np.sqrt(2))
    a, b = rng.normal(shift, 1, (4000, 5)), rng.normal(size=(4000, 5))
    u = (a[:, :, None] > b[:, None]).sum((1, 2))
    ends = np.array([newcombe_interval(k / 25, 5, 5) for k in range(26)])
    covered = ((ends[u, 0] <= truth) & (truth <= ends[u, 1])).mean()
    assert 0.93 <= covered <= 0.995


def test_refusals():
    with pytest.raises(DataError, match="level is 1"):
        cliffs_delta([1, 2], [3, 4], level=1.5)
    with pytest.raises(DataError, match="'wald' is unknown"):
        cliffs_delta([1, 2], [3, 4], method="wald")
    with pytest.raises(DataError, match="give two of each"):
        cliffs_delta([1], [3, 4], method="cliff")
    with pytest.raises(DataError, match="select the cases"):
        cliffs_delta([1, np.nan], [3, 4])
    with pytest.raises(DataError, match="A lies between 0 and 1"):
        newcombe_interval(1.2, 5, 5)
    one = cliffs_delta([1], [3])
    assert one.delta == -1 and one.low == -1 and one.high > 0.5
