"""INSPECT's tasks from a table of outcomes: 12-month pulmonary hypertension, readmission, and pulmonary embolism.

The table has INSPECT's columns with "True", "False" or "Censored"; the embedded cohort's comes from
`demo.outcomes`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pkd_utils.cohorts.checks import read_csv
from pkd_utils.cohorts.table import Cohort
from pkd_utils.errors import DataError
from pkd_utils.tasks import NOT_STATED, PAPER_COUNTS, SplitRule, Task, make_table, select_images

# Title, kind, class names, and INSPECT's column; section 3.2 and appendix B.2 of the paper.
OUTCOMES = {
    "ph_12_month": ("12-Month PH", "prognostic", ("no PH", "PH within 12 months"), "12_month_PH"),
    "readmission_12_month": (
        "Readmission",
        "prognostic",
        ("not readmitted", "readmitted within 12 months"),
        "12_month_readmission",
    ),
    "pulmonary_embolism": (
        "Pulmonary Embolism",
        "diagnostic",
        ("no embolism", "pulmonary embolism"),
        "pe_positive_nlp",
    ),
}
_VALUES = {"true": 1.0, "false": 0.0, "censored": np.nan, "censor": np.nan}
WHERE = "https://stanfordaimi.azurewebsites.net (INSPECT; access under a data use agreement)"


def outcome(
    cohort: Cohort,
    name: str,
    labels: pd.DataFrame | None = None,
    views: Sequence[str] | None = None,
    one_per: str = "image",
    column: str | None = None,
    evaluate: float = 0.25,
) -> Task:
    """A task of INSPECT: censored rows are dropped, and each seed samples the negatives down to the positives.

    Parameters
    ----------
    cohort : Cohort
    name : str
        "ph_12_month", "readmission_12_month" or "pulmonary_embolism".
    labels : DataFrame
        `image_id` or `study_id`, and the outcome's column with True, False or Censored; other images have no outcome.
    views, one_per
        See `tasks.select_images`.
    column : str, optional
        The outcome's column; by default 12_month_PH, 12_month_readmission or pe_positive_nlp. Which of INSPECT's
        embolism columns the paper took is not stated in the paper; its count fits pe_positive_nlp.
    evaluate : float
        Share held out; 0.25 in the paper.
    """
    title, kind, classes, usual = OUTCOMES[name]
    column = column or usual
    if labels is None:
        raise DataError(f"Task {name} needs `labels`: a table with image_id or study_id and the column {column}.")
    key = next((k for k in ("image_id", "study_id") if k in labels.columns), None)
    if key is None or column not in labels.columns:
        raise DataError(f"The labels of task {name} need image_id or study_id, and {column!r}; correct the table.")
    values = labels[[key]].assign(value=read_outcome(labels[column], column))
    clash = values.groupby(key)["value"].nunique(dropna=False) > 1
    if clash.any():
        raise DataError(f"{int(clash.sum())} {key}(s) have two different values of {column}; keep one row each.")
    values = values.drop_duplicates(key).set_index(key)["value"]
    images, funnel = select_images(cohort, views, one_per)
    images = images[images[key].isin(values.index)]
    funnel.step(f"has a row of {column}", images)
    target = images[key].map(values)
    images, target = images[target.notna()], target.dropna()
    funnel.step("not censored", images)
    smaller = int(min(target.sum(), len(target) - target.sum()))
    balanced = pd.concat([images[target == value].head(smaller) for value in (0, 1)])
    note = f"{smaller:,} of each class; which ones is drawn for each seed"
    funnel.step("balanced", balanced, PAPER_COUNTS[name], note)
    chosen = {
        "column": f"{column} ({'stated' if kind == 'prognostic' else NOT_STATED})",
        "balance": f"images of the larger class sampled down, anew for each seed (by image or patient: {NOT_STATED})",
        "several images": f"one per {one_per} ({NOT_STATED})",
    }
    return Task(
        name=name,
        title=title,
        kind=kind,
        classes=classes,
        table=make_table(images, target),
        funnel=funnel.table(),
        choices=chosen,
        split=SplitRule(evaluate=evaluate, balance=True),
    )


def read_outcome(values: pd.Series, column: str) -> pd.Series:
    """Turn True, False and Censored (strings in any case, or booleans) into 1, 0 and NaN.

    Raises
    ------
    DataError
        Any other value, empty ones included: an outcome that nobody recorded is not a censored one.
    """
    text = values.astype("str").str.strip().str.lower()
    unknown = ~text.isin(_VALUES)
    if unknown.any():
        first = values[unknown].iloc[0]
        raise DataError(
            f"Column {column}: {int(unknown.sum())} value(s) are not True, False or Censored, the first is {first!r}."
        )
    return text.map(_VALUES).astype("float64")


def read_labels(file: Path) -> pd.DataFrame:
    """Read a table of outcomes, .csv or .tsv (as released in 2025), all fields as text."""
    if file.suffix == ".tsv":
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; get it from {WHERE}.")
        return pd.read_csv(file, sep="\t", dtype=str)
    return read_csv(file, [], WHERE)
