"""Does a map look at the side that a finding is on? A localization test that needs no region.

Left and right are the patient's. A frontal film shows the patient from the front, so left is the image's right half.
"""

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.intervals import jackknife_values, training_interval
from pkd_utils.statistics.metrics import weighted_auroc
from pkd_utils.statistics.power import detectable_differences
from pkd_utils.studies.maps.comparison import shared_values
from pkd_utils.studies.maps.students import Prepared

SIDE = "side_"  # columns of images.parquet, where the source names sides
ANY = "any finding"


def named_sides(prepared: Prepared) -> pd.DataFrame:
    """Side of each finding, "left" or "right": a row an image, a column a finding, "any finding" last.

    The source's own columns `side_*` and `side`; where it has none, the half of the image in which all boxes of the
    finding have their middle. NaN for both sides, for none, and where findings of an image differ for "any finding".
    """
    images, middle = prepared.images, prepared.pixels.shape[2] / 2
    own = images.filter(regex=f"^{SIDE}")
    if len(own.columns):
        names = own.columns.str.removeprefix(SIDE).str.replace("_", " ")
        return own.set_axis(names, axis=1).assign(**{ANY: images["side"]})
    boxes = pd.read_parquet(prepared.folder / "boxes.parquet")
    half = np.where((boxes["x0"] + boxes["x1"]) / 2 > middle, "left", "right")
    boxes = boxes.assign(side=half)
    one = {
        finding: rows.groupby("image_id")["side"].agg(lambda sides: sides.iloc[0] if sides.nunique() == 1 else np.nan)
        for finding, rows in [*boxes.groupby("finding"), (ANY, boxes)]
    }
    return pd.DataFrame(one).reindex(images.index)


def side_values(scores: pd.DataFrame, sides: pd.Series) -> dict[str, pd.DataFrame]:
    """What each image brings to the side AUROC of one finding, by method.

    Parameters
    ----------
    scores : DataFrame: image_id, method, fold, seed, score
        `localization.sides.side_scores`; or half the difference between a film's score and that of the same film
        mirrored before the model saw it, in which what stays in the frame cancels.
    sides : "left", "right" or NaN by image_id

    Returns
    -------
    {method: DataFrame}, a row a seed, a column an image that has a side and was tested: `jackknife_values` of
    the AUROC of "left" by `score`, within a fold. A fold with fewer than two images of either side is left out.
    """
    known = scores.assign(left=scores["image_id"].map(sides)).dropna(subset="left")
    known["left"] = known["left"] == "left"
    lefts = known.groupby(["method", "fold", "seed"])["left"].transform("sum")
    rights = known.groupby(["method", "fold", "seed"])["left"].transform("size") - lefts
    both = (lefts >= 2) & (rights >= 2)  # without any one image there are both
    parts = []
    for _, rows in known[both].groupby(["method", "fold", "seed"]):
        rows = rows.sort_values("image_id")
        auroc = functools.partial(weighted_auroc, rows["left"], rows["score"])
        parts.append(rows.assign(part=jackknife_values(auroc, rows["image_id"])))
    if not parts:
        return {}
    table = pd.concat(parts)
    return {
        method: rows.pivot(index="seed", columns="image_id", values="part") for method, rows in table.groupby("method")
    }


def compare_sides(
    values: dict[str, pd.DataFrame],
    patients: pd.Series,
    pairs: Sequence[tuple[str, str]],
    level: float,
    power: float = 0.8,
) -> pd.DataFrame:
    """Side AUROCs against one half, and differences of methods, with intervals for new trainings on new patients.

    Parameters
    ----------
    values : as `side_values` gives them
    patients : patient by image_id
    pairs : methods (treatment, baseline) to compare, on the seeds and images that they share; DataError without such
        a seed
    level : of the intervals
    power : with which a true difference from the baseline, or from one half, as large as `detectable` is told

    Returns
    -------
    DataFrame: label, method, against ("" for one half), estimate, low, high, detectable; the AUROC itself without
    `against`
    """
    rows, facts = [], []
    for method, table in values.items():
        ours = table.to_numpy()
        found = training_interval(np.full_like(ours, 0.5), ours, patients[table.columns], level, bounds=(-0.5, 0.5))
        facts.append((found.error, found.freedom))
        rows.append((method, method, "", *(0.5 + end for end in (found.estimate, found.low, found.high))))
    for method, other in pairs:
        if method in values and other in values:
            pair = shared_values(values[other], values[method], patients)
            if not len(pair.baseline):
                raise DataError(f"{method} and {other} share no seed: train both with the same ones.")
            found = training_interval(*pair[:3], level)
            facts.append((found.error, found.freedom))
            rows.append((f"{method} minus {other}", method, other, found.estimate, found.low, found.high))
    table = pd.DataFrame(rows, columns=["label", "method", "against", "estimate", "low", "high"])
    facts = pd.DataFrame(facts, columns=["error", "freedom"])
    return table.assign(detectable=detectable_differences(facts, 1 - level, power))
