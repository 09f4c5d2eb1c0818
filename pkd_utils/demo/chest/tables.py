"""The simulated cohort's tables, in the columns of MIMIC-CXR-JPG, MIMIC-CXR, MIMIC-IV 3.1 and MS-CXR 1.1.0."""

from datetime import datetime
from pathlib import Path

import pandas as pd

from pkd_utils.demo.chest.causal import Patient
from pkd_utils.demo.chest.findings import FINDINGS
from pkd_utils.demo.chest.reports import LABELS

_PROCEDURE = {"AP": "CHEST (PORTABLE AP)", "PA": "CHEST (PA AND LAT)"}
_VIEW_CODE = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral", "LL": "left lateral"}
_ADMISSION_COLUMNS = ["subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "admission_type"]
_ADMISSION_COLUMNS += ["admit_provider_id", "admission_location", "discharge_location", "insurance", "language"]
_ADMISSION_COLUMNS += ["marital_status", "race", "edregtime", "edouttime", "hospital_expire_flag"]
BOX_COLUMNS = ["category_name", "label_text", "path", "x", "y", "w", "h", "dicom_id"]
BOX_COLUMNS += ["image_width", "image_height", "split"]


def patient_folder(subject_id: int) -> str:
    """Folder of a patient below the root: `files/p10/p10000032`."""
    return f"files/p{str(subject_id)[:2]}/p{subject_id}"


def image_path(subject_id: int, study_id: int, dicom_id: str) -> str:
    """Path of an image below the root, as in MIMIC-CXR-JPG."""
    return f"{patient_folder(subject_id)}/s{study_id}/{dicom_id}.jpg"


def write_table(path: Path, rows: list[dict], sort: list[str], columns: list[str] | None = None) -> None:
    """Write rows as CSV (gzip with a fixed time stamp where the name ends in .gz, so the same bytes every time)."""
    table = pd.DataFrame(rows, columns=columns).sort_values(sort, kind="stable")
    path.parent.mkdir(parents=True, exist_ok=True)
    compression = {"method": "gzip", "mtime": 0, "compresslevel": 6} if path.suffix == ".gz" else None
    table.to_csv(path, index=False, compression=compression, lineterminator="\n")


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def _metadata(patient, study, film, shape) -> dict:
    moment = study.time
    milliseconds = (study.study_id * 7919) % 1000  # StudyTime carries fractions of a second in the real table
    return {
        "dicom_id": film.dicom_id,
        "subject_id": patient.subject_id,
        "study_id": study.study_id,
        "PerformedProcedureStepDescription": _PROCEDURE["AP" if study.portable else "PA"],
        "ViewPosition": film.position,
        "Rows": shape[0],
        "Columns": shape[1],
        "StudyDate": int(moment.strftime("%Y%m%d")),
        "StudyTime": int(moment.strftime("%H%M%S")) + milliseconds / 1000,
        "ProcedureCodeSequence_CodeMeaning": _PROCEDURE["AP" if study.portable else "PA"],
        "ViewCodeSequence_CodeMeaning": _VIEW_CODE[film.position],
        "PatientOrientationCodeSequence_CodeMeaning": "Erect",
    }


def truth_row(patient, study) -> dict:
    """The latent state of a study."""
    fluid = {lesion.side: lesion.severity for lesion in study.lesions if lesion.finding == "Pleural Effusion"}
    row = {"study_id": study.study_id, "subject_id": patient.subject_id, "simulated": True}
    row |= {name: round(study.severity[name], 4) for name in FINDINGS}
    row |= {f"Pleural Effusion {side}": round(fluid.get(side, 0.0), 4) for side in ("left", "right")}
    for name in ("heart_failure", "infection", "immobility", "heart_scale"):
        row[name] = round(float(getattr(study, name)), 4)
    return row | {"heart_disease": round(patient.heart_disease, 4), "age": study.age, "sex": patient.sex}


def _admission(patient, stay) -> dict:
    return {
        "subject_id": patient.subject_id,
        "hadm_id": stay.hadm_id,
        "admittime": _time(stay.admitted),
        "dischtime": _time(stay.discharged),
        "deathtime": _time(stay.discharged) if stay.died else None,
        "admission_type": "EW EMER." if stay.emergency else "URGENT",
        "admit_provider_id": f"P{stay.hadm_id % 900 + 100}SI",
        "admission_location": "EMERGENCY ROOM" if stay.emergency else "PHYSICIAN REFERRAL",
        "discharge_location": stay.location,
        "insurance": stay.insurance,
        "language": "English",
        "marital_status": patient.marital or None,
        "race": patient.race,
        "edregtime": _time(stay.registered) if stay.emergency else None,
        "edouttime": _time(stay.left_emergency) if stay.emergency else None,
        "hospital_expire_flag": int(stay.died),
    }


def write_tables(root: Path, patients: list[Patient], parts: list[dict]) -> dict[str, int]:
    """Write every table of the cohort below `root`; counts of rows come back.

    `parts` is what the renderer returned for each patient: `films` (dicom_id -> rows, columns), `labels` (labeller ->
    study_id -> label -> value) and `boxes` (rows of MS-CXR).
    """
    metadata, split, truth, stays = [], [], [], []
    labels = {"chexpert": [], "negbio": []}
    for patient, part in zip(patients, parts, strict=True):
        stays += [_admission(patient, stay) for stay in patient.stays]
        for study in patient.studies:
            ids = {"subject_id": patient.subject_id, "study_id": study.study_id}
            truth.append(truth_row(patient, study))
            for labeller, rows in labels.items():
                rows.append(ids | part["labels"][labeller][str(study.study_id)])
            for film in study.films:
                metadata.append(_metadata(patient, study, film, part["films"][film.dicom_id]))
                image = {"dicom_id": film.dicom_id, "study_id": study.study_id, "subject_id": patient.subject_id}
                split.append(image | {"split": patient.split})
    people = [
        {
            "subject_id": p.subject_id,
            "gender": p.sex,
            "anchor_age": p.anchor_age,
            "anchor_year": p.anchor_year,
            "anchor_year_group": p.year_group,
            "dod": None if p.died is None else p.died.strftime("%Y-%m-%d"),
        }
        for p in patients
    ]
    by_study, by_image = ["subject_id", "study_id"], ["subject_id", "study_id", "dicom_id"]
    jpg = f"{root}/mimic-cxr-2.0.0"  # MIMIC-CXR-JPG 2.1.0 kept these names
    write_table(Path(f"{jpg}-metadata.csv.gz"), metadata, by_image)
    write_table(Path(f"{jpg}-split.csv.gz"), split, by_image)
    for labeller, rows in labels.items():
        write_table(Path(f"{jpg}-{labeller}.csv.gz"), rows, by_study, [*by_study, *LABELS])
    write_table(root / "truth.csv.gz", truth, by_study)
    write_table(root / "hosp" / "admissions.csv.gz", stays, ["subject_id", "admittime"], _ADMISSION_COLUMNS)
    write_table(root / "hosp" / "patients.csv.gz", people, ["subject_id"])
    boxes = [box for part in parts for box in part["boxes"]]
    by_place = ["path", "category_name", "x", "y"]
    write_table(root / "ms-cxr" / "MS_CXR_Local_Alignment_v1.1.0.csv", boxes, by_place, BOX_COLUMNS)
    return {
        "patients": len(patients),
        "studies": len(truth),
        "images": len(metadata),
        "frontal images": sum(row["ViewPosition"] in ("AP", "PA") for row in metadata),
        "boxes": len(boxes),
        "admissions": len(stays),
    }
