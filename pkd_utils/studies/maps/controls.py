"""Is a gain the privileged information's? The distilled student against its controls, beside every gain.

A gain of the distilled student over the baseline is claimed to come from the privileged information only if it is
better than the baseline *and* than a self-distilled student *and* than one whose teacher's soft labels were shuffled
within the class. All three have to hold (an intersection-union test), so they need no correction for their number.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pkd_utils.localization.suite import LOWER_IS_BETTER
from pkd_utils.statistics.comparisons import AWAY, ONE_STUDENT, TOWARDS, UNSURE, judge
from pkd_utils.statistics.intervals import Interval, training_interval
from pkd_utils.statistics.power import detectable_differences
from pkd_utils.studies.maps.arms import CONTROLS, METHOD_NAMES
from pkd_utils.studies.maps.comparison import MapRuns, evidence_of, methods, patients_of, seeds_by_images, shared_values
from pkd_utils.studies.maps.evidence import NOT_TRAINED

OVER_BASELINE = [(method, "baseline") for method in ("mmpkd", *CONTROLS)]
PAIRS = [*OVER_BASELINE, *(("mmpkd", control) for control in CONTROLS)]
"""Arm and what it is held against: the gains over the baseline, then the distilled student over its controls."""

CLAIMED, NO_CONTROL, NOT_MORE, NO_GAIN = "claimed", "no control", "not shown over a control", "not shown"
COLUMNS = ["cohort", "metric", "method", "against", "seeds", "images", "patients", "estimate", "low", "high"]


def compare_arms(
    map_runs: MapRuns, map_name: str, metrics: Sequence[str], level: float = 0.95, power: float = 0.8
) -> pd.DataFrame:
    """Every pair of `PAIRS` that was trained, by cohort and metric, on one map.

    Returns
    -------
    DataFrame
        `COLUMNS`, error, freedom, detectable, verdict (`judge`): the interval for new trainings on new patients
        (`training_interval`), at a level that holds for the metrics together (Bonferroni); detectable, the true
        difference that it finds with the wanted `power`. Pairs in which an arm was not trained have no interval.
    """
    rows, patients = [], patients_of(map_runs.per_image)
    share = (1 - level) / len(metrics)
    for cohort in map_runs.facts:
        arms = methods(map_runs.per_image, cohort)
        trained = evidence_of(map_runs, cohort, level)["trained"]
        values = {arm: seeds_by_images(map_runs.per_image, cohort, map_name, arm) for arm in arms}
        for metric in metrics:
            for method, against in PAIRS:
                if method not in arms or against not in arms:
                    continue
                pair = shared_values(values[against][metric], values[method][metric], patients[cohort])
                facts = {"cohort": cohort, "metric": metric, "method": method, "against": against}
                facts |= {"images": len(pair.patients), "patients": len(set(pair.patients))}
                why = "" if trained[[method, against]].all() or len(pair.mmpkd) < 2 else NOT_TRAINED
                enough = len(pair.mmpkd) > 1 and facts["patients"] > 1 and not why
                found = training_interval(*pair[:3], 1 - share) if enough else None
                plain = float((pair.mmpkd - pair.baseline).mean()) if pair.mmpkd.size else np.nan
                row = arm_row(found, metric not in LOWER_IS_BETTER, share, power) | {"seeds": len(pair.mmpkd)}
                rows.append(facts | row | ({"verdict": why} if why else {}) | {"estimate": plain})
    return pd.DataFrame(rows, columns=[*COLUMNS, "error", "freedom", "detectable", "verdict"])


def arm_row(found: Interval | None, larger_is_better: bool = True, alpha: float = 0.05, power: float = 0.8) -> dict:
    """Estimate, interval, verdict and detectable difference of one pair of arms, or NaN without an interval."""
    row = {name: getattr(found, name, np.nan) for name in ("estimate", "low", "high", "error", "freedom")}
    row["detectable"] = detectable_differences(pd.DataFrame([row]), alpha, power).item()
    return row | {"verdict": judge(row["low"], row["high"], larger_is_better)}


def arm_claims(arms: pd.DataFrame) -> pd.DataFrame:
    """What may be claimed of each cohort and metric, of the rows of `compare_arms`.

    Returns
    -------
    DataFrame
        Index cohort, metric; a column an arm that the distilled student is held against ("baseline", "self",
        "permuted", as far as they were trained) with its verdict; `claim`: "claimed" where all three hold, "no
        control" where the gain holds over the baseline and a control is missing, "not shown over a control" where
        it holds over the baseline alone, "not shown" where it does not hold over the baseline, "away" or "not trained".
    """
    ours = arms[arms["method"] == "mmpkd"]
    table = ours.pivot(index=["cohort", "metric"], columns="against", values="verdict")
    table = table.reindex(ours.set_index(["cohort", "metric"]).index.drop_duplicates())
    claims = []
    for row in table.to_dict("records"):
        controls = [row.get(name) for name in CONTROLS]
        if row["baseline"] in (AWAY, NOT_TRAINED):
            claims.append(row["baseline"])
        elif row["baseline"] != TOWARDS:
            claims.append(NO_GAIN)
        elif any(pd.isna(one) for one in controls):
            claims.append(NO_CONTROL)
        else:
            claims.append(CLAIMED if set(controls) == {TOWARDS} else NOT_MORE)
    return table.assign(claim=claims)


def arm_sentence(claims: pd.DataFrame, arms: pd.DataFrame) -> str:
    """One cohort's answer: does privileged training move it more than a permuted teacher does?

    `claims` and `arms` are that cohort's rows of `arm_claims` and `compare_arms`.
    """
    count = claims["claim"].value_counts()
    if count.get(NOT_TRAINED):
        return "No comparison with a permuted teacher: the students are no evidence."
    if missing := [METHOD_NAMES[name] for name in CONTROLS if name not in claims or claims[name].isna().any()]:
        said = f"No control was trained ({', '.join(missing)})"
        return f"{said}, so no gain is claimed to come from the privileged information."
    if (arms["verdict"] == ONE_STUDENT).all():
        return "No comparison with a permuted teacher: one student a method has no interval."
    total, got = len(claims), int(count.get(CLAIMED, 0))
    held = ", ".join(
        f"{(claims[name] == TOWARDS).sum()} over the {METHOD_NAMES[name]}" for name in ("baseline", *CONTROLS)
    )
    outcomes = "outcome gains" if total == 1 else "outcomes gain"
    said = f"{got} of {total} {outcomes} more than under a self-distilled and a permuted teacher ({held})"
    if got == total:
        return f"{said}: the gain is the privileged information's."
    unsure = arms[(arms["method"] == "mmpkd") & (arms["verdict"] == UNSURE) & arms["detectable"].notna()]
    if not len(unsure):
        return f"{said}."
    least, most = unsure["detectable"].min(), unsure["detectable"].max()
    return f"{said}; where that cannot be told, true differences of {least:.3f} to {most:.3f} were likely to be seen."
