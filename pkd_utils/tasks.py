"""Prediction tasks of the radiology-reports study, one interface for every data source.

`build_task(name, cohort)` turns a cohort into a C-way classification task: which images take part, and the class of
each. What the paper leaves open is an option; `Task.choices` says what was chosen, `Task.funnel` counts what every step
left, and `count_variants` shows the counts under other choices. How a task is divided for training is in
`task_splits`; the sources' own rules are in `tasks_mimic`, `tasks_inspect` and `tasks_covid`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pkd_utils.cohorts.table import Cohort, Funnel
from pkd_utils.errors import DataError

MIMIC_TASKS = ("mimic_5x1200", "age", "discharge_3_day")
INSPECT_TASKS = ("ph_12_month", "readmission_12_month", "pulmonary_embolism")
COVID_TASKS = ("went_icu", "in_icu", "intubated", "death", "covid19", "age")
TASKS = (*MIMIC_TASKS, *INSPECT_TASKS, *(name for name in COVID_TASKS if name not in MIMIC_TASKS))
# Images of each task's data set as the paper gives them (section 3.2; appendix B.2 for pulmonary embolism).
PAPER_COUNTS = {
    "mimic_5x1200": 6_000,
    "age": 35_242,
    "discharge_3_day": 18_490,
    "ph_12_month": 5_449,
    "readmission_12_month": 5_651,
    "pulmonary_embolism": 9_375,
}
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
NOT_STATED = "not stated in the paper"


@dataclass(frozen=True)
class SplitRule:
    """How a task is divided; `task_splits.split_task` carries it out for a seed.

    Attributes
    ----------
    evaluate : float or None
        Share of the images held out for evaluation: 0.10 (age, discharge) or 0.25 (INSPECT's tasks) in the paper.
    per_class : (int, int) or None
        Instead of a share, so many training and evaluation images are drawn of each class: (1000, 200) in the paper.
    balance : bool
        Sample the larger class down to the smaller one first, anew for each seed (two classes).
    stratify : bool
        Hold out the same share of each class's patients; for sources so small that a class could go missing.
    """

    evaluate: float | None = None
    per_class: tuple[int, int] | None = None
    balance: bool = False
    stratify: bool = False


@dataclass(frozen=True)
class Task:
    """A C-way classification task.

    Attributes
    ----------
    name, title : str
    kind : str
        "diagnostic", "auxiliary" or "prognostic" (section 3.1 of the paper).
    classes : tuple of str
        Names of the classes; `target` indexes them.
    table : DataFrame
        `image_id, patient_id, study_id` (str), `target` (int64, 0 to C - 1), one row an image, in the cohort's order;
        age tasks also have `value`, the age in years.
    funnel : DataFrame
        `step, rows, patients, paper, note`, as a cohort's funnel.
    choices : dict of str to str
        What was decided where the paper decides nothing.
    split : SplitRule
    sources : tuple of Path
        Table files read beyond the cohort's own.
    """

    name: str
    title: str
    kind: str
    classes: tuple[str, ...]
    table: pd.DataFrame
    funnel: pd.DataFrame
    choices: dict[str, str] = field(default_factory=dict)
    split: SplitRule = field(default_factory=lambda: SplitRule(evaluate=0.10))
    sources: tuple[Path, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        number = np.bincount(self.table["target"], minlength=len(self.classes))
        return dict(zip(self.classes, number.tolist(), strict=True))


def build_task(name: str, cohort: Cohort, at_most: int | None = None, draw_seed: int = 0, **options) -> Task:
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
        `views` and `one_per` for every task (see `select_images`); for the others see `tasks_mimic.five_findings`,
        `tasks_mimic.discharge`, `bin_ages`, `tasks_inspect.outcome` and `tasks_covid.yes_or_no`.

    Returns
    -------
    Task

    Raises
    ------
    DataError
        Unknown task or option value, a table or column that the cohort lacks, or a class without images.
    FileNotFoundError
        A table that the task needs is missing.
    """
    # Imported where used, so that one source's needs never stop another from loading.
    if name == "mimic_5x1200":
        from pkd_utils.tasks_mimic import five_findings

        task = five_findings(cohort, **options)
    elif name == "age":
        from pkd_utils.tasks_age import age

        task = age(cohort, **options)
    elif name == "discharge_3_day":
        from pkd_utils.tasks_mimic import discharge

        task = discharge(cohort, **options)
    elif name in INSPECT_TASKS:
        from pkd_utils.tasks_inspect import outcome

        task = outcome(cohort, name, **options)
    elif name in COVID_TASKS:
        from pkd_utils.tasks_covid import yes_or_no

        task = yes_or_no(cohort, name, **options)
    else:
        raise DataError(f"There is no task named {name!r}; choose one of {', '.join(TASKS)}.")
    return check_task(task if at_most is None else _cut(task, at_most, draw_seed))


def _cut(task: Task, at_most: int, seed: int) -> Task:
    """The task with whole patients drawn until their images come nearest to `at_most`."""
    if at_most < 1:
        raise DataError(f"at_most = {at_most}: give at least one image.")
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
                "options": ", ".join(f"{key} {_plain(value)}" for key, value in change.items()) or "as chosen",
                "images": len(table),
                "patients": table["patient_id"].nunique(),
                "classes": counts,
                "paper": float(PAPER_COUNTS.get(name, np.nan)),
            }
        )
    return pd.DataFrame(rows, columns=["task", "options", "images", "patients", "classes", "paper"])


