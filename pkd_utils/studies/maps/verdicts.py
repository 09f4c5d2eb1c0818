"""What the comparison of maps says in words: against the reference maps that every map must beat, and by cohort.

Every sentence is computed from the tables of `maps.comparison`; nothing is typed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pkd_utils.localization.suite import LOWER_IS_BETTER
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.comparisons import AWAY, TOWARDS, judge, mann_whitney, p_text, paired_seeds
from pkd_utils.statistics.intervals import training_interval, within
from pkd_utils.studies.maps.arms import CONTROLS, METHOD_NAMES
from pkd_utils.studies.maps.comparison import (
    REFERENCE,
    TITLES,
    MapRuns,
    SharedValues,
    evidence_of,
    map_names,
    methods,
    metric_names,
    patients_of,
    seeds_by_images,
    shared_values,
)
from pkd_utils.studies.maps.controls import CLAIMED, NO_CONTROL, arm_claims, arm_sentence
from pkd_utils.studies.maps.evidence import NOT_TRAINED, not_trained

BEATS, LOSES, UNDECIDED, ABSENT = "beats it", "is beaten", "cannot tell", "not there"
OF_STUDENTS = ("box_ap", "test_auroc", "boxes", "boxes_if_called", "insertion", "deletion")
BY_GROUP = "pixel_auroc: "
"""How 08 begins the name of a map's pixel AUROC on some of the images: by finding, size or confidence."""


def overview(map_runs: MapRuns) -> pd.DataFrame:
    """What is compared: a row a cohort with its title and the numbers of images, patients, methods, seeds and maps."""
    rows = []
    for cohort, facts in map_runs.facts.items():
        part = map_runs.per_image[map_runs.per_image["cohort"] == cohort]
        trained = part[part["weight"].notna()]
        row = {"cohort": cohort, "data": _title(facts), "test images with regions": part["image_id"].nunique()}
        row |= {"patients": part["patient_id"].nunique(), "seeds": trained["seed"].nunique()}
        row["methods"] = ", ".join(METHOD_NAMES[method] for method in methods(map_runs.per_image, cohort))
        row |= {"maps": trained["map"].nunique(), "reference maps": part["map"].nunique() - trained["map"].nunique()}
        rows.append(row)
    return pd.DataFrame(rows)


def between(table: pd.DataFrame, low: str, high: str, digits: int = 3) -> list[str]:
    """Two columns as texts "low to high"; a dash where there is none."""
    ends = table[[low, high]].to_numpy(dtype=float)
    return [f"{a:+.{digits}f} to {b:+.{digits}f}" if np.isfinite([a, b]).all() else "–" for a, b in ends]


def levels_table(map_runs: MapRuns) -> pd.DataFrame:
    """Mean of every metric by cohort, map and method over images, then over students, with the students' spread.

    Returns
    -------
    DataFrame
        cohort, map, method ("baseline", "mmpkd", "reference"), metric, mean, sd (over seeds; NaN for one), seeds,
        images (with a value of every student of that method).
    """
    rows = []
    per_image = map_runs.per_image
    for cohort in map_runs.facts:
        scored = set(per_image.loc[per_image["cohort"] == cohort, ["map", "method"]].itertuples(index=False, name=None))
        wanted = [(m, method) for m in map_names(per_image, cohort) for method in methods(per_image, cohort)]
        wanted = [one for one in wanted if one in scored]  # controls have the first map alone
        wanted += [(m, "reference") for m in map_names(per_image, cohort, references=True)]
        for map_name, method in wanted:
            students = seeds_by_images(per_image, cohort, map_name, method)
            for metric in metric_names(per_image):
                values = students[metric].dropna(axis=1)
                per_seed = values.mean(axis=1)
                rows.append((cohort, map_name, method, metric, per_seed.mean(), per_seed.std(), *values.shape))
    return pd.DataFrame(rows, columns=["cohort", "map", "method", "metric", "mean", "sd", "seeds", "images"])


