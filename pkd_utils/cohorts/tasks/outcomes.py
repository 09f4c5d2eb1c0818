"""Tasks from label columns: INSPECT's outcomes, those noted beside covid-chestxray's films, Open-i's coded findings.

A cohort that `cohorts.inspect` read brings INSPECT's outcomes along. For any other they come in a table with INSPECT's
columns, "True", "False" or "Censored"; that of the embedded radiographs is made by `demo.chest.outcomes`.
"""

import pandas as pd

from pkd_utils.cohorts.inspect.tables import read_outcome
from pkd_utils.cohorts.table import Cohort
from pkd_utils.cohorts.tasks import base
from pkd_utils.runs.errors import DataError

# Title, kind, class names, and INSPECT's column; section 3.2 and appendix B.2 of the paper.
INSPECT = {
    "ph_12_month": ("12-Month PH", "prognostic", ("no PH", "PH within 12 months"), "12_month_PH"),
    "readmission_12_month": (
        *("Readmission", "prognostic"),
        *(("not readmitted", "readmitted within 12 months"), "12_month_readmission"),
    ),
    "pulmonary_embolism": (
        *("Pulmonary Embolism", "diagnostic"),
        *(("no embolism", "pulmonary embolism"), "pe_positive_nlp"),
    ),
}
# Title, kind, class names, and the cohort's label column.
COVID = {
    "went_icu": ("Went to the ICU", "prognostic", ("no ICU", "went to ICU"), "went_icu"),
    "in_icu": ("In the ICU at the time", "auxiliary", ("not in ICU", "in ICU"), "in_icu"),
    "intubated": ("Intubated at any time", "prognostic", ("not intubated", "intubated"), "intubated"),
    "death": ("Death", "prognostic", ("survived", "died"), "death"),
    "covid19": ("COVID-19 against other", "diagnostic", ("other", "COVID-19"), "COVID-19"),
}
# Coded by people from the reports, so diagnostic whatever is later done to the text.
OPENI_FINDINGS = ("Cardiomegaly", "Atelectasis", "Pleural Effusion", "Opacity")
OPENI = {"openi_abnormal": ("Abnormal", "diagnostic", ("normal", "abnormal"), "Abnormal")} | {
    f"openi_{name.lower().replace(' ', '_')}": (name, "diagnostic", (f"no {name.lower()}", name.lower()), name)
    for name in OPENI_FINDINGS
}
YES_OR_NO = COVID | OPENI
# Columns that a table of outcomes may be keyed by, and what the cohort calls them.
_KEYS = {"image_id": "image_id", "study_id": "study_id", "impression_id": "study_id"}


def outcome(
    name: str,
    cohort: Cohort,
    labels: pd.DataFrame | None = None,
    views: tuple[str, ...] | None = None,
    one_per: base.Unit = "image",
    column: str | None = None,
    evaluate: base.Share = 0.25,
    balance: base.Balance = "patient",
    drawn: base.Drawn = "once",
) -> base.Task:
    """A task of INSPECT: censored rows are dropped, and the negatives sampled down to the positives.

    Parameters
    ----------
    name : str
        A key of `INSPECT`.
    labels : DataFrame, optional
        `image_id`, `study_id` or `impression_id`, and the outcome's column with True, False or Censored; other images
        have no outcome. By default the cohort's own label column, in which NaN is a censored outcome.
    column : str, optional
        The outcome's column; by default 12_month_PH, 12_month_readmission or pe_positive_nlp. Which of INSPECT's
        embolism columns the paper took is not stated in the paper; its count fits pe_positive_nlp.
    evaluate : float
        Share held out; 0.25 in the paper.
    balance : {"patient", "image"}
        What is left out of the larger class, see `tasks.base.SplitRule`. Section 3.2 samples "patients that did not
        experience the event", appendix B.2 "negative labels". The paper's 5,449 and 5,651 images are one more than
        twice the release's positives, which whole patients give and single images do not.
    drawn : {"once", "each_seed"}
        One balanced set, which every seed divides: the paper gives one number of images for it, and divides "for each
        seed". Or another set for each seed.
    """
    title, kind, classes, usual = INSPECT[name]
    column = column or usual
    if labels is None:
        if column not in cohort.labels:
            raise DataError(f"Task {name} needs `labels`: a table with image_id or study_id and the column {column}.")
        key, values = "image_id", cohort.images[["image_id"]].assign(value=cohort.images[column])
    else:
        given = next((k for k in _KEYS if k in labels.columns), None)
        if given is None or column not in labels.columns:
            raise DataError(f"The labels of task {name} need image_id or study_id, and {column!r}; correct the table.")
        key = _KEYS[given]
        values = pd.DataFrame({key: labels[given], "value": read_outcome(labels[column], column)})
    values = values.drop_duplicates()
    clash = int(values[key].duplicated().sum())
    if clash:
        raise DataError(f"{clash} {key}(s) have two different values of {column}; keep one row each.")
    values = values.set_index(key)["value"]
    images, funnel = base.select_images(cohort, views, one_per)
    images = images[images[key].isin(values.index)]
    funnel.step(f"has a row of {column}", images)
    target = images[key].map(values)
    images, target = images[target.notna()], target.dropna()
    funnel.step("not censored", images)
    smaller = int(min(target.sum(), len(target) - target.sum()))
    balanced = pd.concat([images[target == value].head(smaller) for value in (0, 1)])
    about = "about " if balance == "patient" else ""
    when = base.DRAWN[drawn]
    note = f"{about}{smaller:,} of each class; which ones is drawn {when}"
    funnel.step("balanced", balanced, base.PAPER_COUNTS[name], note)
    choices = {
        "column": f"{column} ({'stated' if kind == 'prognostic' else base.NOT_STATED})",
        "balance": f"the larger class sampled down by {balance}, {when} (patients in section 3.2)",
        "several images": f"one per {one_per} ({base.NOT_STATED})",
    }
    split = base.SplitRule(evaluate=evaluate, balance=balance, fixed=drawn == "once")
    return base.Task(name, title, kind, classes, base.make_table(images, target), funnel.table(), choices, split)


