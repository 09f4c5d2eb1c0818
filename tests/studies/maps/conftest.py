"""Synthetic runs: of 01-prepare-data, and of 08-score-all-maps in the schema that 09 is given."""

from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest

from pkd_utils.localization.suite import METRICS
from pkd_utils.runs import files
from pkd_utils.studies.maps import students
from pkd_utils.studies.maps.comparison import MapRuns, read_map_runs

MAPS = ("attention_mean", "rollout")
REFERENCES = ("uniform", "centre prior", "mean training mask", "random weights", "body mask")
IMAGES = np.arange(24)
PATIENTS = 12
SIDE = 16
IDS = [f"i{k}" for k in range(8)]
BUILD = {"name": "vit", "image_size": SIDE, "patch_size": 4, "n_labels": 2, "width": 16, "depth": 2, "heads": 2}
FACTS = {"mean": (0.5,), "std": (0.25,)}


@pytest.fixture
def prepared(tmp_path):
    """Eight images: regions on all but i7 (and i6 loses its box in packing), i1 without a positive label."""
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"a": [1, 0, 1, np.nan, 1, 1, 1, 1], "b": [0, 0, 1, 1, 0, 0, 0, 0]}, dtype=float)
    patients = [f"p{k // 2}" for k in range(8)]
    picture = dict(zip(students.PICTURE, (0.0, 0.0, SIDE, SIDE), strict=True))
    images = pd.DataFrame({"image_id": IDS, "patient_id": patients, **picture}).join(labels)
    images.loc[5, students.PICTURE] = (0.0, 2.0, 16.0, 14.0)  # padded above and below
    images.to_parquet(tmp_path / "images.parquet")
    split = ["train", "test", "test", "validate", "validate", "test", "test", "test"]
    pd.DataFrame({"image_id": IDS, "split": split, "fold": 0}).to_parquet(tmp_path / "splits.parquet")
    rows = [(i, 2.0, 3.0, 8.0, 9.0, "a") for i in IDS[:6]]
    rows += [("i2", 9.0, 9.0, 12.0, 12.0, "b"), ("i6", 0, 4, 0, 8, "a")]
    boxes = pd.DataFrame(rows, columns=["image_id", "x0", "y0", "x1", "y1", "label"])
    boxes.assign(finding="").to_parquet(tmp_path / "boxes.parquet")
    np.save(tmp_path / "pixels.npy", rng.integers(0, 256, (8, SIDE, SIDE), dtype=np.uint8))
    with_mask = [IDS[k] for k in (5, 4, 3, 2, 1, 0, 6)]  # not in the order of the images
    masks = np.zeros((7, SIDE, SIDE), bool)
    masks[:, 3:9, 2:8] = True
    masks[3, 9:12, 9:12] = True
    np.save(tmp_path / "masks.npy", masks)
    files.write_json(tmp_path / "mask_ids.json", [(i, "") for i in with_mask])
    return students.Prepared(tmp_path, ["a", "b"])


@pytest.fixture
def by_finding(prepared):
    """The same images, with regions of findings: a on i1 to i5, b on i2, and on i2, i6 c, which nobody trained."""
    rows = [("i1", "a"), ("i2", "a"), ("i2", "b"), ("i2", "c"), ("i3", "a"), ("i4", "a"), ("i5", "a"), ("i6", "c")]
    boxes = pd.DataFrame(rows, columns=["image_id", "finding"])
    boxes[["x0", "y0"]], boxes[["x1", "y1"]] = (0, 2), np.array([[k + 1, 3] for k in range(len(rows))])
    boxes.to_parquet(prepared.folder / "boxes.parquet")
    masks = np.zeros((len(rows), SIDE, SIDE), bool)
    for k, mask in enumerate(masks):
        mask[k, : k + 1] = True
    np.save(prepared.folder / "masks.npy", masks)
    files.write_json(prepared.folder / "mask_ids.json", rows)
    return prepared


def map_runs(root, *asked) -> MapRuns:
    """The tables of runs in an empty folder, each written with the options of `write_map_run` that are asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PKD_RUNS", str(root))
        return read_map_runs([write_map_run(root, **options) for options in asked])


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
    anatomy = pd.DataFrame(rng.normal(0, 0.05, (len(METRICS), len(IMAGES))).T, columns=METRICS)
    falls = np.where([metric.startswith("fpr") for metric in METRICS], -1, 1)
    arms = [("mmpkd" if weight else "baseline", weight, effect if weight else 0.0) for weight in weights]
    arms += [(name, 0.5, moved) for name, moved in (controls or {}).items()]
    per_image, per_student = [], []
    for fold in range(folds):
        part = IMAGES[IMAGES % folds == fold]
        ids = pd.DataFrame({"image_id": [f"{cohort}-i{k:03d}" for k in part], "cohort": cohort}, index=part)
        ids["patient_id"] = [f"{cohort}-p{k % PATIENTS:03d}" for k in part]
        for (method, weight, moved), seed in product(arms, seeds):
            student = {"method": method, "weight": weight, "temperature": 2.0, "fold": fold, "seed": seed}
            mean = 0.5 + anatomy.loc[part] + rng.normal(0, 0.02, len(METRICS)) + moved * falls
            for map_name in MAPS:
                values = mean + rng.normal(0, 0.02, mean.T.shape).T
                values["pointing_game"] = (values["pointing_game"] > 0.55).astype(float)
                if seed == seeds[0] and map_name == MAPS[0]:
                    values.loc[part[0], "fpr"] = np.nan  # no box predicted
                per_image.append(ids.assign(**student, map=map_name).join(values))
                means = {**values.mean(), "box_ap": 0.3}
                per_student += [{**student, "map": map_name, "metric": m, "value": v} for m, v in means.items()]
            once = {"test_auroc": 0.7, "validate_auroc": auroc + 0.01 * seed, "map_range": 0.1, "tokens": 64}
            per_student += [{**student, "map": "classifier", "metric": m, "value": v} for m, v in once.items()]
        for number, reference in enumerate(REFERENCES):
            table = ids.assign(fold=fold, method="reference", map=f"reference: {reference}")
            table = table.assign(**dict.fromkeys(METRICS, 0.35 + 0.02 * number))
            if reference == "random weights":
                table["seed"] = 0
            if reference == "uniform":
                table["fpr"] = np.nan
            per_image.append(table)
    folder = root / "mmpkd" / cohort / "08-score-all-maps" / label
    folder.mkdir(parents=True)
    pd.concat(per_image, ignore_index=True).to_parquet(folder / "per_image.parquet")
    pd.DataFrame(per_student).to_csv(folder / "per_student.csv", index=False)
    pairs = [(arm, m, *pair, 0.6) for arm, *_ in arms for m in MAPS for pair in pairwise(seeds)]
    columns = ["method", "map", "seed_a", "seed_b", "rank_correlation"]
    pd.DataFrame(pairs, columns=columns).to_csv(folder / "stability.csv", index=False)
    about = {"name": cohort, "title": f"Pictures of {cohort}", "simulated": True}
    files.write_json(folder / "run.json", {"identity": f"{cohort}{label}", "cohort": about, "parameters": scoring})
    return f"mmpkd/{cohort}/08-score-all-maps/{label}"
