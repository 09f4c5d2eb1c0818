"""The privileged text made poorer: each variant takes what it says, and nothing else changes."""

import numpy as np
import pandas as pd
import pytest

from pkd_utils.cohorts.texts import same_parts, text_variant
from pkd_utils.runs.errors import DataError

REPORT = "Left base: small effusion. Pleural fluid in the lingula. Bilateral clips."


@pytest.mark.parametrize(
    ("variant", "left"),
    [
        ("whole", REPORT),
        ("names_removed", "Left base: small. Pleural fluid in the lingula. Bilateral clips."),
        ("synonyms_removed", "Left base: small. in the lingula. Bilateral clips."),
        ("sentences_removed", "Left base: Bilateral clips."),
        ("sides_removed", "base: small effusion. Pleural fluid in the. clips."),
        ("indication", "Cough."),
    ],
)
def test_what_a_variant_leaves(variant, left):
    table = pd.DataFrame({"text": REPORT, "context": "Cough."}, index=pd.Index(["s1", "s2"], name="study_id"))
    found = text_variant(table, variant, ["Pleural Effusion"])
    assert found.tolist() == [left, left]
    assert found.index.equals(table.index) and found.name == "text"


@pytest.fixture
def reports():
    """60 reports of 40 patients in two parts, ten patients with three; shuffled."""
    patients = np.repeat(np.arange(40), np.where(np.arange(40) < 10, 3, 1))[:60]
    table = pd.DataFrame({"patient": patients}).sample(frac=1, random_state=0).reset_index(drop=True)
    table.index = pd.Index("s" + table.index.astype(str), name="study_id")
    part = pd.Series(np.where(table["patient"] % 3 == 0, "evaluate", "train"), table.index)
    return table.assign(text="report of " + table.index), table["patient"], part


@pytest.mark.parametrize("seed", range(5))
def test_another_patients_report_of_the_same_part(reports, seed):
    table, patients, part = reports
    found = text_variant(table, "other_patient", patients=patients, within=part.sample(frac=1), seed=seed)
    donor = found.str.removeprefix("report of ")
    assert sorted(donor) == sorted(table.index)  # everyone's report is somebody's
    assert (patients.loc[donor].to_numpy() != patients.to_numpy()).all()
    assert (part.loc[donor].to_numpy() == part.to_numpy()).all()
    again = text_variant(table, "other_patient", patients=patients, within=part, seed=seed)
    assert again.equals(found)
    assert not text_variant(table, "other_patient", patients=patients, within=part, seed=seed + 1).equals(found)
    alone = text_variant(table, "other_patient", seed=seed).str.removeprefix("report of ")
    assert (alone != alone.index).all() and (part.loc[alone].to_numpy() != part.to_numpy()).any()


def test_refusals(reports):
    table, patients, part = reports
    with pytest.raises(DataError, match=r"Part 'evaluate' has 22 report\(s\), 22 of one patient"):
        text_variant(table, "other_patient", patients=patients.mask(part == "evaluate", 0), within=part)
    with pytest.raises(DataError, match="no column context"):
        text_variant(table, "indication")
    with pytest.raises(DataError, match=r"text_variant: variant = 'half': input should be 'whole'"):
        text_variant(table, "half")
    with pytest.raises(DataError, match="none given"):
        text_variant(table, "names_removed")


def test_reports_of_the_same_parts():
    rows = [("a", 0, "i1", "train"), ("a", 0, "i2", "train"), ("a", 0, "i3", "evaluate"), ("a", 0, "i4", "evaluate")]
    rows += [("a", 1, "i1", "train"), ("a", 1, "i3", "train"), ("a", 1, "i4", "train")]
    splits = pd.DataFrame(rows, columns=["task", "seed", "image_id", "part"])
    study_of = pd.Series({"i1": "s1", "i2": "s1", "i3": "s3", "i4": "s4", "i9": "s9"})
    found = same_parts(splits, study_of)
    assert found.to_dict() == {"s1": "train/train", "s3": "evaluate/train", "s4": "evaluate/train"}
    other = pd.DataFrame([("b", 0, "i1", "train"), ("b", 0, "i3", "evaluate")], columns=splits.columns)
    with pytest.raises(DataError, match="1 reports of other tasks have no part in b"):
        same_parts(pd.concat([splits, other]), study_of)
