"""Where do maps find what there is to find, and where do they draw what is not there?

One student's map by finding, by the region's size and by the student's confidence, on images without a finding, and as
an order in which tokens are dropped. None of it is in the paper.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pkd_utils.images.augment import normalise
from pkd_utils.localization import attention, metrics, saliency, tokens
from pkd_utils.studies.maps.students import Prepared, choose_and_score

THIRDS = ("lowest third", "middle third", "highest third")
SHOWN = ["pixel_auroc", "pixel_auprc", "region_share", "iou", "fpr"]
RANDOM_ORDER = "random order"
ALARMS = ("images", "drawn", "boxes", "calls", "drawn_if_called", "boxes_if_called")
"""What `alarms` gives."""


def thirds(values: pd.Series) -> pd.Series:
    """Third of each value by rank, a name of `THIRDS`; equal values stay together, in the lower third."""
    ends = np.quantile(values, [1 / 3, 2 / 3], method="inverted_cdf")
    return pd.Series(np.array(THIRDS)[np.searchsorted(ends, values.to_numpy(), side="left")], values.index)


def by_third(rows: pd.DataFrame, kind: str, values: pd.Series) -> pd.DataFrame:
    """Means of one student's images by thirds of `values`, which have the index of `rows`.

    Returns
    -------
    DataFrame: kind, group (of `THIRDS`), images, and the means of `SHOWN`; region_share is the chance of pixel_auprc
    """
    grouped = rows.groupby(thirds(values))
    table = grouped[SHOWN].mean().assign(images=grouped.size(), kind=kind)
    return table.reindex([third for third in THIRDS if third in table.index]).rename_axis("group").reset_index()


def by_finding(
    prepared: Prepared,
    fold: int,
    validation: tuple[Sequence[str], np.ndarray],
    test: tuple[Sequence[str], np.ndarray],
    common: float,
    smallest: int,
    **options: Any,
) -> pd.DataFrame:
    """One student's map against the regions of each finding alone, at the finding's own threshold.

    Parameters
    ----------
    validation, test : (image ids, maps) of the fold
    common : threshold of all findings together, taken where fewer than `smallest` validation images have a region of
        the finding
    options : of `choose_and_score`

    Returns
    -------
    DataFrame: as `by_third`, a row a finding with test images; threshold, and chosen: the finding's "own" or "common"
    """
    rows = []
    for finding in prepared.labels:
        parts = []
        for split, (ids, maps) in (("validate", validation), ("test", test)):
            kept = [i for i in prepared.with_regions(fold, split, finding) if i in set(ids)]
            parts.append((kept, maps[pd.Index(ids).get_indexer(kept)]))
        if not parts[1][0]:
            continue
        own = len(parts[0][0]) >= smallest
        wanted = options | {"finding": finding, "threshold": None if own else common}
        threshold, suite = choose_and_score(prepared, *parts, **wanted)
        means = {**suite.per_image[SHOWN].mean(), "images": len(suite.per_image)}
        rows.append({"group": finding, **means, "threshold": threshold, "chosen": "own" if own else "common"})
    return pd.DataFrame(rows).assign(kind="finding")


def alarms(maps: np.ndarray, logits: np.ndarray, valid: np.ndarray, threshold: float, **boxes: Any) -> dict:
    """What one student's maps (N, h, w) would have drawn on images without anything to find.

    Scaled by its own range, a map that is not constant reaches 1 somewhere, so that it nearly always draws a box (in
    the picture, `valid` (N, H, W), to whose size maps are enlarged): beside the map alone stands the reader who draws
    boxes only where the model calls a finding, by a logit above 0. `boxes` are options of `metrics.at_thresholds`.

    Returns
    -------
    dict
        images; drawn, share of them with a box, and boxes, mean number; calls, share called; drawn_if_called and
        boxes_if_called, the same with no box where nothing is called.
    """
    large, nothing = attention.upsample_maps(maps, valid.shape[1:]), [()] * len(maps)
    ((_, counts),) = metrics.at_thresholds(large, None, nothing, [threshold], valid=valid, **boxes).boxes
    called = (logits > 0).any(axis=1)
    gated = np.where(called, counts, 0)
    return {
        "images": len(maps), "drawn": float((counts > 0).mean()), "boxes": float(counts.mean()),
        "calls": float(called.mean()), "drawn_if_called": float((gated > 0).mean()),
        "boxes_if_called": float(gated.mean()),
    }  # fmt: skip


def faithfulness(
    model: nn.Module, built: Mapping[str, Any], pixels: np.ndarray, maps: Mapping[str, np.ndarray], seed: int
) -> pd.DataFrame:
    """Insertion and deletion (`localization.tokens`) of one student's maps of these images, and of a random order.

    Followed is the probability of the labels that the student calls positive, or else of its likeliest one.

    Parameters
    ----------
    model, built : as `students.load_student` gives them
    pixels : uint8 (N, S, S); maps : {name: (N, grid_h, grid_w)}; seed : of the random order

    Returns
    -------
    DataFrame: map, insertion, deletion (means over images), images
    """
    images = normalise(torch.from_numpy(pixels), built["mean"], built["std"]).to(next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(images).float().cpu()
    activation = built.get("activation", "sigmoid")
    targets = saliency.predicted_positives(logits).numpy()
    if activation == "softmax":
        targets = np.eye(logits.shape[1])[logits.argmax(1).numpy()]
    predict = tokens.token_predictor(model, images, targets, activation)
    shape = next(iter(maps.values())).shape
    rows = []
    for name, one in {**maps, RANDOM_ORDER: np.random.default_rng(seed).random(shape)}.items():
        insertion, deletion = tokens.insertion_deletion(predict, one)
        rows.append((name, insertion.mean(), deletion.mean(), len(images)))
    return pd.DataFrame(rows, columns=["map", "insertion", "deletion", "images"])
