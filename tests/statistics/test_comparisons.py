"""Tests and effect sizes against scipy, enumeration, published values and simulation."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.comparisons import (
    AWAY,
    ONE_STUDENT,
    TOWARDS,
    UNSURE,
    cliffs_delta,
    equivalence,
    holm,
    judge,
    mann_whitney,
    mean_sd,
    newcombe_interval,
    p_columns,
    p_text,
    paired_comparison,
    paired_seeds,
    welch_test,
)
from pkd_utils.statistics.intervals import Interval, training_interval


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_mean_sd():
    mean, sd = mean_sd([[1, 2], [3, 2], [5, 2]])
    assert mean.tolist() == [3, 2] and sd.tolist() == [2, 0]
    assert mean_sd([4.0])[0] == 4 and np.isnan(mean_sd([4.0])[1])


def test_five_against_five_stops_at_0_0079():
    apart = mann_whitney([1e6, 2e6, 3e6, 4e6, 5e6], [1, 2, 3, 4, 5])
    assert apart.p == apart.smallest_p == pytest.approx(2 / 252) and round(apart.p, 4) == 0.0079
    assert (apart.u, apart.cliffs_delta) == (25, 1)
    assert mann_whitney([1, 2], [3]).smallest_p == pytest.approx(2 / 3)
    assert mann_whitney([1], [3]).p == mann_whitney([1], [3]).smallest_p == 1


def enumerated_p(a, b):
    """Two-sided p over every split of the pooled values, as scipy defines it: twice the smaller tail."""
    pooled = np.concatenate([a, b])
    u = []
    for chosen in combinations(range(len(pooled)), len(a)):
        inside = np.isin(np.arange(len(pooled)), chosen)
        u.append(np.sign(pooled[inside][:, None] - pooled[~inside]).sum())
    u, observed = np.array(u), np.sign(a[:, None] - b).sum()
    return min(1, 2 * min((u >= observed).mean(), (u <= observed).mean()))


@pytest.mark.parametrize("ties", [False, True])
def test_mann_whitney_is_exact(ties, rng):
    for _ in range(12):
        n, m = rng.integers(2, 6, 2)
        a, b = rng.normal(size=n), rng.normal(size=m) + 1
        if ties:
            a, b = np.round(a), np.round(b)
            a[0] = b[0]
        got = mann_whitney(a, b)
        assert got.p == pytest.approx(enumerated_p(a, b))
        assert got.u == (a[:, None] > b).sum() + (a[:, None] == b).sum() / 2
        assert got.cliffs_delta == pytest.approx(np.sign(a[:, None] - b).mean())
        assert got.p >= got.smallest_p - 1e-12


@pytest.mark.parametrize(
    ("a", "b"),
    [([1], [1, 2]), ([1], [2, 2]), ([2, 2, 1], [2]), ([3], [1, 1, 2, 3, 3]), ([5], [1, 1, 2]), ([1, 1, 1, 2], [1])],
)
def test_mann_whitney_of_one_value_with_ties_is_exact(a, b):
    a, b = np.array(a, dtype=float), np.array(b, dtype=float)
    got = mann_whitney(a, b)
    assert got.p == pytest.approx(enumerated_p(a, b))
    assert got.u == (a[:, None] > b).sum() + (a[:, None] == b).sum() / 2
    turned = mann_whitney(b, a)
    assert (turned.p, turned.cliffs_delta) == pytest.approx((got.p, -got.cliffs_delta))


def test_mann_whitney_large_and_constant(rng):
    a, b = rng.normal(size=300), rng.normal(size=200)
    got = mann_whitney(a, b)
    assert got.p == stats.mannwhitneyu(a, b, method="asymptotic").pvalue
    one = mann_whitney([0.5], np.repeat([0.0, 1.0], 150_000))
    assert one.p == 1
    same = mann_whitney(np.ones(400), np.ones(400))
    assert (same.p, same.cliffs_delta) == (1, 0)


def test_holm():
    # Worked example of Holm's procedure: 4, 3, 2, 1 times the ordered p-values, never decreasing.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    np.testing.assert_allclose(holm([0.02]), [0.02])


def test_no_p_is_printed_as_zero():
    assert [p_text(p) for p in (0.0123, 0.001, 0.00099, 0.0, 1.0)] == [
        "p = 0.012", "p = 0.001", "p < 0.001", "p < 0.001", "p = 1.000",
    ]  # fmt: skip
    names = ["p", "holm_p", "p (Holm)", "Wilcoxon p", "pixels", "over_permuted", "told p"]
    table = pd.DataFrame([[0.5, 1e-9, np.nan, 0.0004, 0.0004, 0.0004, "so"]], columns=names)
    assert p_columns(table).iloc[0].tolist() == ["0.500", "< 0.001", "–", "< 0.001", 0.0004, 0.0004, "so"]


def test_paired_comparison(rng):
    base = rng.random((5, 90))
    treated = base[:4] + 0.05 + 0.02 * rng.normal(size=(4, 90))
    patients = np.repeat(np.arange(45), 2)
    got = paired_comparison(base, treated, patients)
    difference = treated.mean(0) - base.mean(0)
    per_patient = difference.reshape(45, 2).mean(1)
    assert got.difference.estimate == pytest.approx(difference.mean())
    assert got.difference.low < 0.05 < got.difference.high and got.difference.units == 45
    assert got.win_rate.estimate == (difference > 0).mean()
    assert got.wilcoxon_p == pytest.approx(stats.wilcoxon(per_patient).pvalue)
    assert (got.images, got.patients) == (90, 45)
    worse = paired_comparison(base, treated, patients, larger_is_better=False)
    assert worse.win_rate.estimate == pytest.approx(1 - got.win_rate.estimate)
    assert worse.difference == got.difference
    equal = paired_comparison(base[0], base[0])
    assert (equal.difference.estimate, equal.win_rate.estimate, equal.wilcoxon_p) == (0, 0.5, 1)


def test_judge():
    assert judge(0.1, 0.2) == TOWARDS and judge(-0.2, -0.1) == AWAY and judge(-0.1, 0.1) == UNSURE
    assert judge(0.1, 0.2, larger_is_better=False) == AWAY and judge(-0.2, -0.1, False) == TOWARDS
    assert judge(0.0, 0.2) == UNSURE and judge(np.nan, np.nan) == ONE_STUDENT


def paired(baseline, treatment):
    """The interval over seeds that `equivalence` takes."""
    wide = [np.repeat(np.asarray(values)[:, None], 2, axis=1) for values in (baseline, treatment)]
    return training_interval(*wide, bounds=(-np.inf, np.inf))


def test_equivalence_is_two_one_sided_tests():
    by_hand = Interval(0.005, 0.0, 0.0, 0.95, "", 5, error=0.004, freedom=4.0)
    found = equivalence(by_hand, 0.02)
    # P(T > (0.02 - 0.005) / 0.004 = 3.75) in closed form for 4 degrees of freedom; sqrt(1 + 3.75^2 / 4) = 2.125
    assert found.p == pytest.approx(1 / 2 - 3 / 8 * 3.75 / 2.125 * (1 - 3.75**2 / (12 * 2.125**2)))
    assert (found.low, found.high) == pytest.approx((0.005 - 2.131847 * 0.004, 0.005 + 2.131847 * 0.004))
    assert found.verdict == "equivalent" and found.smallest_margin == found.high
    assert equivalence(by_hand, found.smallest_margin).p == pytest.approx(0.05)
    below = equivalence(replace(by_hand, estimate=-0.005), 0.02)
    assert (below.p, below.smallest_margin) == (found.p, -below.low) and below.smallest_margin == found.smallest_margin
    assert equivalence(by_hand, 0.01).verdict == UNSURE  # no difference shown, and none excluded

    difference = np.array([0.010, -0.004, 0.012, 0.003, 0.001])
    one = stats.ttest_1samp(difference, -0.02, alternative="greater").pvalue
    other = stats.ttest_1samp(difference, 0.02, alternative="less").pvalue
    found = equivalence(paired(np.zeros(5), difference), 0.02)
    assert found.p == pytest.approx(max(one, other)) and found.p != pytest.approx(min(one, other))
    for sign in (1, -1):
        assert equivalence(paired(np.zeros(5), sign * (difference + 0.1)), 0.02).verdict == "differs by more"
    constant = paired(np.zeros(5), np.full(5, 0.01))
    assert [equivalence(constant, margin).p for margin in (0.02, 0.005)] == [0, 1]


def test_equivalence_errs_as_often_as_it_says(rng):
    """A difference of the margin itself is called equivalent in 5 % of studies, none at all in most of them."""
    shares = []
    for truth in (0.02, 0.0):
        studies = truth + 0.01 * rng.standard_normal((1000, 5))
        shares.append(np.mean([equivalence(paired(np.zeros(5), d), 0.02).verdict == "equivalent" for d in studies]))
    assert shares[0] == pytest.approx(0.05, abs=0.02) and shares[1] > 0.8


def test_welch_agrees_with_scipy(rng):
    samples = [rng.normal(mean, sd, n) for mean, sd, n in ((0.1, 0.03, 5), (0.05, 0.1, 7), (0.0, 0.02, 4))]

    def summary(some):
        return np.array([(x.mean(), stats.sem(x), len(x) - 1) for x in some]).T

    expected = stats.f_oneway(*samples, equal_var=False)
    assert welch_test(*summary(samples))[:2] == pytest.approx((expected.statistic, expected.pvalue))
    two = stats.ttest_ind(*samples[:2], equal_var=False)
    assert welch_test(*summary(samples[:2]))[:2] == pytest.approx((two.statistic**2, two.pvalue))


def test_newcombe_solves_its_equation():
    a, n, m = 0.76, 5, 7
    low, high = newcombe_interval(a, n, m, 0.9)
    h, z = (n + m) / 2 - 1, stats.norm.ppf(0.95)
    for x in (low, high):
        variance = x * (1 - x) * (1 + h * (1 - x) / (2 - x) + h * x / (1 + x)) / (n * m)
        assert abs(a - x) == pytest.approx(z * np.sqrt(variance))
    assert low < a < high
    assert newcombe_interval(1 - a, n, m, 0.9) == pytest.approx((1 - high, 1 - low))


def test_delta_is_the_share_of_pairs_and_complete_separation_keeps_an_interval():
    # Example of R's effsize::cliff.delta and of orddom.
    assert cliffs_delta([10, 10, 20, 20, 20, 30, 30, 30, 40, 50], [10, 20, 30, 40, 40, 50]).estimate == -0.25
    got = cliffs_delta([6, 7, 8, 9, 10], [1, 2, 3, 4, 5])
    assert got.estimate == got.high == 1 and 0 < got.low < 0.7
    mirrored = cliffs_delta([1, 2, 3, 4, 5], [6, 7, 8, 9, 10])
    assert (mirrored.low, mirrored.high) == pytest.approx((-1, -got.low))
    one = cliffs_delta([1], [3])
    assert one.estimate == one.low == -1 and one.high > 0.5


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_newcombe_holds_its_level_at_five_against_five(shift):
    """Over 4,000 simulated studies."""
    rng = np.random.default_rng(3)
    truth = stats.norm.cdf(shift / np.sqrt(2))
    a, b = rng.normal(shift, 1, (4000, 5)), rng.normal(size=(4000, 5))
    u = (a[:, :, None] > b[:, None]).sum((1, 2))
    ends = np.array([newcombe_interval(k / 25, 5, 5) for k in range(26)])
    covered = ((ends[u, 0] <= truth) & (truth <= ends[u, 1])).mean()
    assert 0.93 <= covered <= 0.995


def test_paired_seeds_agree_with_scipy_and_the_correction_widens():
    a, b = np.array([0.70, 0.72, 0.69, 0.75, 0.71]), np.array([0.72, 0.73, 0.72, 0.76, 0.74])
    found = paired_seeds(a, b, evaluation_share=0.25)
    assert found.p == pytest.approx(stats.ttest_rel(b, a).pvalue)
    # Nadeau and Bengio, 2003: 1/5 + (1/4)/(3/4) in the place of 1/5.
    t = (b - a).mean() / np.sqrt((1 / 5 + 1 / 3) * (b - a).var(ddof=1))
    assert found.p_corrected == pytest.approx(2 * stats.t.sf(t, 4))
    assert found.low_corrected < found.low < found.difference < found.high < found.high_corrected
    assert found.wins == 5
    assert np.isnan(paired_seeds(a, b).p_corrected)
    equal = paired_seeds([0.7, 0.8], [0.7, 0.8], 0.1)
    assert (equal.difference, equal.p, equal.wins) == (0, 1.0, 1.0)


def test_the_correction_holds_its_level_for_subsets_of_one_test_set():
    """2,000 studies: 120 test images, of which every seed is evaluated on a random 40 %, and no effect."""
    rng = np.random.default_rng(0)
    held = {"plain": 0, "corrected": 0}
    for _ in range(2000):
        images = rng.normal(size=120)
        scores = np.array([images[rng.permutation(120)[:48]].mean() for _ in range(5)])
        got = paired_seeds(np.zeros(5), scores, evaluation_share=0.4)
        held["plain"] += got.low <= 0 <= got.high
        held["corrected"] += got.low_corrected <= 0 <= got.high_corrected
    assert 0.93 <= held["corrected"] / 2000 <= 0.97 and held["plain"] / 2000 < 0.8


def test_intervals_of_paired_seeds_stay_in_the_bounds_of_a_difference():
    got = paired_seeds([0.1, 0.2], [0.2, 0.9], evaluation_share=0.5)
    assert (got.low, got.high, got.low_corrected, got.high_corrected) == (-1, 1, -1, 1) and got.p_corrected > got.p
    wide = paired_seeds([0.1, 0.2], [0.2, 0.9], bounds=(-np.inf, np.inf))
    assert (wide.low, wide.high) == pytest.approx(stats.t.interval(0.95, 1, 0.4, 0.3))
    with pytest.raises(DataError, match="outside -1 to 1: give the score's bounds"):
        paired_seeds([0, 0], [2, 3])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean_sd([]), "values is empty"),
        (lambda: mann_whitney([1, np.nan], [1]), r"a is nan at position \[1\]"),
        (lambda: mann_whitney([], [1]), "a is empty"),
        (lambda: cliffs_delta([1, 2], [3, 4], level=1.5), "level = 1.5"),
        (lambda: paired_comparison([1, 2, 3], [1, 2]), "3 images of the baseline, 2"),
        (lambda: paired_seeds([0.1, np.nan], [0.1, 0.2]), "baseline is nan"),
        (lambda: paired_seeds([0.1, 0.2], [0.1, 0.3], 1.0), "evaluation_share = 1.0"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(DataError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
