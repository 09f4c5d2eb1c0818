"""Loaders on real open data: counts that the published tables fix. Skipped with a message where the data are absent."""

import numpy as np
import pytest

from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.covid_chestxray import LESIONS
from pkd_utils.cohorts.folds import patient_folds
from pkd_utils.cohorts.label_terms import remove_label_terms, surviving_terms
from pkd_utils.cohorts.tasks.build import build_task
from pkd_utils.images.decode import open_image
from pkd_utils.images.marks import drawn_marks
from pkd_utils.runs import paths
from tests.cohorts.fixtures import steps


@pytest.mark.shared
def test_covid_chestxray(shared_data):
    cohort = load_cohort("covid_chestxray", shared_data / "covid-chestxray", report_missing="keep")
    assert (len(cohort.images), cohort.images["patient_id"].nunique()) == (280, 169)
    assert len(cohort.privileged) == 202
    assert len(cohort.boxes) == 560
    note = "missing: empty 113, Would have been stated 15, ? 1"
    assert steps(cohort).loc["label known: went_icu", ["rows", "note"]].tolist() == [151, note]
    assert cohort.images["licence"].str.startswith("CC BY").all()
    mask = cohort.mask(cohort.images["image_id"].iloc[0])
    assert 0.2 < mask.mean() < 0.95
    folds = patient_folds(cohort.images, "went_icu", n_folds=5, seed=0)
    assert len(folds) == 5 * 151
    texts = [remove_label_terms(text, cohort.labels) for text in cohort.privileged["text"]]
    assert not any(surviving_terms(text, cohort.labels) for text in texts)


@pytest.mark.shared
def test_covid_segmentations(shared_data):
    options = {"report_missing": "keep", "boxes": False, "regions": (*LESIONS, "left lung", "right lung")}
    cohort = load_cohort("covid_chestxray", shared_data / "covid-chestxray", **options)
    lesions = {"ground glass": 38, "consolidation": 11, "pleural effusion": 1, "pneumothorax": 1}
    assert cohort.boxes["label"].value_counts().to_dict() == lesions | {"left lung": 38, "right lung": 38}
    marked = cohort.images[cohort.images["image_id"].isin(cohort.boxes["image_id"])]
    assert (len(marked), marked["patient_id"].nunique()) == (39, 32)
    within = []  # the share of each ground-glass mask that lies in the lungs: masks are where they were drawn
    for image, labels in cohort.boxes.groupby("image_id")["label"]:
        if {"ground glass", "left lung", "right lung"} <= set(labels):
            lungs = cohort.mask(image, "left lung") | cohort.mask(image, "right lung")
            within.append(lungs[cohort.mask(image, "ground glass")].mean())
    assert len(within) == 36 and min(within) > 0.9


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "splits", "patients", "images", "several", "note"),
    [
        ("cbis_mass", {"train": 1318, "test": 378}, 892, 1592, 71, "175 abnormalities; 8 of them"),
        ("cbis_calc", {"train": 1546, "test": 326}, 753, 1511, 222, "583 abnormalities; 9 of them"),
    ],
)
def test_cbis_by_lesion_and_by_mammogram(shared_data, name, splits, patients, images, several, note):
    lesions = load_cohort(name, shared_data / "cbis-ddsm", rows="lesion")
    assert lesions.images["split"].value_counts().to_dict() == splits
    assert lesions.images["patient_id"].nunique() == patients
    assert (lesions.funnel["rows"][:3] == lesions.funnel["paper"][:3]).all()
    assert lesions.privileged.notna().all(axis=None)
    assert not lesions.images["cropped_dicom_path"].str.contains("\n").any()
    cohort = load_cohort(name, shared_data / "cbis-ddsm")
    assert len(cohort.images) == images and cohort.images["dicom_path"].is_unique
    step = steps(cohort).loc["of them with several abnormalities"]
    assert step["rows"] == several and step["note"] == f"{note} malignant and benign: malignant"
    worst = lesions.images.groupby("study_id")["malignant"].max()
    assert (cohort.rows.set_index("study_id")["malignant"] == worst.reindex(cohort.rows["study_id"])).all()
    assert cohort.privileged.index.tolist() == cohort.images["image_id"].tolist()


