"""Prediction tasks of the radiology-reports study, one interface for every data source.

`build_task(name, cohort)` turns a cohort into a C-way classification task: which images take part, and the class of
each. What the paper leaves open is an option; `Task.choices` says what was chosen, `Task.funnel` counts what every step
left, and `count_variants` shows the counts under other choices. How a task is divided for training is in
`task_splits`; the sources' own rules are in `tasks_mimic`, `tasks_inspect` and `tasks_covid`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
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
TABLE_COLUMNS = ["image_id", "patient_id", "study_id", "target"]
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


def build_task(name: str, cohort: Cohort, **options) -> Task:
    """Build a task from a cohort.

    Parameters
    ----------
    name : str
        One of `TASKS`.
    cohort : Cohort
        Of MIMIC-CXR for the first three, of any source for INSPECT's three (with `labels`), of covid-chestxray for the
        rest; `age` works with every cohort that knows ages.
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
        from pkd_utils.tasks_mimic import five_findings as build
    elif name == "age":
        from pkd_utils.tasks_age import age as build
    elif name == "discharge_3_day":
        from pkd_utils.tasks_mimic import discharge as build
    elif name in INSPECT_TASKS:
        from pkd_utils.tasks_inspect import outcome

        return check_task(outcome(cohort, name, **options))
    elif name in COVID_TASKS:
        from pkd_utils.tasks_covid import yes_or_no

        return check_task(yes_or_no(cohort, name, **options))
    else:
        raise DataError(f"There is no task named {name!r}; choose one of {', '.join(TASKS)}.")
    return check_task(build(cohort, **options))


def count_variants(name: str, cohort: Cohort, variants: Sequence[dict]) -> pd.DataFrame:
    """Count a task's images under several choices of its options.

    Parameters
    ----------
    name : str
    cohort : Cohort
    variants : sequence of dict
        Options of `build_task`.

    Returns
    -------
    DataFrame
        `task`, `options` (as text), `images`, `patients`, `classes` (images of each class), `paper` (its count or NaN).
        A variant that leaves a class empty has its counts too.
    """
    rows = []
    for options in variants:
        shown = {key: value for key, value in options.items() if not isinstance(value, pd.DataFrame)}
        try:
            task = build_task(name, cohort, **options)
            table, counts = task.table, ", ".join(f"{key} {count:,}" for key, count in task.counts.items())
        except EmptyClassError as error:
            table, counts = error.table, f"not usable: {error}"
        rows.append(
            {
                "task": name,
                "options": ", ".join(f"{key} {_plain(value)}" for key, value in shown.items()) or "as chosen",
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
