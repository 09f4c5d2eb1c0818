"""Comparison of maps on synthetic runs of 08: differences, families, reference maps, verdicts in words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pkd_utils.localization.suite import METRICS
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.comparisons import ONE_STUDENT, TOWARDS, UNSURE, holm
from pkd_utils.statistics.intervals import training_interval
from pkd_utils.studies.maps.comparison import TITLES, compare_maps, read_map_runs, seeds_by_images
from pkd_utils.studies.maps.controls import (
    CLAIMED,
    NO_CONTROL,
    NO_GAIN,
    NOT_MORE,
    arm_claims,
    arm_sentence,
    compare_arms,
)
from pkd_utils.studies.maps.evidence import NOT_TRAINED
from pkd_utils.studies.maps.verdicts import (
    ABSENT,
    BEATS,
    LOSES,
    UNDECIDED,
    beaten_table,
    cohort_verdict,
    compare_stability,
    compare_student_values,
    compare_with_references,
    levels_table,
)
from tests.studies.maps.conftest import map_runs, write_map_run

FEW = {"resamples": 300}
MAP, PAPER = "attention_mean", ["pixel_auroc", "iou", "fpr"]


def one_run(root, cohort="embedded", **options):
    return map_runs(root, {"cohort": cohort, **options})


def verdict(runs_of, differences):
    beaten = beaten_table(compare_with_references(runs_of, MAP))
    return cohort_verdict(runs_of, "embedded", differences, beaten, compare_arms(runs_of, MAP, PAPER))


@pytest.fixture
def moved(root):
    return one_run(root)


def test_a_shift_of_every_seed_is_found_on_its_own_side(moved):
    got = compare_maps(moved, **FEW).set_index(["map", "metric"])
    assert len(got) == 2 * len(METRICS) and set(TITLES) == set(METRICS)
    row = got.loc["attention_mean", "pixel_auroc"]
    assert row["estimate"] == pytest.approx(0.1, abs=0.04) == row["mmpkd"] - row["baseline"]
    assert row["low"] < row["low_students"] < row["estimate"] < row["high_students"] < row["high"]
    assert row["low_family"] < row["low"] and row["high_family"] > row["high"]
    assert (row["cliffs_delta"], row["mwu_p"]) == (1, pytest.approx(2 / 252)) and row["smallest_p"] == row["mwu_p"]
    assert (row["seeds"], row["images"], row["patients"], row["images_left_out"]) == (5, 24, 12, 0)
    assert row["verdict"] == TOWARDS
    distilled = (moved.per_image["map"] == "attention_mean") & (moved.per_image["weight"] > 0)
    moved.per_image.loc[distilled, "pixel_auroc"] -= (row["low"] + row["low_family"]) / 2
    less = compare_maps(moved, **FEW).set_index(["map", "metric"]).loc["attention_mean", "pixel_auroc"]
    assert less["low"] > 0 > less["low_family"] and less["verdict"] == UNSURE, "the metrics are judged together"
    lower = got.loc["attention_mean", "fpr"]
    assert lower["estimate"] < 0 and lower["verdict"] == TOWARDS, "a lower false positive rate is a move towards"


def test_estimate_is_that_of_the_images_every_student_has(moved):
    row = compare_maps(moved, **FEW).set_index(["map", "metric"]).loc["attention_mean", "fpr"]
    table = moved.per_image
    table = table[table["map"] == "attention_mean"]
    undefined = table.loc[table["fpr"].isna(), "image_id"].unique()
    assert row["images_left_out"] == len(undefined) == 1 and row["images"] == 23
    means = table[~table["image_id"].isin(undefined)].groupby("weight")["fpr"].mean()
    assert row["estimate"] == pytest.approx(means[0.5] - means[0.0])
    by_seed = table[~table["image_id"].isin(undefined)].groupby(["weight", "seed"])["fpr"].mean()
    assert row["sd_baseline"] == pytest.approx(by_seed[0.0].std(ddof=1))
    one = (moved.per_image["map"] == "rollout") & (moved.per_image["weight"] == 0.5) & (moved.per_image["seed"] == 2)
    moved.per_image.loc[moved.per_image.index[one][4], "iou"] = np.nan  # what one student lacks is left out for all
    row = compare_maps(moved, resamples=100).set_index(["map", "metric"]).loc["rollout", "iou"]
    assert (row["images"], row["images_left_out"]) == (23, 1) and np.isfinite(row["estimate"])


def test_seeds_are_compared_with_themselves(moved):
    """Luck that both methods of a seed share, larger than the effect, hides it from the paper's test alone."""
    moved.per_image["pixel_auroc"] += moved.per_image["seed"].fillna(0) / 10
    row = compare_maps(moved, **FEW).set_index(["map", "metric"]).loc["attention_mean", "pixel_auroc"]
    assert row["verdict"] == TOWARDS and row["mwu_p"] > 0.05
    table = moved.per_image[moved.per_image["map"] == "attention_mean"]
    means = table.pivot_table("pixel_auroc", "seed", "weight")
    assert row["sd_difference"] == pytest.approx((means[0.5] - means[0.0]).std(ddof=1))
    pair = [table[table["weight"] == w].pivot(index="seed", columns="image_id", values="pixel_auroc") for w in (0, 0.5)]
    who = table.drop_duplicates("image_id").set_index("image_id")["patient_id"][pair[0].columns]
    expected = training_interval(*pair, who)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    short = moved.per_image.query("not (weight == 0.5 and seed == 1) and not (weight == 0.0 and seed == 3)")
    got = compare_maps(replace(moved, per_image=short), **FEW).set_index(["map", "metric"])
    assert got.loc["rollout", "pixel_auroc"]["seeds"] == 3, "a seed without its other side is left out"
    apart = moved.per_image.assign(seed=moved.per_image["seed"] + 10 * (moved.per_image["weight"] > 0))
    got = compare_maps(replace(moved, per_image=apart), **FEW)
    assert (got["verdict"] == "no seed of both methods").all() and got["estimate"].isna().all()


