"""The tabular teacher: a random forest on the descriptors that a radiologist gave a lesion (f_t of equation (1)).

Baur et al. train "a random forest on CBIS-DDSM metadata" (AUROC 0.86 for masses, 0.90 for calcifications). Which
columns, which forest and which AUROC is not stated in the paper, so all of these are parameters here.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from pkd_utils.cohorts.table import cell_values
from pkd_utils.distillation.rows import check_rows
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import auroc

MISSING = "missing"


class TabularTeacherResult(NamedTuple):
    """A random forest's frozen outputs for every row; index of `features`."""

    probabilities: pd.DataFrame  # target of 0 and 1: one column, named like the target, of 1; otherwise one a class
    logits: pd.DataFrame  # same shape; one column: log(p / (1 - p)), for the sigmoid; several: log(p), for the softmax


def drop_features(features: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Leave features out by name; `name=value` columns belong to the feature `name`."""
    owner = pd.Index([str(column).split("=")[0] for column in features.columns])
    unknown = sorted(set(names) - set(owner))
    if unknown:
        raise DataError(f"There is no feature {unknown[0]!r} to leave out; there are {', '.join(owner.unique())}.")
    kept = features.loc[:, ~owner.isin(list(names))]
    if kept.shape[1] == 0:
        raise DataError("Leaving out these features leaves no column to train on.")
    return kept


def encode_features(features: pd.DataFrame, training: np.ndarray, separator: str = "") -> pd.DataFrame:
    """Turn named features into numbers, with a vocabulary from the training rows alone.

    Parameters
    ----------
    features : pd.DataFrame
        Numeric or boolean columns stay numbers. Text columns become one 0/1 column a value.
    training : (N,) bool
    separator : str
        Of a cell's values, several of which can then be 1: `CohortInfo.separator` of the source. "": each cell is one
        value, whatever marks it holds.

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
            words = cell_values(values.astype("object").fillna(""), separator)
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
    trees: int = 500,
    min_samples_leaf: int = 1,
    clip: Annotated[float, Field(gt=0, lt=0.5)] = 1e-3,
    separator: str = "",
) -> TabularTeacherResult:
    """Train a random forest on the rows with `split == "train"` and predict every row.

    The training rows get the forest's own answer, which with small leaves nearly repeats the hard label;
    `cross_fit.cross_fitted` gives that of forests which have not seen the patient.

    Parameters
    ----------
    features : named columns, numbers or text; see `encode_features`, also for `separator`
    target : same index; 0 and 1, or class names; NaN rows are not trained on
    split : same index; train, validate, test, or NaN (predicted only)
    seed : of the forest
    trees, min_samples_leaf : as in scikit-learn; not stated in the paper
    clip : float
        Probabilities are clipped to [clip, 1 - clip] before the logit, because a forest does give 0 and 1; not stated
        in the paper.
    """
    numbers, training = _numbers(features, target, split, separator)
    forest = RandomForestClassifier(trees, min_samples_leaf=min_samples_leaf, random_state=seed, n_jobs=1)
    forest.fit(numbers[training].to_numpy(), target[training].to_numpy())
    values, names = forest.predict_proba(numbers.to_numpy()), list(forest.classes_)
    if set(names) == {0, 1}:
        values, names = values[:, 1:], [target.name]
    clipped = np.clip(values, clip, 1 - clip)
    logits = np.log(clipped) - (np.log1p(-clipped) if len(names) == 1 else 0.0)
    return TabularTeacherResult(*(pd.DataFrame(table, features.index, names) for table in (values, logits)))


@checked
def feature_aurocs(
    features: pd.DataFrame, targets: pd.DataFrame, split: pd.Series, groups: pd.Series, separator: str = ""
) -> pd.DataFrame:
    """How well each feature alone tells each label: a descriptor near 1 may state the answer, as histology does.

    A decision tree with leaves of three rows or more reads the one feature (all its `name=value` columns); the AUROC is
    that of the training rows, out of fold, by patient. A table has no words to remove, so this is what
    `text_teacher.check_label_names_removed` is for reports.

    Parameters
    ----------
    features, split, separator : as in `fit_tabular_teacher`
    targets : same index; a column a label, 1, 0 or NaN (left out)
    groups : same index, patients

    Returns
    -------
    DataFrame, a row a feature, a column a label; NaN where fewer than two patients have the label, or lack it
    """
    found = {}
    for label in targets.columns:
        numbers, training = _numbers(features, targets[label], split, separator)
        numbers, truth, patients = numbers[training], targets.loc[training, label], groups[training]
        folds = min(5, *patients.groupby(truth).nunique())
        owner = numbers.columns.str.split("=").str[0]
        for name in owner.unique():
            found[name, label] = np.nan
            if folds > 1:
                tree = DecisionTreeClassifier(min_samples_leaf=3, random_state=0)
                cut = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
                columns = numbers.loc[:, owner == name].to_numpy(), truth.to_numpy()
                unseen = cross_val_predict(tree, *columns, groups=patients, cv=cut, method="predict_proba")
                found[name, label] = auroc(truth, unseen[:, 1])
    return pd.Series(found).unstack(sort=False)


def _numbers(
    features: pd.DataFrame, target: pd.Series, split: pd.Series, separator: str
) -> tuple[pd.DataFrame, np.ndarray]:
    """The features as numbers, and which rows train: those of the training split whose target is known."""
    check_rows(split, ["train"], features=features, target=target)
    training = ((split == "train") & target.notna()).to_numpy()
    if target[training].nunique() < 2:
        raise DataError(f"The {training.sum()} training rows hold fewer than two classes of {target.name!r}.")
    return encode_features(features, training, separator), training
