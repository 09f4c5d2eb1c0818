"""Age in bins: an auxiliary task for every cohort that knows ages (section 3.2 of the paper)."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from pkd_utils.cohorts.table import Cohort
from pkd_utils.cohorts.tasks.base import SplitRule, Task, choice, make_table, select_images
from pkd_utils.cohorts.tasks.build import NOT_STATED, PAPER_COUNTS
from pkd_utils.runs.errors import DataError


def age(
    cohort: Cohort,
    views: Sequence[str] | None = None,
    one_per: str = "image",
    bins: int = 5,
    edges: str = "equal_width",
    fit_on: Iterable[str] | None = None,
    over_89: str = "keep",
    evaluate: float = 0.10,
    stratify: bool = False,
) -> Task:
    """Age of the patient at the time of the image, in bins.

    The paper divides "the ages into 5 bins, as done in Pérez-García et al. (2024)" and gives no edges.

    Parameters
    ----------
    cohort : Cohort
        With a column `age` (years). In MIMIC it is anchor_age + year of the study - anchor_year, and 91 stands for all
        anchor ages over 89.
    views, one_per
        See `tasks.base.select_images`.
    bins : int
        5 in the paper.
    edges : {"equal_width", "quantile"}
        Equal spans of years between the youngest and the oldest, or equal numbers of images. Not stated in the paper.
    fit_on : iterable of str, optional
        Images whose ages fix the edges, for example those of a training part; None takes all images of the task. Not
        stated in the paper.
    over_89 : {"keep", "cap", "drop"}
        Ages over 89, which de-identified tables do not tell apart: as computed; all taken as 90; or left out. Not
        stated in the paper.
    evaluate, stratify
        See `tasks.base.SplitRule`.
    """
    choice("over_89", ("keep", "cap", "drop"), over_89)
    images, funnel = select_images(cohort, views, one_per)
    if "age" not in images.columns:
        raise DataError(
            f"Cohort {cohort.info.name} has no column age; for MIMIC give the loader mimic_iv_root (hosp/patients)."
        )
    images = images[images["age"].notna()]
    funnel.step("age known", images)
    if over_89 == "drop":
        images = images[images["age"] <= 89]
        funnel.step("age at most 89", images)
    years = images["age"].where(images["age"] <= 89, 90.0) if over_89 == "cap" else images["age"]
    fitted = years if fit_on is None else years[images["image_id"].isin(set(fit_on))]
    inner = bin_edges(fitted, bins, edges)
    target = np.digitize(years, inner)
    funnel.step(f"in {bins} bins", images, PAPER_COUNTS["age"] if cohort.info.name == "mimic_cxr" else np.nan)
    chosen = {
        "edges": f"{edges}, {', '.join(f'{edge:g}' for edge in inner)} years ({NOT_STATED})",
        "edges fixed on": f"{'all images' if fit_on is None else 'the images given'} ({NOT_STATED})",
        "over 89": f"{over_89} ({NOT_STATED})",
        "views": f"{_all(views)} ({NOT_STATED})",
        "several images": f"one per {one_per} ({NOT_STATED})",
    }
    return Task(
        name="age",
        title=f"Age in {bins} bins",
        kind="auxiliary",
        classes=bin_names(inner),
        table=make_table(images, target, years),
        funnel=funnel.table(),
        choices=chosen,
        split=SplitRule(evaluate=evaluate, stratify=stratify),
    )


def bin_edges(years, bins: int, edges: str) -> np.ndarray:
    """Inner edges (bins - 1,) of age bins; an age equal to an edge belongs to the older bin.

    Raises
    ------
    DataError
        Fewer than 2 bins, no ages, or so few different ages that two edges fall together.
    """
    choice("edges", ("equal_width", "quantile"), edges)
    years = np.asarray(years, dtype=np.float64)
    if bins < 2 or not len(years):
        raise DataError(f"{bins} bins of {len(years)} ages: give at least 2 bins and some ages.")
    if edges == "equal_width":
        inner = np.linspace(years.min(), years.max(), bins + 1)[1:-1]
    else:
        inner = np.quantile(years, np.arange(1, bins) / bins)
    if (np.diff(inner) <= 0).any() or inner[0] <= years.min():
        raise DataError(f"{len(np.unique(years))} different ages cannot fill {bins} bins; use fewer bins.")
    return inner


def bin_names(inner: np.ndarray) -> tuple[str, ...]:
    """Names of the bins between inner edges: "under 33", "33 to 48", ..., "78 and over"; the upper edge is excluded."""
    marks = [f"{edge:.4g}" for edge in inner]
    middle = [f"{low} to {high}" for low, high in pairwise(marks)]
    return (f"under {marks[0]}", *middle, f"{marks[-1]} and over")


def rebin(task: Task, fit_on: Iterable[str], edges: str) -> pd.Series:
    """Targets of an age task with edges fixed on some of its images, for example one seed's training part.

    Returns
    -------
    Series of int64, in the order of `task.table`
    """
    if "value" not in task.table:
        raise DataError(f"Task {task.name} has no ages: only age tasks can be binned again.")
    years = task.table["value"]
    inner = bin_edges(years[task.table["image_id"].isin(set(fit_on))], len(task.classes), edges)
    return pd.Series(np.digitize(years, inner).astype(np.int64), index=task.table.index, name="target")


def _all(views) -> str:
    return "all of the cohort" if views is None else ", ".join(views)
