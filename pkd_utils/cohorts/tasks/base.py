"""A task: which images, which target, who may stand in which part of a split."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pkd_utils.cohorts.table import Cohort, Funnel
from pkd_utils.runs.checked import config
from pkd_utils.runs.errors import DataError

NOT_STATED = "not stated in the paper"
# Images of each task's data set as the paper gives them (section 3.2; appendix B.2 for pulmonary embolism).
PAPER_COUNTS = {
    "mimic_5x1200": 6_000,
    "age": 35_242,
    "discharge_3_day": 18_490,
    "ph_12_month": 5_449,
    "readmission_12_month": 5_651,
    "pulmonary_embolism": 9_375,
}
Unit = Literal["image", "study", "patient"]
Balance = Literal["patient", "image"]
Drawn = Literal["once", "each_seed"]
DRAWN: dict[Drawn, str] = {"once": "once", "each_seed": "for each seed"}  # in words
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


@config
class SplitRule:
    """How a task is divided; `tasks.splits.split_task` carries it out for a seed.

    Attributes
    ----------
    evaluate : float
        Share of the images held out for evaluation: 0.10 (age, discharge) or 0.25 (INSPECT's tasks) in the paper.
    per_class : (int, int) or None
        Instead of a share, so many training and evaluation images are drawn of each class: (1000, 200) in the paper.
    fixed : bool
        The images are drawn once, not anew for each seed. With `per_class` so is their division, and seeds draw subsets
        of the training part; with `balance` each seed divides them.
    balance : {"patient", "image"} or None
        Sample the larger class down to the smaller one first (two classes). By patient: those who are of the larger
        class alone are drawn whole until the classes' images come nearest to each other; all images of the others are
        kept.
    stratify : bool
        Hold out the same share of each class's patients; for sources so small that a class could go missing.
    """

    evaluate: Share = 0.10
    per_class: tuple[Count, Count] | None = None
    fixed: bool = False
    balance: Balance | None = None
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
    table, funnel : DataFrame
        `image_id, patient_id, study_id` (str), `target` (int64, 0 to C - 1), one row an image, in the cohort's order;
        age tasks also have `value`, the age in years. The funnel is as a cohort's.
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
    split: SplitRule = field(default_factory=SplitRule)
    sources: tuple[Path, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        number = np.bincount(self.table["target"], minlength=len(self.classes))
        return dict(zip(self.classes, number.tolist(), strict=True))


def select_images(
    cohort: Cohort, views: Sequence[str] | None = None, one_per: Unit = "image"
) -> tuple[pd.DataFrame, Funnel]:
    """Images of a cohort that may take part, and a funnel that starts with them; the paper states neither option.

    `views` are the values of `view` to keep (None: what the cohort holds); `one_per` keeps every image, or the first in
    time (then by `image_id`) of each study or patient.
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
    # Ties in time go by image_id either way round, so that no order of files decides.
    ordered = images.sort_values("image_id")
    if "study_datetime" in images.columns:
        ordered = ordered.sort_values("study_datetime", ascending=not last, kind="stable")
    return images[images.index.isin(ordered.drop_duplicates(f"{unit}_id").index)]


def make_table(images: pd.DataFrame, target, value=None) -> pd.DataFrame:
    """Task table of these images; `target` (N,) of ints, `value` (N,) floats where there are."""
    table = images[["image_id", "patient_id", "study_id"]].assign(target=np.asarray(target, dtype=np.int64))
    if value is not None:
        table["value"] = np.asarray(value, dtype=np.float64)
    return table.reset_index(drop=True)


def images_chosen(views: Sequence[str] | None, one_per: Unit) -> dict[str, str]:
    """The options of `select_images` in words, for `Task.choices`."""
    kept = "all of the cohort" if views is None else ", ".join(views)
    return {"views": f"{kept} ({NOT_STATED})", "several images": f"one per {one_per} ({NOT_STATED})"}
