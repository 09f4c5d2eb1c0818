"""Relations of tasks to text, image and state: known cases, held-out models, and nothing found where nothing is."""

import numpy as np
import pandas as pd
import pytest

from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.tasks.build import build_task
from pkd_utils.runs.errors import DataError
from pkd_utils.studies.reports import relations
from tests.cohorts.fixtures import openi_report, write_mimic_cxr, write_openi
from tests.cohorts.tasks.fixtures import make_cohort, make_task, many_per_patient


def test_information_and_entropy_of_known_cases():
    target = np.array([0, 0, 1, 1])
    sure = np.eye(2)[target]
    assert relations.entropy(target) == pytest.approx(1)
    assert relations.information(target, sure) == pytest.approx(np.ones(4))
    assert relations.information(target, np.full((4, 2), 0.5)) == pytest.approx(np.zeros(4))
    assert (relations.information(target, 1 - sure) < -10).all()
    assert relations.entropy([0, 0, 0]) == 0


def test_relations_find_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    task = many_per_patient(count=300, patients=100, classes=3, evaluate=0.2)
    target = task.table["target"].to_numpy()
    told = np.eye(3)[target] + rng.normal(0, 0.3, (300, 3))
    features = {"state": told, "image": rng.normal(size=(300, 5))}
    table = relations.relate(task, task.table, task.table["image_id"], features, folds=3, resamples=200)
    table = table.set_index("source")
    assert table.loc["state", "auc"] > 0.95 and table.loc["state", "bits_low"] > 1
    assert table.loc["image", "auc_low"] < table.loc["image", "chance"] + 0.06 and table.loc["image", "bits"] < 0.05
    assert table["entropy"].iloc[0] == pytest.approx(np.log2(3), abs=0.02)
    # Rows of features are found by image, whatever the order of the task's table.
    shuffled = task.table.sample(frac=1, random_state=0)
    again = relations.relate(task, shuffled, task.table["image_id"], features, folds=3, resamples=50)
    assert again.set_index("source").loc["state", "auc"] > 0.95
    with pytest.raises(DataError, match="no model for the source 'smell'"):
        relations.features_of(make_cohort(pd.DataFrame({"view": ["PA"]})), ["image", "smell"])


def test_held_out_models_never_see_the_patient():
    # The feature is the patient's own number: useless on unseen patients, perfect on seen ones.
    patients = np.repeat(np.arange(60), 4)
    target = np.repeat(np.random.default_rng(1).integers(2, size=60), 4)
    features = np.eye(60)[patients]
    out = relations.held_out_probabilities(features, target, patients, relations.MODELS["report"])
    assert np.abs(out[:, 1] - target.mean()).max() < 0.1
    with pytest.raises(DataError, match="cannot fill"):
        relations.held_out_probabilities(features[:8], target[:8], patients[:8], relations.MODELS["report"])
    with pytest.raises(DataError, match="one class only"):
        relations.held_out_probabilities(features, (patients == 0).astype(int), patients, relations.MODELS["report"])


def test_features_of_text_image_and_state(tmp_path):
    assert relations.report_features(["a small effusion", "no effusion", "clear lungs"]).shape[0] == 3
    root = write_mimic_cxr(tmp_path)
    cohort = load_cohort("mimic_cxr", root, boxes=False)
    features = relations.image_features(root / path for path in cohort.images["path"])
    assert features.shape == (6, 5) and features.dtype == np.float32
    with pytest.raises(FileNotFoundError, match="only the simulated cohort"):
        relations.read_state(root)
    state = pd.DataFrame({"a": np.arange(200) % 2, "b": np.random.default_rng(0).normal(size=200)})
    state.index = [f"5{k:07d}" for k in range(200)]
    bits = relations.state_information(make_task(np.arange(200) % 2).table, state)
    assert bits["a"] > 0.9 and bits["b"] < 0.1


def test_features_of_a_report_made_poorer(tmp_path):
    """Open-i's findings by report, by a poorer one, and by another patient's."""
    reports = [("Heart size is big. Cardiomegaly.", "", ["Cardiomegaly"]), ("Clear lungs.", "", ["normal"])] * 40
    members = {f"ecgen-radiology/{n}.xml": openi_report(n, *report) for n, report in enumerate(reports, start=1)}
    cohort = load_cohort("openi", write_openi(tmp_path, members), labels=("Cardiomegaly", "Abnormal"))
    task = build_task("openi_cardiomegaly", cohort)
    names = ["report", "names_removed", "other_patient"]
    features = relations.features_of(cohort, names)
    assert list(features) == names
    assert features["names_removed"].shape[1] < features["report"].shape[1]
    table = relations.relate(task, task.table, cohort.images["image_id"], features, folds=3, resamples=20)
    auc = table.set_index("source")["auc"]
    assert auc["report"] == auc["names_removed"] == 1 and abs(auc["other_patient"] - 0.5) < 0.2
