"""Prediction tasks of the radiology-reports study, one interface for every data source.

`build_task(name, cohort)` turns a cohort into a C-way classification task: which images take part, and the class of
each. What the paper leaves open is an option; `Task.choices` says what was chosen, `Task.funnel` counts what every step
left, and `count_variants` shows the counts under other choices. How a task is divided for training is in `splits`; the
tasks' own rules are in `mimic`, `outcomes` and `age`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import pandas as pd

from pkd_utils.cohorts.table import Cohort, Funnel
from pkd_utils.cohorts.tasks import age, mimic, outcomes
from pkd_utils.cohorts.tasks.base import NOT_STATED, PAPER_COUNTS, Count, Task
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError

INSPECT_TASKS = tuple(outcomes.INSPECT)
BUILDERS = {
    "mimic_5x1200": mimic.five_findings,
    "age": age.age,
    "discharge_3_day": mimic.discharge,
    **{name: partial(outcomes.outcome, name) for name in outcomes.INSPECT},
    **{name: partial(outcomes.yes_or_no, name) for name in outcomes.YES_OR_NO},
    "openi_five": outcomes.openi_five,
}
# Each rule that the paper leaves open, changed by itself; `count_variants` shows what it does to the counts.
_COMMON = [{"one_per": "study"}, {"one_per": "patient"}]
_OF_FILMS = [{"views": ["PA"]}, {"views": ["AP"]}, *_COMMON]
VARIANTS = {
    "mimic_5x1200": [*({"co_labels": rule} for rule in get_args(mimic.CoLabels)), *_OF_FILMS],
    "age": [{"edges": "equal_width"}, {"edges": "quantile"}, {"over_89": "drop"}, *_OF_FILMS],
    "discharge_3_day": [
        *({"deaths": rule} for rule in ("exclude", "negative", "positive")),
        *({"per_stay": rule} for rule in ("first", "last")),
        {"start": "edregtime"},
        *_OF_FILMS,
    ],
    **{name: [{"balance": "image"}, *_COMMON] for name in INSPECT_TASKS},
}


class EmptyClassError(DataError):
    """A class has no image; carries the table, so that the counts can be shown."""

    def __init__(self, message: str, table: pd.DataFrame):
        super().__init__(message)
        self.table = table


@checked
def build_task(name: str, cohort: Cohort, at_most: Count | None = None, draw_seed: int = 0, **options) -> Task:
    """Build a task from a cohort.

    Parameters
    ----------
    name : str
        One of `BUILDERS`.
    cohort : Cohort
        Of MIMIC-CXR for the first three, of INSPECT (or of any source with `labels`) for its three, of covid-chestxray
        or Open-i for the rest; `age` works with every cohort that knows ages.
    at_most : int, optional
        Draw whole patients at random, in the order of `draw_seed`, until their images come nearest to this number. The
        paper's sets are smaller than all of MIMIC-CXR; how they were cut is not stated in the paper.
    **options
        `views` and `one_per` for every task (see `base.select_images`); else see `mimic.five_findings`,
        `mimic.discharge`, `age.age`, `outcomes.outcome`, `outcomes.yes_or_no` and `outcomes.openi_five`; they are
        checked against the annotations.
    """
    if name not in BUILDERS:
        raise DataError(f"There is no task named {name!r}; choose one of {', '.join(BUILDERS)}.")
    task = checked(BUILDERS[name], label=f"Task {name}")(cohort, **options)
    task = task if at_most is None else _cut(task, at_most, draw_seed)
    empty = [name for name, count in task.counts.items() if count == 0]
    if empty:
        raise EmptyClassError(
            f"Task {name}: no image is left of class {', '.join(empty)}; relax its options or use more data.",
            task.table,
        )
    return task


def _cut(task: Task, at_most: int, seed: int) -> Task:
    """The task with whole patients drawn until their images come nearest to `at_most`."""
    codes, names = pd.factorize(task.table["patient_id"])
    order = np.random.default_rng(seed).permutation(len(names))
    total = np.cumsum(np.bincount(codes, minlength=len(names))[order])
    kept = order[: int(np.abs(total - at_most).argmin()) + 1]
    table = task.table[np.isin(codes, kept)].reset_index(drop=True)
    step = Funnel()
    step.step(f"patients drawn for about {at_most:,} images", table, PAPER_COUNTS.get(task.name, np.nan))
    funnel = pd.concat([task.funnel, step.table()], ignore_index=True)
    choices = task.choices | {"cut": f"{at_most:,} images, patients drawn with seed {seed} ({NOT_STATED})"}
    return replace(task, table=table, funnel=funnel, choices=choices)


def count_variants(
    name: str, cohort: Cohort, options: dict | None = None, variants: Sequence[dict] | None = None
) -> pd.DataFrame:
    """Count a task's images as chosen, and with one rule changed at a time.

    Parameters
    ----------
    options : dict, optional
        The chosen options of `build_task`; `at_most` is left out, since it would hide what the rules do.
    variants : sequence of dict, optional
        Options that replace some of the chosen ones; by default `VARIANTS`, as far as the cohort has the views.

    Returns
    -------
    DataFrame
        `task`, `options` (what was changed, as text), `images`, `patients`, `classes` (images of each class), `paper`
        (its count or NaN).
        A variant that leaves a class empty has its counts too.
    """
    if variants is None:
        known = set(cohort.images["view"].dropna())
        variants = [change for change in VARIANTS.get(name, []) if set(change.get("views", ())) <= known]
    options = {key: value for key, value in (options or {}).items() if key not in ("at_most", "draw_seed")}
    paper, rows = float(PAPER_COUNTS.get(name, np.nan)), []
    for change in [{}, *variants]:
        try:
            task = build_task(name, cohort, **options | change)
            table, counts = task.table, ", ".join(f"{key} {count:,}" for key, count in task.counts.items())
        except EmptyClassError as error:
            table, counts = error.table, f"not usable: {error}"
        words = ", ".join(f"{key} {'/'.join(v) if isinstance(v, list) else v}" for key, v in change.items())
        rows.append((name, words or "as chosen", len(table), table["patient_id"].nunique(), counts, paper))
    return pd.DataFrame(rows, columns=["task", "options", "images", "patients", "classes", "paper"])