def test_families_are_corrected_apart(root):
    got = compare_maps(map_runs(root, {}, {"cohort": "cbis_mass", "effect": 0.0}), **FEW)
    for (_, family), part in got.groupby(["cohort", "family"]):
        np.testing.assert_allclose(part["holm_p"], holm(part["mwu_p" if family == "paper" else "p"]))
    rest = got[got["family"] == "exploratory"]
    assert ((rest["verdict"] == UNSURE) == (rest["holm_p"] >= 0.05)).all()
    np.testing.assert_array_equal(rest["p"] < 0.05, (rest["low"] > 0) | (rest["high"] < 0))
    paper = got[got["family"] == "paper"]
    assert paper.groupby("cohort").size().to_dict() == {"cbis_mass": 3, "embedded": 3}
    assert set(paper["map"]) == {"attention_mean"} and set(paper["metric"]) == {"pixel_auroc", "iou", "fpr"}
    assert got.loc[got["family"] == "exploratory", "low_family"].isna().all()
    verdicts = got.groupby("cohort")["verdict"].agg(lambda v: (v == UNSURE).mean())
    assert verdicts["cbis_mass"] > 0.7 and verdicts["embedded"] < 0.2


def test_one_seed_gives_no_interval_over_trainings(root):
    runs_of = one_run(root, seeds=(0,))
    got = compare_maps(runs_of, **FEW)
    assert (got["verdict"] == ONE_STUDENT).all() and got[["low", "high", "mwu_p", "holm_p"]].isna().all(axis=None)
    assert got["low_students"].notna().all() and (got["seeds"] == 1).all()
    answer = verdict(runs_of, got)
    assert answer["answer"] == "cannot tell" and "one student a method" in answer["sentence"]
    arms = compare_arms(one_run(root / "arms", seeds=(0,), controls={"self": 0.0, "permuted": 0.0}), MAP, PAPER)
    assert "one student a method" in arm_sentence(arm_claims(arms), arms)


def test_untrained_students_get_no_test_no_interval_and_no_verdict(root):
    """However far their maps lie apart."""
    runs_of = one_run(root, effect=0.3, auroc=0.49)
    got = compare_maps(runs_of, **FEW)
    blank = ["low", "high", "low_students", "low_family", "cliffs_delta", "mwu_p", "holm_p"]
    assert (got["verdict"] == NOT_TRAINED).all() and got[blank].isna().all(axis=None) and got["estimate"].notna().all()
    answer = verdict(runs_of, got)
    assert answer["answer"] == NOT_TRAINED and "AUROC of 0.51 over 5 seed(s), lower bound 0.49" in answer["sentence"]
    assert answer["findings"] == []
    students = compare_student_values(runs_of, MAP).set_index("map")["p"]
    assert students.drop("classifier").isna().all() and np.isfinite(students["classifier"])
    old = runs_of.per_student.query("metric != 'map_range'")
    with pytest.raises(DataError, match="of embedded does not say map_range of a student: run 08 again"):
        compare_maps(replace(runs_of, per_student=old), **FEW)


