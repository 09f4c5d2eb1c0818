"""Outcomes of the embedded radiographs follow the simulated state."""

import numpy as np
import pandas as pd
import pytest

from pkd_utils.demo.chest import outcomes
from pkd_utils.runs.errors import DataError
from tests.cohorts.tasks.fixtures import DAY, make_cohort


def simulated(count=1500, seed=0, **fixed) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(5)
    studies = pd.DataFrame(rng.beta(1.2, 2, (count, 4)), columns=outcomes.STATE).assign(**fixed)
    studies.insert(0, "study_id", [f"5{k:07d}" for k in range(count)])
    studies.insert(1, "subject_id", [f"1{k:07d}" for k in range(count)])
    studies["study_datetime"] = DAY
    stays = pd.DataFrame({"subject_id": [], "hadm_id": [], "admittime": [], "dischtime": []})
    stays = stays.astype({"admittime": "datetime64[us]", "dischtime": "datetime64[us]"})
    return studies, stays, pd.Series(dtype="datetime64[us]")


def test_outcomes_follow_the_state_and_nothing_else_moves_them():
    studies, stays, died = simulated()
    table = outcomes.simulate_outcomes(studies, stays, died, seed=0).set_index("study_id")
    part = outcomes.simulate_outcomes(studies.tail(100), stays, died, 0).set_index("study_id")
    pd.testing.assert_frame_equal(part, table.tail(100))  # a patient's outcome does not depend on the others
    assert not table.equals(outcomes.simulate_outcomes(studies, stays, died, 1).set_index("study_id"))
    ill = studies.set_index("study_id")["heart_disease"]
    for column in ("12_month_PH", "12_month_readmission"):
        assert set(table[column]) == {"True", "False", "Censored"}
        means = ill.groupby(table[column]).mean()
        assert means["True"] > means["False"] + 0.05
    inside = table["12_month_PH"] == "True"
    assert table["tte_PH"][inside].between(1, 365 * 1440).all()
    assert (table["tte_PH"][table["12_month_PH"] == "False"] >= 365 * 1440).all()


def test_a_later_stay_is_a_readmission_and_the_current_one_is_not():
    studies, _, died = simulated(2, heart_disease=0.0, heart_failure=0.0, infection=0.0, immobility=0.0)
    hours = {"admittime": [-10, 2400, -10], "dischtime": [50, 2500, 50]}
    stays = pd.DataFrame({"subject_id": ["10000000", "10000000", "10000001"], "hadm_id": ["20", "21", "22"]})
    stays = stays.assign(**{name: [DAY + pd.Timedelta(hours=h) for h in values] for name, values in hours.items()})
    later = outcomes.simulate_outcomes(studies, stays, died, 0)
    assert later["12_month_readmission"].iloc[0] == "True" and later["tte_readmission"].iloc[0] <= 2400 * 60
    assert later["12_month_readmission"].iloc[1] != "True"
    dead = pd.Series([DAY + pd.Timedelta(days=20)] * 2, index=["10000000", "10000001"])
    table = outcomes.simulate_outcomes(studies, stays.tail(1), dead, 0)
    assert table["12_month_readmission"].tolist() == ["Censored"] * 2
    assert table["12_month_PH"].tolist() == ["Censored"] * 2


def test_an_event_before_the_film_is_censored_not_predicted():
    studies, stays, died = simulated(400, heart_disease=1.0, heart_failure=1.0)
    studies["subject_id"] = studies["subject_id"].to_numpy()[np.arange(400) // 2]
    studies["study_datetime"] = [DAY, DAY + pd.Timedelta(days=3650)] * 200
    table = outcomes.simulate_outcomes(studies, stays, died, 0)
    first, second = table.iloc[::2].reset_index(), table.iloc[1::2].reset_index()
    fell_ill = first["12_month_PH"] == "True"
    assert fell_ill.sum() > 50 and (second["12_month_PH"][fell_ill] == "Censored").all()
    assert (second["tte_PH"][fell_ill] == 0).all()


def test_films_of_one_stay_share_their_fate_and_real_cohorts_are_refused():
    studies, _, died = simulated(6)
    studies["subject_id"] = "10000000"
    studies["study_datetime"] = [DAY + pd.Timedelta(hours=h) for h in range(6)]
    stays = pd.DataFrame({"subject_id": ["10000000"], "hadm_id": ["20"], "admittime": [DAY - pd.Timedelta(hours=1)]})
    stays["dischtime"] = DAY + pd.Timedelta(hours=30)
    table = outcomes.simulate_outcomes(studies, stays, died, 0)
    assert table["12_month_readmission"].nunique() == 1
    steps = table["tte_readmission"].diff().dropna().tolist()
    assert steps == [-60] * 5, "one event, seen from six films an hour apart"
    with pytest.raises(DataError, match="not simulated"):
        outcomes.label_table(make_cohort(pd.DataFrame({"view": ["PA"]})))
