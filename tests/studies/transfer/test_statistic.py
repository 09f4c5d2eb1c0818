"""Claims and their error, on data whose answer is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs import paths, showing
from pkd_utils.statistics.intervals import draw_counts
from pkd_utils.statistics.metrics import auroc, weighted_auroc
from pkd_utils.studies.transfer import arms, experiment, protocol, statistic

PLAN, _, _ = protocol.read(paths.resolve("book/protocols/case-or-label-smoke.yml"))
CELL = ("semi-synthetic", "future")
NAMES = list(arms.ARMS)


def partition(labels, scores, folds=1):
    """A partition whose studies are tested in so many folds."""
    values = np.empty(scores.shape)
    for fold in range(folds):
        rows = np.arange(len(labels)) % folds == fold
        values[:, rows] = experiment.placements(labels[rows], scores[:, rows])
    return experiment.Partition({CELL: values}, {CELL: labels}, pd.DataFrame(), pd.DataFrame())


def found_of(shifts, error=0.004, resamples=999, cell=CELL):
    """Resamples of each arm's AUROC: independent, around 0.7 plus a shift."""
    rng = np.random.default_rng(0)
    means = np.array([0.7 + shifts.get(arm, 0.0) for arm in NAMES])
    drawn = error * rng.standard_normal((resamples, len(NAMES)))
    return {cell: statistic.Resamples(means, np.zeros_like(drawn), drawn, np.zeros_like(drawn))}


def test_placement_values_have_the_auroc_as_their_mean_ties_half():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 50).astype(float), rng.integers(0, 6, (3, 50)).astype(float)
    values = experiment.placements(labels, scores)
    for row, own in zip(values, scores, strict=True):
        assert row[labels == 1].mean() == pytest.approx(auroc(labels, own))
        assert row[labels == 0].mean() == pytest.approx(auroc(labels, own))
    assert np.isnan(experiment.placements(np.ones(4), scores[:, :4])).all()


def test_reweighted_placements_follow_the_exact_weighted_auroc():
    rng = np.random.default_rng(1)
    labels = (rng.random(400) < 0.2).astype(float)
    scores = rng.standard_normal((len(NAMES), 400)) + labels
    found = statistic.resampled([partition(labels, scores)] * 2, 1000 + np.arange(400), 300, 5)[CELL]
    assert found.estimate[0] == pytest.approx(auroc(labels, scores[0]), abs=1e-6)
    counts = draw_counts(np.random.default_rng(5).integers(400, size=(300, 400)), 400)
    exact = weighted_auroc(labels, scores[0], counts)
    assert np.corrcoef(found.patients[:, 0], exact)[0, 1] > 0.99
    assert found.patients[:, 0].std() == pytest.approx(exact.std(), rel=0.05)
    assert np.abs(found.partitions).max() < 1e-6 and np.abs(found.rest).max() < 1e-6  # both partitions are the same


def test_a_resample_without_a_positive_keeps_the_estimate():
    labels = (np.arange(40) < 2).astype(float)
    scores = np.random.default_rng(0).standard_normal((len(NAMES), 40)) + 4 * labels
    found = statistic.resampled([partition(labels, scores)] * 2, np.arange(40), 300, 0)[CELL]
    counts = draw_counts(np.random.default_rng(0).integers(40, size=(300, 40)), 40)
    without = counts[:, :2].sum(1) == 0
    assert without.sum() > 20 and found.patients[without].min() > -0.1


def test_patients_are_drawn_whole():
    rng = np.random.default_rng(2)
    once = (rng.random(100) < 0.4).astype(float)
    scores = rng.standard_normal((len(NAMES), 100)) + once
    twice = [partition(np.tile(once, 2), np.tile(scores, 2))] * 2
    apart, together = (statistic.resampled(twice, p, 800, 0)[CELL].patients[:, 0].std()
                       for p in (np.arange(200), np.tile(np.arange(100), 2)))  # fmt: skip
    assert together / apart == pytest.approx(2**0.5, rel=0.15)


def test_partitions_are_drawn_too():
    rng = np.random.default_rng(3)
    labels = (rng.random(300) < 0.5).astype(float)
    shift = np.linspace(0, 3, 6)
    many = [partition(labels, rng.standard_normal((len(NAMES), 300)) + s * labels) for s in shift]
    found = [statistic.resampled(p, np.arange(300), 500, 0)[CELL] for p in (many, many[2:4] * 3)]
    assert found[0].partitions[:, 0].std() > 2 * found[1].partitions[:, 0].std()
    aurocs = np.array([auroc(labels, 0 * labels) + np.mean(p.values[CELL][0] - 0.5) for p in many])
    factor = 6 / 5 * (2.571 / 1.96) ** 2  # of the variance: six partitions, Student's t with five degrees of freedom
    assert found[0].partitions[:, 0].var() == pytest.approx(factor * aurocs.var() / 6, rel=0.15)


