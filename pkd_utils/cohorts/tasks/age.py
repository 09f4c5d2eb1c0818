"""Age in bins: an auxiliary task for every cohort that knows ages (section 3.2 of the paper)."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pkd_utils.cohorts.table import Cohort
from pkd_utils.cohorts.tasks import base
from pkd_utils.runs.errors import DataError

Edges = Literal["equal_width", "quantile"]


def age(
    cohort: Cohort,
    views: tuple[str, ...] | None = None,
    one_per: base.Unit = "image",
    bins: Annotated[int, Field(ge=2)] = 5,
    edges: Edges = "equal_width",
    over_89: Literal["keep", "cap", "drop"] = "keep",
    evaluate: base.Share = 0.10,
    stratify: bool = False,
) -> base.Task:
    """Age of the patient at the time of the image, in bins.

    The paper divides "the ages into 5 bins, as done in Pérez-García et al. (2024)" and gives no edges.

    Parameters
    ----------
    cohort : Cohort
        With a column `age` (years). In MIMIC it is anchor_age + year of the study - anchor_year, and 91 stands for all
        anchor ages over 89.
    bins : int
        5 in the paper.
    edges : {"equal_width", "quantile"}
        Equal spans of years between the youngest and the oldest, or equal numbers of images. Not stated in the paper.
        They are those of all images of the task; `splits.split_task` can fix them on its training part.
    over_89 : {"keep", "cap", "drop"}
        Ages over 89, which de-identified tables do not tell apart: as computed; all taken as 90; or left out. Not
        stated in the paper.
    evaluate, stratify
        See `tasks.base.SplitRule`.
    """
    images, funnel = base.select_images(cohort, views, one_per)
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
    inner = bin_edges(years, bins, edges)
    target = np.digitize(years, inner)
    funnel.step(f"in {bins} bins", images, base.PAPER_COUNTS["age"] if cohort.info.name == "mimic_cxr" else np.nan)
    choices = {
        "edges": f"{edges}, {', '.join(f'{edge:g}' for edge in inner)} years ({base.NOT_STATED})",
        "edges fixed on": f"all images ({base.NOT_STATED})",
        "over 89": f"{over_89} ({base.NOT_STATED})",
        **base.images_chosen(views, one_per),
    }
    facts = "age", f"Age in {bins} bins", "auxiliary", bin_names(inner)
    split = base.SplitRule(evaluate=evaluate, stratify=stratify)
    return base.Task(*facts, base.make_table(images, target, years), funnel.table(), choices, split)


def bin_edges(years, bins: int, edges: Edges) -> np.ndarray:
    """Inner edges (bins - 1,) of age bins; an age equal to an edge belongs to the older bin."""
    years = np.asarray(years, dtype=np.float64)
    if not len(years):
        raise DataError("No age is left to bin; relax the options or use a cohort that knows ages.")
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


def rebin(task: base.Task, fit_on: Iterable[str], edges: Edges) -> pd.Series:
    """Targets (int64, as `task.table`) of an age task with edges fixed on some images, say one seed's training part."""
    years = task.table["value"]
    inner = bin_edges(years[task.table["image_id"].isin(set(fit_on))], len(task.classes), edges)
    return pd.Series(np.digitize(years, inner).astype(np.int64), index=task.table.index, name="target")
