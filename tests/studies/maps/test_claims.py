"""What the paper claims, tested: known answers, and error rates in simulated studies."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pkd_utils.statistics.comparisons import equivalence, welch_test
from pkd_utils.statistics.intervals import Interval, training_interval
from pkd_utils.statistics.metrics import macro_auroc
from pkd_utils.studies.maps import claims

METRIC = {"cohort": "a", "metric": "iou"}


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def students(rng, shift=0.0, seed_sd=0.02, patients=40):
    """Five students of one method on one image a patient: (5, patients)."""
    luck, hard = seed_sd * rng.standard_normal((5, 1)), 0.1 * rng.standard_normal(patients)
    return 0.5 + shift + luck + hard + 0.05 * rng.standard_normal((5, patients))


@pytest.mark.parametrize(
    ("name", "simulated", "same"),
    [("mimic_cxr", False, True), ("mimic_cxr", True, False), ("cbis_mass", False, True), ("openi", False, False)],
)
def test_the_papers_data_are_named_so(name, simulated, same):
    said = claims.whose_data({"name": name, "simulated": simulated})
    assert ("other data" not in said) == same


def test_the_papers_numbers():
    table = claims.reported().set_index(["dataset", "metric", "method"])
    assert len(table) == 24 and set(table.index.levels[0]) == set(claims.PAPER_COHORTS)
    auroc = table.xs("AUROC", level="metric")["mean"].unstack()
    auroc = auroc.loc[["MIMIC-CXR", "Mass", "Calcification"], ["Baseline", "MMPKD"]]
    assert auroc.to_numpy().tolist() == [[0.77, 0.77], [0.62, 0.64], [0.62, 0.62]]
    marks = table["marks"].xs("MIMIC-CXR").xs("MMPKD", level="method")
    assert marks.loc[["Obj. AUROC", "IoU", "FPR"]].tolist() == ["*", "**", "**"]
    effects = claims.reported_effects(claims.reported()).set_index(["dataset", "metric"])
    row = effects.loc["MIMIC-CXR", "IoU"]
    assert (row["estimate"], row["error"]) == pytest.approx((0.11, np.sqrt((0.03**2 + 0.04**2) / 5)))
    assert row["freedom"] == pytest.approx(4 * (9 + 16) ** 2 / (9**2 + 16**2))


def test_spread_is_held_against_a_bar():
    values = np.array([0.40, 0.55, 0.35, 0.60, 0.45, 0.50, 0.30, 0.65])
    table = pd.DataFrame({"method": ["A"] * 8 + ["B"] * 8, "iou": [*values, *(0.5 + (values - 0.5) / 100)]})
    found = claims.spread(table, bar=0.03).set_index("method")
    assert found.loc["A", "sd"] == pytest.approx(values.std(ddof=1)) and found.loc["A", "verdict"] == "holds"
    assert found.loc["B", "verdict"] == "does not hold"
    assert (claims.spread(table, bar=0.12)["verdict"] == ["cannot tell", "does not hold"]).all()


def test_accurate_and_misleading_maps_of_a_run(rng):
    aurocs = np.tile(np.r_[np.full(30, 0.8), np.full(20, 0.5), np.full(50, 0.6)], (5, 1))
    aurocs[0, 30:50] = 0.55  # one run has no misleading map
    found = claims.coexistence(aurocs, np.arange(100), accurate=0.8, misleading=0.5, share=0.1)
    assert (found["accurate"], found["misleading"]) == pytest.approx((0.3, 0.16))
    assert (found["runs_with_both"], found["runs"]) == (4, 5)
    expected = training_interval(np.zeros((5, 100)), aurocs <= 0.5, np.arange(100))
    assert (found["misleading_low"], found["misleading_high"]) == pytest.approx((max(0, expected.low), expected.high))
    assert found["verdict"] == "cannot tell"
    limits = {"accurate": 0.8, "misleading": 0.5}
    assert claims.coexistence(aurocs[1:], np.arange(100), **limits, share=0.1)["verdict"] == "holds"
    assert claims.coexistence(aurocs[1:], np.arange(100), **limits, share=0.5)["verdict"] == "does not hold"


def test_prediction_is_taken_apart_by_patient(rng):
    truth = (rng.random((30, 2)) < 0.5).astype(float)
    scores = [rng.standard_normal((30, 2)) + truth for _ in range(3)]
    found = claims.prediction_values(truth, scores, np.arange(30) // 2)
    assert found.shape == (3, 15)
    np.testing.assert_allclose(found.mean(1), [macro_auroc(truth, one) for one in scores])


def test_settings_are_equal_only_if_all_pairs_are(rng):
    base = students(rng)
    near, far = base + 0.005 + 0.002 * rng.standard_normal((5, 1)), base + 0.1 + 0.002 * rng.standard_normal((5, 1))
    found = claims.equal_settings({"a": base, "b": near}, margin=0.02)
    assert found["verdict"] == "equivalent" and found["difference"] == pytest.approx(0.005, abs=0.004)
    found = claims.equal_settings({"a": base, "b": near, "c": far}, margin=0.02)
    assert found["verdict"] == "differs by more" and "c" in (found["first"], found["second"]) and found["p"] > 0.9
    assert found["smallest_margin"] > found["difference"]
    three = {"a": base, "b": base + np.array([[0.04], [0.05], [0.06], [0.045], [0.055]]), "c": base + 1e-4}
    low = equivalence(training_interval(three["a"], three["b"]), 1.0).low
    assert claims.equal_settings({name: three[name] for name in "ab"}, 0.99 * low)["verdict"] == "differs by more"
    assert claims.equal_settings(three, 0.99 * low)["verdict"] == "cannot tell"  # one of three pairs: corrected
    offset = np.array([[0.03], [-0.02], [0.02], [-0.03], [0.001]])
    assert claims.equal_settings({"a": base, "b": base + offset}, margin=0.02)["verdict"] == "cannot tell"


def test_the_papers_prediction_is_stable_where_its_own_numbers_say_so():
    said = claims.reported_stability("MIMIC-CXR", 0.02)
    p = stats.t.sf(0.02 / np.sqrt(2 * 0.01**2 / 5), 8)  # 0.77 +- 0.01 twice, five runs each
    assert claims.reported_aurocs("MIMIC-CXR") == "0.77 ± 0.01 to 0.77 ± 0.01" and claims.reported_aurocs("") == ""
    assert said == f"stable within 0.02: holds (p = {p:.3f})"
    assert "cannot tell" in claims.reported_stability("Mass", 0.02)
    found = Interval(0.0, -0.02, 0.02, 0.95, "", 5, error=0.01, freedom=4.0)
    assert claims.stability(found, 0.015).endswith(f"; {0.01 * stats.t.isf(0.05, 4):.3f} could have been shown)")


def test_a_grid_is_read_by_setting_seed_and_validation_image(rng):
    ids = [f"i{k}" for k in range(12)]
    images = pd.DataFrame({"patient_id": np.arange(12) // 2, "a": np.arange(12) % 2.0}, index=ids)
    rows = []
    for weight in (0.0, 0.5, 1.0):
        for seed in (0, 1):
            one = {"image_id": ids, "weight": weight, "temperature": 2.0, "fold": 0, "seed": seed, "split": "validate"}
            rows.append(pd.DataFrame(one).assign(a=rng.standard_normal(12)))
    table = pd.concat([*rows, rows[2].assign(split="test"), rows[2].assign(fold=1)]).sample(frac=1, random_state=0)
    found = claims.grid_values(table, images, ["a"])
    assert list(found) == ["lambda 0.5, T 2", "lambda 1, T 2"]  # lambda 0 is no setting of the grid
    expected = [macro_auroc(images[["a"]], one[["a"]]) for one in rows[2:4]]
    np.testing.assert_allclose(found["lambda 0.5, T 2"].mean(1), expected)
    assert "2 settings, farthest apart lambda 0.5, T 2 and lambda 1, T 2" in claims.grid_sentence(found, 0.02)
    assert claims.grid_sentence({}, 0.02).startswith("no grid")


def effects_of(rng, shifts):
    """Estimates of one metric in cohorts whose effect is `shifts`, as `compare_maps` gives them."""
    sizes = (0.01, 0.03, 0.02), (20, 40, 80)
    rows = []
    for k, shift in enumerate(shifts):
        found = training_interval(*(students(rng, s, sizes[0][k], sizes[1][k]) for s in (0.0, shift)))
        rows.append({**METRIC, "cohort": k, "estimate": found.estimate, "error": found.error, "freedom": found.freedom})
    return pd.DataFrame(rows)


def test_a_dependence_on_the_cohort_is_found_and_rarely_invented(rng):
    """Three cohorts of other sizes and spreads: one effect for all, then an effect in one of them alone."""
    shares = []
    for shifts, studies in (((0.05, 0.05, 0.05), 200), ((0.2, 0.0, 0.0), 20)):
        found = pd.concat([claims.effect_by_cohort(effects_of(rng, shifts)) for _ in range(studies)])
        shares.append((found["verdict"] == "holds").mean())
    assert 0.01 <= shares[0] <= 0.075 and shares[1] > 0.95


def test_effect_by_cohort_in_numbers():
    table = pd.DataFrame({"cohort": ["a", "b"] * 2 + ["a"], "metric": ["iou"] * 2 + ["fpr"] * 2 + ["auroc"]})
    table["estimate"], table["error"], table["freedom"] = [0.10, 0.01, 0.02, 0.0, 0.1], 0.02, 4.0
    found = claims.effect_by_cohort(table).set_index("metric")
    assert list(found.index) == ["iou", "fpr"]  # of one cohort nothing is compared
    assert found.loc["iou", "f"] == pytest.approx((0.09 / np.hypot(0.02, 0.02)) ** 2)
    assert found.loc["iou", "holm_p"] == pytest.approx(2 * found.loc["iou", "p"])
    assert found["verdict"].tolist() == ["holds", "cannot tell"]
    assert found["range"].tolist() == pytest.approx([0.09, 0.02])
    least = found.loc["fpr", "detectable"]
    said = claims.dependence_sentences(found.reset_index())[1]
    assert "depends on the data set (contribution 3): cannot tell" in said
    assert f"had two lain {least:.3f} apart" in said
    assert "not tested" in claims.dependence_sentences(claims.effect_by_cohort(table[:1]))[0]


@pytest.mark.parametrize("errors", [(0.02, 0.02), (0.02, 0.02, 0.02), (0.03, 0.01, 0.03, 0.02)])
def test_a_detectable_dependence_is_told_with_the_chance_asked_for(errors):
    """The two least certain cohorts lie so far apart, the others between them; three metrics share the level."""
    rng, k, errors = np.random.default_rng(0), len(errors), np.array(errors)
    rows = [(cohort, metric, 0.0, errors[cohort], 9.0) for cohort in range(k) for metric in "abc"]
    table = pd.DataFrame(rows, columns=["cohort", "metric", "estimate", "error", "freedom"])
    least = claims.effect_by_cohort(table)["detectable"].iloc[0]
    shifts = np.full(k, least / 2)
    shifts[[0, -1 if k < 4 else 2]] = 0, least
    seeds = (errors * np.sqrt(10))[:, None] * rng.standard_normal((2000, k, 10)) + shifts[:, None]
    means, found = seeds.mean(2), seeds.std(2, ddof=1) / np.sqrt(10)
    p = [welch_test(*study, np.full(k, 9.0))[1] for study in zip(means, found, strict=True)]
    assert np.mean(np.array(p) < 0.05 / 3) == pytest.approx(0.8, abs=0.05)
