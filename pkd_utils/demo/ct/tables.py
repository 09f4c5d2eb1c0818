"""Impressions, labels and tables of the simulated cohort in INSPECT's layout; `cohort` draws what they say."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from pkd_utils.demo.chest import outcomes, reports, tables
from pkd_utils.demo.chest.causal import visible
from pkd_utils.demo.chest.findings import FINDINGS
from pkd_utils.demo.ct import volumes

_STREAM_WORDS, _STREAM_LABELS, _STREAM_FAULTS = 44, 45, 46
DAY = 1440  # minutes
MONTHS = {"1_month": 30, "6_month": 182, "12_month": 365}  # days
SUBSEGMENTAL = 0.28  # burden below which a clot sits in subsegmental arteries only
STRAIN = 0.30  # what a clot that fills all arteries adds to heart failure, for the outcomes
NO_TIME = 779 / 23_248  # share of studies without a time in the release
FINDING_COLUMNS = {name: name.replace(" ", "_") for name in FINDINGS}
_CLOT = {
    True: ("Acute pulmonary embolism {where}.", "Filling defects {where}, consistent with acute pulmonary embolism."),
    False: (
        "No evidence of pulmonary embolism.",
        "No pulmonary embolism to the segmental level.",
        "Negative for acute pulmonary embolism.",
    ),
}
_STRAIN_TEXT = (
    "Enlargement of the right ventricle, concerning for right heart strain.",
    "Elevated RV/LV ratio, suggestive of right heart strain.",
)
_CHEST = ("Lungs are clear.", "No acute abnormality in the chest otherwise.", "No other acute cardiopulmonary finding.")


def asserted_embolism(exam, seed: int) -> bool:
    """Whether the radiologist calls an embolism: small clots may be missed, a false alarm is rare."""
    u = np.random.default_rng([seed, _STREAM_WORDS, exam.impression_id, 0]).random()
    return bool(u > 0.20 * (1 - exam.scan.burden) ** 2) if exam.scan.burden else bool(u < 0.008)


def impression(exam, informativeness: float, seed: int) -> str:
    """The impression of a CT pulmonary angiogram: numbered statements in one paragraph.

    What is asserted depends on the state alone (`reports.assertions`, `asserted_embolism`); each detail beyond the bare
    call is told with probability `informativeness`.
    """
    rng = np.random.default_rng([seed, _STREAM_WORDS, exam.impression_id, 1])

    def tell():
        return bool(rng.random() < informativeness)

    called, burden, side = asserted_embolism(exam, seed), exam.scan.burden, exam.scan.side
    where = ""
    if called and tell():
        level = "subsegmental" if burden < SUBSEGMENTAL else "lobar and segmental" if burden < 0.6 else "main"
        plural = "branches of both lungs" if side == "bilateral" else f"branches of the {side} lung"
        where = f"in the {level} {plural}" if level != "main" else f"in the main and lobar {plural}"
    said = reports.assertions(exam.study, seed)
    statements = [reports.tidy(str(rng.choice(_CLOT[called])).format(where=where).replace(" ,", ","))]
    if called and burden > 0.45 and tell():
        statements.append(str(rng.choice(_STRAIN_TEXT)))
    sentences, phrases, short = reports.finding_sentences(exam.study, exam.previous, said, tell, rng)
    statements += short or [str(rng.choice(_CHEST))]
    # An impression states what is there once; a talkative one adds the signs of it.
    signs = [sentence for sentence in sentences if not sentence.startswith((*phrases.values(), *short))]
    statements += [sentence for sentence in signs if short and tell()][:2]
    return " ".join(f"{number}. {text}" for number, text in enumerate(statements, start=1))


def label_rows(exams, seed: int, noise: float) -> pd.DataFrame:
    """Labels of every study in the columns of INSPECT, `True`, `False` or `Censored`, and times in minutes.

    Embolism is what the impression asserts (`pe_positive`), read with errors by a program (`pe_positive_nlp`). Outcomes
    are those of `outcomes.simulate_outcomes`, where a clot adds to heart failure; death is the patient's.
    """
    frame = pd.DataFrame(
        [
            {
                "study_id": exam.impression_id,
                "subject_id": str(exam.person_id),
                "study_datetime": exam.study.time,
                "heart_failure": min(1.0, exam.study.heart_failure + STRAIN * exam.scan.burden),
                "infection": exam.study.infection,
                "immobility": exam.study.immobility,
                "heart_disease": exam.patient.heart_disease,
            }
            for exam in exams
        ]
    )
    people = {exam.person_id: exam.patient for exam in exams}
    stays = pd.DataFrame(
        [
            (str(person), stay.hadm_id, stay.admitted, stay.discharged)
            for person, patient in people.items()
            for stay in patient.stays
        ],
        columns=["subject_id", "hadm_id", "admittime", "dischtime"],
    ).astype({"admittime": "datetime64[us]", "dischtime": "datetime64[us]"})
    died = pd.Series({str(person): patient.died for person, patient in people.items()}, dtype="datetime64[us]")
    later = outcomes.simulate_outcomes(frame, stays, died, seed).set_index("study_id")
    rows = []
    for exam in exams:
        result = later.loc[exam.impression_id]
        called = asserted_embolism(exam, seed)
        misread = np.random.default_rng([seed, _STREAM_LABELS, exam.impression_id]).random() < noise
        row = {"impression_id": exam.impression_id, "pe_positive_nlp": called != misread, "pe_acute": called}
        row |= {"pe_subsegmentalonly": called and 0 < exam.scan.burden < SUBSEGMENTAL, "pe_positive": called}
        seen = int(max(result["tte_readmission"], result["tte_PH"]))  # minutes that the patient is known to be followed
        death = exam.patient.died
        until = np.inf if death is None else (death - exam.study.time) / timedelta(minutes=1)
        events = {"mortality": (until < np.inf, int(min(until, seen)) if until == np.inf else int(max(until, 0)))}
        events["readmission"] = (result["12_month_readmission"] == "True", int(result["tte_readmission"]))
        for months, days in MONTHS.items():
            for name, (happened, minutes) in events.items():
                row[f"{months}_{name}"] = _within(happened, minutes, days * DAY)
        # The year's label comes from the model, which also knows events before the scan.
        row["12_month_readmission"], row["12_month_PH"] = result["12_month_readmission"], result["12_month_PH"]
        events["PH"] = (result["12_month_PH"] == "True", int(result["tte_PH"]))
        events |= {column: _seen_again(exam, name, seen) for name, column in FINDING_COLUMNS.items()}
        for name, (happened, minutes) in events.items():
            row |= {f"tte_{name}": minutes, f"is_censored_{name}": not happened}
        rows.append(row)
    return pd.DataFrame(rows)


def _within(happened: bool, minutes: int, horizon: int) -> str:
    """INSPECT's label: an event by the horizon, none by it, or not followed for so long."""
    if happened and minutes <= horizon:
        return "True"
    return "False" if minutes >= horizon else "Censored"


