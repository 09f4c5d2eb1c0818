"""Outcomes after the film for the simulated cohort, in INSPECT's columns: readmission and pulmonary hypertension.

Computed from the cohort's own tables (latent state, stays, deaths) with draws of a stream of their own, so that the
files of a cohort stay what they are. Equations: `book/data/embedded-cohort.md`. Every number here is a choice of ours.
"""

import numpy as np
import pandas as pd

from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import read_json

_STREAM_OUTCOMES = 31
YEAR = 365.0  # days
STATE = ("heart_failure", "infection", "immobility", "heart_disease")
# Logarithms of rates per day: constant, and weights of the state.
READMISSION = {"constant": -9.6, "heart_failure": 2.5, "infection": 1.0, "immobility": 1.5, "heart_disease": 2.5}
HYPERTENSION = {"constant": -9.4, "heart_failure": 2.0, "infection": 0.0, "immobility": 0.0, "heart_disease": 4.0}
FOLLOW_UP = 1200.0  # mean days until a patient is lost to follow-up
COLUMNS = ["study_id", "12_month_readmission", "12_month_PH", "tte_readmission", "tte_PH"]


def label_table(cohort) -> pd.DataFrame:
    """Outcomes of every study of the embedded cohort that `mimic_cxr` has loaded, from the tables below its root.

    Returns
    -------
    DataFrame
        `study_id`, `12_month_readmission` and `12_month_PH` ("True", "False" or "Censored", as in INSPECT), and
        `tte_readmission`, `tte_PH`: minutes from the study to the event, or to the end of follow-up.
    """
    if not cohort.info.simulated:
        raise DataError(f"Cohort {cohort.info.name} is not simulated: give its own table of outcomes.")
    text = {"study_id": str, "subject_id": str, "hadm_id": str}
    truth = pd.read_csv(cohort.root / "truth.csv.gz", dtype=text)
    stays = pd.read_csv(cohort.root / "hosp" / "admissions.csv.gz", dtype=text, parse_dates=["admittime", "dischtime"])
    people = pd.read_csv(cohort.root / "hosp" / "patients.csv.gz", dtype=text, parse_dates=["dod"])
    # All studies, whatever views were loaded: a patient's history may not depend on that.
    film = pd.read_csv(cohort.root / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=text).drop_duplicates("study_id")
    clock = film["StudyTime"].astype(int).astype(str).str.zfill(6)
    film["study_datetime"] = pd.to_datetime(film["StudyDate"].astype(str) + clock, format="%Y%m%d%H%M%S")
    studies = truth.merge(film[["study_id", "study_datetime"]], on="study_id", validate="one_to_one")
    seed = read_json(cohort.root / "cohort.json")["seed"]
    return simulate_outcomes(studies, stays, people.set_index("subject_id")["dod"], seed)


def simulate_outcomes(studies: pd.DataFrame, stays: pd.DataFrame, died: pd.Series, seed: int) -> pd.DataFrame:
    """Draw the outcomes; see `label_table`.

    Parameters
    ----------
    studies : DataFrame of study_id, subject_id, study_datetime and the columns of `STATE`
    stays : DataFrame of subject_id, hadm_id, admittime, dischtime
    died : Series of dates of death or NaT, by subject_id
    """
    rows = []
    stays_of = {
        subject: (group["admittime"].to_numpy(), group["dischtime"].to_numpy())
        for subject, group in stays.sort_values("admittime").groupby("subject_id")
    }
    none = np.array([], dtype="datetime64[us]")
    studies = studies.sort_values(["subject_id", "study_datetime", "study_id"])
    names, times, state = (studies[c].to_numpy() for c in ("study_id", "study_datetime", list(STATE)))
    subjects, starts = np.unique(studies["subject_id"].to_numpy(dtype=object), return_index=True)
    for subject, start, stop in zip(subjects, starts, [*starts[1:], len(studies)], strict=True):
        films = slice(start, stop)
        rng = np.random.default_rng([seed, _STREAM_OUTCOMES, int(subject)])
        admitted, left = stays_of.get(subject, (none, none))
        death = died.get(subject, pd.NaT)
        rows += _patient(names[films], times[films], state[films], admitted, left, death, rng)
    return pd.DataFrame(rows, columns=COLUMNS)


def _patient(names, times, state, admitted, left, died, rng) -> list[tuple]:
    """Outcomes of one patient's studies, in time order; `state` (N, 4), stays (M,) in the order of admission."""
    onset = times[0] + _days(rng.exponential() / _rate(HYPERTENSION, state.mean(axis=0)))
    lost = rng.exponential() * FOLLOW_UP
    inside = (admitted <= times[:, None]) & (times[:, None] <= left)
    # Films of one stay share its end and its fate; a film outside any stay stands for itself.
    alone = len(admitted) + np.arange(len(times))
    group = np.where(inside.any(axis=1), inside.argmax(axis=1), alone) if len(admitted) else alone
    last_seen = max([times[-1], *left])
    rows = []
    for number in pd.unique(group):
        mine = np.flatnonzero(group == number)
        begin = left[number] if number < len(admitted) else times[mine[0]]
        elsewhere = begin + _days(rng.exponential() / _rate(READMISSION, state[mine].mean(axis=0)))
        readmitted = min([elsewhere, *admitted[admitted > begin]])
        end = max(begin + _days(lost), last_seen)
        end = end if pd.isna(died) else min(end, np.datetime64(died + pd.Timedelta(days=1)))
        for k in mine:
            (again, minutes), (ill, until) = (_label(times[k], event, end) for event in (readmitted, onset))
            rows.append((names[k], again, ill, minutes, until))
    return rows


def _label(time, event, end) -> tuple[str, int]:
    """INSPECT's label and minutes to the event or the end of follow-up; an event before the film censors it."""
    until_event, until_end = ((moment - time) / np.timedelta64(1, "D") for moment in (event, end))
    minutes = round(max(0.0, min(until_event, until_end)) * 1440)
    if 0 < until_event <= min(YEAR, until_end):
        return "True", minutes
    known = until_event > 0 and until_end >= YEAR
    return ("False" if known else "Censored"), minutes


def _rate(weights: dict[str, float], state: np.ndarray) -> float:
    """Events a day."""
    return float(np.exp(weights["constant"] + sum(weights[name] * x for name, x in zip(STATE, state, strict=True))))


def _days(number: float) -> np.timedelta64:
    """At most a century, which is never within a year of anything."""
    return np.timedelta64(round(min(number, 36_500.0) * 86_400), "s")