def test_one_arm_has_levels_and_no_differences(root):
    runs_of = one_run(root, weights=(0.0,))
    got = compare_maps(runs_of, **FEW)
    assert len(got) == 0
    answer = verdict(runs_of, got)
    assert answer["answer"] == "nothing to compare" and "nothing is compared" in answer["sentence"]
    levels = levels_table(runs_of)
    assert set(levels["method"]) == {"baseline", "reference"}
    against = compare_with_references(runs_of, MAP)
    assert set(against["method"]) == {"baseline"}


def test_folds_that_share_no_image_and_folds_that_do(root):
    apart = one_run(root, folds=2)
    assert seeds_by_images(apart.per_image, "embedded", "rollout", "mmpkd")["iou"].shape == (5, 24)
    twice = apart.per_image.copy()
    again = twice[~twice["map"].str.startswith("reference")].assign(fold=lambda t: 1 - t["fold"])
    both = pd.concat([twice, again])
    assert seeds_by_images(both, "embedded", "rollout", "mmpkd")["iou"].shape == (10, 24)
    with pytest.raises(DataError, match="two values of one student"):
        seeds_by_images(pd.concat([both, again]), "embedded", "rollout", "mmpkd")


def test_two_runs_of_a_cohort_are_told_apart_and_bad_runs_refused(root):
    first, second = write_map_run(root), write_map_run(root, label="other", effect=0.0)
    both = read_map_runs([first, second])
    assert list(both.facts) == ["embedded/smoke", "embedded/other"] and both.per_image["cohort"].nunique() == 2
    with pytest.raises(DataError, match="each once"):
        read_map_runs([first, first])
    with pytest.raises(DataError, match="at least one run"):
        read_map_runs([])
    with pytest.raises(FileNotFoundError, match="08-score-all-maps"):
        read_map_runs(["mmpkd/embedded/08-score-all-maps/absent"])
    with pytest.raises(DataError, match="2 settings"):
        compare_maps(one_run(root, "cbis_mass", weights=(0.0, 0.5, 0.9)), **FEW)
    other = write_map_run(root, "cbis_calc", tolerance=15.0)
    with pytest.raises(DataError, match=r"differ in tolerance \(None and 15\.0\)"):
        read_map_runs([first, other])


def test_a_reference_map_that_a_cohort_lacks_is_not_lost_to(moved):
    rows = compare_with_references(moved, MAP)
    other = rows.assign(cohort="other", reference=rows["reference"].replace("uniform", "start weights"))
    beaten = beaten_table(pd.concat([rows, other]))
    assert (beaten.loc["embedded", "start weights"] == ABSENT).all() and (
        beaten.loc["other", "uniform"] == ABSENT
    ).all()
    alone = beaten_table(rows)["beats all"]
    assert (alone == "yes").any() and (beaten.loc[["embedded"], "beats all"] == alone).all()
    differences, taught = compare_maps(moved, **FEW), compare_arms(moved, MAP, PAPER)
    said = [cohort_verdict(moved, "embedded", differences, b, taught) for b in (beaten, beaten_table(rows))]
    assert said[0] == said[1]


def test_reference_maps_have_to_be_beaten_all(moved):
    against = compare_with_references(moved, "rollout")
    assert len(against) == 2 * 2 * 5
    row = against.set_index(["method", "map", "metric", "reference"]).loc["mmpkd", "rollout", "pixel_auroc", "uniform"]
    assert row["estimate"] == pytest.approx(0.25, abs=0.05) and row["verdict"] == BEATS
    table = beaten_table(against)
    assert list(table.columns)[-1] == "beats all" and (table["beats all"] == "yes").all()
    moved.per_image.loc[moved.per_image["map"] == "reference: body mask", "pixel_auroc"] = 0.9
    table = beaten_table(compare_with_references(moved, MAP, ["pixel_auroc"]))
    assert (table["beats all"] == "no").all() and (table["body mask"] == LOSES).all()
    undefined = compare_with_references(moved, MAP, ["fpr"]).query("reference == 'uniform'")
    assert (undefined["verdict"] == UNDECIDED).all() and (undefined["images"] == 0).all()
    with pytest.raises(DataError, match="is no metric"):
        compare_with_references(moved, MAP, ["dice"])


