"""Intervals against scipy, formulas and simulation."""

import numpy as np
import pytest
from scipy import stats

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.intervals import (
    bootstrap_interval,
    interval_coverage,
    jackknife_values,
    sd_interval,
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
    options = {"n_resamples": 20_000, "method": method, "rng": np.random.default_rng(1)}
    reference = stats.bootstrap((values,), np.mean, **options).confidence_interval
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


OPEN = {"bounds": (-np.inf, np.inf)}


def test_seeds_are_drawn_jointly(rng):
    """Luck that both methods of a seed share is not in the interval, whichever its size."""
    luck, own = rng.normal(size=(5, 1)), 0.01 * rng.normal(size=(2, 5, 40))
    found = [training_interval(size * luck + own[0], size * luck + 0.1 + own[1], level=0.9, **OPEN) for size in (0, 9)]
    assert (found[0].low, found[0].high) == pytest.approx((found[1].low, found[1].high))
    assert 0 < found[0].low < 0.1 < found[0].high
    crossed = training_interval(9 * luck + own[0], 9 * luck[::-1] + 0.1 + own[1], level=0.9, **OPEN)
    assert crossed.high - crossed.low > 100 * (found[0].high - found[0].low)


def test_training_interval_is_students_where_one_of_both_varies(rng):
    difference = rng.normal(size=(5, 1))
    got = training_interval(np.zeros((5, 30)), difference + np.zeros(30), **OPEN)
    expected = stats.t.interval(0.95, 4, difference.mean(), stats.sem(difference[:, 0]))
    assert (got.low, got.high, got.freedom) == pytest.approx((*expected, 4))
    patients = np.repeat(np.arange(10), 3)
    gain = rng.normal(size=10)
    for seeds in (1, 5):
        got = training_interval(np.zeros((seeds, 30)), np.tile(np.repeat(gain, 3), (seeds, 1)), patients, **OPEN)
        expected = stats.t.interval(0.95, 9, gain.mean(), stats.sem(gain))
        assert (got.low, got.high, got.freedom) == pytest.approx((*expected, 9)) and got.units == 10
    same = training_interval(np.zeros((3, 8)), np.ones((3, 8)))
    assert (same.low, same.high) == (1, 1)


def test_training_interval_of_both_is_the_two_way_analysis_of_variance(rng):
    d = rng.normal(size=(4, 1)) + 1.5 * rng.normal(size=12) + rng.normal(size=(4, 12))
    r, c = d.mean(1), d.mean(0)
    parts = [r.var(ddof=1) / 4, c.var(ddof=1) / 12]
    parts.append(((d - r[:, None] - c + d.mean()) ** 2).sum() / 33 / 48)
    variance = parts[0] + parts[1] - parts[2]
    freedom = variance**2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 11 + parts[2] ** 2 / 33)
    half = max(stats.t.ppf(0.975, freedom) * np.sqrt(variance), stats.t.ppf(0.975, 3) * np.sqrt(parts[0]))
    got = training_interval(np.zeros_like(d), d, **OPEN)
    assert (got.low, got.high) == pytest.approx((d.mean() - half, d.mean() + half))
    assert got.high - got.estimate == pytest.approx(stats.t.ppf(0.975, got.freedom) * got.error)
    # Patients of unlike numbers of images: the mean is over images, and a patient's images are drawn together.
    who = np.array([0] * 6 + [1, 2, 3, 4, 5, 6])
    alone = training_interval(np.zeros((1, 12)), d[:1], who, **OPEN)
    means = d[0].mean() + 7 / 12 * np.array([(d[0] - d[0].mean())[who == k].sum() for k in range(7)])
    assert (alone.estimate, alone.error) == pytest.approx((d[0].mean(), stats.sem(means)))


@pytest.mark.parametrize(("seeds", "share"), [(3, 0.5), (5, 0.1), (5, 0.95), (10, 1.0)])
def test_training_interval_holds_its_level(seeds, share):
    got = interval_coverage(seeds, 30, share, studies=1500, resamples=2)
    assert 0.93 <= got["t"] <= 0.975  # two standard errors at 1,500 studies: 0.011


