"""Prediction tasks of the radiology-reports study, one interface for every data source.

`build_task(name, cohort)` turns a cohort into a C-way classification task: which images take part, and the class of
each. What the paper leaves open is an option; `Task.choices` says what was chosen, `Task.funnel` counts what every step
left, and `count_variants` shows the counts under other choices. How a task is divided for training is in `splits`; the
sources' own rules are in `mimic`, `inspect`, `covid` and `age`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from pkd_utils.cohorts.table import Cohort, Funnel
from pkd_utils.cohorts.tasks import age, covid, inspect, mimic
from pkd_utils.cohorts.tasks.base import NOT_STATED, PAPER_COUNTS, Count, EmptyClassError, Task, check_task
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError

INSPECT_TASKS = tuple(inspect.OUTCOMES)
BUILDERS = {
    "mimic_5x1200": mimic.five_findings,
    "age": age.age,
    "discharge_3_day": mimic.discharge,
    **{name: partial(inspect.outcome, name) for name in inspect.OUTCOMES},
    **{name: partial(covid.yes_or_no, name) for name in covid.OUTCOMES},
}
TASKS = tuple(BUILDERS)
# Each rule that the paper leaves open, changed by itself; `count_variants` shows what it does to the counts.
_COMMON = [{"one_per": "study"}, {"one_per": "patient"}]
_FRONTAL = [{"views": ["PA"]}, {"views": ["AP"]}]
VARIANTS = {
    "mimic_5x1200": [
        *({"co_labels": rule} for rule in ("others_not_positive", "others_negative_or_blank")),
        *({"co_labels": rule} for rule in ("no_other_finding", "uncertain_mapped")),
        *_FRONTAL,
        *_COMMON,
    ],
    "age": [{"edges": "equal_width"}, {"edges": "quantile"}, {"over_89": "drop"}, *_FRONTAL, *_COMMON],
    "discharge_3_day": [
        *({"deaths": rule} for rule in ("exclude", "negative", "positive")),
        *({"per_stay": rule} for rule in ("first", "last")),
        {"start": "edregtime"},
        *_FRONTAL,
        *_COMMON,
    ],
    **{name: _COMMON for name in INSPECT_TASKS},
}


@checked
def build_task(name: str, cohort: Cohort, at_most: Count | None = None, draw_seed: int = 0, **options) -> Task:
    """Build a task from a cohort.

    Parameters
    ----------
    name : str
        One of `TASKS`.
    cohort : Cohort
        Of MIMIC-CXR for the first three, of INSPECT (or of any source with `labels`) for its three, of covid-chestxray
        for the rest; `age` works with every cohort that knows ages.
    at_most : int, optional
        Draw whole patients at random, in the order of `draw_seed`, until their images come nearest to this number. The
        paper's sets are smaller than all of MIMIC-CXR; how they were cut is not stated in the paper.
    **options
        `views` and `one_per` for every task (see `base.select_images`); else see `mimic.five_findings`,
        `mimic.discharge`, `age.age`, `inspect.outcome` and `covid.yes_or_no`; they are checked against the annotations.
    """
    if name not in BUILDERS:
        raise DataError(f"There is no task named {name!r}; choose one of {', '.join(TASKS)}.")
    task = checked(BUILDERS[name], label=f"Task {name}")(cohort, **options)
    return check_task(task if at_most is None else _cut(task, at_most, draw_seed))


def _cut(task: Task, at_most: int, seed: int) -> Task:
    """The task with whole patients drawn until their images come nearest to `at_most`."""
    codes, names = pd.factorize(task.table["patient_id"])
    order = np.random.default_rng(seed).permutation(len(names))
    total = np.cumsum(np.bincount(codes, minlength=len(names))[order])
    kept = order[: int(np.abs(total - at_most).argmin()) + 1]
    table = task.table[np.isin(codes, kept)].reset_index(drop=True)
    funnel = Funnel()
    funnel.step(f"patients drawn for about {at_most:,} images", table, PAPER_COUNTS.get(task.name, np.nan))
    choices = task.choices | {"cut": f"{at_most:,} images, patients drawn with seed {seed} ({NOT_STATED})"}
    return replace(
        task, table=table, funnel=pd.concat([task.funnel, funnel.table()], ignore_index=True), choices=choices
    )


def count_variants(
    name: str, cohort: Cohort, options: dict | None = None, variants: Sequence[dict] | None = None
) -> pd.DataFrame:
    """Count a task's images as chosen, and with one rule changed at a time.

    Parameters
    ----------
    name : str
    cohort : Cohort
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
    rows = []
    for change in [{}, *variants]:
        try:
            task = build_task(name, cohort, **{**options, **change})
            table, counts = task.table, ", ".join(f"{key} {count:,}" for key, count in task.counts.items())
        except EmptyClassError as error:
            table, counts = error.table, f"not usable: {error}"
        rows.append(
            {
                "task": name,
                "options": _changes(change),
                "images": len(table),
                "patients": table["patient_id"].nunique(),
                "classes": counts,
                "paper": float(PAPER_COUNTS.get(name, np.nan)),
            }
        )
    return pd.DataFrame(rows, columns=["task", "options", "images", "patients", "classes", "paper"])


def _changes(change: dict) -> str:
    """Changed options in words: "views PA/AP"."""
    words = {key: "/".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for key, v in change.items()}
    return ", ".join(f"{key} {value}" for key, value in words.items()) or "as chosen"