def test_levels_of_every_map_and_method_that_was_scored(moved):
    levels = levels_table(moved).set_index(["map", "method", "metric"])
    table = moved.per_image
    part = table[(table["map"] == "rollout") & (table["weight"] == 0.5)].groupby("seed")["iou"].mean()
    row = levels.loc["rollout", "mmpkd", "iou"]
    assert (row["mean"], row["sd"], row["seeds"]) == (pytest.approx(part.mean()), pytest.approx(part.std(ddof=1)), 5)
    assert levels.loc["reference: centre prior", "reference", "iou"]["mean"] == pytest.approx(0.37)
    assert np.isnan(levels.loc["reference: uniform", "reference", "fpr"]["mean"])
    fewer = table[(table["map"] != "rollout") | (table["method"] != "mmpkd")]  # controls have the first map alone
    levels = levels_table(replace(moved, per_image=fewer))
    assert set(levels.loc[levels["map"] == "rollout", "method"]) == {"baseline"}


@pytest.mark.parametrize(
    ("effect", "answer", "words"),
    [
        (0.1, "towards the region", "moves the attention towards the region"),
        (-0.1, "away from it", "moves the attention away"),
        (0.0, "cannot tell", "cannot tell whether"),
    ],
)
def test_verdict_in_words(root, effect, answer, words):
    runs_of = one_run(root, effect=effect)
    got = verdict(runs_of, compare_maps(runs_of, **FEW))
    assert got["answer"] == answer and words in got["sentence"] and "(simulated)" in got["sentence"]
    tried = compare_maps(runs_of, **FEW)
    others = tried.index[tried["family"] == "exploratory"]
    assert f"Of {len(others)} further maps" in got["sentence"]
    tried.loc[others[0], ["p", "holm_p"]] = np.nan  # no interval: no part of the family
    assert f"Of {len(others) - 1} further maps" in verdict(runs_of, tried)["sentence"]
    assert len(got["findings"]) == 3 + 4 and got["findings"][0].startswith("Obj. AUROC: ")
    assert "lower is better" in got["findings"][2]


def test_verdict_where_metrics_disagree_and_what_the_seeds_could_have_found(moved):
    moved.per_image.loc[moved.per_image["weight"] == 0.5, "iou"] -= 0.3
    rows = compare_maps(moved, **FEW).assign(detectable=0.1234)
    got = verdict(moved, rows)
    assert got["answer"] == "in both directions" and "2 of 3 metrics towards, 1 away" in got["sentence"]
    assert "5 seeds are likely to find 0.123" in got["findings"][0]


def test_values_of_students(root, moved):
    table = moved.per_student
    table.loc[(table["metric"] == "box_ap") & (table["weight"] > 0), "value"] = 0.4
    rising = table["metric"] == "test_auroc"  # by luck of the seed and, far less, by distillation
    gain = 0.01 + table["seed"] ** 2 / 1000
    table.loc[rising, "value"] = 0.5 + table["seed"] / 20 + gain * (table["weight"] > 0)
    boxes = table[table["metric"] == "box_ap"]
    more = [boxes.assign(metric=name) for name in ("insertion", "boxes", "pixel_auroc: size, lowest third", "tokens")]
    moved = replace(moved, per_student=pd.concat([table, *more], ignore_index=True))
    got = compare_student_values(moved, "rollout").set_index(["map", "metric"])
    assert set(got.loc["rollout"].index) == {"box_ap", "insertion", "boxes", "pixel_auroc: size, lowest third"}
    row = got.loc["rollout", "box_ap"]
    assert (row["estimate"], row["low"], row["high"], row["seeds"]) == pytest.approx((0.1, 0.1, 0.1, 5))
    row, gains = got.loc["classifier", "test_auroc"], 0.01 + np.arange(5) ** 2 / 1000
    expected = stats.t.interval(0.95, 4, gains.mean(), stats.sem(gains))
    assert (row["estimate"], row["low"], row["high"]) == pytest.approx((gains.mean(), *expected))
    assert (row["p"], row["wins"]) == (pytest.approx(stats.ttest_1samp(gains, 0).pvalue), 5)
    assert row["mwu_p"] > 0.5, "the paper's test takes the seeds as independent"
    lost = table.drop(table.index[rising & (table["seed"] == 4) & (table["weight"] == 0)])
    got = compare_student_values(replace(moved, per_student=lost), "rollout").set_index(["map", "metric"])
    row = got.loc["classifier", "test_auroc"]
    assert row["seeds"] == 4 and row["estimate"] == pytest.approx(gains[:4].mean()), "a seed without its other side"
    assert compare_student_values(one_run(root, "mass", seeds=(0,)), MAP)["low"].isna().all()
    assert len(compare_student_values(one_run(root, "calc", weights=(0.5,)), MAP)) == 0


