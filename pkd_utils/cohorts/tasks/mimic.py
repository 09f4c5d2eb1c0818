"""Tasks of MIMIC-CXR: one of five findings (5 x 1200), and discharge within three days (section 3.2 of the paper)."""

import functools
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pkd_utils.cohorts.checks import as_times, check_unique, read_csv, require_file
from pkd_utils.cohorts.mimic_cxr import ALL_LABELS, ONES_ZEROS, WHERE, read_labels
from pkd_utils.cohorts.table import Cohort
from pkd_utils.cohorts.tasks import base
from pkd_utils.runs.errors import DataError

FIVE = ("Atelectasis", "Cardiomegaly", "Edema", "Pleural Effusion", "Consolidation")  # the paper's order
CoLabels = Literal["others_not_positive", "others_negative_or_blank", "no_other_finding", "uncertain_mapped"]
# Labels beyond the five that exclude an image under "no_other_finding"; "No Finding" never stands beside a finding.
REST = tuple(label for label in ALL_LABELS if label not in (*FIVE, "No Finding"))
Start = Literal["admittime", "edregtime"]
WHERE_IV = "https://physionet.org/content/mimiciv/ (access is by credential)"


def five_findings(
    cohort: Cohort,
    views: tuple[str, ...] | None = None,
    one_per: base.Unit = "image",
    co_labels: CoLabels = "others_not_positive",
    findings: Annotated[tuple[Literal[FIVE], ...], Field(min_length=2)] = FIVE,
    train_per_class: base.Count = 1000,
    evaluate_per_class: base.Count = 200,
    drawn: base.Drawn = "once",
) -> base.Task:
    """MIMIC 5x1200: images whose study has exactly one of five labels.

    The table holds every image that qualifies; `tasks.splits.split_task` draws the paper's 1000 + 200 of each class.

    Parameters
    ----------
    cohort : Cohort
        Of the loader `mimic_cxr`. The labels are read anew from its labeller's table, so the loader's `uncertain` and
        `blank` do not matter.
    co_labels : str
        What the other labels may be; see `one_of_five`. Not stated in the paper.
    findings : sequence of str
        The classes, in this order: the five of the paper; fewer only where a small cohort has too few of one. An image
        still needs exactly one of all five.
    train_per_class, evaluate_per_class : int
        1000 and 200 in the paper.
    drawn : {"once", "each_seed"}
        One set of images, divided once, of which seeds draw training subsets: the paper speaks of one "final dataset"
        with 1000 images a label for training and 200 for evaluation. Or another set for each seed.
    """
    if len(set(findings)) != len(findings):
        raise DataError(f"Task mimic_5x1200: findings {', '.join(findings)} name one twice; name each once.")
    images, funnel = base.select_images(cohort, views, one_per)
    endings = ("-chexpert.csv.gz", "-negbio.csv.gz")
    file = _table_of(cohort, endings, "CheXpert or NegBio table; MIMIC 5x1200 needs MIMIC-CXR-JPG")
    values = _label_values(file, require_file(file, WHERE).stat().st_mtime_ns)
    images = images.assign(target=images["study_id"].map(one_of_five(values, co_labels)))
    images = images[images["target"].notna()]
    funnel.step("study has labels", images)
    images = images[images["target"] >= 0]
    funnel.step("exactly one of the five", images, note=co_labels)
    images["target"] = images["target"].map({FIVE.index(name): k for k, name in enumerate(findings)})
    if len(findings) < len(FIVE):
        images = images.dropna(subset="target")
        funnel.step(f"and it is {', '.join(findings)}", images)
    each = train_per_class + evaluate_per_class
    when = base.DRAWN[drawn]
    note = f"a count; which ones is drawn {when}"
    counted = images.groupby("target").head(each)
    funnel.step(f"at most {each:,} of each", counted, base.PAPER_COUNTS["mimic_5x1200"], note)
    choices = {
        "other labels": f"{co_labels} ({base.NOT_STATED})",
        "images and their division": f"drawn {when} (one data set in the paper's words)",
        "labeller": f"{file.name.removesuffix('.csv.gz').rsplit('-', 1)[1]} ({base.NOT_STATED})",
        **base.images_chosen(views, one_per),
    }
    title, table = f"MIMIC {len(findings)}x{each}", base.make_table(images, images["target"])
    split = base.SplitRule(per_class=(train_per_class, evaluate_per_class), fixed=drawn == "once")
    return base.Task("mimic_5x1200", title, "diagnostic", tuple(findings), table, funnel.table(), choices, split)


