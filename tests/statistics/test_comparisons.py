"""Tests, intervals and effect sizes against scipy, enumeration, published values and simulation."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics import intervals
from pkd_utils.statistics.comparisons import holm, mann_whitney, mean_sd, paired_comparison
from pkd_utils.statistics.intervals import bootstrap_interval, hierarchical_bootstrap
from pkd_utils.statistics.metrics import weighted_auroc


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
    assert (apart.u, apart.cliffs_delta, apart.rank_biserial, apart.n) == (25, 1, 1, (5, 5))
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
        assert got.method == ("exact permutation" if ties else "exact")
        assert got.u == (a[:, None] > b).sum() + (a[:, None] == b).sum() / 2
        assert got.cliffs_delta == pytest.approx(np.sign(a[:, None] - b).mean())
        assert got.p >= got.smallest_p - 1e-12


def test_mann_whitney_large_and_constant(rng):
    a, b = rng.normal(size=300), rng.normal(size=200)
    got = mann_whitney(a, b)
    assert got.method == "normal approximation"
    assert got.p == stats.mannwhitneyu(a, b, method="asymptotic").pvalue
    same = mann_whitney(np.ones(400), np.ones(400))
    assert (same.p, same.cliffs_delta) == (1, 0)


def test_holm():
    # Worked example of Holm's procedure: 4, 3, 2, 1 times the ordered p-values, never decreasing.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    np.testing.assert_allclose(holm([0.02]), [0.02])


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_interval_of_a_mean_agrees_with_scipy(method, rng):
    values = rng.exponential(size=60)
    got = bootstrap_interval(values, method=method, resamples=20_000)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(1)
    ).confidence_interval
    assert got.estimate == pytest.approx(values.mean()) and got.method == method and got.units == 60
    np.testing.assert_allclose([got.low, got.high], reference, atol=0.02)
    # Skewed to the right: BCa reaches further up than down, and the two methods differ visibly.
    other = bootstrap_interval(values, method="percentile" if method == "bca" else "bca", resamples=20_000)
    assert (got.high > other.high) == (method == "bca")


def test_interval_is_reproducible_and_independent_of_batches(rng, monkeypatch):
    values, patients = rng.normal(size=50), rng.integers(0, 20, 50)
    one = bootstrap_interval(values, patients, resamples=500, seed=4)
    assert one == bootstrap_interval(values, patients, resamples=500, seed=4)
    assert one != bootstrap_interval(values, patients, resamples=500, seed=5)
    monkeypatch.setattr(intervals, "_WEIGHT_CELLS", 700)
    assert one == bootstrap_interval(values, patients, resamples=500, seed=4)


def test_clusters_are_drawn_whole(rng):
    patients = np.repeat([f"p{i:02d}" for i in range(30)], 8)
    values = np.repeat(rng.normal(size=30), 8)  # a patient's images are copies: 30 observations, not 240
    clustered, naive = bootstrap_interval(values, patients), bootstrap_interval(values)
    once = bootstrap_interval(values[::8])
    assert clustered.units == 30
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(np.sqrt(8), rel=0.1)


def test_interval_of_an_auroc(rng):
    targets = (np.arange(80) < 30).astype(float)
    scores = rng.normal(size=80) + targets
    got = bootstrap_interval(lambda w: weighted_auroc(targets, scores, w), n=80, resamples=2000)
    assert got.method == "bca" and got.low < got.estimate < got.high
    assert got.estimate == pytest.approx(weighted_auroc(targets, scores, np.ones((1, 80)))[0])
    few = bootstrap_interval(lambda w: weighted_auroc(targets[:31][::-1], scores[:31], w), n=31, resamples=2000)
    assert few.undefined == pytest.approx(2000 * (1 - 1 / 31) ** 31, rel=0.15)  # the one negative was not drawn
    assert few.method == "percentile"  # leaving that negative out leaves no AUROC, so no acceleration


def test_constant_values_give_a_point():
    got = bootstrap_interval(np.full(9, 0.5))
    assert (got.low, got.high, got.method) == (0.5, 0.5, "percentile")


def test_interval_covers():
    """600 simulated studies of 40 patients with 3 correlated images, against the t interval of the patients' means."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 3)
    hits = {"bca": 0, "percentile": 0, "t": 0, "images": 0}
    for study in range(600):
        values = np.repeat(rng.normal(size=40), 3) + 0.5 * rng.normal(size=120)
        means = values.reshape(40, 3).mean(1)
        low, high = stats.t.interval(0.9, 39, means.mean(), stats.sem(means))
        hits["t"] += low <= 0 <= high
        for name, clusters in (("bca", patients), ("percentile", patients), ("images", None)):
            method = "bca" if name == "bca" else "percentile"
            got = bootstrap_interval(values, clusters, resamples=400, level=0.9, method=method, seed=study)
            hits[name] += got.low <= 0 <= got.high
    share = {name: count / 600 for name, count in hits.items()}
    assert 0.84 < share["bca"] < 0.94 and 0.84 < share["percentile"] < 0.94
    # On the same data; a bootstrap of 40 patients is a little narrower than t.
    assert share["t"] - 0.035 < share["bca"] <= share["t"] + 0.01
    assert share["t"] - 0.035 < share["percentile"] <= share["t"] + 0.01
    assert share["images"] < 0.75  # what ignoring patients does


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
    assert got.rank_biserial == pytest.approx(
        (stats.rankdata(np.abs(per_patient)) * np.sign(per_patient)).sum() / (45 * 46 / 2)
    )
    assert (got.images, got.patients) == (90, 45)
    worse = paired_comparison(base, treated, patients, larger_is_better=False)
    assert worse.win_rate.estimate == pytest.approx(1 - got.win_rate.estimate)
    assert worse.difference == got.difference