def test_a_percentile_bootstrap_of_five_seeds_does_not():
    got = interval_coverage(seeds=5, patients=30, seed_share=1.0, studies=500, resamples=300)
    assert got["bootstrap"] < 0.90 < 0.93 < got["t"]
    many = interval_coverage(seeds=40, patients=30, seed_share=1.0, studies=300, resamples=300)
    assert 0.90 < many["bootstrap"] < 0.99


@pytest.mark.parametrize("seeds", [2, 5])
def test_intervals_stay_in_the_bounds_of_their_score(seeds):
    rng = np.random.default_rng(0)
    auc = np.r_[0.2, 0.9, [0.5] * (seeds - 2)]
    found = seed_interval(auc, 0.999)
    assert (found.low, found.high) == (0, 1)
    iou = rng.random((2, seeds, 6))
    found = training_interval(*iou, level=0.9999999)
    assert (found.low, found.high) == (-1, 1)
    for beyond in ([20.0, 30.0], [-0.2, -0.1]):
        with pytest.raises(DataError, match="outside 0 to 1: give the score's bounds"):
            seed_interval(beyond)


def test_a_jackknife_takes_a_statistic_apart(rng):
    values, patients = rng.standard_normal(12), np.repeat(np.arange(6), 2)
    found = jackknife_values(lambda w: (w @ values) / w.sum(1), patients)
    np.testing.assert_allclose(found, values.reshape(6, 2).mean(1))  # of a mean: the patients' own means
    targets, scores = np.arange(40) % 3 == 0, rng.standard_normal(40)
    found = jackknife_values(lambda w: weighted_auroc(targets, scores, w), np.arange(40))
    above = scores[targets][:, None] > scores[~targets]  # DeLong: var(placements) / n of either class, summed
    delong = above.mean(1).var(ddof=1) / targets.sum() + above.mean(0).var(ddof=1) / (~targets).sum()
    assert found.mean() == pytest.approx(above.mean()) and found.var(ddof=1) / 40 == pytest.approx(delong, rel=0.05)
    with pytest.raises(DataError, match="without one patient is nan"):
        jackknife_values(lambda w: weighted_auroc(targets, scores, w), targets)


def test_the_interval_of_an_auroc_for_new_trainings_holds_its_level(rng):
    """Students of a seed share a quality, and a patient is as hard for all of them."""
    held, studies = 0, 300
    targets = np.arange(60) % 2 == 0
    for _ in range(studies):
        hard, rows = rng.standard_normal(60), []
        for _ in range(2):
            quality = rng.normal(1.0, 0.3, (5, 1))
            scores = quality * targets + hard + 0.5 * rng.standard_normal((5, 60))
            students = (lambda w, s=s: weighted_auroc(targets, s, w) for s in scores)
            rows.append(np.stack([jackknife_values(student, np.arange(60)) for student in students]))
        found = training_interval(*rows)
        held += found.low <= 0 <= found.high
    assert 0.92 <= held / studies <= 0.99


def test_the_interval_of_a_standard_deviation(rng):
    found = sd_interval([0.70, 0.72, 0.69, 0.75, 0.71])
    ends = found.low / found.estimate, found.high / found.estimate
    assert ends == pytest.approx((0.5991, 2.8736), abs=1e-4)  # tables
    assert np.isnan(sd_interval([0.7]).estimate)
    drawn = [sd_interval(values) for values in rng.normal(0, 2, (2000, 5))]
    assert np.mean([one.low <= 2 <= one.high for one in drawn]) == pytest.approx(0.95, abs=0.02)


def test_two_patients_are_enough():
    assert bootstrap_interval([1.0, 2.0], resamples=50).units == 2
    assert training_interval([[0, 0], [0, 0]], [[0.1, 0.2], [0.1, 0.3]]).units == 2


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
        (lambda: training_interval([[1, 2]], [[1, 2], [3, 4]]), "1 seeds of the baseline, 2 of the treatment"),
        (lambda: training_interval([[1, 2]], [[1, 2]], ["p", "p"]), "at least two patients"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(DataError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
