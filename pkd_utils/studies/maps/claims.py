"""What the paper says beside the rows of Table 1, each as a question whose answer numbers can give.

Contribution 2: attention maps "remain subject to high standard deviations", and "accurate and misleading maps coexist
within [...] individual runs" (`spread`, `coexistence`). Contribution 3: the effect "is highly dependent on the dataset"
(`effect_by_cohort`). Prediction is "stable", "without observing major differences for different configurations"
(`prediction_values`, `equal_settings`, `comparisons.equivalence`). What is high, accurate, misleading or stable is not
stated in the paper: the limits are parameters.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from pkd_utils.runs.paths import resolve
from pkd_utils.statistics.comparisons import DIFFERS, EQUIVALENT, UNSURE, equivalence, holm, p_text, welch_test
from pkd_utils.statistics.intervals import Interval, jackknife_values, sd_interval, training_interval
from pkd_utils.statistics.metrics import macro_auroc
from pkd_utils.statistics.power import RUNS, detectable_range

PAPER_COHORTS = {"MIMIC-CXR": "mimic_cxr", "Mass": "cbis_mass", "Calcification": "cbis_calc"}
"""Data sets of book/reported/ and the cohorts that are them."""

HOLDS, FAILS = "holds", "does not hold"
ANSWERS = {EQUIVALENT: HOLDS, DIFFERS: FAILS, UNSURE: UNSURE}


def whose_data(cohort: dict[str, Any]) -> str:
    """Where the paper's number beside ours comes from, of the `cohort` of a `run.json`."""
    same = cohort["name"] in PAPER_COHORTS.values() and not cohort["simulated"]
    return "on the same data set, by its own trainings" if same else "on other data"


def reported() -> pd.DataFrame:
    """The paper's means and standard deviations over five runs: dataset, method, metric, mean, sd, marks.

    Of Table 1, and of the text the students' AUROC (metric "AUROC").
    """
    tables = [pd.read_csv(resolve(f"book/reported/mmpkd-{name}.csv")) for name in ("table1", "text")]
    table = pd.concat(tables, ignore_index=True)
    return table[table["method"] != "Teacher"].fillna({"marks": ""}).drop(columns="source")


def reported_effects(table: pd.DataFrame) -> pd.DataFrame:
    """Differences of a published table as estimates of two independent samples of runs: Welch's error and freedom.

    Returns
    -------
    DataFrame: dataset, metric, estimate (MMPKD minus baseline), error, freedom, marks (of MMPKD); NaN where the table
    rounds both standard deviations to 0
    """
    rows = []
    for (dataset, metric), part in table.groupby(["dataset", "metric"], sort=False):
        base, ours = (part.set_index("method").loc[name] for name in ("Baseline", "MMPKD"))
        variances = np.array([base["sd"], ours["sd"]], dtype=float) ** 2 / RUNS
        error = float(np.sqrt(variances.sum())) or np.nan
        freedom = error**4 / (variances**2 / (RUNS - 1)).sum() if error == error else np.nan
        rows.append((dataset, metric, ours["mean"] - base["mean"], error, freedom, ours["marks"]))
    return pd.DataFrame(rows, columns=["dataset", "metric", "estimate", "error", "freedom", "marks"])


def spread(students: pd.DataFrame, bar: float, level: float = 0.95) -> pd.DataFrame:
    """Are the standard deviations over runs high? One row a method and metric.

    Parameters
    ----------
    students : DataFrame, columns method and the metrics; a row a student (its mean over images)
    bar : a standard deviation of this size or more is high

    Returns
    -------
    DataFrame: method, metric, runs, sd, low, high (`sd_interval`), verdict: "holds" where the interval lies at the bar
    or above, "does not hold" where below, else "cannot tell"
    """
    rows = []
    for metric in students.columns.drop("method"):
        for method, values in students.groupby("method")[metric]:
            found = sd_interval(values, level)
            verdict = HOLDS if found.low >= bar else FAILS if found.high < bar else UNSURE
            rows.append((method, metric, found.units, found.estimate, found.low, found.high, verdict))
    return pd.DataFrame(rows, columns=["method", "metric", "runs", "sd", "low", "high", "verdict"])


