"""How well scores predict labels: one family of AUROCs, and tables of scores per label.

AUROC is the area under the receiver operating characteristic: the share of pairs of a positive and a negative in which
the positive has the higher score, ties half (the ranks of tied scores are averaged). It is counted, so without weights,
or with whole ones, it is the exact share rounded once. Unknown targets (NaN) are left out. AUPRC is the average
precision, sum over thresholds of (recall_n - recall_{n-1}) precision_n, as scikit-learn computes it. A label is
undefined where its known targets hold one class only: its scores are NaN, its `note` says why, and nothing warns. That
the paper's "AUROC" of several labels is their macro mean is not stated in the paper.

`weights` (B, N) are sets of case weights, such as a bootstrap's counts (`intervals.bootstrap_interval`): a function
that is given them answers for all sets at once, float64 (B,), else with one float.
"""

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from pkd_utils.runs.errors import DataError


def auroc(targets, scores) -> float:
    """AUROC of one label; NaN where its known targets hold one class only.

    Parameters
    ----------
    targets : (N,), 1, 0 or NaN (unknown: left out)
    scores : (N,), finite; any number that grows with the probability
    """
    return float(weighted_auroc(targets, scores, np.ones((1, len(targets))))[0])


def column_aurocs(targets, scores) -> np.ndarray:
    """AUROC (K,) of many scores of the same cases, `auroc` of each to the last digit in a fifth of the time.

    Parameters
    ----------
    targets : (N,), see `auroc`
    scores : (N, K), finite
    """
    y, scores = np.asarray(targets, dtype=np.float64), np.asarray(scores)
    known, positive = ~np.isnan(y), y[~np.isnan(y)] == 1
    ranks = rankdata(scores[known], axis=0)
    count, others = positive.sum(), (~positive).sum()
    with np.errstate(invalid="ignore"):
        return (ranks[positive].sum(0) - count * (count + 1) / 2) / (count * others)


def macro_auroc(targets, scores, weights=None) -> float | np.ndarray:
    """Mean AUROC over the labels that are defined; NaN where none is.

    Parameters
    ----------
    targets, scores : (N, L), see `auroc`
    weights : (B, N), optional
    """
    targets, scores = _check(targets, scores)
    sets = np.ones((1, len(targets))) if weights is None else weights
    each = np.array([weighted_auroc(y, s, sets) for y, s in zip(targets.T, scores.T, strict=True)])
    defined = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        mean = np.where(defined, each, 0).sum(0) / defined.sum(0)
    return float(mean[0]) if weights is None else mean


def micro_auroc(targets, probabilities, weights=None) -> float | np.ndarray:
    """AUROC over all pairs of case and class, one class against the rest (micro-averaged); of two classes the second's.

    Parameters
    ----------
    targets : (N,), class numbers from 0
    probabilities : (N, C), finite
    weights : (B, N), optional
    """
    hit, scores = _one_versus_rest(targets, probabilities)
    if weights is None:
        return auroc(hit.ravel(), scores.ravel())
    return weighted_auroc(hit.ravel(), scores.ravel(), np.repeat(weights, hit.shape[1], axis=1))


def micro_average_precision(targets, probabilities) -> float:
    """AUPRC over the pairs of `micro_auroc`; NaN where the targets hold one class only."""
    hit, scores = _one_versus_rest(targets, probabilities)
    if len(np.unique(targets)) < 2:
        return float("nan")
    return float(average_precision_score(hit.ravel(), scores.ravel()))


def weighted_auroc(targets, scores, weights) -> np.ndarray:
    """Exact AUROC of one label under many sets of case weights at once; the statistic of a bootstrap.

    With w the weights, AUROC = sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (W+ W-) over positives i and negatives
    j. The scores are sorted once for all sets.

    Parameters
    ----------
    targets, scores : (N,), see `auroc`; an unknown case is left out with its weights
    weights : (B, N), not negative

    Returns
    -------
    float64 (B,); NaN for a set without weight on positives or on negatives
    """
    y, s = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    weights = np.asarray(weights, dtype=np.float64)
    known = ~np.isnan(y)
    if not known.all():
        y, s, weights = y[known], s[known], weights[:, known]
    if not np.isfinite(s).all():
        raise DataError(f"The score of case {int(np.argmin(np.isfinite(s)))} is not finite: look at its model.")
    order = np.argsort(s)
    ordered, positive = s[order], y[order] == 1
    # Where each group of tied scores begins; without a case there is none, and both sums are 0.
    groups = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(s)])
    sorted_weights = weights[:, order]
    in_positive = np.add.reduceat(sorted_weights * positive, groups, axis=1)
    in_negative = np.add.reduceat(sorted_weights * ~positive, groups, axis=1)
    below = np.cumsum(in_negative, axis=1) - in_negative / 2
    with np.errstate(invalid="ignore"):
        return (in_positive * below).sum(1) / (in_positive.sum(1) * in_negative.sum(1))


