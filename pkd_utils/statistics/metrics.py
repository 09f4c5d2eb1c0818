"""How well scores predict labels: AUROC and AUPRC per label and their macro mean, with unknown targets left out.

AUROC is the area under the receiver operating characteristic, AUPRC the average precision, sum over thresholds of
(recall_n - recall_{n-1}) precision_n, both as scikit-learn computes them. A label is undefined where its known targets
hold one class only: its scores are NaN, its `note` says why, and nothing warns. That the paper's "AUROC" of several
labels is their macro mean is not stated in the paper.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from pkd_utils.runs.errors import DataError


def prediction_scores(targets, scores, labels: list[str] | None = None) -> pd.DataFrame:
    """AUROC and AUPRC of every label, and their macro mean.

    Parameters
    ----------
    targets : (N, L) or (N,), 1, 0 or NaN (unknown: left out of this label's scores)
    scores : same shape, finite; any number that grows with the probability (logits or probabilities)
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
        If shapes differ, a score is not finite, a target is none of 1, 0, NaN, or the names do not fit.
    """
    targets, scores, labels = _check(targets, scores, labels)
    rows = []
    for column, label in enumerate(labels):
        known = ~np.isnan(targets[:, column])
        y, s = targets[known, column], scores[known, column]
        positives, negatives = int((y == 1).sum()), int((y == 0).sum())
        auroc = auprc = np.nan
        note = "no known targets" if not len(y) else "only negatives" if not positives else "only positives"
        if positives and negatives:
            auroc, auprc, note = roc_auc_score(y, s), average_precision_score(y, s), ""
        rows.append((label, auroc, auprc, positives, negatives, int((~known).sum()), note))
    table = pd.DataFrame(rows, columns=["label", "auroc", "auprc", "positives", "negatives", "unknown", "note"])
    defined = table[table["note"] == ""]
    macro = {
        "label": "macro",
        "note": "" if len(defined) == len(table) else f"mean of {len(defined)} of {len(table)} labels",
    }
    macro |= {name: defined[name].mean() for name in ("auroc", "auprc")}
    macro |= {name: table[name].sum() for name in ("positives", "negatives", "unknown")}
    return pd.concat([table, pd.DataFrame([macro])[list(table)]], ignore_index=True)


def macro_auroc(targets, scores) -> float:
    """Mean AUROC over the labels that are defined; NaN where none is. See `prediction_scores`."""
    return float(prediction_scores(targets, scores)["auroc"].iloc[-1])


def weighted_auroc(targets, scores, weights) -> np.ndarray:
    """Exact AUROC of one label under many sets of case weights at once; the statistic of a bootstrap.

    With w the weights (a bootstrap's counts), AUROC = sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (W+ W-) over
    positives i and negatives j. The scores are sorted once for all sets.

    Parameters
    ----------
    targets : (N,), 1 or 0 (no NaN: take the known cases first, of the weights too)
    scores : (N,), finite
    weights : (B, N), not negative

    Returns
    -------
    float64 (B,)
        NaN for a set without weight on positives or on negatives.
    """
    y, s, _ = _check(targets, scores, None)
    if y.shape[1] != 1 or np.isnan(y).any():
        raise DataError(
            "weighted_auroc takes one label with targets 1 and 0: select the known cases of one label first."
        )
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(y):
        raise DataError(f"Weights have shape {weights.shape}: give (sets, {len(y)}).")
    order = np.argsort(s[:, 0], kind="stable")
    ordered = s[order, 0]
    groups = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # where each group of tied scores begins
    positive = y[order, 0] == 1
    sorted_weights = weights[:, order]
    in_positive = np.add.reduceat(sorted_weights * positive, groups, axis=1)
    in_negative = np.add.reduceat(sorted_weights * ~positive, groups, axis=1)
    below = np.cumsum(in_negative, axis=1) - in_negative / 2
    with np.errstate(invalid="ignore"):
        return (in_positive * below).sum(1) / (in_positive.sum(1) * in_negative.sum(1))


def micro_average_precision(targets, probabilities) -> float:
    """AUPRC of class numbers (N,) and class probabilities (N, C), one class against the rest, micro-averaged.

    With two classes it is the plain average precision of the second class. NaN where the targets hold one class only.
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or len(targets) != len(probabilities) or not np.isfinite(probabilities).all():
        raise DataError(
            f"Give (N,) classes and finite (N, C) probabilities, not {targets.shape}, {probabilities.shape}."
        )
    if len(np.unique(targets)) < 2:
        return float("nan")
    if probabilities.shape[1] == 2:
        return float(average_precision_score(targets == 1, probabilities[:, 1]))
    one_versus_rest = targets[:, None] == np.arange(probabilities.shape[1])
    return float(average_precision_score(one_versus_rest.reshape(-1), probabilities.reshape(-1)))


def _check(targets, scores, labels) -> tuple[np.ndarray, np.ndarray, list[str]]:
    targets, scores = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if targets.shape != scores.shape or targets.ndim not in (1, 2) or 0 in targets.shape:
        raise DataError(f"Targets {targets.shape} and scores {scores.shape} must both be (cases, labels), not empty.")
    targets, scores = targets.reshape(len(targets), -1), scores.reshape(len(scores), -1)
    labels = [f"label {i}" for i in range(targets.shape[1])] if labels is None else list(labels)
    if len(labels) != targets.shape[1] or len(set(labels)) != len(labels):
        raise DataError(
            f"{len(labels)} label names {labels} for {targets.shape[1]} columns: give one a column, all different."
        )
    bad = ~np.isfinite(scores)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"The score of case {row} for {labels[column]!r} is {scores[row, column]}: scores must be finite."
        )
    bad = ~(np.isnan(targets) | (targets == 0) | (targets == 1))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(f"The target of case {row} for {labels[column]!r} is {targets[row, column]}: use 1, 0 or NaN.")
    return targets, scores, labels