def coexistence(
    aurocs: np.ndarray, patients, accurate: float, misleading: float, share: float, level: float = 0.95
) -> dict[str, Any]:
    """Do accurate and misleading maps coexist within a run?

    Parameters
    ----------
    aurocs : (S, N) pixel AUROC of every run and image
    patients : (N,)
    accurate, misleading : an AUROC of `accurate` or more is accurate, of `misleading` or less misleading
    share : of a run's images that have to be of either kind

    Returns
    -------
    dict
        accurate, misleading: share of the images, mean over runs; ..._low, ..._high: for a new run on new patients
        (`training_interval`); runs_with_both; runs; verdict: "holds" where both intervals lie above `share`, "does not
        hold" where one lies below, else "cannot tell".
    """
    kinds = {"accurate": aurocs >= accurate, "misleading": aurocs <= misleading}
    result: dict[str, Any] = {}
    for name, is_kind in kinds.items():
        found = training_interval(np.zeros(aurocs.shape), is_kind, patients, level, (0, 1))
        result |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
    of_runs = np.array([is_kind.mean(1) for is_kind in kinds.values()])
    result |= {"runs_with_both": int((of_runs >= share).all(0).sum()), "runs": len(aurocs)}
    low, high = (min(result[f"{name}_{end}"] for name in kinds) for end in ("low", "high"))
    return result | {"verdict": HOLDS if low > share else FAILS if high < share else UNSURE}


def prediction_values(truth: np.ndarray, scores: Sequence[np.ndarray], patients) -> np.ndarray:
    """Macro AUROC of students, taken apart by patient (`jackknife_values`): float64 (S, patients).

    `truth` and each of the `scores` are (N, labels), of the same images; `patients` is (N,).
    """
    return np.stack([jackknife_values(lambda w, s=one: macro_auroc(truth, s, w), patients) for one in scores])


def stability(found: Interval, margin: float, alpha: float = 0.05) -> str:
    """In words: is a difference of AUROCs smaller than the margin, and if that cannot be told, which margin could?"""
    test = equivalence(found, margin, alpha)
    could = f"; {test.smallest_margin:.3f} could have been shown" if test.verdict == UNSURE else ""
    return f"stable within {margin:g}: {ANSWERS[test.verdict]} ({p_text(test.p)}{could})"


def reported_stability(dataset: str, margin: float, alpha: float = 0.05) -> str:
    """`stability` of the paper's own AUROCs of a data set, five runs a method."""
    effect = reported_effects(reported()).set_index(["dataset", "metric"]).loc[(dataset, "AUROC")]
    facts = {"error": effect["error"], "freedom": effect["freedom"]}
    found = Interval(effect["estimate"], np.nan, np.nan, 1 - alpha, "Welch", 2 * RUNS, **facts)
    return stability(found, margin, alpha)


def reported_aurocs(dataset: str) -> str:
    """The AUROCs of the paper's students of a data set, "0.77 ± 0.01 to 0.77 ± 0.01"; "" where it has none."""
    table = reported().query("metric == 'AUROC' and dataset == @dataset").set_index("method")[["mean", "sd"]]
    return " to ".join(with_sd(*table.loc[method]) for method in ("Baseline", "MMPKD") if len(table))


def with_sd(mean: float, sd: float, mark: str = "") -> str:
    """Mean and standard deviation as the paper writes them, with its mark."""
    return f"{mean:.2f}{'' if np.isnan(sd) else f' ± {sd:.2f}'} {mark}".strip()


def grid_values(predictions: pd.DataFrame, images: pd.DataFrame, labels: list[str]) -> dict[str, np.ndarray]:
    """`prediction_values` of the validation images for every distilled setting of a grid, of its first fold.

    {"lambda 0.5, T 1": float64 (seeds, patients)}, of predictions.parquet of 03-distil-student and of images by
    image_id, with patient_id and the labels.
    """
    tried = predictions[(predictions["split"] == "validate") & (predictions["weight"] > 0)]
    tried = tried[tried["fold"] == tried["fold"].min()]
    held, settings = images.loc[tried["image_id"].unique()], {}
    for (weight, temperature), rows in tried.groupby(["weight", "temperature"]):
        scores = [one.set_index("image_id").loc[held.index, labels].to_numpy() for _, one in rows.groupby("seed")]
        values = prediction_values(held[labels].to_numpy(), scores, held["patient_id"].to_numpy())
        settings[f"lambda {weight:g}, T {temperature:g}"] = values
    return settings


def grid_sentence(values: dict[str, np.ndarray], margin: float, alpha: float = 0.05) -> str:
    """`equal_settings` in words."""
    if len(values) < 2:
        return "no grid of two settings or more was run"
    same = equal_settings(values, margin, alpha)
    return (
        f"{same['settings']} settings, farthest apart {same['first']} and {same['second']} by "
        f"{same['difference']:.3f}; no difference of {margin:g} or more: {ANSWERS[same['verdict']]} "
        f"({p_text(same['p'])}; {same['smallest_margin']:.3f} could have been shown)"
    )


