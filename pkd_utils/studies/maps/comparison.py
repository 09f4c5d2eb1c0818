"""Baseline against distilled student over every map, metric and cohort: what moved, by how much, and how sure that is.

Reads the tables of `mmpkd/08-score-all-maps`. For each cohort, map and metric the difference is distilled minus
baseline, of the mean over test images, averaged over seeds, on the images for which every student has a value. Three
statements stand beside it, which answer different questions:

- would new trainings, on new patients, differ? `low` to `high`: Student's t, both methods of a seed drawn jointly
  because they share weights, order and augmentation (`training_interval`). Verdicts rest on it;
- do these trained students differ, on new patients? `low_students` to `high_students` (`bootstrap_interval`);
- do the trainings differ, on these patients? Mann-Whitney over seeds as in the paper, which takes them as independent,
  with Cliff's delta and Holm.

None of them is made of students that were not trained, see `maps.evidence`.

Families of Holm's procedure, per cohort: "paper" holds the map and the metrics of the paper's Table 1, which were
chosen before any result was seen; "exploratory" holds all the others, judged by the p of their interval after Holm's
correction over the whole family.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from pkd_utils.localization.suite import LOWER_IS_BETTER
from pkd_utils.runs import files, run
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.comparisons import ONE_STUDENT, UNSURE, cliffs_delta, holm, judge, mann_whitney
from pkd_utils.statistics.intervals import bootstrap_interval, training_interval
from pkd_utils.studies.maps.arms import METHODS
from pkd_utils.studies.maps.evidence import NOT_TRAINED, not_trained, training_evidence

REFERENCE = "reference: "
TITLES = {
    "pixel_auroc": "Obj. AUROC",
    "pixel_auprc": "pixel AUPRC",
    "pointing_game": "pointing game",
    "energy_inside": "energy inside",
    "iou": "IoU",
    "iou_all": "IoU, all thresholds",
    "best_iou": "IoU, oracle threshold",
    "fpr": "FPR",
    "fpr_all": "FPR, all thresholds",
}
"""Per-image columns of 08 and their names, in the order of the book; other columns are not compared."""

COLUMNS = [
    "cohort", "map", "metric", "family", "images", "images_left_out", "patients",
    "baseline", "mmpkd", "sd_baseline", "sd_mmpkd", "sd_difference", "estimate", "low", "high", "error", "freedom",
    "low_family", "high_family", "low_students", "high_students", "cliffs_delta", "delta_low", "delta_high",
    "p", "mwu_p", "smallest_p", "seeds", "verdict",
]  # fmt: skip
"""Of `compare_maps`, which adds `holm_p`."""

SCORING = ("thresholds", "criterion", "connectivity", "min_area", "tolerance")
"""Parameters of 08 that runs of one comparison share: they say how a map is scored."""


@dataclass(frozen=True)
class MapRuns:
    """Tables of one or more runs of 08, cohorts told apart; `facts` is each cohort's `run.json`."""

    per_image: pd.DataFrame
    per_student: pd.DataFrame
    stability: pd.DataFrame
    facts: dict[str, dict[str, Any]]


def read_map_runs(references: Sequence[str]) -> MapRuns:
    """Read runs of `mmpkd/08-score-all-maps`.

    Parameters
    ----------
    references : runs, such as `mmpkd/embedded/08-score-all-maps/demo`
        Where two are of the same cohort, the cohort is named `<cohort>/<label>`.
    """
    if not references or len(set(references)) < len(references):
        raise DataError(f"map_runs is {list(references)}: name at least one run of 08-score-all-maps, each once.")
    cohorts = [reference.split("/")[1] for reference in references]
    tables = {name: [] for name in ("per_image.parquet", "per_student.csv", "stability.csv")}
    facts = {}
    for reference, cohort in zip(references, cohorts, strict=True):
        folder = run.find_run(reference)
        name = cohort if cohorts.count(cohort) == 1 else f"{cohort}/{reference.split('/')[3]}"
        facts[name] = files.read_json(folder / "run.json")
        for file, parts in tables.items():
            read = pd.read_parquet if file.endswith("parquet") else pd.read_csv
            parts.append(read(folder / file).assign(cohort=name))
    for setting in SCORING:
        values = dict.fromkeys(str(run_facts["parameters"].get(setting)) for run_facts in facts.values())
        if len(values) > 1:
            found = " and ".join(values)
            raise DataError(f"map_runs differ in {setting} ({found}): score all with one value, or compare them apart.")
    return MapRuns(*(pd.concat(parts, ignore_index=True) for parts in tables.values()), facts)


