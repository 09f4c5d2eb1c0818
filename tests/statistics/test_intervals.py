"""Intervals against scipy, formulas and simulation."""

import numpy as np
import pytest
from scipy import stats

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.intervals import (
    bootstrap_interval,
    hierarchical_bootstrap,
    interval_coverage,
    seed_interval,
    training_interval,
)
from pkd_utils.statistics.metrics import weighted_auroc


@pytest.fixture
def rng():
    return np.random.default_rng(11)


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


def test_interval_is_reproducible(rng):
    values, patients = rng.normal(size=50), rng.integers(0, 20, 50)
    one = bootstrap_interval(values, patients, resamples=500, seed=4)
    assert one == bootstrap_interval(values, patients, resamples=500, seed=4)
    assert one != bootstrap_interval(values, patients, resamples=500, seed=5)
    point = bootstrap_interval(np.full(9, 0.5))
    assert (point.low, point.high, point.method) == (0.5, 0.5, "percentile")


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


def test_training_interval_is_the_plain_one_where_patients_alone_vary():
    rng = np.random.default_rng(0)
    patients_alone = [np.zeros((5, 400)), np.tile(rng.normal(size=400), (5, 1))]
    plain, wide = (f(*patients_alone, np.arange(400), 2000) for f in (hierarchical_bootstrap, training_interval))
    assert (wide.high - wide.low) / (plain.high - plain.low) == pytest.approx(1, abs=0.01)
    assert wide.estimate == plain.estimate and "widened" in wide.method
    nothing = training_interval(np.zeros((3, 8)), np.ones((3, 8)), np.arange(8), 100)
    assert (nothing.low, nothing.high) == (1, 1)


@pytest.mark.parametrize("spread", [0.0, 7.0])
def test_training_interval_weighs_seeds_against_patients(spread):
    """Widened as its formula says, where seeds alone vary and where patients do too."""
    rng = np.random.default_rng(4)
    who = np.arange(50)
    baseline = rng.normal(size=(5, 1)) + np.zeros(50)
    treatment = rng.normal(size=(4, 1)) + spread * rng.normal(size=50)
    z, options = stats.norm.ppf(0.975), {"resamples": 3000}
    alone = bootstrap_interval((treatment.mean(0) - baseline.mean(0)), who, method="percentile", **options)
    seen = np.array([((alone.high - alone.low) / 2 / z) ** 2, baseline.mean(1).var() / 5, treatment.mean(1).var() / 4])
    size = np.array([50, 5, 4])
    true = seen * size / (size - 1)
    factor = stats.t.ppf(0.975, true.sum() ** 2 / (true**2 / (size - 1)).sum()) / z * np.sqrt(true.sum() / seen.sum())
    plain, wide = (f(baseline, treatment, who, **options) for f in (hierarchical_bootstrap, training_interval))
    assert 1.05 < factor < 1.6 and wide.high - wide.estimate == pytest.approx(factor * (plain.high - plain.estimate))


def test_training_interval_of_a_reference_map_draws_patients_and_the_students_seeds():
    rng = np.random.default_rng(2)
    who, reference = np.arange(30), np.full((1, 30), 0.5)
    students = 0.6 + rng.normal(0, 0.05, (5, 1)) + rng.normal(0, 0.01, (5, 30))
    many = training_interval(reference, students, who, 1000)
    one = training_interval(reference, students[:1], who, 1000)
    assert "patients and seeds" in many.method and "seeds" not in one.method
    assert many.high - many.low > 3 * (one.high - one.low)


def test_widened_interval_holds_its_level_where_the_plain_one_does_not():
    got = interval_coverage(seeds=5, patients=30, seed_share=0.9, studies=150, resamples=300)
    assert got["widened"] >= 0.91 > 0.88 + 0.05 * (got["plain"] > 0.91)
    assert got["plain"] < got["widened"]


def test_the_interval_over_seeds_is_students():
    values = np.array([0.70, 0.72, 0.69, 0.75, 0.71])
    found = seed_interval(values, 0.90)
    low, high = stats.t.interval(0.90, 4, values.mean(), stats.sem(values))
    assert (found.estimate, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert np.isnan(seed_interval([0.7]).low)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_interval([1, np.nan, 2]), "values is nan"),
        (lambda: bootstrap_interval([1.0]), "at least two"),
        (lambda: bootstrap_interval([1.0, 2.0], clusters=["p", "p"]), "at least two patients"),
        (lambda: bootstrap_interval([1.0, 2.0], clusters=["p"]), "1 patient ids, 0 of them missing, for 2 cases"),
        (lambda: bootstrap_interval([1.0, 2.0], clusters=["p", None]), "1 of them missing"),
        (lambda: bootstrap_interval([1.0, 2.0], clusters=[1, np.nan]), "1 of them missing"),
        (lambda: bootstrap_interval(lambda w: w.sum(1) * np.nan, n=3), "undefined"),
        (lambda: bootstrap_interval([1, 2], level=95), "level = 95"),
        (lambda: bootstrap_interval([1, 2], method="basic"), "'basic'"),
        (lambda: hierarchical_bootstrap([[1, 2]], [[1, 2], [3, 4]]), "at least two seeds"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(DataError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
