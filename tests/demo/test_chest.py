"""The simulated cohort on disk: its layout, and that everything says it is simulated."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pkd_utils.cohorts import load_cohort
from pkd_utils.demo.chest import causal, findings, reports


@pytest.fixture(scope="module")
def cohort(small):
    return small("chest")


def table(root, name):
    return pd.read_csv(root / name, dtype={"subject_id": str, "study_id": str})


def test_identifiers_paths_and_splits(cohort):
    metadata, split = table(cohort, "mimic-cxr-2.0.0-metadata.csv.gz"), table(cohort, "mimic-cxr-2.0.0-split.csv.gz")
    assert metadata.subject_id.str.fullmatch(r"1\d{7}").all() and metadata.study_id.str.fullmatch(r"5\d{7}").all()
    assert metadata.dicom_id.str.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}").all() and metadata.dicom_id.is_unique
    assert list(split) == ["dicom_id", "study_id", "subject_id", "split"]
    assert (split.groupby("subject_id").split.nunique() == 1).all()
    assert set(split.split) == {"train", "validate", "test"}
    assert not {str(patient.subject_id) for patient in causal.simulate(6, 4)} & set(split.subject_id)  # another seed
    for row in metadata.itertuples():
        path = f"files/p{row.subject_id[:2]}/p{row.subject_id}/s{row.study_id}/{row.dicom_id}"
        with Image.open(cohort / f"{path}.jpg") as image:
            assert image.mode == "L" and image.size == (row.Columns, row.Rows)
    assert len(list(cohort.glob("files/**/*.jpg"))) == len(metadata)
    paths = "files/p" + metadata.subject_id.str[:2] + "/p" + metadata.subject_id + "/s" + metadata.study_id + ".txt"
    assert {p.relative_to(cohort).as_posix() for p in cohort.glob("files/**/*.txt")} == set(paths)


def test_boxes_are_the_components_of_the_masks(cohort):
    boxes = pd.read_csv(cohort / "ms-cxr" / "MS_CXR_Local_Alignment_v1.1.0.csv")
    assert len(boxes)
    for (dicom, label), group in boxes.groupby(["dicom_id", "category_name"]):
        mask = np.asarray(Image.open(cohort / "masks" / dicom / f"{label.replace(' ', '_')}.png"))
        assert set(np.unique(mask)) == {0, 255}
        assert sorted(map(tuple, group[["x", "y", "w", "h"]].to_numpy())) == findings.component_boxes(mask > 0)
        assert (group.x >= 0).all() and (group.x + group.w <= group.image_width).all()
        assert (group.y >= 0).all() and (group.y + group.h <= group.image_height).all()
        report = (cohort / group.path.iloc[0]).parent.with_suffix(".txt").read_text()
        assert group.label_text.iloc[0] in " ".join(report.split())


def test_held_out_positives_all_have_boxes(cohort):
    boxes = pd.read_csv(cohort / "ms-cxr" / "MS_CXR_Local_Alignment_v1.1.0.csv")
    split = table(cohort, "mimic-cxr-2.0.0-split.csv.gz").merge(table(cohort, "mimic-cxr-2.0.0-metadata.csv.gz"))
    held = split[(split.split != "train") & split.ViewPosition.isin(["AP", "PA"])]
    people = {str(p.subject_id): p for p in causal.simulate(6, 3)}
    have = set(zip(boxes.dicom_id, boxes.category_name, strict=True))
    expected = 0
    for row in held.itertuples():
        study = next(s for s in people[row.subject_id].studies if str(s.study_id) == row.study_id)
        said = reports.assertions(study, 3)
        for label in findings.FINDINGS:
            called = said.get(label) in (1.0, -1.0)
            mask = (cohort / "masks" / row.dicom_id / f"{label.replace(' ', '_')}.png").exists()
            assert mask <= causal.visible(study, label)
            assert ((row.dicom_id, label) in have) == (called and mask)
            expected += called and mask
    assert expected


def test_stays_and_ages_follow_mimic(cohort):
    patients = table(cohort, "hosp/patients.csv.gz")
    stays = table(cohort, "hosp/admissions.csv.gz")
    metadata = table(cohort, "mimic-cxr-2.0.0-metadata.csv.gz")
    assert patients.anchor_age.between(18, 91).all() and not patients.anchor_age.eq(90).any()
    assert patients.anchor_year_group.isin(causal.YEAR_GROUPS).all()
    assert (pd.to_datetime(stays.admittime) < pd.to_datetime(stays.dischtime)).all()
    assert set(stays.subject_id) <= set(patients.subject_id)
    died = stays[stays.hospital_expire_flag == 1]
    assert (died.deathtime == died.dischtime).all() and stays[stays.hospital_expire_flag == 0].deathtime.isna().all()
    years = metadata.StudyDate // 10_000
    born = patients.set_index("subject_id").anchor_year.reindex(metadata.subject_id)
    assert (years >= 2110).all() and (years.to_numpy() >= born.to_numpy()).all()


def test_labels_and_reports_have_the_form_of_mimic(cohort):
    for labeller in ("chexpert", "negbio"):
        labels = table(cohort, f"mimic-cxr-2.0.0-{labeller}.csv.gz")
        assert list(labels) == ["subject_id", "study_id", *reports.LABELS] and labels.study_id.is_unique
        assert labels[list(reports.LABELS)].isin([1.0, 0.0, -1.0, np.nan]).all(axis=None)
    for path in cohort.glob("files/**/*.txt"):
        text = path.read_text()
        assert text.startswith(" " * 33 + "FINAL REPORT\n")
        names = re.findall(r"\n ([A-Z ()/,-]+):\s", text)
        assert {"INDICATION", "COMPARISON"} <= set(names) and {"FINDINGS", "IMPRESSION"} & set(names)
        assert set(names) <= {"EXAMINATION", "INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION"}
        assert "___" in text and all(len(line) <= 79 and line.startswith(" ") for line in text.splitlines())


def test_the_loader_reads_it(cohort):
    read = load_cohort("mimic_cxr", cohort)
    assert read.info.simulated and read.images["age"].notna().any() and len(read.boxes)
    part = read.select(read.boxes["image_id"].unique()[:3])
    assert part.privileged["text"].str.len().gt(0).all()
    assert all(part.mask(box.image_id, box.label).any() for box in part.boxes.itertuples())