def methods(per_image: pd.DataFrame, cohort: str) -> list[str]:
    """Methods of a cohort that were run, in the order of `METHODS`; a control has the setting of what it controls."""
    students = per_image[(per_image["cohort"] == cohort) & ~per_image["map"].str.startswith(REFERENCE)]
    distilled = students.loc[students["weight"] > 0, ["weight", "temperature"]].drop_duplicates()
    if len(distilled) > 1:
        raise DataError(
            f"{cohort}: {len(distilled)} settings of weight and temperature are distilled; compare one with baseline, "
            "and controls of the same setting."
        )
    return [method for method in METHODS if (students["method"] == method).any()]


def seeds_by_images(per_image: pd.DataFrame, cohort: str, map_name: str, method: str) -> pd.DataFrame:
    """Values of one method's students: a row a student, a column a metric and image; NaN where undefined.

    A student is a seed where each image is tested once a seed, otherwise a fold and a seed. Reference maps, which do
    not belong to a method (`method` is ignored), have one row, "reference: random weights" a row a seed.

    Returns
    -------
    DataFrame; `[metric]` of it has the images as columns
    """
    part = per_image[(per_image["cohort"] == cohort) & (per_image["map"] == map_name)]
    metrics = metric_names(per_image)
    if map_name.startswith(REFERENCE):
        part = part.assign(student=part["seed"].fillna(-1)).groupby(["student", "image_id"])[metrics].mean()
        return part.unstack("image_id")
    part = part[part["method"] == method]
    keys = ["seed"] if not part.duplicated(["seed", "image_id"]).any() else ["fold", "seed"]
    if part.duplicated([*keys, "image_id"]).any():
        raise DataError(f"{cohort}, {map_name}: an image has two values of one student (fold, seed); look at map_runs.")
    return part.pivot(index=keys, columns="image_id", values=metrics)


class SharedValues(NamedTuple):
    """One metric of both methods, seed by seed, on the images for which every student has a value."""

    baseline: np.ndarray  # (seeds, images), the same seeds in the same order as of `mmpkd`
    mmpkd: np.ndarray
    patients: np.ndarray  # (images,)
    left_out: int  # images for which some student has none, such as no predicted box


def shared_values(baseline: pd.DataFrame, mmpkd: pd.DataFrame, patients: pd.Series) -> SharedValues:
    """Bring two tables of `seeds_by_images`, one metric each, to the seeds and images they share.

    A seed that one method alone has is left out: it has no other side. `patients` by image_id.
    """
    seeds = baseline.index.intersection(mmpkd.index)
    baseline, mmpkd = baseline.loc[seeds], mmpkd.loc[seeds]
    images = baseline.columns.union(mmpkd.columns)
    shared = baseline.dropna(axis=1).columns.intersection(mmpkd.dropna(axis=1).columns)
    who = patients.reindex(shared).to_numpy()
    return SharedValues(baseline[shared].to_numpy(), mmpkd[shared].to_numpy(), who, len(images) - len(shared))


def patients_of(per_image: pd.DataFrame) -> pd.Series:
    """patient_id by cohort and image_id."""
    return per_image.drop_duplicates(["cohort", "image_id"]).set_index(["cohort", "image_id"])["patient_id"]


def evidence_of(map_runs: MapRuns, cohort: str, level: float = 0.95) -> pd.DataFrame:
    """`evidence.training_evidence` of a cohort, from the rows of its students in `per_student`."""
    table = map_runs.per_student
    table = table[(table["cohort"] == cohort) & (table["map"] == "classifier")]
    students = table.pivot(index=["method", "fold", "seed"], columns="metric", values="value").reset_index()
    wanted = ("validate_auroc", "map_range", "tokens")
    if missing := [name for name in wanted if name not in students]:
        raise DataError(f"The run of 08 of {cohort} does not say {', '.join(missing)} of a student: run 08 again.")
    return training_evidence(students, level)


