"""Tasks of covid-chestxray: outcomes noted beside the radiographs, and COVID-19 against other findings."""

from pkd_utils.cohorts.table import Cohort
from pkd_utils.cohorts.tasks.base import Share, SplitRule, Task, Unit, make_table, select_images
from pkd_utils.runs.errors import DataError

# Title, kind, class names, and the cohort's label column.
OUTCOMES = {
    "went_icu": ("Went to the ICU", "prognostic", ("no ICU", "went to ICU"), "went_icu"),
    "in_icu": ("In the ICU at the time", "auxiliary", ("not in ICU", "in ICU"), "in_icu"),
    "intubated": ("Intubated at any time", "prognostic", ("not intubated", "intubated"), "intubated"),
    "death": ("Death", "prognostic", ("survived", "died"), "death"),
    "covid19": ("COVID-19 against other", "diagnostic", ("other", "COVID-19"), "COVID-19"),
}


def yes_or_no(
    name: str,
    cohort: Cohort,
    views: tuple[str, ...] | None = None,
    one_per: Unit = "image",
    evaluate: Share = 0.25,
) -> Task:
    """One yes-or-no label of the cohort; images where it is unknown are left out and counted.

    Parameters
    ----------
    name : str
        A key of `OUTCOMES`.
    cohort : Cohort
        Of the loader `covid_chestxray`, with the label among its `labels`.
    views, one_per
        See `tasks.base.select_images`.
    evaluate : float
        Share of each class's patients held out in every repeated split. The paper does not use this source.
    """
    title, kind, classes, column = OUTCOMES[name]
    if column not in cohort.labels:
        raise DataError(f"Cohort {cohort.info.name} was loaded without label {column!r}; add it to the loader's.")
    images, funnel = select_images(cohort, views, one_per)
    unknown = int(images[column].isna().sum())
    images = images[images[column].notna()]
    funnel.step(f"{column} known", images, note=f"{unknown} images unknown")
    return Task(
        name=name,
        title=title,
        kind=kind,
        classes=classes,
        table=make_table(images, images[column]),
        funnel=funnel.table(),
        choices={"source": "not one of the paper's", "several images": f"one per {one_per}"},
        split=SplitRule(evaluate=evaluate, stratify=True),
    )
