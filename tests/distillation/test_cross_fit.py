"""Cross-fitted soft labels: nothing in them comes from a teacher that saw the row's label, or its patient's."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pkd_utils.distillation.cross_fit import cross_fitted
from pkd_utils.distillation.tabular_teacher import fit_tabular_teacher
from pkd_utils.runs.errors import DataError

INDEX = pd.Index([f"r{i}" for i in range(300)], name="study_id")
PATIENTS = pd.Series([f"p{i // 3}" for i in range(300)], INDEX)
SPLIT = pd.Series(np.repeat(["train", "validate", None], [240, 45, 15]), INDEX)


@pytest.fixture
def targets():
    """Two labels that only the patient's name tells: drawn by patient, some of them unknown in single rows."""
    drawn = np.random.default_rng(0).integers(0, 2, (100, 2)).astype(float)
    table = pd.DataFrame(drawn.repeat(3, axis=0), INDEX, ["a", "b"])
    table.iloc[::7, 1] = np.nan
    return table


def forests(targets):
    """A random forest a label on the patient's number."""
    numbers = pd.DataFrame({"patient": pd.factorize(PATIENTS)[0].astype(float)}, INDEX)
    return lambda split, _: pd.DataFrame(
        {name: fit_tabular_teacher(numbers, targets[name], split, 0, trees=20).logits[name] for name in targets}
    )


def by_heart(targets):
    """The patient's mean known label, 1/2 of a patient that was not seen."""

    def fit(split, _):
        seen = targets[split == "train"].groupby(PATIENTS[split == "train"]).mean()
        return seen.reindex(PATIENTS).set_axis(INDEX).fillna(0.5)

    return fit


@pytest.mark.parametrize("teacher", [forests, by_heart])
@pytest.mark.parametrize("parts", [2, 5])
def test_what_only_memory_tells_is_not_in_them(targets, teacher, parts):
    fit = teacher(targets)
    logits = fit(SPLIT, None)
    crossed = cross_fitted(fit, logits, SPLIT, targets, PATIENTS, parts, seed=1)
    for name in targets:
        train = (SPLIT == "train") & targets[name].notna()
        assert roc_auc_score(targets.loc[train, name], logits.loc[train, name]) > 0.98
        assert abs(roc_auc_score(targets.loc[train, name], crossed.loc[train, name]) - 0.5) < 0.15
    pd.testing.assert_frame_equal(crossed[SPLIT != "train"], logits[SPLIT != "train"], check_exact=True)


def test_every_training_row_is_held_out_once_with_its_patient(targets):
    calls = []

    def fit(split, part):
        calls.append(split)
        return pd.DataFrame(float(part), INDEX, targets.columns)

    logits = pd.DataFrame(-1.0, INDEX, targets.columns)
    crossed = cross_fitted(fit, logits, SPLIT, targets, PATIENTS, 4)
    train = SPLIT == "train"
    assert len(calls) == 4 and sorted(crossed.loc[train, "a"].unique()) == [0, 1, 2, 3]
    assert (crossed.groupby(PATIENTS)["a"].nunique() == 1).all() and (logits == -1).all(axis=None)
    for part, split in enumerate(calls):
        held = train & (crossed["a"] == part)
        assert split[held].isna().all() and split[~held].equals(SPLIT[~held])
        assert not set(PATIENTS[held]) & set(PATIENTS[split == "train"])
        assert abs(targets.loc[held, "a"].mean() - targets.loc[train, "a"].mean()) < 0.05  # spread evenly


def test_refusals(targets):
    logits = targets.fillna(0)
    with pytest.raises(DataError, match="80 training patients cannot be cut into 81 parts"):
        cross_fitted(by_heart(targets), logits, SPLIT, targets, PATIENTS, 81)
    with pytest.raises(DataError, match="Without part 0 of 3 the training rows lack a class"):
        cross_fitted(lambda split, part: logits[["a"]], logits, SPLIT, targets, PATIENTS, 3)
    with pytest.raises(DataError, match="same index"):
        cross_fitted(by_heart(targets), logits, SPLIT, targets, PATIENTS[::-1])