def _seen_again(exam, finding: str, seen: int) -> tuple[bool, int]:
    """Whether a later study of the patient shows a finding, and after how many minutes."""
    for study in exam.patient.studies:
        if study.time > exam.study.time and visible(study, finding):
            return True, int((study.time - exam.study.time) / timedelta(minutes=1))
    return False, seen


def truth_row(exam, seed: int) -> dict:
    """The latent state of a study, for tests and for what only a simulation can measure."""
    row = tables.truth_row(exam.patient, exam.study)
    row |= {"study_id": exam.impression_id, "subject_id": exam.person_id, "image_id": exam.image_id}
    row |= {"embolism": round(exam.scan.burden, 4), "embolism_side": exam.scan.side}
    geometry = volumes.draw_geometry(exam.scan.seed)
    row |= {"called": asserted_embolism(exam, seed), "scan_heart_scale": round(exam.scan.heart_scale, 4)}
    row |= {"codes": geometry.codes, "rotated": any(geometry.angles), "cropped": any(map(any, geometry.crop))}
    return row


def write_tables(root: Path, cohort) -> dict[str, int]:
    """Write every table of a `CTCohort` below `root`; counts of patients, of studies and of those without a time."""
    exams, seed = sorted(cohort.exams, key=lambda exam: exam.impression_id), cohort.seed
    rng = np.random.default_rng([seed, _STREAM_FAULTS])
    faults = cohort.faults > 0
    timeless = rng.random(len(exams)) < NO_TIME * faults
    if faults and len(exams) >= 8 and not timeless.any():
        timeless[rng.integers(len(exams))] = True
    times = [None if lost else exam.study.time for exam, lost in zip(exams, timeless, strict=True)]
    studies = pd.DataFrame(
        {
            "impression_id": [exam.impression_id for exam in exams],
            "person_id": [exam.person_id for exam in exams],
            "image_id": [exam.image_id for exam in exams],
            "procedure_DATETIME": [t and t.strftime("%Y-%m-%d %H:%M:%S") for t in times],
            "note_DATETIME": [t and (t + timedelta(hours=2)).strftime("%Y-%m-%d %H:%M:%S") for t in times],
            # A float column, as a table with empty cells becomes once pandas has written it.
            "procedure_occurrence_id": [None if t is None else float(9e8 + k) for k, t in enumerate(times)],
        }
    )
    split = {"train": "train", "validate": "valid", "test": "test"}
    splits = studies[["impression_id"]].assign(split=[split[exam.patient.split] for exam in exams])
    texts = [impression(exam, cohort.report_informativeness, seed) for exam in exams]
    impressions = studies[["impression_id"]].assign(impressions=texts)
    labels = label_rows(exams, seed, cohort.label_noise)
    if faults and len(exams) >= 8:
        # A study that is listed twice, alike, in two tables.
        twice = int(rng.integers(len(exams)))
        studies = pd.concat([studies, studies.iloc[[twice]]], ignore_index=True)
        splits = pd.concat([splits, splits.iloc[[twice]]], ignore_index=True)
    _write(root, cohort.release, studies, labels, splits, impressions)
    truth = [truth_row(exam, seed) for exam in exams]
    tables.write_table(root / "truth.csv.gz", truth, ["study_id"])
    people = len({exam.person_id for exam in exams})
    return {"patients": people, "studies": len(exams), "without time": int(timeless.sum())}


def _write(root: Path, release: str, studies, labels, splits, impressions) -> None:
    """Write the four tables under the names and with the columns of a release."""
    if release == "2025":
        named = {"study_mapping": studies, "labels": labels, "splits": splits, "impressions": impressions}
        for name, table in named.items():
            table.to_csv(root / f"{name}_20250611.tsv", sep="\t", index=False, lineterminator="\n")
        crosswalk = studies[["person_id", "image_id"]].drop_duplicates()
        crosswalk.to_csv(root / "image_ehr_crosswalk_20250418.csv", index=False, lineterminator="\n")
        return
    metadata = studies.drop(columns=["note_DATETIME", "procedure_occurrence_id"])
    metadata = metadata.rename(columns={"procedure_DATETIME": "StudyTime"})
    metadata = metadata.assign(image_id=metadata["image_id"] + ".nii.gz")
    named = {"metadata": metadata, "labels": labels.replace("Censored", "Censor"), "splits": splits}
    for name, table in (named | {"Impressions": impressions}).items():
        table.to_csv(root / f"Final_{name}.csv", index=False, lineterminator="\n")
