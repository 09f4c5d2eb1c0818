"""The tabular teacher: a random forest on the descriptors that a radiologist gave a lesion (f_t of equation (1)).

Baur et al. train "a random forest on CBIS-DDSM metadata" (AUROC 0.86 for masses, 0.90 for calcifications). Which
columns, which forest and which AUROC is not stated in the paper, so all of these are parameters here.
"""

from collections.abc import Hashable, Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold

from pkd_utils.distillation.rows import check_rows
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError

MISSING = "missing"
SEPARATOR = "-"  # joins the values of one cell


class TabularTeacherResult(NamedTuple):
    """A random forest's frozen outputs for every row; index of `features`."""

    probabilities: pd.DataFrame  # target of 0 and 1: one column, named like the target, of 1; otherwise one a class
    logits: pd.DataFrame  # same shape; one column: log(p / (1 - p)), for the sigmoid; several: log(p), for the softmax


def drop_features(features: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Leave features out by name; `name=value` columns belong to the feature `name`.

    Raises
    ------
    DataError
        If a name is not there, or no column is left.
    """
    owner = pd.Index([str(column).split("=")[0] for column in features.columns])
    unknown = sorted(set(names) - set(owner))
    if unknown:
        raise DataError(f"There is no feature {unknown[0]!r} to leave out; there are {', '.join(owner.unique())}.")
    kept = features.loc[:, ~owner.isin(list(names))]
    if kept.shape[1] == 0:
        raise DataError("Leaving out these features leaves no column to train on.")
    return kept


def encode_features(features: pd.DataFrame, training: np.ndarray) -> pd.DataFrame:
    """Turn named features into numbers, with a vocabulary from the training rows alone.

    Parameters
    ----------
    features : pd.DataFrame
        Numeric or boolean columns stay numbers. Text columns become one 0/1 column a value, several of which are 1
        where values are joined by a hyphen.
    training : (N,) bool

    Returns
    -------
    float64 DataFrame
        A missing value is a category of its own: column `<name>=missing`; in a numeric column NaN stays NaN
        beside it, and the forest sends it to the side that suits it best. A value that no training row has is 0 in all
        columns of its feature.
    """
    columns = {}
    for name in features.columns:
        values = features[name]
        missing = values.isna()
        number = pd.api.types.is_numeric_dtype(values)
        if number:
            columns[name] = values.astype(float)
        else:
            words = (
                values.astype("string").fillna("").map(lambda cell: {word.strip() for word in cell.split(SEPARATOR)})
            )
            for word in sorted(set().union(*words[training & ~missing])):
                columns[f"{name}={word}"] = (~missing & words.map(lambda cell, word=word: word in cell)).astype(float)
        if missing[training].any() or (missing.any() and number):
            columns[f"{name}={MISSING}"] = missing.astype(float)
    return pd.DataFrame(columns, index=features.index)


@checked
def fit_tabular_teacher(
    features: pd.DataFrame,
    target: pd.Series,
    split: pd.Series,
    seed: int,
    groups: pd.Series | None = None,
    trees: int = 500,
    min_samples_leaf: int = 1,
    training_rows: Literal["fitted", "cross_fitted"] = "fitted",
    clip: Annotated[float, Field(gt=0, lt=0.5)] = 1e-3,
) -> TabularTeacherResult:
    """Train a random forest on the rows with `split == "train"` and predict every row.

    Parameters
    ----------
    features : named columns, numbers or text; see `encode_features`
    target : same index; 0 and 1, or class names; NaN rows are not trained on
    split : same index; train, validate, test, or NaN (predicted only)
    seed : of the forest and of the folds
    groups : same index, patients; needed by "cross_fitted"
    trees, min_samples_leaf : as in scikit-learn; not stated in the paper
    training_rows : str
        What the training rows get, which becomes the student's soft labels; not stated in the paper. "fitted": the
        forest's own answer, which with small leaves nearly repeats the hard label. "cross_fitted": the answer of a
        forest that has not seen the patient (five patient-wise folds).
    clip : float
        Probabilities are clipped to [clip, 1 - clip] before the logit, because a forest does give 0 and 1; not stated
        in the paper.

    Raises
    ------
    DataError
        Differing or repeated index, unknown split, too few classes, no training rows, or missing groups.
    """
    check_rows(split, ["train"], features=features, target=target, **({} if groups is None else {"groups": groups}))
    if training_rows == "cross_fitted" and groups is None:
        raise DataError("training_rows='cross_fitted' needs groups, the patient of every row.")
    training = ((split == "train") & target.notna()).to_numpy()
    if target[training].nunique() < 2:
        raise DataError(f"The {training.sum()} training rows hold fewer than two classes of {target.name!r}.")
    numbers = encode_features(features, training).to_numpy()
    where = np.flatnonzero(training)

    def fitted(rows: np.ndarray) -> RandomForestClassifier:
        forest = RandomForestClassifier(trees, min_samples_leaf=min_samples_leaf, random_state=seed, n_jobs=1)
        return forest.fit(numbers[rows], target.iloc[rows].to_numpy())

    forest = fitted(where)
    values = forest.predict_proba(numbers)
    if training_rows == "cross_fitted":
        folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=seed)
        for seen, unseen in folds.split(where, target[training].astype(str), groups[training]):
            other = fitted(where[seen])
            if list(other.classes_) != list(forest.classes_):
                raise DataError(f"A fold of the training rows lacks a class of {target.name!r}; use 'fitted'.")
            values[where[unseen]] = other.predict_proba(numbers[where[unseen]])
    names: list[Hashable] = list(forest.classes_)
    if set(names) == {0, 1}:
        values, names = values[:, 1:], [target.name]
    clipped = np.clip(values, clip, 1 - clip)
    logits = np.log(clipped) - (np.log1p(-clipped) if len(names) == 1 else 0.0)
    return TabularTeacherResult(*(pd.DataFrame(table, features.index, names) for table in (values, logits)))
