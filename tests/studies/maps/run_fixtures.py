"""Synthetic runs of 08-score-all-maps, in the schema that 09 is given."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd

from pkd_utils.localization.suite import METRICS

MAPS = ("attention_mean", "rollout")
REFERENCES = ("uniform", "centre prior", "mean training mask", "random weights", "body mask")
IMAGES = np.arange(24)
PATIENTS = 12


def write_map_run(
    root,
    cohort="embedded",
    label="smoke",
    seeds=range(5),
    weights=(0.0, 0.5),
    effect=0.1,
    folds=1,
    auroc=0.7,
    controls=None,
    **scoring,
):
    """Write `<root>/mmpkd/<cohort>/08-score-all-maps/<label>/`; returns its reference.

    `effect` is added to every metric of the distilled student, on the scale 0..1 (false positive rates fall); `auroc`
    is the classifiers' on validation images. `controls` are further methods and their effects. `scoring` are parameters
    of the run.
    """
    rng = np.random.default_rng([len(cohort), 1])  # by its luck alone, an effect of 0 moves no metric
    anatomy = {m: rng.normal(0, 0.05, len(IMAGES)) for m in METRICS}
    keys = ["method", "weight", "temperature", "fold", "seed", "map"]
    arms = [("mmpkd" if weight else "baseline", weight, effect if weight else 0.0) for weight in weights]
    arms += [(name, 0.5, moved) for name, moved in (controls or {}).items()]
    tables = {"per_image": [], "per_student": []}
    for fold in range(folds):
        part = IMAGES[IMAGES % folds == fold]
        ids = {"image_id": [f"{cohort}-i{k:03d}" for k in part], "cohort": cohort}
        ids["patient_id"] = [f"{cohort}-p{k % PATIENTS:03d}" for k in part]
        for method, weight, moved in arms:
            for seed in seeds:
                luck = {m: rng.normal(0, 0.02) for m in METRICS}
                for map_name in MAPS:
                    facts = dict(zip(keys, (method, weight, 2.0, fold, seed, map_name), strict=True))
                    values = {}
                    for metric in METRICS:
                        shift = moved * (-1 if metric.startswith("fpr") else 1)
                        values[metric] = 0.5 + anatomy[metric][part] + luck[metric] + shift
                        values[metric] += rng.normal(0, 0.02, len(part))
                    values["pointing_game"] = (values["pointing_game"] > 0.55).astype(float)
                    if seed == seeds[0] and map_name == MAPS[0]:
                        values["fpr"][0] = np.nan  # no box predicted
                    table = pd.DataFrame({**ids, **facts, **values})
                    tables["per_image"].append(table)
                    means = {**table[list(METRICS)].mean(), "box_ap": 0.3}
                    tables["per_student"].append(
                        pd.DataFrame({**facts, "metric": [*means], "value": [*means.values()]})
                    )
                student = {"test_auroc": 0.7, "validate_auroc": auroc + 0.01 * seed, "map_range": 0.1, "tokens": 64}
                facts = {**facts, "map": "classifier", "metric": [*student], "value": [*student.values()]}
                tables["per_student"].append(pd.DataFrame(facts))
        for number, reference in enumerate(REFERENCES):
            table = pd.DataFrame({**ids, "fold": fold, "method": "reference", "map": f"reference: {reference}"})
            table = table.assign(**dict.fromkeys(METRICS, 0.35 + 0.02 * number))
            if reference == "random weights":
                table["seed"] = 0
            if reference == "uniform":
                table["fpr"] = np.nan
            tables["per_image"].append(table)
    folder = root / "mmpkd" / cohort / "08-score-all-maps" / label
    folder.mkdir(parents=True)
    pd.concat(tables["per_image"]).to_parquet(folder / "per_image.parquet")
    pd.concat(tables["per_student"]).to_csv(folder / "per_student.csv", index=False)
    pairs = [(arm, m, *pair, 0.6) for arm, *_ in arms for m in MAPS for pair in pairwise(seeds)]
    columns = ["method", "map", "seed_a", "seed_b", "rank_correlation"]
    pd.DataFrame(pairs, columns=columns).to_csv(folder / "stability.csv", index=False)
    about = {"name": cohort, "title": f"Pictures of {cohort}", "simulated": True}
    (folder / "run.json").write_text(
        json.dumps({"identity": f"{cohort}{label}", "cohort": about, "parameters": scoring})
    )
    return f"mmpkd/{cohort}/08-score-all-maps/{label}"
