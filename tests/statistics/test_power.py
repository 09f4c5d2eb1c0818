"""Power of the paired t and the Mann-Whitney test against scipy's p-values, closed forms and brute force."""

from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pkd_utils.runs.errors import DataError
from pkd_utils.runs.paths import resolve
from pkd_utils.statistics import power


@pytest.fixture(scope="module")
def table1():
    return pd.read_csv(resolve("book/reported/mmpkd-table1.csv"))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (5, 5), (7, 4), (20, 20), (30, 30)])
def test_counts_of_u(n, m):
    counts = power.u_distribution(n, m)
    assert counts.sum() == comb(n + m, n) and counts.min() >= 0
    assert (counts == counts[::-1]).all() and counts[0] == counts[-1] == 1
    assert np.average(np.arange(n * m + 1), weights=counts) == pytest.approx(n * m / 2)


def test_critical_u_is_where_scipys_p_passes():
    rng = np.random.default_rng(0)
    seen = {}
    for _ in range(400):
        order = rng.permutation(11)
        a, b = order[:5], order[5:]
        test = stats.mannwhitneyu(a, b, method="exact")
        seen[int(max(test.statistic, 30 - test.statistic))] = test.pvalue
    for alpha in (0.05, 0.05 / 3):
        u = power.critical_u(5, 6, alpha)
        assert all((p <= alpha) == (value >= u) for value, p in seen.items())
    assert power.critical_u(5, 5, 0.05) == 23 and power.critical_u(5, 5, 2 / 252) == 25
    assert power.critical_u(5, 5, 0.05 / 9) is None and power.critical_u(3, 3) is None
    assert power.critical_u(4, 4) == 16


def test_shift_from_which_on_a_study_is_significant():
    """Just above its shift a simulated study has p <= alpha, just below it has not."""
    rng = np.random.default_rng(5)
    shifts = power.rejection_shifts(5, 6, [0.05], sd=(1, 2), simulations=30, seed=5)[0]
    a, b = rng.standard_normal((30, 5)), rng.standard_normal((30, 6)) * 2
    for i, shift in enumerate(shifts):
        above = stats.mannwhitneyu(b[i] + shift + 1e-9, a[i], method="exact")
        below = stats.mannwhitneyu(b[i] + shift - 1e-9, a[i], method="exact")
        assert above.pvalue <= 0.05 and above.statistic > 15
        assert below.pvalue > 0.05 or below.statistic < 15


