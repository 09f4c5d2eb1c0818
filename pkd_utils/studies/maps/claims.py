"""What the paper says beside Table 1, each sentence as a question with an answer that numbers can give."""

from typing import Any

PAPER_COHORTS = {"MIMIC-CXR": "mimic_cxr", "Mass": "cbis_mass", "Calcification": "cbis_calc"}
"""Data sets of book/reported/ and the cohorts that are them."""


def whose_data(cohort: dict[str, Any]) -> str:
    """Where the paper's number beside ours comes from, of the `cohort` of a `run.json`."""
    same = cohort["name"] in PAPER_COHORTS.values() and not cohort["simulated"]
    return "on the same data set, by its own trainings" if same else "on other data"
