"""Was anything learned? Students at chance, or whose maps are flat, are no evidence on where privileged training looks.

Maps are scaled by their own minimum and maximum before they are scored, which makes rounding errors of a flat map as
large as a map that points somewhere. A cohort is judged only if each method

- predicts: the lower end of the t interval over seeds of the validation AUROC lies above `CHANCE`. That AUROC is the
  one of the epoch that was chosen by it, so it is kind to students that learned nothing, and does not do alone;
- attends: the median range of a raw map (largest minus smallest value) is at least `LEAST_RANGE` times 1/N, the share
  of each of N tokens where attention is spread evenly.

The bounds were set before any verdict was looked at, on students that had learned: with N = 64, median ranges of ten
students on simulated chest radiographs were 4.7 to 18 times 1/N, and on simulated masses 4.5 to 17 times, but for the
two students of one seed, which predict no worse and have 0.2: `flat` counts such students.
"""

import numpy as np
import pandas as pd

from pkd_utils.statistics.intervals import seed_interval
from pkd_utils.studies.maps.arms import CONTROLS, METHOD_NAMES, METHODS

CHANCE, LEAST_RANGE = 0.5, 0.5
NOT_TRAINED = "not trained"


def training_evidence(students: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """What the students of each method learned.

    Parameters
    ----------
    students : a row a student
        `method`, `seed`, `validate_auroc`, `map_range` (median over its test images of the range of a raw
        attention map) and `tokens` (patches N of a map).
    level : of the interval over seeds; a seed's AUROC is the mean over its folds

    Returns
    -------
    DataFrame
        Index `method`, in the order of `METHODS`: seeds, validate_auroc (mean), low (NaN for one seed), map_range
        (median over students, in units of 1/N), students, flat (students below `LEAST_RANGE`), trained.
    """
    rows = {}
    for method in [name for name in METHODS if (students["method"] == name).any()]:
        part = students[students["method"] == method]
        aurocs = part.groupby("seed")["validate_auroc"].mean().dropna()
        low = seed_interval(aurocs, level).low if len(aurocs) > 1 else np.nan
        ranges = part["map_range"] * part["tokens"]
        row = {"seeds": len(aurocs), "validate_auroc": aurocs.mean(), "low": low, "map_range": ranges.median()}
        row |= {"students": len(part), "flat": int((ranges < LEAST_RANGE).sum())}
        trained = row["low"] > CHANCE and row["map_range"] >= LEAST_RANGE
        rows[method] = row | {"trained": bool(trained)}
    return pd.DataFrame.from_dict(rows, "index").rename_axis("method")


def not_trained(evidence: pd.DataFrame) -> str:
    """Why there is no verdict, in words with the numbers of each method; "" if baseline and distilled were trained.

    A control that was not is no reason: nothing is claimed against it (`maps.controls`).
    """
    evidence = evidence[~evidence.index.isin(CONTROLS)]
    if evidence["trained"].all():
        return ""
    said = [
        f"{row.Index} with a validation AUROC of {row.validate_auroc:.2f} over {row.seeds} seed(s), "
        f"{'no lower bound' if np.isnan(row.low) else f'lower bound {row.low:.2f}'}, and a map's range of "
        f"{row.map_range:.2g}/N, below {LEAST_RANGE:g}/N in {row.flat} of {row.students} students"
        for row in evidence.rename(index=METHOD_NAMES).itertuples()
    ]
    asked = f"a lower bound above {CHANCE:g} and a median range of at least {LEAST_RANGE:g}/N are asked for"
    return f"{NOT_TRAINED}: {'; '.join(said)} ({asked})"