def _check_labels(cohort: Cohort, columns: list[str]) -> None:
    for missing in [name for name in columns if name not in cohort.labels]:
        raise DataError(f"Cohort {cohort.info.name} was loaded without label {missing!r}; add it to the loader's.")


def yes_or_no(
    name: str,
    cohort: Cohort,
    views: tuple[str, ...] | None = None,
    one_per: base.Unit = "image",
    evaluate: base.Share = 0.25,
    stratify: bool = True,
) -> base.Task:
    """A label (of `YES_OR_NO`) of a source that the paper does not use; where it is unknown, images drop out.

    `views`, `one_per`: see `tasks.base.select_images`; `evaluate`, `stratify`: see `tasks.base.SplitRule`. Without
    `stratify` all tasks with the same images hold out the same ones.
    """
    title, kind, classes, column = YES_OR_NO[name]
    _check_labels(cohort, [column])
    images, funnel = base.select_images(cohort, views, one_per)
    unknown = int(images[column].isna().sum())
    images = images[images[column].notna()]
    funnel.step(f"{column} known", images, note=f"{unknown} images unknown")
    choices = {"source": "not one of the paper's", "several images": f"one per {one_per}"}
    split = base.SplitRule(evaluate=evaluate, stratify=stratify)
    table = base.make_table(images, images[column])
    return base.Task(name, title, kind, classes, table, funnel.table(), choices, split)


def openi_five(
    cohort: Cohort,
    views: tuple[str, ...] | None = None,
    one_per: base.Unit = "image",
    evaluate: base.Share = 0.25,
    stratify: bool = True,
) -> base.Task:
    """One of five on Open-i, as MIMIC 5x1200: exactly one of `OPENI_FINDINGS`, or a study coded as normal.

    Other findings may stand beside the one; a study with others alone is in no class.

    Parameters
    ----------
    cohort : Cohort
        Of the loader `openi`, with all its labels.
    evaluate, stratify
        See `tasks.base.SplitRule`.
    """
    columns = [*OPENI_FINDINGS, "Abnormal"]
    _check_labels(cohort, columns)
    images, funnel = base.select_images(cohort, views, one_per)
    found = images[columns].assign(normal=1 - images["Abnormal"])[[*OPENI_FINDINGS, "normal"]]
    count = found.sum(axis=1)
    images, target = images[count == 1], found[count == 1].to_numpy().argmax(axis=1)
    note = f"{int((count > 1).sum())} images with several, {int((count == 0).sum())} with none"
    funnel.step("exactly one of the five", images, note=note)
    choices = {"source": "not one of the paper's", "other findings": "may stand beside it"}
    choices["several images"] = f"one per {one_per}"
    split = base.SplitRule(evaluate=evaluate, stratify=stratify)
    facts = "openi_five", "Open-i, one of five", "diagnostic", tuple(name.lower() for name in found)
    return base.Task(*facts, base.make_table(images, target), funnel.table(), choices, split)