def test_shifts_of_two_levels_are_ranks_of_all_differences():
    """With many values numpy orders them no further than asked."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((40, 30)), rng.standard_normal((40, 30))
    ordered = np.sort((a[:, :, None] - b[:, None]).reshape(40, -1))
    shifts = power.rejection_shifts(30, 30, [0.05, 0.01], simulations=40, seed=1)
    assert (shifts == ordered[:, [power.critical_u(30, 30, alpha) - 1 for alpha in (0.05, 0.01)]].T).all()


def test_power_without_a_difference_is_half_the_exact_size():
    exact = power.u_distribution(5, 5)[23:].sum() / comb(10, 5)
    assert power.power_at(0.0, 5, 5, simulations=200_000) == pytest.approx(exact, abs=0.001)
    # At alpha = 2/252 all five must beat all five: without a difference one ranking in 252.
    assert power.power_at(0.0, 5, 5, 2 / 252, simulations=100_000) == pytest.approx(1 / 252, abs=0.0008)


def test_detectable_is_where_power_is_reached():
    found = power.detectable(5, 5, simulations=20_000)
    again = power.power_at(found.difference, 5, 5, simulations=20_000, seed=1)
    assert again == pytest.approx(0.8, abs=0.012)
    assert found.low <= found.difference <= found.high and found.high - found.low < 0.06
    # Two-sample t test of the same size: about 2.02; the rank test at its coarse level (p <= 0.032) needs a bit more.
    assert 2.0 < found.difference < 2.35
    assert found == power.detectable(5, 5, simulations=20_000)
    few = power.detectable(5, 5, power=0.99, simulations=100)  # the upper bound is the largest simulated
    assert few.high == power.rejection_shifts(5, 5, [0.05], simulations=100).max()


def test_scale_and_impossible_levels():
    one = power.detectable(6, 6, simulations=3000).difference
    assert power.detectable(6, 6, sd=(0.1, 0.1), simulations=3000).difference == pytest.approx(one / 10)
    assert power.detectable(5, 5, 0.05 / 9, simulations=100).difference == np.inf
    assert power.power_at(99, 5, 5, 0.05 / 9, simulations=100) == 0
    assert power.power_at(-1.5, 5, 5, simulations=500) == power.power_at(1.5, 5, 5, simulations=500) > 0.1


def test_heavier_tails_have_the_same_sd_and_another_answer():
    drawn = power.draws(np.random.default_rng(0), (400_000,), 5.0)
    assert drawn.std() == pytest.approx(1, abs=0.02)
    normal, heavy = (power.detectable(10, 10, tail_df=df).difference for df in (None, 3.0))
    assert heavy < normal, "for a given sd, ranks gain from heavy tails"


def test_detectable_table_is_of_the_paired_t_test():
    table = power.detectable_table((5, 8), 0.05, 0.8, 20_000)
    assert len(table) == 12 and table["distribution"].nunique() == 2
    rows = table.set_index(["seeds", "tests", "distribution"])["detectable"]
    for n in (5, 8):
        for tests in power.FAMILIES:
            noncentral = rows[n, tests, "normal"] * np.sqrt(n)
            assert stats.nct.sf(stats.t.isf(0.025 / tests, n - 1), n - 1, noncentral) == pytest.approx(0.8, abs=0.012)
    assert set(table["smallest_sign_flip_p"]) == {1 / 16, 1 / 128}


def test_seeds_needed():
    n = power.seeds_needed(1.5, simulations=4000)
    assert power.power_at(1.5, n, n, simulations=4000) >= 0.8 > power.power_at(1.5, n - 1, n - 1, simulations=4000)
    assert power.seeds_needed(0.3, simulations=200) is None


def test_table_1(table1):
    got = power.reported_differences(table1, alpha=0.05, power=0.8, simulations=3000).set_index(["dataset", "metric"])
    assert list(got.index) == list(dict.fromkeys(zip(table1["dataset"], table1["metric"], strict=True)))
    assert len(got) == 9
    row = got.loc["MIMIC-CXR", "IoU"]
    assert row["difference"] == pytest.approx(0.11) and row["marked"] and row["reached_1"] and not row["reached_9"]
    assert row["standardised"] == pytest.approx(0.11 / np.sqrt((0.03**2 + 0.04**2) / 2))
    mass = got.loc["Mass", "Obj. AUROC"]
    assert mass["difference"] == pytest.approx(-0.07) and not mass["reached_1"] and not mass["marked"]
    assert mass["detectable"] == pytest.approx(power.detectable(5, 5, sd=(0.14, 0.09), simulations=3000).difference)
    # Chi-squared of 8 degrees from a table: 17.535 at 0.975, 2.180 at 0.025.
    assert mass["detectable_low"] / mass["detectable"] == pytest.approx(np.sqrt(8 / 17.535), abs=1e-3)
    assert mass["detectable_high"] / mass["detectable"] == pytest.approx(np.sqrt(8 / 2.180), abs=1e-3)
    assert (got["reached_1"] == (got["difference"].abs() >= got["detectable_1"])).all()
    assert np.isinf(got["detectable_9"]).all()


def test_detectable_differences_are_of_the_interval_for_new_trainings():
    got = power.detectable_differences(pd.DataFrame({"error": [0.1, np.nan], "freedom": [4.0, np.nan]}), 0.05, 0.8)
    assert stats.nct.sf(stats.t.isf(0.025, 4), 4, got[0] / 0.1) == pytest.approx(0.8) and np.isnan(got[1])


def test_refusals():
    for options in ({"n": 0}, {"n": 31}, {"alpha": 0}, {"tail_df": 2}, {"power": 1}):
        ((name, value),) = options.items()
        with pytest.raises(DataError, match=f"{name} = {value}"):
            power.detectable(**{"n": 5, "m": 5, **options})