# Counting a task's variants reads the same table again and again, so it is kept until it changes; nobody edits it.
@functools.lru_cache(maxsize=2)
def _label_values(file: Path, mtime_ns: int) -> pd.DataFrame:
    """A labeller's table: columns `FIVE` and `REST` as floats, indexed by `study_id`."""
    return read_labels(file, (*FIVE, *REST)).set_index("study_id")


def one_of_five(labels: pd.DataFrame, co_labels: CoLabels = "others_not_positive") -> pd.Series:
    """Class of each study, or -1 if it has not exactly one of the five labels.

    Parameters
    ----------
    labels : DataFrame
        Columns `FIVE` and `REST` with 1, 0, -1 (uncertain) and NaN (blank), indexed by study.
    co_labels : str
        - `others_not_positive`: one of the five is 1; the other four are anything but 1.
        - `others_negative_or_blank`: and none of the other four is uncertain.
        - `no_other_finding`: and none of `REST` is 1 or uncertain.
        - `uncertain_mapped`: as `no_other_finding`, after uncertain values of the five became 1 (atelectasis, edema,
          effusion) or 0 (cardiomegaly, consolidation), as builders of similar sets did (MGCA's mimic_5x200).

    Returns
    -------
    Series of int64
    """
    values = np.nan_to_num(labels[[*FIVE, *REST]].to_numpy(dtype=np.float64), nan=0.0)
    five, rest = values[:, : len(FIVE)], values[:, len(FIVE) :]
    if co_labels == "uncertain_mapped":
        ones = np.array([ONES_ZEROS[label] == "one" for label in FIVE], dtype=np.float64)
        five = np.where(five == -1, ones, five)
    keep = (five == 1).sum(axis=1) == 1
    if co_labels != "others_not_positive":
        keep &= (five != -1).all(axis=1)
    if co_labels in ("no_other_finding", "uncertain_mapped"):
        keep &= (rest == 0).all(axis=1)
    position = (five == 1).argmax(axis=1)
    return pd.Series(np.where(keep, position, -1), index=labels.index, name="target")