def compare_student_values(map_runs: MapRuns, map_name: str, level: float = 0.95) -> pd.DataFrame:
    """Distilled minus baseline for values of students, not of images: `OF_STUDENTS` and those that begin `BY_GROUP`.

    Patients cannot be drawn for these: the interval is that of the paired t test over the seeds that both methods have
    (a seed's mean over its folds), and says nothing of new patients. Maps of students that were not trained have none.
    Boxes are those of one map.

    Returns
    -------
    DataFrame: cohort, map, metric, baseline, mmpkd, estimate, low, high, p (paired t), wins (seeds), cliffs_delta,
    mwu_p, smallest_p, seeds
    """
    named = map_runs.per_student["metric"]
    table = map_runs.per_student[named.isin(OF_STUDENTS) | named.str.startswith(BY_GROUP)]
    table = table[table["map"].isin((map_name, "classifier"))]
    trained = {cohort: not not_trained(evidence_of(map_runs, cohort, level)) for cohort in map_runs.facts}
    rows = []
    for keys, part in table.groupby(["cohort", "map", "metric"], sort=False):
        both = part.pivot(index=["fold", "seed"], columns="method", values="value")
        both = both.reindex(columns=["baseline", "mmpkd"])
        both = both.dropna().groupby("seed").mean()
        if not len(both):
            continue
        baseline, mmpkd = both.to_numpy().T
        row = {**dict(zip(("cohort", "map", "metric"), keys, strict=True)), "baseline": baseline.mean()}
        row |= {"mmpkd": mmpkd.mean(), "estimate": mmpkd.mean() - baseline.mean(), "seeds": len(both)}
        if len(both) > 1 and (trained[keys[0]] or keys[1] == "classifier"):
            pair, test = paired_seeds(baseline, mmpkd, level=level), mann_whitney(mmpkd, baseline)
            row |= {"low": pair.low, "high": pair.high, "p": pair.p, "wins": pair.wins}
            row |= {"cliffs_delta": test.cliffs_delta, "mwu_p": test.p, "smallest_p": test.smallest_p}
        rows.append(row)
    columns = ["cohort", "map", "metric", "baseline", "mmpkd", "estimate", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "p", "wins", "cliffs_delta", "mwu_p", "smallest_p", "seeds"])


def compare_stability(map_runs: MapRuns, level: float = 0.95) -> pd.DataFrame:
    """Do students of one method agree with each other more than those of the other?

    The mean rank correlation over pairs of seeds, distilled minus baseline. Pairs share seeds and are not independent:
    the interval comes from leaving out one seed at a time (jackknife of a mean over pairs), with Student's t for the
    seeds of both methods.

    Returns
    -------
    DataFrame
        cohort, map, baseline, mmpkd (means; NaN where a method has fewer than two seeds), estimate, low, high (NaN with
        fewer than three seeds of a method), seeds (fewest of the two).
    """
    rows = []
    for keys, part in map_runs.stability.groupby(["cohort", "map"], sort=False):
        means, variances, counts = [], [], []
        for method in ("baseline", "mmpkd"):
            pairs = part[part["method"] == method].groupby(["seed_a", "seed_b"])["rank_correlation"].mean()
            first, second = (pairs.index.get_level_values(k).to_numpy() for k in (0, 1))
            seeds = np.union1d(first, second)
            left_out = [pairs[(first != seed) & (second != seed)].mean() for seed in seeds]
            means.append(pairs.mean())
            counts.append(len(seeds))
            variances.append((len(seeds) - 1) * np.var(left_out) if len(seeds) > 2 else np.nan)
        estimate = means[1] - means[0]
        half = stats.t.ppf((1 + level) / 2, sum(counts) - 2) * np.sqrt(sum(variances))
        ends = within(estimate, half, (-2, 2)) if np.isfinite(half) else (np.nan, np.nan)  # of two correlations
        rows.append((*keys, *means, estimate, *ends, min(counts)))
    return pd.DataFrame(rows, columns=["cohort", "map", "baseline", "mmpkd", "estimate", "low", "high", "seeds"])