def compare_maps(
    map_runs: MapRuns,
    primary_map: str = "attention_mean",
    primary_metrics: Sequence[str] = ("pixel_auroc", "iou", "fpr"),
    resamples: int = 5000,
    level: float = 0.95,
) -> pd.DataFrame:
    """Distilled minus baseline for every cohort, map and metric that 08 measured.

    Parameters
    ----------
    primary_map, primary_metrics : the family "paper" (Table 1; how heads are pooled is not stated in the paper)
    resamples, level : of the intervals

    Returns
    -------
    DataFrame
        `COLUMNS` and holm_p (of mwu_p in the family "paper", of p in "exploratory"): baseline, mmpkd (means),
        sd_baseline, sd_mmpkd, sd_difference (over seeds), error, freedom (of low to high), low_family, high_family
        (together at `level` over the family's metrics, Bonferroni; "paper" only), seeds (that both methods have),
        images_left_out (a student has no value there). NaN where one student a method leaves nothing to compare, or
        where a method was not trained; cohorts without both methods have no row.
    """
    rows = []
    per_image, patients = map_runs.per_image, patients_of(map_runs.per_image)
    options = {"resamples": resamples, "level": level}
    for cohort in map_runs.facts:
        if not {"baseline", "mmpkd"} <= set(methods(per_image, cohort)):
            continue
        trained = not not_trained(evidence_of(map_runs, cohort, level))
        for map_name in map_names(per_image, cohort):
            students = [seeds_by_images(per_image, cohort, map_name, m) for m in ("baseline", "mmpkd")]
            for metric in metric_names(per_image):
                pair = shared_values(*(values[metric] for values in students), patients[cohort])
                primary = map_name == primary_map and metric in primary_metrics
                family = len(primary_metrics) if primary else 0
                row = {"cohort": cohort, "map": map_name, "metric": metric}
                row |= {"family": "paper" if primary else "exploratory", "images": len(pair.patients)}
                row |= {"images_left_out": pair.left_out, "patients": len(set(pair.patients))}
                found = _difference(pair, metric not in LOWER_IS_BETTER, family, trained, options)
                rows.append(row | found)
    table = pd.DataFrame(rows, columns=COLUMNS).assign(holm_p=np.nan)
    for (_, family), part in table[table["error"].notna()].groupby(["cohort", "family"]):
        if family == "paper":
            table.loc[part.index, "holm_p"] = holm(part["mwu_p"])
            continue
        corrected = holm(part["p"])
        table.loc[part.index, "holm_p"] = corrected
        table.loc[part.index[corrected >= 1 - level], "verdict"] = UNSURE
    return table


def map_names(per_image: pd.DataFrame, cohort: str, references: bool = False) -> list[str]:
    """Maps of a cohort in the order of the table: those of students, or the reference maps."""
    names = per_image.loc[per_image["cohort"] == cohort, "map"].drop_duplicates()
    return names[names.str.startswith(REFERENCE) == references].tolist()


def metric_names(per_image: pd.DataFrame) -> list[str]:
    """Columns of `TITLES` that the table has, in the order of the book."""
    return [metric for metric in TITLES if metric in per_image.columns]


def _difference(
    pair: SharedValues, larger_is_better: bool, family: int, trained: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """Means, intervals and tests of one row of `compare_maps`; `family`: metrics judged together, 0 for none."""
    baseline, mmpkd, patients, _ = pair
    row = {"seeds": len(baseline), "verdict": ONE_STUDENT}
    if baseline.size == 0:
        return row | {
            "verdict": "no image has a value of every student" if len(baseline) else "no seed of both methods"
        }
    per_seed = [values.mean(1) for values in (baseline, mmpkd)]
    for name, values in zip(("baseline", "mmpkd"), per_seed, strict=True):
        row |= {name: values.mean(), f"sd_{name}": values.std(ddof=1) if len(values) > 1 else np.nan}
    row["estimate"] = row["mmpkd"] - row["baseline"]
    if not trained and len(baseline) > 1:
        return row | {"verdict": NOT_TRAINED}
    if len(set(patients)) < 2:
        return row | {"verdict": "one patient: no interval"}
    students = bootstrap_interval(mmpkd.mean(0) - baseline.mean(0), patients, **options)
    row |= {"low_students": students.low, "high_students": students.high}
    if row["seeds"] < 2:
        return row
    level = options["level"]
    found = training_interval(baseline, mmpkd, patients, level)
    row |= {"sd_difference": np.std(per_seed[1] - per_seed[0], ddof=1), "error": found.error, "freedom": found.freedom}
    judged = found
    if family:
        judged = training_interval(baseline, mmpkd, patients, 1 - (1 - level) / family)
        row |= {"low_family": judged.low, "high_family": judged.high}
    test, effect = mann_whitney(per_seed[1], per_seed[0]), cliffs_delta(per_seed[1], per_seed[0], level)
    row |= {"cliffs_delta": effect.estimate, "delta_low": effect.low, "delta_high": effect.high}
    t = abs(found.estimate) / found.error if found.error else np.inf if found.estimate else 0.0
    row |= {"p": 2 * stats.t.sf(t, found.freedom)}
    row |= {"low": found.low, "high": found.high, "mwu_p": test.p, "smallest_p": test.smallest_p}
    return row | {"verdict": judge(judged.low, judged.high, larger_is_better)}
