"""Soft labels of the training rows from teachers that have not seen the patient (cross-fitting).

A teacher's answer on its own training rows can repeat the labels that it learnt by heart, and such soft labels tell
the student nothing. Out of fold, s_i of equation (2) is of a teacher that saw neither row i nor another of its patient.
The paper's are not, as its two steps are written: one f_t is trained on (x_i*, y_i), and gives the s_i of the same
rows. It says nothing of teachers that have not seen them.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pkd_utils.cohorts.folds import patient_parts
from pkd_utils.distillation.rows import check_rows
from pkd_utils.runs.errors import DataError


def cross_fitted(
    fit: Callable[[pd.Series, int], pd.DataFrame],
    logits: pd.DataFrame,
    split: pd.Series,
    targets: pd.DataFrame,
    patients: pd.Series,
    parts: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Replace a teacher's logits on its training rows by those of teachers that have not seen the patient.

    The training rows are cut into parts by patient, with the labels' joint pattern spread evenly. For each part another
    teacher of the same make trains on the others; its epoch, if it has any, is chosen on the same validation rows.

    Parameters
    ----------
    fit : function of (split, part)
        Trains a teacher on the rows whose split is "train" and gives logits for every row, a column a label. `split` is
        NaN on the part held out: such rows get logits, and are used for nothing else.
    logits : what the teacher of all training rows gave; other splits keep these
    split : same index; train, validate, test, or NaN
    targets, patients : same index
    parts, seed : number of parts, 2 or more, and of their shuffling
    """
    check_rows(split, ["train"], logits=logits, targets=targets, patients=patients)
    rows = np.flatnonzero(split == "train")
    known = patients.iloc[rows].nunique()
    if known < parts:
        raise DataError(f"{known} training patients cannot be cut into {parts} parts; use fewer parts.")
    part = np.full(len(split), -1)
    part[rows] = patient_parts(targets.iloc[rows], patients.iloc[rows], parts, seed)
    found = logits.copy()
    for k in range(parts):
        held = part == k
        other = fit(split.mask(held), k)
        if list(other.columns) != list(logits.columns):
            raise DataError(f"Without part {k} of {parts} the training rows lack a class; use fewer parts.")
        found[held] = other[held]
    return found