def compare_with_references(
    map_runs: MapRuns,
    map_name: str,
    metrics: Sequence[str] = ("pixel_auroc", "energy_inside"),
    level: float = 0.95,
) -> pd.DataFrame:
    """One map of every method against every reference map (several random networks: their mean), image by image.

    A map counts as better than nothing only if it beats *all* reference maps. That is one claim of many parts which all
    have to hold (an intersection-union test), so the parts need no correction for their number.

    Parameters
    ----------
    map_name : the map, chosen before any result was seen: over several maps the claim would need a correction
    metrics : columns of `TITLES`; by default two that need no threshold
    level : of `training_interval`

    Returns
    -------
    DataFrame
        cohort, method, map, metric, reference (without its prefix), estimate (map minus reference), low, high, seeds,
        images, verdict: "beats it", "is beaten" or "cannot tell".
    """
    per_image = map_runs.per_image
    unknown = [metric for metric in metrics if metric not in metric_names(per_image)]
    if unknown:
        raise DataError(f"{unknown[0]!r} is no metric of these runs: they have {', '.join(metric_names(per_image))}.")
    rows, patients = [], patients_of(per_image)
    for cohort in map_runs.facts:
        references = {
            name.removeprefix(REFERENCE): seeds_by_images(per_image, cohort, name, "reference")
            for name in map_names(per_image, cohort, references=True)
        }
        for method in methods(per_image, cohort):
            ours = seeds_by_images(per_image, cohort, map_name, method)
            for metric in metrics:
                facts = {"cohort": cohort, "method": method, "map": map_name, "metric": metric}
                for name, other in references.items():
                    one = pd.DataFrame([other[metric].mean(skipna=False)] * len(ours), index=ours.index)
                    pair = shared_values(one, ours[metric], patients[cohort])
                    row = _against(pair, metric not in LOWER_IS_BETTER, level)
                    rows.append(facts | {"reference": name} | row)
    return pd.DataFrame(rows)


def beaten_table(against: pd.DataFrame) -> pd.DataFrame:
    """Of `compare_with_references`, a row a cohort, metric, map and method: every verdict, and whether it beats all.

    `ABSENT` where a cohort has no such reference map: there is nothing to beat.
    """
    wide = against.pivot(index=["cohort", "metric", "map", "method"], columns="reference", values="verdict")
    wide = wide[list(dict.fromkeys(against["reference"]))]  # in the order of the runs
    wide = wide.fillna(ABSENT)
    everything = wide.isin([BEATS, ABSENT]).all(axis=1)
    return wide.assign(**{"beats all": np.where(everything, "yes", "no")})


def cohort_verdict(
    map_runs: MapRuns,
    cohort: str,
    differences: pd.DataFrame,
    beaten: pd.DataFrame,
    arms: pd.DataFrame,
    level: float = 0.95,
) -> dict[str, Any]:
    """Plain answer for one cohort: does privileged training move the attention, and more than a permuted teacher does?

    It rests on the family "paper" (one map, the paper's metrics), whose intervals hold together at the level asked for
    (`low_family`, `high_family`): "towards the region" if some metric moves there and none away, "away from it" the
    other way round, "in both directions" if both, "cannot tell" if none, and "not trained" where the students are no
    evidence on attention (`maps.evidence`).

    Parameters
    ----------
    differences : result of `compare_maps`, may be empty; a column `detectable` (`power.detectable_differences`) is told
    beaten : result of `beaten_table`
    arms : result of `controls.compare_arms`

    Returns
    -------
    dict: cohort, title, simulated, answer, sentence, findings (a sentence a metric), taught ("yes" where some metric
    gains more than under every control, "no control", "cannot tell", or the answer where nothing was judged)
    """
    facts = map_runs.facts[cohort]
    title = _title(facts)
    result = {"cohort": cohort, "title": title, "simulated": facts["cohort"]["simulated"], "findings": []}

    def told(answer: str, words: str, taught: str | None = None) -> dict[str, Any]:
        return result | {"answer": answer, "sentence": f"{title}: {words}", "taught": taught or answer}

    rows = differences[differences["cohort"] == cohort]
    paper = rows[rows["family"] == "paper"]
    if not len(paper):
        why = "none of the paper's metrics was measured on the map that the verdict rests on"
        if not len(rows):
            why = "not both a baseline and a distilled student were scored, so nothing is compared"
        return told("nothing to compare", f"{why}.")
    if (paper["verdict"] == NOT_TRAINED).any():
        return told(NOT_TRAINED, f"no verdict on attention, {not_trained(evidence_of(map_runs, cohort, level))}.")
    result["findings"] = [_finding(row) for row in paper.to_dict("records")] + _reference_finding(beaten, cohort, paper)
    if (paper["seeds"] < 2).all():
        words = "one student a method was trained, so there is no interval over trainings"
        return told("cannot tell", f"{words}; what one training gave is listed below.")
    judged = paper["verdict"].tolist()
    moved = {TOWARDS: judged.count(TOWARDS), AWAY: judged.count(AWAY)}
    answer, words = {
        (True, False): ("towards the region", "privileged training moves the attention towards the region"),
        (False, True): ("away from it", "privileged training moves the attention away from the region"),
        (True, True): ("in both directions", "metrics disagree on where privileged training moves the attention"),
        (False, False): ("cannot tell", "these trainings cannot tell whether privileged training moves the attention"),
    }[moved[TOWARDS] > 0, moved[AWAY] > 0]
    counts = f"{moved[TOWARDS]} of {len(paper)} metrics towards, {moved[AWAY]} away, {judged.count('cannot tell')} open"
    seen = paper[["metric", "detectable"]].dropna() if "detectable" in paper else paper[:0]
    if answer == "cannot tell" and len(seen):
        sizes = ", ".join(f"{row.detectable:.3f} ({TITLES[row.metric]})" for row in seen.itertuples())
        counts += f"; true differences of {sizes} were likely to be seen"
    arms = arms[arms["cohort"] == cohort]
    claims = arm_claims(arms)
    taught = "yes" if (claims["claim"] == CLAIMED).any() else "cannot tell"
    taught = taught if set(CONTROLS) <= set(claims) else NO_CONTROL
    exploratory = rows[(rows["family"] == "exploratory") & rows["p"].notna()]["verdict"]
    rest = (
        f" Of {len(exploratory)} further maps and metrics, by Holm over them all, {(exploratory == TOWARDS).sum()} "
        f"move towards, {(exploratory == AWAY).sum()} away."
    )
    sentence = f"{words} ({counts}). {arm_sentence(claims, arms)}{rest if len(exploratory) else ''}"
    return told(answer, sentence, taught)


