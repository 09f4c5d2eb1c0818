"""Which students are evidence on attention: they predict, and their maps are not flat."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pkd_utils.studies.maps.evidence import not_trained, training_evidence

LUCK = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])


def students(auroc=0.6, spread=1.0, ranges=(0.2,) * 5, tokens=64, method="baseline"):
    """One method, five seeds; `ranges` are raw."""
    table = {"method": method, "fold": 0, "seed": range(5), "validate_auroc": auroc + spread * LUCK}
    return pd.DataFrame({**table, "map_range": ranges, "tokens": tokens})


@pytest.mark.parametrize(
    ("made", "trained", "flat"),
    [
        (students(), True, 0),
        (students(0.51), False, 0),  # mean above chance, interval not
        (students(0.6, spread=8), False, 0),  # the same mean, seeds far apart
        (students(ranges=(0.5 / 64,) * 5), True, 0),  # exactly half of 1/N
        (students(ranges=(0.49 / 64,) * 5), False, 5),
        (students(ranges=(0.49 / 64,) * 5, tokens=196), True, 0),  # the same range among more tokens
        (students(ranges=(0.001, 0.001, 0.2, 0.2, 0.2)), True, 2),  # a few flat ones are counted
        (students(ranges=(0.001, 0.001, 0.001, 0.2, 0.9)), False, 3),
        (students()[:1], False, 0),  # one seed has no lower bound
    ],
)
def test_the_rule(made, trained, flat):
    row = training_evidence(made).loc["baseline"]
    assert (row["trained"], row["flat"]) == (trained, flat)


def test_numbers_and_words():
    folds = pd.concat([students(), students(0.7).assign(fold=1)])  # a seed's AUROC is the mean over its folds
    both = pd.concat([folds, students(0.49, method="mmpkd", ranges=(0.3 / 64,) * 5)])
    got = training_evidence(both)
    low, _ = stats.t.interval(0.95, 4, 0.65, stats.sem(LUCK))
    row = got.loc["baseline", ["seeds", "validate_auroc", "low", "students"]]
    assert row.tolist() == pytest.approx([5, 0.65, low, 10])
    assert got.loc["mmpkd", "map_range"] == pytest.approx(0.3) and got["trained"].tolist() == [True, False]
    said = not_trained(got)
    assert said.startswith("not trained: baseline with a validation AUROC of 0.65 over 5 seed(s), lower bound 0.63")
    assert "distilled with a validation AUROC of 0.49 over 5 seed(s), lower bound 0.47" in said
    assert "a map's range of 0.3/N, below 0.5/N in 5 of 5 students (a lower bound above 0.5 and" in said
    flat = students(method="self", ranges=(0.3 / 64,) * 5)
    with_control = training_evidence(pd.concat([flat, folds]))
    assert with_control["trained"].to_dict() == {"baseline": True, "self": False} and not_trained(with_control) == ""