@pytest.mark.shared
def test_cbis_shared_patients(shared_data):
    notes = steps(load_cohort("cbis_mass", shared_data / "cbis-ddsm"))["note"]
    assert notes["train table"] == "13 patients are also in the calc test table"
    assert notes["test table"] == "18 patients are also in the calc train table"


@pytest.fixture
def openi_reports():
    root = paths.data_dir() / "assets" / "openi_reports"
    if not (root / "NLMCXR_reports.tgz").is_file():
        pytest.skip("the Open-i reports are not here: python -m pkd_utils fetch openi_reports")
    return root


@pytest.mark.shared
def test_openi(openi_reports):
    cohort = load_cohort("openi", openi_reports)
    rows = steps(cohort)["rows"]
    assert rows[["reports in the archive", "with text in findings or impression"]].tolist() == [3955, 3927]
    assert cohort.images["Cardiomegaly"].sum() == 395
    texts = [remove_label_terms(text, cohort.labels) for text in cohort.privileged["text"].iloc[::5]]
    assert not any(surviving_terms(text, cohort.labels) for text in texts)


@pytest.mark.shared
def test_openi_with_pictures(shared_data, openi_reports):
    cohort = load_cohort("openi", openi_reports, images_root=shared_data / "openi-cxr")
    counts = steps(cohort)[["rows", "patients"]]
    assert counts.loc["pictures"].tolist() == counts.loc["with a report that lists it"].tolist() == [3794, 3666]
    assert counts.loc["each file once"].tolist() == [3792, 3666]
    assert counts.loc["coded as normal or with a finding"].tolist() == [3694, 3574]
    studies = cohort.images.drop_duplicates("study_id")
    positive = dict(Cardiomegaly=337, Atelectasis=295, Opacity=507) | {"Pleural Effusion": 140}
    assert studies[list(positive)].sum().to_dict() == positive
    five = build_task("openi_five", cohort, one_per="study")
    assert list(five.counts.values()) == [204, 86, 36, 240, 1320]
    left = {"side_opacity": (269, 131), "side_atelectasis": (162, 90), "side_pleural_effusion": (65, 31)}
    for column, counts in left.items():
        assert (studies[column].notna().sum(), (studies[column] == "left").sum()) == counts
    assert studies.filter(like="side_").notna().any(axis=1).sum() == 462 and studies["side"].notna().sum() == 447


@pytest.mark.shared
def test_breast_usg(shared_data):
    cohort = load_cohort("breast_usg", shared_data / "breast-usg", cases="all")
    assert len(cohort.images) == cohort.images["patient_id"].nunique() == 256
    counts = {"normal": 4, "benign": 154, "malignant": 98}
    assert cohort.images["classification"].value_counts().to_dict() == counts
    assert cohort.boxes["label"].value_counts().to_dict() == {"tumour": 252, "other": 14}
    biopsied = cohort.images[cohort.images["verification"] == "confirmed by biopsy"]
    assert (len(biopsied), biopsied["malignant"].sum()) == (197, 98)
    followed = cohort.images[cohort.images["verification"] == "confirmed by follow-up care"]
    assert (len(followed), followed["malignant"].sum()) == (55, 0)
    assert cohort.privileged.notna().all(axis=None) and (cohort.privileged["birads"] > 3).sum() == 185
    assert 0.005 < cohort.mask(cohort.boxes["image_id"].iloc[0], "tumour").mean() < 0.6
    pictures = {row: np.asarray(open_image(cohort.image_path(row)).convert("RGB")) for row in cohort.images["image_id"]}
    assert [row for row, picture in pictures.items() if drawn_marks(picture).any()] == ["case101"]  # five green dots


def test_further_roots_are_relative_to_the_project(monkeypatch, tmp_path):
    """`reports_root: data/reports` in a parameter file must not depend on the current folder."""
    from pkd_utils.cohorts import mimic_cxr

    class Stop(Exception):
        pass

    def load(root, reports_root=None, views=None):
        raise Stop(root, reports_root, views)

    monkeypatch.setattr(mimic_cxr, "load", load)
    monkeypatch.setenv("PKD_DATA", str(tmp_path))
    with pytest.raises(Stop) as stopped:
        load_cohort("mimic_cxr", "data/jpg", reports_root="data/reports", views=["PA"])
    assert stopped.value.args == (tmp_path / "jpg", tmp_path / "reports", ["PA"])
