"""AUROCs are the exact share of pairs and scikit-learn's; undefined labels are named, never warned about."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import (
    auroc,
    class_aurocs,
    column_aurocs,
    macro_auroc,
    micro_auroc,
    micro_average_precision,
    prediction_scores,
    weighted_auroc,
)


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    targets = (rng.random((80, 5)) < 0.3).astype(float)
    scores = np.round(rng.normal(size=(80, 5)) + targets, 1)  # rounded: ties
    targets[rng.random((80, 5)) < 0.2] = np.nan
    return targets, scores


def test_equals_scikit_learn_on_known_targets(data):
    targets, scores = data
    table = prediction_scores(targets, scores, list("abcde"))
    for column, row in enumerate(table.iloc[:5].itertuples()):
        known = ~np.isnan(targets[:, column])
        y, s = targets[known, column], scores[known, column]
        pairs = np.sign(np.subtract.outer(s[y == 1], s[y == 0])) + 1
        assert row.auroc == pairs.sum() / 2 / pairs.size == auroc(targets[:, column], scores[:, column])
        assert row.auroc == pytest.approx(roc_auc_score(y, s), rel=0, abs=1e-15)  # it sums rounded trapezia
        assert row.auprc == average_precision_score(targets[known, column], scores[known, column])
        assert (row.positives, row.negatives) == ((targets[:, column] == 1).sum(), (targets[:, column] == 0).sum())
        assert row.unknown == 80 - known.sum()
        assert row.note == ""
    assert table["label"].tolist() == [*"abcde", "macro"]
    assert prediction_scores([1, 0, 1], [0.2, 0.1, 0.3])["auroc"].tolist() == [1, 1]  # one label as a vector
    assert table["auroc"].iloc[-1] == table["auroc"].iloc[:5].mean() == macro_auroc(targets, scores)
    assert table["auprc"].iloc[-1] == table["auprc"].iloc[:5].mean()


def test_many_scores_of_the_same_cases_have_each_their_auroc(data):
    y, scores = data[0][:, 0], data[1]
    assert column_aurocs(y, scores).tolist() == [auroc(y, column) for column in scores.T]
    for one_class in (np.ones(80), np.full(80, np.nan)):
        assert np.isnan(column_aurocs(one_class, scores)).all()


def test_undefined_labels_are_named_without_a_warning(data):
    targets, scores = data
    targets[:, 0], targets[:, 1], targets[:, 2] = 0, 1, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = prediction_scores(targets, scores)
        nothing = prediction_scores(np.zeros((4, 2)), np.ones((4, 2)))
    assert table["auroc"].isna().tolist() == [True] * 3 + [False] * 3
    assert table["auprc"].isna().tolist() == [True] * 3 + [False] * 3
    notes = ["only negatives", "only positives", "no known targets", "", "", "mean of 2 of 5 labels"]
    assert table["note"].tolist() == notes
    assert table["auroc"].iloc[-1] == table["auroc"].iloc[3:5].mean()
    assert np.isnan(nothing["auroc"]).all() and nothing["note"].iloc[-1] == "mean of 0 of 2 labels"


def test_macro_auroc_under_weights_is_that_of_repeated_cases(data):
    targets, scores = data
    targets[:, 4] = 0
    weights = np.random.default_rng(1).integers(0, 3, (5, 80))
    expected = [macro_auroc(np.repeat(targets, w, axis=0), np.repeat(scores, w, axis=0)) for w in weights]
    np.testing.assert_allclose(macro_auroc(targets, scores, weights), expected, rtol=0, atol=1e-15)


def test_weighted_auroc_is_the_auroc_of_repeated_cases(data):
    targets, scores = data[0][:, 0], data[1][:, 0]
    known = ~np.isnan(targets)
    y, s = targets[known], scores[known]
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=20)
    weights = np.concatenate([np.ones((1, len(y)), int), weights, [y == 1], [y == 0]])
    got = weighted_auroc(y, s, weights)
    expected = [roc_auc_score(np.repeat(y, w), np.repeat(s, w)) for w in weights[:-2]]
    np.testing.assert_allclose(got[:-2], expected, rtol=0, atol=1e-12)
    assert np.isnan(got[-2:]).all()
    unknown, ones = np.repeat([1, 0, np.nan], [2, 2, 3]), np.ones((2, 7))
    alone = weighted_auroc([1, 1, 0, 0], np.arange(4), ones[:, :4])
    np.testing.assert_array_equal(weighted_auroc(unknown, np.arange(7), ones), alone)
    assert np.isnan(auroc(np.full(3, np.nan), np.zeros(3)))


@pytest.mark.parametrize("classes", [2, 5])
def test_micro_averages_are_scikit_learns(classes):
    rng = np.random.default_rng(classes)
    targets = rng.integers(0, classes, 200)
    probabilities = softmax(rng.normal(size=(200, classes)).round(1) + np.eye(classes)[targets], axis=1)

    def theirs(y, p, score=roc_auc_score):
        return score(y, p[:, 1]) if classes == 2 else score(np.eye(classes)[y], p, average="micro")

    assert micro_auroc(targets, probabilities) == pytest.approx(theirs(targets, probabilities), abs=1e-12)
    counts = rng.integers(0, 3, (4, 200))
    for value, count in zip(micro_auroc(targets, probabilities, counts), counts, strict=True):
        repeated = theirs(np.repeat(targets, count), np.repeat(probabilities, count, axis=0))
        assert value == pytest.approx(repeated, abs=1e-12)
    expected = theirs(targets, probabilities, average_precision_score)
    assert micro_average_precision(targets, probabilities) == pytest.approx(expected)
    for nothing in (micro_auroc, micro_average_precision):
        assert np.isnan(nothing(np.zeros(4, int), np.full((4, 2), 0.5)))


def test_aurocs_of_classes_equal_scikit_learn_under_any_weights():
    rng = np.random.default_rng(5)
    truth = pd.Series(rng.choice(["B", "M", "W"], 60))
    probabilities = pd.DataFrame(rng.dirichlet(np.ones(3), 60).round(1) + 0.1, columns=["B", "M", "W"])
    probabilities = probabilities.div(probabilities.sum(1), axis=0)
    counts = np.concatenate([np.ones((1, 60), int), rng.integers(0, 3, (4, 60))])
    drawn = class_aurocs(probabilities, truth, counts)
    pd.testing.assert_frame_equal(class_aurocs(probabilities, truth), drawn.iloc[:1])
    for count, row in zip(counts, drawn.itertuples(index=False), strict=True):
        rows = np.repeat(np.arange(60), count)
        p, y = probabilities.iloc[rows], truth.iloc[rows]
        assert row[1] == pytest.approx(roc_auc_score(y == "M", p["M"]))
        assert row.macro == pytest.approx(roc_auc_score(y, p, multi_class="ovr", average="macro"))
        assert row.weighted == pytest.approx(roc_auc_score(y, p, multi_class="ovr", average="weighted"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: prediction_scores([[1, 0]], [[1]]), "must both be"),
        (lambda: prediction_scores([], []), "not empty"),
        (lambda: prediction_scores([1, 0], [1, np.nan]), "score of case 1, column 0, is nan"),
        (lambda: macro_auroc([[1, 0], [0, -1]], np.ones((2, 2))), "target of case 1, column 1, is -1"),
        (lambda: weighted_auroc([1, 0], [1, np.inf], np.ones((1, 2))), "score of case 1 is not finite"),
        (lambda: class_aurocs(pd.DataFrame({"B": [0.5]}), pd.Series(["M"])), "no column of probabilities"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(DataError, match=words):
        call()