def _title(facts: dict[str, Any]) -> str:
    return f"{facts['cohort']['title']}{' (simulated)' if facts['cohort']['simulated'] else ''}"


def _finding(row: dict[str, Any]) -> str:
    """One metric of the family "paper" in words."""
    name = TITLES[row["metric"]] + (" (lower is better)" if row["metric"] in LOWER_IS_BETTER else "")
    if not np.isfinite(row["estimate"]):
        return f"{name}: {row['verdict']}."
    said = f"{name}: {row['baseline']:.3f} to {row['mmpkd']:.3f}, a difference of {row['estimate']:+.3f}"
    if np.isfinite(row["low_students"]):
        said += f"; these students {row['low_students']:+.3f} to {row['high_students']:+.3f}"
    if np.isfinite(row["low"]):
        said += (
            f"; new trainings {row['low']:+.3f} to {row['high']:+.3f}, with the other metrics "
            f"{row['low_family']:+.3f} to {row['high_family']:+.3f}; the paper's test: Cliff's delta "
            f"{row['cliffs_delta']:+.2f}, Mann-Whitney {p_text(row['mwu_p'])}, by Holm {p_text(row['holm_p'])}"
        )
    if np.isfinite(row.get("detectable", np.nan)):
        said += f"; {row['seeds']} seeds are likely to find {row['detectable']:.3f}"
    return f"{said}. {row['images']} images of {row['patients']} patients: {row['verdict']}."


def _reference_finding(beaten: pd.DataFrame, cohort: str, paper: pd.DataFrame) -> list[str]:
    """How the map that the verdict rests on stands against the reference maps."""
    said, rows = [], beaten.reset_index()
    for row in rows[(rows["cohort"] == cohort) & (rows["map"] == paper["map"].iloc[0])].to_dict("records"):
        names = [name for name in beaten.columns[:-1] if row[name] != ABSENT]
        lost = [name for name in names if row[name] != BEATS]
        against = "every reference map" + (f" except {', '.join(lost)}" if lost else "")
        against = "no reference map" if len(lost) == len(names) else against
        said.append(f"{TITLES[row['metric']]} of the {METHOD_NAMES[row['method']]} student beats {against}.")
    return said


def _against(pair: SharedValues, larger_is_better: bool, level: float) -> dict[str, Any]:
    """One comparison with one reference map, in the place of the baseline."""
    counts = {"seeds": len(pair.mmpkd), "images": len(pair.patients)}
    if len(set(pair.patients)) < 2:
        return dict.fromkeys(("estimate", "low", "high"), np.nan) | counts | {"verdict": UNDECIDED}
    found = training_interval(*pair[:3], level)
    verdict = {TOWARDS: BEATS, AWAY: LOSES}.get(judge(found.low, found.high, larger_is_better), UNDECIDED)
    return {"estimate": found.estimate, "low": found.low, "high": found.high, **counts, "verdict": verdict}