@pytest.mark.parametrize("patient", [0.0, 1.0])
def test_placebo_against_placebo_holds_its_error(patient):
    """Arms differ by chance alone: by what they make of a patient in every partition, and in each partition anew."""
    rng, wrong, studies, spread = np.random.default_rng(4), 0, 200, []
    for _ in range(studies):
        labels = (rng.random(120) < 0.3).astype(float)
        always = labels + rng.standard_normal(120) + patient * rng.standard_normal((len(NAMES), 120))
        many = [partition(labels, always + rng.standard_normal((len(NAMES), 120)), 2) for _ in range(6)]
        found = statistic.resampled(many, np.arange(120), 200, 0)
        wrong += statistic.placebo_errors(found, 0.95)[0]
        estimate, drawn = found[CELL].difference(arms.AGAIN, arms.PERMUTED)
        spread.append((estimate**2, drawn.var()))
    assert wrong / studies <= 0.05 + 3 * (0.05 * 0.95 / studies) ** 0.5
    true, said = np.mean(spread, axis=0)
    assert 0.85 < (said / true) ** 0.5 < 1.4  # neither too sure nor far too wide


ABOVE = {arms.TEXT: 0.03, arms.ORACLE: 0.1}


@pytest.mark.parametrize(
    ("shifts", "flips", "reading"),
    [
        (ABOVE, 0.0, statistic.TAUGHT),
        (ABOVE | {arms.CLEAN_PERMUTED: 0.03}, 0.0, statistic.TAUGHT),  # without flips it is one more placebo
        (ABOVE, 0.3, statistic.TAUGHT),
        (ABOVE | {arms.CLEAN_PERMUTED: 0.03}, 0.3, statistic.CLEANED),
        (ABOVE | {arms.SELF: 0.045}, 0.0, statistic.NOTHING),
        (ABOVE | {arms.PERMUTED: 0.045}, 0.3, statistic.NOTHING),
        ({arms.TEXT: -0.02}, 0.0, statistic.NOTHING),
        (ABOVE | {arms.SELF: 0.03}, 0.0, statistic.UNSURE),
        ({arms.TEXT: 0.01}, 0.0, statistic.UNSURE),
    ],
)
def test_a_gain_is_claimed_only_above_all_three(shifts, flips, reading):
    settings = {"semi-synthetic": replace(PLAN.settings["semi-synthetic"], flips=flips)}
    claims = statistic.claims(found_of(shifts), replace(PLAN, settings=settings)).set_index("report")
    row = claims.loc[arms.TEXT]
    assert row["reading"] == reading
    assert row["claimed"] == (reading in (statistic.TAUGHT, statistic.CLEANED))
    assert row["over_image"] == pytest.approx(shifts[arms.TEXT])
    assert row["detectable"] == pytest.approx((1.96 + 0.842) * 0.004 * 2**0.5, rel=0.12)


def test_outcomes_are_corrected_together_and_their_mean_is_not():
    found = {}
    for number in range(5):
        found |= found_of({arms.TEXT: 0.013}, cell=("semi-synthetic", f"outcome {number}"))
    claims = statistic.claims(statistic.with_means(found), PLAN)
    claims = claims[claims["report"] == arms.TEXT].set_index("outcome")
    mean = claims.loc[statistic.MEAN]
    assert mean["p_holm"] == mean["p"] and mean["claimed"]
    singles = claims.drop(index=statistic.MEAN)
    assert (singles["p"] < 0.025).all() and not singles["claimed"].any()
    assert (singles["detectable"] > mean["detectable"]).all()


def test_sentences_and_controls_say_what_came_out():
    shuffled = found_of({}, cell=("semi-synthetic-shuffled", "future"))
    found = found_of(ABOVE) | shuffled | found_of({arms.TEXT: 0.01, arms.ORACLE: 0.0}, cell=("clean", "finding"))
    found |= found_of({arms.TEXT: 0.05, arms.ORACLE: 0.09}, cell=("flips-30", "finding"))
    gains, claims = statistic.gains(found, 0.95), statistic.claims(found, PLAN)
    told = statistic.sentences(claims, PLAN)
    assert "primary endpoint" in told[0] and told[0].endswith(f"{statistic.TAUGHT}.")
    assert any("would have told" in sentence for sentence in told)
    ladder = {0.0: "clean", 0.3: "flips-30"}
    came_out = statistic.controls(gains, claims, ladder, "finding")
    assert len(came_out) == 3 and not any("failure" in sentence for sentence in came_out)
    assert "of flips and, with flips, stays below the oracle's" in came_out[-1]
    flat = statistic.controls(gains, claims, {0.0: "flips-30", 0.3: "clean"}, "finding")
    assert "failure" in flat[-1]
    for table in (gains, claims):
        assert showing.records("table", table, rows_allowed=False)
