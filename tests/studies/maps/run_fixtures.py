"""Synthetic runs of 08-score-all-maps, in the schema that 09 is given."""

import json

import numpy as np
import pandas as pd

from pkd_utils.localization.suite import METRICS

MAPS = ("attention_mean", "rollout")
REFERENCES = ("uniform", "centre prior", "mean training mask", "random weights", "body mask")


def write_map_run(
    root,
    cohort="embedded",
    label="smoke",
    seeds=(0, 1, 2, 3, 4),
    weights=(0.0, 0.5),
    images=24,
    patients=12,
    effect=0.1,
    simulated=True,
    folds=1,
    maps=MAPS,
):
    """Write `<root>/mmpkd/<cohort>/08-score-all-maps/<label>/`; returns its reference.

    `effect` is added to every metric of the distilled student, on the scale 0..1 (false positive rates fall).
    """
    rng = np.random.default_rng([len(cohort), 1])  # by its luck alone, an effect of 0 moves no metric
    ids = [f"{cohort}-i{k:03d}" for k in range(images)]
    who = [f"{cohort}-p{k % patients:03d}" for k in range(images)]
    anatomy = {m: rng.normal(0, 0.05, images) for m in METRICS}
    rows, students, sanity, stability = [], [], [], []
    for fold in range(folds):
        part = [k for k in range(images) if k % folds == fold]
        for weight in weights:
            for seed in seeds:
                luck = {m: rng.normal(0, 0.02) for m in METRICS}
                for map_name in maps:
                    facts = {"cohort": cohort, "weight": weight, "temperature": 2.0, "fold": fold, "seed": seed}
                    facts["map"] = map_name
                    values = {}
                    for metric in METRICS:
                        shift = (effect if weight > 0 else 0.0) * (-1 if metric.startswith("fpr") else 1)
                        noise = rng.normal(0, 0.02, len(part))
                        values[metric] = 0.5 + anatomy[metric][part] + luck[metric] + shift + noise
                    values["pointing_game"] = (values["pointing_game"] > 0.55).astype(float)
                    if seed == seeds[0] and map_name == maps[0]:
                        values["fpr"][0] = np.nan  # no box predicted
                    rows += [
                        {**facts, "image_id": ids[k], "patient_id": who[k], **{m: v[j] for m, v in values.items()}}
                        for j, k in enumerate(part)
                    ]
                    means = {m: float(np.nanmean(v)) for m, v in values.items()} | {"box_ap": 0.3, "test_auroc": 0.7}
                    students += [{**facts, "metric": m, "value": v} for m, v in means.items()]
                    for stage in range(3):
                        correlation = 1 - 0.4 * stage
                        sanity.append(
                            {k: facts[k] for k in ("weight", "fold", "seed", "map")}
                            | {"stage": f"{stage} block", "rank_correlation": correlation}
                        )
            for map_name in maps:
                for k in range(len(seeds) - 1):
                    pair = {"seed_a": seeds[k], "seed_b": seeds[k + 1]}
                    stability.append({"weight": weight, "map": map_name, **pair, "rank_correlation": 0.6})
        for number, reference in enumerate(REFERENCES):
            level = 0.35 + 0.02 * number
            facts = {"cohort": cohort, "weight": np.nan, "temperature": np.nan, "fold": fold, "seed": np.nan}
            facts |= {"map": f"reference: {reference}"} | ({"seed": 0} if reference == "random weights" else {})
            for k in part:
                rows.append({**facts, "image_id": ids[k], "patient_id": who[k], **dict.fromkeys(METRICS, level)})
                if reference == "uniform":
                    rows[-1]["fpr"] = np.nan
    folder = root / "mmpkd" / cohort / "08-score-all-maps" / label
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(folder / "per_image.parquet")
    pd.DataFrame(students).to_csv(folder / "per_student.csv", index=False)
    pd.DataFrame(sanity).to_csv(folder / "sanity.csv", index=False)
    columns = ["weight", "map", "seed_a", "seed_b", "rank_correlation"]
    pd.DataFrame(stability, columns=columns).to_csv(folder / "stability.csv", index=False)
    cohort_facts = {"name": cohort, "title": f"Pictures of {cohort}", "licence": "CC0", "citation": "nobody"}
    allowed = {"simulated": simulated, "shareable_text": simulated, "shareable_images": simulated}
    record = {
        "identity": f"{cohort}{label}",
        "cohort": cohort_facts | allowed,
        "data_hash": "0",
        "artefacts": {},
    }
    (folder / "run.json").write_text(json.dumps(record))
    return f"mmpkd/{cohort}/08-score-all-maps/{label}"