def test_stability_is_compared_with_a_jackknife_over_seeds(moved):
    rng = np.random.default_rng(3)
    pairs = pd.DataFrame(
        [
            ("embedded", method, "rollout", a, b, level + rng.normal(0, 0.05))
            for method, level in (("baseline", 0.4), ("mmpkd", 0.7))
            for a in range(5)
            for b in range(a)
        ],
        columns=["cohort", "method", "map", "seed_a", "seed_b", "rank_correlation"],
    )
    got = compare_stability(replace(moved, stability=pairs)).iloc[0]
    means = pairs.groupby("method")["rank_correlation"].mean()
    assert got["estimate"] == pytest.approx(means["mmpkd"] - means["baseline"]) and got["seeds"] == 5
    variance = 0
    for _, part in pairs.groupby("method"):
        out = [part[(part["seed_a"] != s) & (part["seed_b"] != s)]["rank_correlation"].mean() for s in range(5)]
        variance += 4 * np.var(out)
    assert got["high"] - got["estimate"] == pytest.approx(stats.t.ppf(0.975, 8) * np.sqrt(variance))
    few = replace(moved, stability=moved.stability.query("seed_b < 2"))
    assert compare_stability(few)[["low", "high"]].isna().all(axis=None)
    assert len(compare_stability(replace(moved, stability=moved.stability[:0]))) == 0


@pytest.mark.parametrize(
    ("controls", "claim", "taught", "words"),
    [
        ({"self": 0.0, "permuted": 0.0}, CLAIMED, "yes", "3 of 3 outcomes gain more than under a self-distilled"),
        ({"self": 0.0, "permuted": 0.1}, NOT_MORE, "cannot tell", "0 of 3 outcomes gain more than"),
        ({"self": 0.1, "permuted": 0.0}, NOT_MORE, "cannot tell", "true differences of 0."),
        (None, NO_CONTROL, NO_CONTROL, "No control was trained (self-distilled, permuted teacher), so no gain"),
        ({"self": 0.0}, NO_CONTROL, NO_CONTROL, "No control was trained (permuted teacher)"),
    ],
)
def test_a_gain_is_the_reports_only_if_no_control_has_it(root, controls, claim, taught, words):
    runs_of = one_run(root, controls=controls)
    arms = compare_arms(runs_of, MAP, PAPER)
    claims = arm_claims(arms)
    assert (claims["claim"] == claim).all() and claims.index.tolist() == [("embedded", metric) for metric in PAPER]
    assert len(arms) == 3 * {0: 1, 1: 3, 2: 5}[len(controls or {})]
    assert words in arm_sentence(claims, arms)
    told = verdict(runs_of, compare_maps(runs_of, **FEW))
    assert told["answer"] == "towards the region" and told["taught"] == taught and words in told["sentence"]


def test_arms_have_the_intervals_of_the_papers_question(root):
    runs_of = one_run(root, controls={"self": 0.0, "permuted": 0.05})
    paper = compare_maps(runs_of, **FEW).query("family == 'paper'").set_index("metric")
    arms = compare_arms(runs_of, MAP, PAPER).set_index(["method", "against", "metric"])
    for metric in PAPER:
        ours = arms.loc[("mmpkd", "baseline", metric)]
        want = paper.loc[metric, ["estimate", "low_family", "high_family"]].tolist()
        assert ours[["estimate", "low", "high"]].tolist() == pytest.approx(want)
    gains = [arms.loc[(*pair, "iou"), "estimate"] for pair in [("mmpkd", "baseline"), ("permuted", "baseline")]]
    assert arms.loc[("mmpkd", "permuted", "iou"), "estimate"] == pytest.approx(gains[0] - gains[1])


def test_nothing_is_claimed_without_a_gain_or_of_a_flat_control(root):
    idle = compare_arms(one_run(root, "cbis_mass", effect=0.0, controls={"self": -0.2, "permuted": -0.2}), MAP, PAPER)
    assert (arm_claims(idle)["claim"] == NO_GAIN).all(), "better than both controls, and not than the baseline"
    assert NO_GAIN == "not shown"  # a gain that cannot be told is not said to be none
    runs_of = one_run(root, controls={"self": -0.2, "permuted": -0.2})
    flat = runs_of.per_student.copy()
    flat.loc[(flat["method"] == "permuted") & (flat["metric"] == "map_range"), "value"] = 1e-6
    arms = compare_arms(replace(runs_of, per_student=flat), MAP, PAPER)
    hidden = arms["verdict"] == NOT_TRAINED
    assert (hidden == arms[["method", "against"]].eq("permuted").any(axis=1)).all() and hidden.sum() == 6
    assert arms.loc[hidden, "low"].isna().all() and (arm_claims(arms)["claim"] == NOT_MORE).all()
