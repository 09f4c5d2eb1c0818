"""AUROC of teachers in its several readings, with intervals that resample patients, not rows.

Every function takes resampling weights: (R, N) multiplicities, one row a bootstrap sample, all R samples at once.
"""

import numpy as np
import pandas as pd

from pkd_utils.errors import DataError


def patient_weights(patients: pd.Series | np.ndarray, repetitions: int, seed: int) -> np.ndarray:
    """Bootstrap samples of patients, as how often each row is drawn.

    Parameters
    ----------
    patients : (N,) identifiers; all rows of a patient are drawn together.

    Returns
    -------
    np.ndarray
        (repetitions, N) float64 of whole numbers.
    """
    codes, unique = pd.factorize(np.asarray(patients))
    if (codes < 0).any():
        raise DataError(f"Row {int(np.flatnonzero(codes < 0)[0])} has no patient; every row needs one.")
    count = len(unique)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=repetitions)
    return draws[:, codes].astype(float)


def weighted_auroc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """AUROC under each row of weights; ties count one half.

    Parameters
    ----------
    truth : (N,) bool or 0/1
    score : (N,) float
    weights : (R, N) float, optional
        Default: one row of ones.

    Returns
    -------
    np.ndarray
        (R,), NaN where a sample holds one class only.
    """
    truth = np.asarray(truth, dtype=bool)
    weights = np.ones((1, len(truth))) if weights is None else weights
    order = np.argsort(score, kind="stable")
    ordered = np.asarray(score)[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    drawn = weights[:, order]
    positive = np.add.reduceat(drawn * truth[order], starts, axis=1)
    negative = np.add.reduceat(drawn * ~truth[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (positive * below).sum(1) / pairs, np.nan)


def class_aurocs(probabilities: pd.DataFrame, truth: pd.Series, weights: np.ndarray | None = None) -> pd.DataFrame:
    """AUROC of a class-probability table in the readings that a paper may mean by "AUROC".

    Parameters
    ----------
    probabilities : pd.DataFrame
        (N, classes), one column a class.
    truth : pd.Series
        Same index, class names.
    weights : (R, N), optional

    Returns
    -------
    pd.DataFrame
        R rows; a column "<class> vs rest" for every class, "macro": their mean, "weighted": their mean weighted by the
        share of rows of each class (scikit-learn's `multi_class="ovr"`).
    """
    if not probabilities.index.equals(truth.index):
        raise DataError("probabilities and truth must have the same index in the same order; align them first.")
    unknown = sorted(set(truth) - set(probabilities.columns))
    if unknown:
        raise DataError(f"truth holds the class {unknown[0]!r}, for which there is no column of probabilities.")
    weights = np.ones((1, len(truth))) if weights is None else weights
    each, share = {}, {}
    for name in probabilities.columns:
        member = (truth == name).to_numpy()
        each[f"{name} vs rest"] = weighted_auroc(member, probabilities[name].to_numpy(), weights)
        share[name] = weights @ member
    table = pd.DataFrame(each)
    shares = np.column_stack(list(share.values()))
    shares /= shares.sum(1, keepdims=True)
    values = table.to_numpy()
    table["macro"] = values.mean(1)
    table["weighted"] = (values * shares).sum(1)
    return table


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap samples; samples without a value (one class only) are left out."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(samples, [tail, 1 - tail])
    return float(low), float(high)
