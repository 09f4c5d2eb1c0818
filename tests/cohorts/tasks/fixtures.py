"""Cohorts and tasks of made-up tables."""

from pathlib import Path

import numpy as np
import pandas as pd

from pkd_utils.cohorts.table import Cohort, CohortInfo, empty_boxes
from pkd_utils.cohorts.tasks.base import SplitRule, Task

BLANK = np.nan
DAY = pd.Timestamp("2180-05-06 12:00:00")


def make_cohort(images: pd.DataFrame, tables=(), name="mimic_cxr", labels=(), simulated=False) -> Cohort:
    """A cohort of these images; what is not given is made up."""
    count = len(images)
    filled = pd.DataFrame(
        {
            "image_id": [f"image-{k:04d}" for k in range(count)],
            "patient_id": [f"1{k:07d}" for k in range(count)],
            "study_id": [f"5{k:07d}" for k in range(count)],
            "path": "x.jpg",
            "split": np.nan,
            "view": "PA",
        }
    ).assign(**{column: images[column].to_numpy() for column in images})
    info = CohortInfo(name, "Made up", "none", "none", simulated=simulated)
    empty = pd.DataFrame({"text": []}, index=pd.Index([], name="study_id"))
    return Cohort(info, Path("."), list(labels), filled, empty_boxes(), pd.DataFrame(), empty, list(tables))


def make_task(targets, patients=None, rule=None, classes=("no", "yes"), name="age") -> Task:
    """A task of N images; by default every image has its own patient."""
    count = len(targets)
    patients = np.arange(count) if patients is None else np.asarray(patients)
    table = pd.DataFrame(
        {
            "image_id": [f"{k:08x}-aaaaaaaa-bbbbbbbb-cccccccc-dddddddd" for k in range(count)],
            "patient_id": [f"1{k:07d}" for k in patients],
            "study_id": [f"5{k:07d}" for k in range(count)],
            "target": np.asarray(targets, dtype=np.int64),
        }
    )
    return Task(name, name, "auxiliary", tuple(classes), table, pd.DataFrame(), split=rule or SplitRule(evaluate=0.25))


def many_per_patient(count=600, patients=200, seed=0, classes=2, **rule) -> Task:
    rng = np.random.default_rng(seed)
    names = tuple("abcdefgh"[:classes])
    return make_task(rng.integers(classes, size=count), rng.integers(patients, size=count), SplitRule(**rule), names)