def test_paired_comparison_without_any_difference():
    values = np.arange(6.0)
    got = paired_comparison(values, values)
    assert (got.difference.estimate, got.win_rate.estimate, got.wilcoxon_p, got.rank_biserial) == (0, 0.5, 1, 0)


def test_hierarchical_bootstrap_adds_the_spread_of_seeds(rng):
    image = rng.normal(size=200)
    seeds = lambda shift, spread: image + shift + spread * rng.normal(size=(5, 1)) + 0.1 * rng.normal(size=(5, 200))  # noqa: E731
    quiet, noisy = (hierarchical_bootstrap(seeds(0, s), seeds(0.5, s), resamples=3000) for s in (0.001, 0.4))
    assert quiet.low < 0.5 < quiet.high
    assert noisy.high - noisy.low > 10 * (quiet.high - quiet.low)  # 5 seeds, not 200 images, set the width
    base, treated = seeds(0, 0.4), seeds(0.5, 0.4)
    got = hierarchical_bootstrap(base, treated, resamples=8000)
    assert got.estimate == pytest.approx(treated.mean() - base.mean())
    expected = 2 * 1.96 * np.sqrt((base.mean(1).var() + treated.mean(1).var()) / 5)
    assert got.high - got.low == pytest.approx(expected, rel=0.12)


def test_hierarchical_bootstrap_resamples_patients(rng):
    base = np.zeros((2, 60))
    gain = np.repeat(rng.normal(size=20), 3)
    treated = np.tile(gain, (2, 1))
    patients = np.repeat(np.arange(20), 3)
    got = hierarchical_bootstrap(base, treated, patients, resamples=8000)
    reference = bootstrap_interval(gain, patients, method="percentile", resamples=8000)
    np.testing.assert_allclose([got.low, got.high], [reference.low, reference.high], atol=0.03)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean_sd([]), "not empty"),
        (lambda: mann_whitney([1, np.nan], [1]), r"a is nan at position \[1\]"),
        (lambda: mann_whitney([], [1]), "not empty"),
        (lambda: holm([0.5, 1.5]), "between 0 and 1"),
        (lambda: bootstrap_interval([1, np.nan, 2]), "values is nan"),
        (lambda: bootstrap_interval([1.0]), "at least two"),
        (lambda: bootstrap_interval([1.0, 2.0], clusters=["p", "p"]), "at least two patients"),
        (lambda: bootstrap_interval([1.0, 2.0], clusters=["p"]), "for 2 cases"),
        (lambda: bootstrap_interval([1.0, 2.0], clusters=["p", None]), "no patient id"),
        (lambda: bootstrap_interval([1.0, 2.0], clusters=[1, np.nan]), "no patient id"),
        (lambda: bootstrap_interval(lambda w: w.sum(1)), "needs n"),
        (lambda: bootstrap_interval(lambda w: w.sum(1) * np.nan, n=3), "undefined"),
        (lambda: bootstrap_interval([1, 2], level=95), "level=95"),
        (lambda: bootstrap_interval([1, 2], method="basic"), "'basic'"),
        (lambda: paired_comparison([1, 2, 3], [1, 2]), "3 images of the baseline, 2"),
        (lambda: hierarchical_bootstrap([[1, 2]], [[1, 2], [3, 4]]), "at least two seeds"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(DataError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
