"""The tabular teacher encodes what it says, predicts every row, and its AUROCs are scikit-learn's."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pkd_utils.cohorts import breast_usg, load_cohort
from pkd_utils.cohorts.cbis import cases
from pkd_utils.cohorts.table import cell_values
from pkd_utils.distillation.tabular_teacher import drop_features, encode_features, feature_aurocs, fit_tabular_teacher
from pkd_utils.runs import paths, profiles
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import class_aurocs


@pytest.fixture
def lesions():
    """300 lesions of 150 patients: a shape that says much, a number that says something, three classes."""
    rng = np.random.default_rng(0)
    index = pd.Index([f"r{i}" for i in range(300)], name="image_id")
    badness = rng.normal(size=300)
    shape = pd.Series(np.where(badness > 0.3, "IRREGULAR", "OVAL"), index=index, dtype=object)
    shape[badness > 1] = "IRREGULAR-LOBULATED"
    shape.iloc[::25] = None
    features = pd.DataFrame({"shape": shape, "score": badness.round(), "side": np.tile(["LEFT", "RIGHT"], 150)})
    pathology = pd.cut(pd.Series(badness + rng.normal(0, 0.7, 300), index), [-9, -0.5, 0.5, 9], labels=["C", "B", "M"])
    split = pd.Series(np.repeat(["train", "test"], [220, 80]), index=index)
    patients = pd.Series([f"p{i // 2}" for i in range(300)], index=index)
    return features, pathology.astype(str), split, patients


def test_binary_target_gives_one_column_of_probabilities_and_clipped_log_odds(lesions):
    features, pathology, split, _ = lesions
    target = (pathology == "M").astype(float).rename("malignant")
    result = fit_tabular_teacher(features, target, split, seed=0, trees=50, clip=0.01)
    assert list(result.probabilities.columns) == list(result.logits.columns) == ["malignant"]
    p = result.probabilities["malignant"]
    assert p.index.equals(features.index) and p.between(0, 1).all()
    expected = np.log(p.clip(0.01, 0.99) / (1 - p.clip(0.01, 0.99)))
    np.testing.assert_allclose(result.logits["malignant"], expected)
    assert np.isfinite(result.logits).all(axis=None)
    assert ((p < 0.01) | (p > 0.99)).any()
    test = split == "test"
    assert roc_auc_score(target[test], p[test]) > 0.8


def test_three_classes_give_log_probabilities(lesions):
    features, pathology, split, _ = lesions
    result = fit_tabular_teacher(features, pathology, split, seed=0, trees=50)
    assert list(result.probabilities.columns) == ["B", "C", "M"]
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(result.logits), result.probabilities.clip(1e-3, 1 - 1e-3))


def test_a_feature_that_alone_states_the_label_is_seen(lesions):
    features, pathology, split, patients = lesions
    targets = pd.get_dummies(pathology).astype(float)
    words = {"C": "cyst", "B": "fibroadenoma-like", "M": "carcinoma"}
    features = features.assign(histology=pathology.map(words), patient=pd.factorize(patients)[0].astype(float))
    found = feature_aurocs(features, targets, split, patients)
    assert list(found.index) == ["shape", "score", "side", "histology", "patient"] and list(found) == list("BCM")
    assert (found.loc["histology"] == 1).all()
    assert found.loc["shape", "M"] > 0.75 and (found.loc[["side", "patient"]] < 0.65).all(axis=None)
    one_hot = encode_features(features, np.ones(300, bool))  # as cohorts give them
    assert (feature_aurocs(one_hot, targets, split, patients).loc["histology"] == 1).all()


def test_a_label_of_one_patient_has_no_feature_auroc(lesions):
    features, _, split, patients = lesions
    rare = (patients == "p3").astype(float).to_frame("rare")
    assert feature_aurocs(features, rare, split, patients)["rare"].isna().all()


def test_seed_decides(lesions):
    features, pathology, split, _ = lesions
    one, same, other = (fit_tabular_teacher(features, pathology, split, seed=s, trees=20) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(one.logits, same.logits, check_exact=True)
    assert not one.logits.equals(other.logits)


def test_test_rows_change_nothing_that_is_trained(lesions):
    features, pathology, split, _ = lesions
    result = fit_tabular_teacher(features, pathology, split, seed=0, trees=20)
    changed, other = features.copy(), pathology.copy()
    changed.loc[split == "test", "shape"] = "NEVER_SEEN"
    other[split == "test"] = "M"
    again = fit_tabular_teacher(changed, other, split, seed=0, trees=20)
    train = split == "train"
    pd.testing.assert_frame_equal(result.probabilities[train], again.probabilities[train], check_exact=True)


@pytest.mark.parametrize(
    ("separator", "columns"),
    [("", ["GE Logiq 7 @10-14MHz", "NOT_CIRCUMSCRIBED-ILL & X"]), ("-", ["14MHz", "GE Logiq 7 @10", "ILL & X"])],
)
def test_cells_are_lists_only_where_the_source_says_so(separator, columns):
    cells = pd.DataFrame({"c": ["GE Logiq 7 @10-14MHz", "NOT_CIRCUMSCRIBED-ILL & X", None]})
    found = encode_features(cells, np.array([True, True, False]), separator)
    assert list(found.columns)[: len(columns)] == [f"c={name}" for name in columns]


def test_sources_say_how_their_cells_are_cut():
    cells = pd.Series(["IRREGULAR-OVAL", "angular - indistinct&spiculated", "GE Logiq 7 @10-14MHz"])
    assert cell_values(cells, cases.INFO.separator)[0] == ["IRREGULAR", "OVAL"]
    assert cell_values(cells, breast_usg.INFO.separator)[1] == ["angular", "indistinct", "spiculated"]
    assert cell_values(cells, breast_usg.INFO.separator)[2] == cell_values(cells, "")[2] == ["GE Logiq 7 @10-14MHz"]


def test_encoding_has_several_values_missing_and_unknown():
    features = pd.DataFrame(
        {"shape": ["A", "A-B", None, "C-A", "B"], "grade": [1.0, np.nan, 2.0, 3.0, np.nan]}, index=list("abcde")
    ).assign(side=["L", "R", "L", None, "R"], size=[1.0, 2.0, 3.0, np.nan, 5.0])  # missing where nobody trains
    training = np.array([True, True, True, False, False])
    numbers = encode_features(features, training, "-")
    columns = ["shape=A", "shape=B", "shape=missing", "grade", "grade=missing", "side=L", "side=R"]
    assert list(numbers.columns) == [*columns, "size", "size=missing"]
    assert numbers.loc["d", ["side=L", "side=R", "size=missing"]].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(numbers["shape=A"], [1, 1, 0, 1, 0])
    np.testing.assert_array_equal(numbers["shape=B"], [0, 1, 0, 0, 1])
    np.testing.assert_array_equal(numbers["shape=missing"], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(numbers["grade=missing"], [0, 1, 0, 0, 1])
    assert np.isnan(numbers.loc["b", "grade"])


def test_drop_features_takes_all_columns_of_a_feature():
    features = pd.DataFrame(columns=["shape=A", "shape=missing", "score", "side=LEFT"])
    assert list(drop_features(features, ["shape", "side"]).columns) == ["score"]
    with pytest.raises(DataError, match="no feature 'margin'"):
        drop_features(features, ["margin"])
    with pytest.raises(DataError, match="no column"):
        drop_features(features, ["shape", "side", "score"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"target": a["target"][::-1]}, "same index"),
        (lambda a: a | {"split": a["split"].replace("test", "dev")}, "'dev' is no split"),
        (lambda a: a | {"split": a["split"].replace("train", "test")}, "no row is in the split 'train'"),
        (lambda a: a | {"target": a["target"] * 0}, "fewer than two classes of 'malignant'"),
        (lambda a: a | {"clip": 0.0}, "clip = 0.0"),
        (lambda a: a | {"features": a["features"].rename(index={"r1": "r0"})}, "same index"),
    ],
)
def test_refuses_bad_input(lesions, change, message):
    features, pathology, split, _ = lesions
    target = (pathology == "M").astype(float).rename("malignant")
    arguments = {"features": features, "target": target, "split": split, "seed": 0, "trees": 5}
    with pytest.raises(DataError, match=message):
        fit_tabular_teacher(**change(arguments))


@pytest.mark.shared
def test_the_binary_reading_of_the_papers_auroc_of_masses(shared_data):
    cohort = load_cohort("cbis_mass", shared_data / "cbis-ddsm", rows="lesion")
    rows = cohort.images.set_index("image_id")
    result = fit_tabular_teacher(cohort.privileged.loc[rows.index], rows["malignant"], rows["split"], 0, trees=200)
    test = rows["split"] == "test"
    auroc = roc_auc_score(rows.loc[test, "malignant"], result.probabilities.loc[test, "malignant"])
    assert auroc == pytest.approx(0.86, abs=0.015)


@pytest.mark.shared
@pytest.mark.parametrize(("kind", "low", "high"), [("mass", 0.858, 0.876), ("calc", 0.888, 0.908)])
def test_the_papers_profile_has_the_reported_macro_auroc(shared_data, kind, low, high):
    prepare, train = (f"params/paper/mmpkd/{step}.yml" for step in ("01-prepare-data", "02-train-teacher"))
    options = profiles.read_runs(paths.PROJECT_ROOT / prepare)[kind]["options"]
    assert profiles.read_runs(paths.PROJECT_ROOT / train)[kind]["classes"]
    cohort = load_cohort(f"cbis_{kind}", shared_data / "cbis-ddsm", **{**options, "pixels": "none"})
    rows = cohort.images.set_index("image_id")
    classes = rows[cohort.labels].idxmax(axis=1).rename("class")
    features = cohort.privileged.loc[rows.index]
    result = fit_tabular_teacher(features, classes, rows["split"], seed=0, trees=200, min_samples_leaf=3)
    test = rows["split"] == "test"
    assert low < class_aurocs(result.probabilities[test], classes[test])["macro"].item() < high


@pytest.mark.shared
def test_the_diagnosis_of_a_real_table_is_named_and_no_descriptor_is(shared_data):
    descriptors = (*breast_usg.DESCRIPTORS, "Diagnosis")
    cohort = load_cohort("breast_usg", shared_data / "breast-usg", descriptors=descriptors)
    rows, split = cohort.rows, pd.Series("train", cohort.rows.index)
    found = feature_aurocs(cohort.privileged.loc[rows.index], rows[cohort.labels], split, rows["patient_id"])
    assert list(found.index[found["malignant"] >= 0.95]) == ["diagnosis"]
    assert found.loc["birads", "malignant"] > 0.85