class EmptyClassError(DataError):
    """A class has no image; carries the table, so that the counts can be shown."""

    def __init__(self, message: str, table: pd.DataFrame):
        super().__init__(message)
        self.table = table


def select_images(
    cohort: Cohort, views: Sequence[str] | None = None, one_per: str = "image"
) -> tuple[pd.DataFrame, Funnel]:
    """Images of a cohort that may take part, and a funnel that starts with them.

    Parameters
    ----------
    cohort : Cohort
    views : sequence of str, optional
        Values of `view` to keep; None keeps what the cohort holds. Not stated in the paper.
    one_per : {"image", "study", "patient"}
        Keep every image, or the first in time (then by `image_id`) of each study or patient. Not stated in the paper.
    """
    funnel, images = Funnel(), cohort.images
    funnel.step("images of the cohort", images)
    if views is not None:
        unknown = sorted(set(views) - set(images["view"].dropna()))
        if unknown:
            raise DataError(f"No image of {cohort.info.name} has the view {unknown[0]!r}; correct `views`.")
        images = images[images["view"].isin(views)]
        funnel.step(f"view {', '.join(views)}", images)
    images = take_one(images, one_per)
    if one_per != "image":
        funnel.step(f"one image a {one_per}", images)
    return images, funnel


def take_one(images: pd.DataFrame, unit: str, last: bool = False) -> pd.DataFrame:
    """First (or last) image in time of each study, patient or other `<unit>_id`, in the given order of rows."""
    if unit == "image":
        return images
    key = f"{unit}_id"
    if key not in images.columns or key not in ("study_id", "patient_id", "stay_id"):
        raise DataError(f"One image a {unit!r} is not known; choose image, study or patient.")
    order = [column for column in ("study_datetime", "image_id") if column in images.columns]
    # Ties in time go by image_id either way round, so that no order of files decides.
    ordered = images.sort_values(order, ascending=[not last] * (len(order) - 1) + [True], kind="stable")
    chosen = ordered.drop_duplicates(key, keep="first")
    return images.loc[images.index.isin(chosen.index)]


def make_table(images: pd.DataFrame, target, value=None) -> pd.DataFrame:
    """Task table of these images; `target` (N,) of ints, `value` (N,) floats where there are."""
    table = images[["image_id", "patient_id", "study_id"]].assign(target=np.asarray(target, dtype=np.int64))
    if value is not None:
        table["value"] = np.asarray(value, dtype=np.float64)
    return table.reset_index(drop=True)


def choice(name: str, options: Sequence[str], value: str) -> str:
    """Return `value` if it is one of `options`; else DataError."""
    if value not in options:
        raise DataError(f"{name} must be one of {', '.join(options)}, not {value!r}.")
    return value


def check_task(task: Task) -> Task:
    """Return the task, or raise: every image once, every class present, identifiers strings."""
    table = task.table
    if table["image_id"].duplicated().any():
        twice = int(table["image_id"].duplicated().sum())
        raise DataError(f"Task {task.name}: {twice} image(s) appear twice; give one row an image.")
    if table[["image_id", "patient_id", "study_id"]].isna().any(axis=None):
        raise DataError(f"Task {task.name}: an image has no image, patient or study id; correct the cohort's table.")
    empty = [name for name, count in task.counts.items() if count == 0]
    if empty:
        raise EmptyClassError(
            f"Task {task.name}: no image is left of class {', '.join(empty)}; relax its options or use more data.",
            table,
        )
    return task


def _plain(value) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