def class_aurocs(probabilities: pd.DataFrame, truth: pd.Series, weights: np.ndarray | None = None) -> pd.DataFrame:
    """AUROC of a class-probability table in the readings that a paper may mean by "AUROC".

    Parameters
    ----------
    probabilities : (N, classes), one column a class
    truth : (N,) class names, same index
    weights : (B, N), optional

    Returns
    -------
    DataFrame
        B rows (one without weights); a column "<class> vs rest" for every class, "macro": their mean, "weighted": their
        mean weighted by the share of rows of each class (scikit-learn's `multi_class="ovr"`).
    """
    unknown = sorted(set(truth) - set(probabilities.columns))
    if unknown:
        raise DataError(f"truth holds the class {unknown[0]!r}, for which there is no column of probabilities.")
    weights = np.ones((1, len(truth))) if weights is None else weights
    members = np.column_stack([(truth == name).to_numpy() for name in probabilities.columns])
    each = [weighted_auroc(m, s, weights) for m, s in zip(members.T, probabilities.to_numpy().T, strict=True)]
    values, counts = np.column_stack(each), weights @ members
    table = pd.DataFrame(values, columns=[f"{name} vs rest" for name in probabilities.columns])
    shares = counts / counts.sum(1, keepdims=True)
    return table.assign(macro=values.mean(1), weighted=(values * shares).sum(1))


def prediction_scores(targets, scores, labels: list[str] | None = None) -> pd.DataFrame:
    """AUROC and AUPRC of every label, and their macro mean.

    Parameters
    ----------
    targets, scores : (N, L) or (N,), see `auroc`
    labels : names of the L labels; default "label 0", ...

    Returns
    -------
    DataFrame, L + 1 rows
        label, auroc, auprc, positives, negatives, unknown (counts), note. The last row, "macro", holds the mean over
        the labels that are defined; its counts are sums, and its note says of how many labels it is the mean where
        some are undefined. AUPRC's chance level is positives / (positives + negatives).

    Raises
    ------
    DataError
        If shapes differ, a score is not finite, or a target is none of 1, 0, NaN.
    """
    targets, scores = _check(targets, scores)
    rows = []
    for column, label in enumerate(labels or [f"label {i}" for i in range(targets.shape[1])]):
        known = ~np.isnan(targets[:, column])
        y, s = targets[known, column], scores[known, column]
        positives, negatives = int((y == 1).sum()), int((y == 0).sum())
        auprc = np.nan
        note = "no known targets" if not len(y) else "only negatives" if not positives else "only positives"
        if positives and negatives:
            auprc, note = average_precision_score(y, s), ""
        rows.append((label, auroc(y, s), auprc, positives, negatives, int((~known).sum()), note))
    table = pd.DataFrame(rows, columns=["label", "auroc", "auprc", "positives", "negatives", "unknown", "note"])
    defined = table["note"] == ""
    macro = {"label": "macro", **table.loc[defined, ["auroc", "auprc"]].mean()}
    macro |= table[["positives", "negatives", "unknown"]].sum().to_dict()
    macro["note"] = "" if defined.all() else f"mean of {defined.sum()} of {len(table)} labels"
    return pd.concat([table, pd.DataFrame([macro])], ignore_index=True)


def _one_versus_rest(targets, probabilities) -> tuple[np.ndarray, np.ndarray]:
    """Whether a case is of a class, and how probable: (N, C) each; (N, 1), the second class, where there are two."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    classes = np.arange(probabilities.shape[1]) if probabilities.shape[1] != 2 else np.array([1])
    return np.asarray(targets)[:, None] == classes, probabilities[:, classes]


def _check(targets, scores) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (N, L)."""
    targets, scores = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if targets.shape != scores.shape or targets.ndim not in (1, 2) or 0 in targets.shape:
        raise DataError(f"Targets {targets.shape} and scores {scores.shape} must both be (cases, labels), not empty.")
    targets, scores = targets.reshape(len(targets), -1), scores.reshape(len(scores), -1)
    for name, table, good, rule in (
        ("score", scores, np.isfinite(scores), "scores must be finite"),
        ("target", targets, np.isnan(targets) | (targets == 0) | (targets == 1), "use 1, 0 or NaN"),
    ):
        if not good.all():
            row, column = np.argwhere(~good)[0]
            raise DataError(f"The {name} of case {row}, column {column}, is {table[row, column]}: {rule}.")
    return targets, scores
