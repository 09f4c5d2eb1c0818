"""Prediction scores equal scikit-learn on the known targets; undefined labels are named, never warned about."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import macro_auroc, prediction_scores, weighted_auroc


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
        assert row.auroc == roc_auc_score(targets[known, column], scores[known, column])
        assert row.auprc == average_precision_score(targets[known, column], scores[known, column])
        assert (row.positives, row.negatives) == ((targets[:, column] == 1).sum(), (targets[:, column] == 0).sum())
        assert row.unknown == 80 - known.sum()
        assert row.note == ""
    assert table["label"].tolist() == [*"abcde", "macro"]
    assert table["auroc"].iloc[-1] == table["auroc"].iloc[:5].mean() == macro_auroc(targets, scores)
    assert table["auprc"].iloc[-1] == table["auprc"].iloc[:5].mean()


def test_undefined_labels_are_named_without_a_warning(data):
    targets, scores = data
    targets[:, 0], targets[:, 1], targets[:, 2] = 0, 1, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = prediction_scores(targets, scores)
        nothing = prediction_scores(np.zeros((4, 2)), np.ones((4, 2)))
    assert table["auroc"].isna().tolist() == [True] * 3 + [False] * 3
    assert table["auprc"].isna().tolist() == [True] * 3 + [False] * 3
    assert table["note"].tolist() == [
        "only negatives",
        "only positives",
        "no known targets",
        "",
        "",
        "mean of 2 of 5 labels",
    ]
    assert table["auroc"].iloc[-1] == table["auroc"].iloc[3:5].mean()
    assert np.isnan(nothing["auroc"]).all() and nothing["note"].iloc[-1] == "mean of 0 of 2 labels"


def test_one_label_as_a_vector():
    assert prediction_scores([1, 0, 1], [0.2, 0.1, 0.3])["auroc"].tolist() == [1, 1]


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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: prediction_scores([[1, 0]], [[1]]), "must both be"),
        (lambda: prediction_scores([], []), "not empty"),
        (lambda: prediction_scores([1, 0], [1, np.nan]), "score of case 1 for 'label 0' is nan"),
        (lambda: prediction_scores([[1, 0], [0, -1]], np.ones((2, 2)), ["a", "b"]), "target of case 1 for 'b' is -1"),
        (lambda: prediction_scores([1, 0], [1, 2], ["a", "b"]), "2 label names"),
        (lambda: prediction_scores([[1, 0]], [[1, 2]], ["a", "a"]), "all different"),
        (lambda: weighted_auroc([1, np.nan], [1, 2], np.ones((1, 2))), "known cases"),
        (lambda: weighted_auroc([1, 0], [1, 2], np.ones(2)), r"shape \(2,\)"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(DataError, match=words):
        call()
