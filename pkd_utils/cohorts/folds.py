"""Splits that keep a patient's images together, for sources without an official split."""

import itertools
import warnings
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from sklearn.model_selection import StratifiedGroupKFold

from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError


@checked
def patient_folds(
    images: pd.DataFrame,
    label: str | Sequence[str],
    n_folds: Annotated[int, Field(ge=3)] = 5,
    seed: Annotated[int, Field(ge=0)] = 0,
    repeats: Annotated[int, Field(ge=1)] = 1,
) -> pd.DataFrame:
    """Cross-validation with patients kept together and the label spread evenly, each fold with a validation part.

    The rows are cut into `n_folds` parts; in fold k, part k is the test set, part k + 1 (modulo n) the validation set
    and the rest the training set. Every labelled image is tested exactly once, in each of the `repeats`.

    Parameters
    ----------
    images : DataFrame
        Columns `image_id`, `patient_id` and the label columns.
    label : str or sequence of str
        Label to stratify by; for several labels, their joint pattern. Images without it (NaN) take no part.
    n_folds, seed : int
        At least 3, one part each for training, validation and test; seed of the shuffling.
    repeats : int
        Partitions, of seeds `seed`, `seed` + 1, ...

    Returns
    -------
    DataFrame
        `fold` (int), `repeat` (int), `image_id`, `split` (train, validate, test), `n_folds` rows a labelled image and
        repeat. Fold k of repeat r is numbered r * `n_folds` + k.
    """
    labels = [label] if isinstance(label, str) else list(label)
    if missing := [name for name in labels if name not in images.columns]:
        raise DataError(f"The images have no label {', '.join(missing)} to cut folds by; name one of the cohort's.")
    rows = images.dropna(subset=labels).reset_index(drop=True)
    for name, value in itertools.product(labels, (0, 1)):
        patients = rows.loc[rows[name] == value, "patient_id"].nunique()
        if patients < n_folds:
            raise DataError(
                f"Label {name!r} has {patients} patient(s) with value {value}, too few for {n_folds} folds; "
                "use fewer folds or another label."
            )
    folds = []
    for repeat in range(repeats):
        part = patient_parts(rows[labels], rows["patient_id"], n_folds, seed + repeat)
        for name in labels:
            classes = rows.groupby(part)[name].nunique().reindex(range(n_folds), fill_value=0)
            if (classes < 2).any():
                raise DataError(
                    f"Part {int(classes.idxmin())} of {n_folds} holds only one class of {name!r}; "
                    "use fewer folds or another seed."
                )
        for k in range(n_folds):
            split = np.where(part == k, "test", np.where(part == (k + 1) % n_folds, "validate", "train"))
            facts = {"fold": repeat * n_folds + k, "repeat": repeat}
            folds.append(pd.DataFrame({**facts, "image_id": rows["image_id"], "split": split}))
    return pd.concat(folds, ignore_index=True)


def patient_parts(labels: pd.DataFrame, patients: pd.Series, n_parts: int, seed: int) -> np.ndarray:
    """Cut rows into parts, 0 to `n_parts` - 1, with patients kept together and the labels' joint pattern spread evenly.

    `labels` hold 1, 0 or NaN (unknown, a value of its own); the answer is (N,) int.
    """
    part = np.empty(len(labels), dtype=int)
    strata = labels.fillna(2).astype(int).astype(str).agg("".join, axis=1)
    splitter = StratifiedGroupKFold(n_splits=n_parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of a pattern with fewer rows than parts
        warnings.filterwarnings("ignore", message="The least populated class")
        for k, (_, rows) in enumerate(splitter.split(labels, strata, patients)):
            part[rows] = k
    return part
