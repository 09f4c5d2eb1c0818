"""What all teachers and students ask of their rows: tables of the same rows, and splits that one can train on."""

from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd

from pkd_utils.cohorts.table import SPLITS
from pkd_utils.runs.errors import DataError


def check_splits(names: Iterable[str], needed: Collection[str]) -> None:
    """Refuse names that are no splits, and data without one of the `needed` splits."""
    found = set(names)
    wrong = [f"{name!r} is no split" for name in sorted(found - set(SPLITS))]
    wrong += [f"no row is in the split {name!r}" for name in needed if name not in found]
    if wrong:
        raise DataError(
            f"Of the splits, {wrong[0]}: allowed are {', '.join(SPLITS)} or missing, and {' and '.join(needed)} needed."
        )


def check_rows(split: pd.Series, needed: Collection[str], **parts: pd.Series | pd.DataFrame) -> None:
    """Refuse tables whose index is not that of `split`, or repeats; names positions and never identifiers."""
    for name, part in parts.items():
        if not part.index.equals(split.index):
            raise DataError(f"{name} and split must have the same index in the same order; align them first.")
    if not split.index.is_unique:
        position = int(np.flatnonzero(split.index.duplicated())[0])
        raise DataError(f"The index of {' and '.join(parts)} repeats at position {position}: give each case one row.")
    check_splits(split.dropna(), needed)


def permute_within(values: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle rows of `values` among the rows of a class: every class keeps exactly what it had, no case its own.

    `values` is (N, ...); `classes` (N,), or (N, K) beside values (N, K), whose columns are shuffled one by one.
    """
    if classes.ndim == 2:
        columns = zip(values.T, classes.T, strict=True)
        return np.column_stack([permute_within(column, own, rng) for column, own in columns])
    shuffled = values.copy()
    for one in np.unique(classes):
        rows = np.flatnonzero(classes == one)
        shuffled[rows] = values[rng.permutation(rows)]
    return shuffled