def discharge(
    cohort: Cohort,
    views: tuple[str, ...] | None = None,
    one_per: base.Unit = "image",
    per_stay: Literal["all", "first", "last"] = "all",
    deaths: Literal["exclude", "negative", "positive"] = "exclude",
    start: Start = "admittime",
    evaluate: base.Share = 0.10,
) -> base.Task:
    """3-Day Discharge: will the patient be discharged within the coming three days?

    Images are joined to the stay with admittime <= study time <= dischtime; positive if dischtime - study time <= 72 h.

    Parameters
    ----------
    cohort : Cohort
        Of the loader `mimic_cxr`, with MIMIC-IV's `hosp/patients.csv.gz`, beside which `admissions.csv.gz` lies.
    per_stay : {"all", "first", "last"}
        Which images of a stay take part. Not stated in the paper.
    deaths : {"exclude", "negative", "positive"}
        Stays that end in death: left out; never a discharge; or labelled by their end like any other. Not stated in the
        paper.
    start : {"admittime", "edregtime"}
        A stay begins with the admission, or already with the registration in its emergency department. Not stated in
        the paper.
    evaluate : float
        Share held out; 0.10 in the paper.
    """
    images, funnel = base.select_images(cohort, views, one_per)
    if "study_datetime" not in images.columns:
        raise DataError(f"Cohort {cohort.info.name} has no study times; 3-Day Discharge needs MIMIC-CXR.")
    lacking = "table of MIMIC-IV; give the loader mimic_iv_root (hosp/patients.csv.gz)"
    file = _table_of(cohort, "patients.csv.gz", lacking).with_name("admissions.csv.gz")
    stays = read_admissions(file, require_file(file, WHERE_IV).stat().st_mtime_ns, start)
    unusable = int((stays["start"].isna() | stays["end"].isna() | (stays["end"] < stays["start"])).sum())
    images = images[images["study_datetime"].notna()]
    funnel.step("study time known", images)
    studies = images[["study_id", "patient_id", "study_datetime"]].drop_duplicates("study_id")
    joined, overlapping = join_stays(studies, stays)
    note = f"{overlapping} studies in several stays: the last admitted; {unusable} stays without usable times"
    images = images.merge(joined[["study_id", "stay_id", "end", "died"]], on="study_id")
    funnel.step(f"{start} <= study time <= dischtime", images, note=note)
    if deaths == "exclude":
        images = images[~images["died"]]
        funnel.step("stay does not end in death", images)
    if per_stay != "all":
        images = base.take_one(images, "stay", last=per_stay == "last")
        funnel.step(f"{per_stay} image of each stay", images)
    funnel.step("task", images, base.PAPER_COUNTS["discharge_3_day"])
    soon = images["end"] - images["study_datetime"] <= pd.Timedelta(days=3)
    if deaths == "negative":
        soon &= ~images["died"]
    choices = {
        "deaths in hospital": f"{deaths} ({base.NOT_STATED})",
        "images of a stay": f"{per_stay} ({base.NOT_STATED})",
        "a stay starts": f"{start} ({base.NOT_STATED})",
        **base.images_chosen(views, one_per),
    }
    facts = "discharge_3_day", "3-Day Discharge", "prognostic", ("stays longer", "discharged within 3 days")
    return base.Task(
        *facts, base.make_table(images, soon), funnel.table(), choices, base.SplitRule(evaluate=evaluate), (file,)
    )


@functools.lru_cache(maxsize=4)
def read_admissions(file: Path, mtime_ns: int, start: Start) -> pd.DataFrame:
    """MIMIC-IV's admissions: `patient_id`, `stay_id` (str), `start`, `end` (timestamps or NaT), `died` (bool)."""
    columns = ["subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "hospital_expire_flag"]
    columns += ["edregtime"] if start == "edregtime" else []
    table = read_csv(file, columns, WHERE_IV, only=True)
    check_unique(table, "hadm_id", file.name)
    table = as_times(table, ["admittime", "dischtime", *columns[6:]], file, "%Y-%m-%d %H:%M:%S")
    begin = table["admittime"]
    if start == "edregtime":
        begin = table[["admittime", "edregtime"]].min(axis=1).where(begin.notna())
    died = (table["hospital_expire_flag"] == "1") | table["deathtime"].notna()
    names = {"subject_id": "patient_id", "hadm_id": "stay_id", "dischtime": "end"}
    return table.rename(columns=names)[["patient_id", "stay_id", "end"]].assign(start=begin, died=died)


def join_stays(studies: pd.DataFrame, stays: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Join each study (`study_id`, once each, `patient_id`, `study_datetime`) to the stay (`read_admissions`) it is in.

    Both ends of a stay belong to it. Where stays overlap, the one that started last (then ended first, then by
    `stay_id`) is taken; also returns the number of studies for which that choice was made.
    """
    pairs = studies.merge(stays, on="patient_id")
    inside = (pairs["start"] <= pairs["study_datetime"]) & (pairs["study_datetime"] <= pairs["end"])
    pairs = pairs[inside].sort_values(["start", "end", "stay_id"], ascending=[False, True, True], kind="stable")
    repeated = pairs["study_id"].duplicated()
    return pairs[~repeated], pairs["study_id"][repeated].nunique()


def _table_of(cohort: Cohort, ending: str | tuple[str, ...], lacking: str) -> Path:
    """The file with this ending among those that the cohort read; `lacking` says what it is and where it comes from."""
    for file in cohort.tables:
        if file.name.endswith(ending):
            return file
    raise DataError(f"Cohort {cohort.info.name} has no {lacking}.")