def spread_sentences(table: pd.DataFrame, coexist: pd.DataFrame, bar: float, share: float) -> list[str]:
    """Contribution 2 in words, of `spread` and of one row of `coexistence` a method."""
    counts = table["verdict"].value_counts()
    said = [
        f"Spread over runs of {bar:.2f} or more (contribution 2), of {len(table)} methods and metrics: "
        f"{', '.join(f'{verdict} for {count}' for verdict, count in counts.items())}; standard deviations "
        f"{table['sd'].min():.3f} to {table['sd'].max():.3f}."
    ]
    for row in coexist.to_dict("records"):
        kinds = [
            f"{kind} {row[kind]:.0%} ({row[f'{kind}_low']:.0%} to {row[f'{kind}_high']:.0%})"
            for kind in ("accurate", "misleading")
        ]
        said.append(
            f"Accurate and misleading maps within a run (contribution 2), {row['method']}: {', '.join(kinds)} of the "
            f"images; both are at least {share:.0%} in {row['runs_with_both']} of {row['runs']} runs: {row['verdict']}."
        )
    return said


def equal_settings(values: dict[str, np.ndarray], margin: float, alpha: float = 0.05) -> dict[str, Any]:
    """Do no two of several settings differ by as much as `margin`?

    That is one claim whose parts, a pair each, must all hold: its p is the largest of theirs and needs no correction.
    That some pair differs by more is corrected for the number of pairs (Bonferroni).

    Parameters
    ----------
    values : of each setting (S, patients), rows the same seeds, see `prediction_values`; two settings or more

    Returns
    -------
    dict: settings, first, second (the pair that lies farthest apart), difference, p, smallest_margin, verdict
    """
    found = {}
    for pair in combinations(values, 2):
        found[pair] = training_interval(*(values[name] for name in pair))
    tests = {pair: equivalence(one, margin, alpha) for pair, one in found.items()}
    apart = [equivalence(one, margin, alpha / len(found)).verdict == DIFFERS for one in found.values()]
    first, second = max(found, key=lambda pair: abs(found[pair].estimate))
    p = max(test.p for test in tests.values())
    return {
        "settings": len(values), "first": first, "second": second,
        "difference": abs(found[first, second].estimate), "p": p,
        "smallest_margin": max(test.smallest_margin for test in tests.values()),
        "verdict": EQUIVALENT if p < alpha else DIFFERS if any(apart) else UNSURE,
    }  # fmt: skip


def effect_by_cohort(effects: pd.DataFrame, alpha: float = 0.05, power: float = 0.8) -> pd.DataFrame:
    """Does the effect of privileged training depend on the data set? Welch's test of the cohorts' effects, by metric.

    Cohorts are taken as independent: other patients, other trainings.

    Parameters
    ----------
    effects : DataFrame, columns cohort, metric, estimate, error, freedom (as `compare_maps` gives them, one map); rows
        without an error are left out
    alpha, power : of the test, and wanted chance to find a difference

    Returns
    -------
    DataFrame
        metric, cohorts, range (largest minus smallest effect), f, p, holm_p (over metrics), detectable (effects of
        which any two lie so far apart are told to differ with that chance, where the metrics share alpha), verdict:
        "holds" where holm_p is below alpha, else "cannot tell". Metrics of fewer than two cohorts have no row.
    """
    rows = []
    for metric, part in effects[effects["error"] > 0].groupby("metric", sort=False):
        if len(part) < 2:
            continue
        f, p, freedom = welch_test(part["estimate"], part["error"], part["freedom"])
        widest = part["error"].nlargest(2).pow(2).sum() ** 0.5  # of any two
        rows.append((metric, len(part), np.ptp(part["estimate"]), f, p, freedom, widest))
    table = pd.DataFrame(rows, columns=["metric", "cohorts", "range", "f", "p", "freedom", "widest"])
    facts = zip(table["cohorts"], table.pop("freedom"), table.pop("widest"), strict=True)
    table["detectable"] = [detectable_range(*one, alpha / len(table), power) for one in facts]
    corrected = holm(table["p"]) if len(table) else []
    table.insert(5, "holm_p", corrected)
    return table.assign(verdict=np.where(table["holm_p"] < alpha, HOLDS, UNSURE))


def dependence_sentences(table: pd.DataFrame) -> list[str]:
    """`effect_by_cohort` in words, a sentence a metric."""
    if not len(table):
        return ["That the effect depends on the data set (contribution 3) needs independent cohorts: not tested."]
    return [
        f"The effect on {row.metric} depends on the data set (contribution 3): {row.verdict}; effects of {row.cohorts} "
        f"cohorts within {row.range:.3f}, {p_text(row.p)}, by Holm {p_text(row.holm_p)}; that effects "
        f"differ was likely to be told had two lain {row.detectable:.3f} apart."
        for row in table.itertuples()
    ]
