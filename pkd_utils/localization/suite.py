"""More ways to score maps than the paper's three, for whole batches: what a single threshold or metric would hide.

Beside Table 1's metrics (`metrics`) stand, per image::

    pointing game = share of the map's maxima that lie in the region (Zhang et al., 2018: hit or miss)
    energy inside = sum of the map over the region / sum of the map (Wang et al., 2020, Score-CAM)
    curves        = IoU and false positive rate at every threshold, of boxes and of the
                    thresholded pixels themselves; their mean over thresholds, and the best IoU
                    that any threshold gives (an oracle's)

and over a set of images the average precision of the predicted boxes. None of them is in the paper; all are exact, or
sums in float64. Maps, masks and boxes are as in `metrics`: (N, H, W), (N, H, W), (K, 4) with exclusive ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from scipy import ndimage

from pkd_utils.localization.arrays import as_boxes, as_maps, as_masks, per_image
from pkd_utils.localization.metrics import at_thresholds, pixel_ranks, region_shares
from pkd_utils.localization.regions import ious, ragged_arange
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError

THRESHOLDS = tuple(k / 20 for k in range(1, 20))  # of a map scaled to 0 ... 1
WEAK_IOUS = (0.1, 0.2, 0.3, 0.4, 0.5)  # what a box must overlap to count; maps that nobody trained on boxes are coarse
COCO_IOUS = tuple(k / 100 for k in range(50, 100, 5))
METRICS = (
    "pixel_auroc", "pixel_auprc", "pointing_game", "energy_inside", "iou", "fpr", "iou_all", "fpr_all", "best_iou",
)  # fmt: skip
LOWER_IS_BETTER = ("fpr", "fpr_all")


@dataclass(frozen=True)
class Suite:
    """Result of `score_maps`."""

    per_image: pd.DataFrame  # N rows: METRICS, then region_iou_all, predicted_boxes (a count), region_share
    curves: pd.DataFrame  # threshold; means over images of iou, fpr, region_iou, region_fpr where defined; images
    average_precision: pd.DataFrame  # of the boxes at the one threshold; see `average_precision`


@checked
def pointing_game(maps, masks, tolerance: Annotated[float, Field(ge=0)] = 0.0) -> np.ndarray:
    """Does the map's maximum lie in the region? (Zhang et al., 2018, "pointing game")

    Parameters
    ----------
    maps : (N, H, W) array or Tensor, finite; masks : (N, H, W), boolean or 0/1
    tolerance : float, pixels
        A maximum counts if a pixel of the region is no further away (between centres). Zhang et al. use 15 pixels on
        photographs; 0 here, because regions are small against the image.

    Returns
    -------
    float64 (N,)
        1 or 0; where several pixels hold the maximum, the share of them that count, so that a constant map gets its
        chance level, the region's share of the image. NaN without a region.
    """

    def share_of_maxima(map: np.ndarray, mask: np.ndarray, low: float) -> float:
        if not mask.any():
            return np.nan
        maxima = map == map.max()
        hits = mask[maxima]
        if tolerance and not hits.all():
            hits = ndimage.distance_transform_edt(~mask)[maxima] <= tolerance
        return hits.mean()

    return per_image(lambda: share_of_maxima, maps, masks)


def energy_inside(maps, masks) -> np.ndarray:
    """Share of the map's sum that lies in the region (Wang et al., 2020, "energy-based pointing game").

    Parameters
    ----------
    maps : (N, H, W) array or Tensor, finite, and not negative: a share would mean nothing
    masks : (N, H, W), boolean or 0/1

    Returns
    -------
    float64 (N,)
        A constant map gets its chance level, the region's share of the image. NaN without a region or where the map is
        0 everywhere.
    """

    def share_inside(map: np.ndarray, mask: np.ndarray, low: float) -> float:
        total = map.sum(dtype=np.float64)
        return map.sum(where=mask, dtype=np.float64) / total if total and mask.any() else np.nan

    maps = as_maps(maps)
    if maps.min() < 0:
        raise DataError(
            f"Map {int((maps.min((1, 2)) < 0).argmax())} holds negative values, so its energy has no share inside a "
            "region: take its positive part first."
        )
    return per_image(lambda: share_inside, maps, masks)


def box_scores(maps, predicted: Sequence) -> list[np.ndarray]:
    """A score for every predicted box, to rank boxes of all images by: the map's maximum over the box.

    Parameters
    ----------
    maps : (N, H, W), finite
        As the model gives them, not scaled by their own range: after that the best box of every image would score 1.
    predicted : sequence of N arrays (K, 4), whole pixels
    """
    maps = as_maps(maps)
    flat, counts = as_boxes(predicted, maps.shape)
    owner = np.repeat(np.arange(len(counts)), counts)
    corners = np.clip(np.rint(flat), 0, [maps.shape[2], maps.shape[1]] * 2).astype(int)
    scores = [maps[i, y0:y1, x0:x1].max() for i, (x0, y0, x1, y1) in zip(owner, corners, strict=True)]
    return np.split(np.array(scores, dtype=np.float64), np.cumsum(counts)[:-1])


def average_precision(
    predicted: Sequence,
    scores: Sequence,
    reference: Sequence,
    iou_thresholds: Sequence[float] = WEAK_IOUS,
) -> pd.DataFrame:
    """Average precision of predicted boxes over a set of images, one row an IoU threshold.

    In each image boxes are taken by falling score; each claims the reference box, not yet claimed, that it overlaps
    most, and is a hit if their IoU reaches the threshold (COCO's rule; no class, no size ranges, no limit on the number
    of boxes). Over the boxes of all images by falling score, with precision p and recall r after each::

        AP = sum_k (r_k - r_{k-1}) max_{j >= k} p_j  the exact area under the interpolated curve

    Parameters
    ----------
    predicted, reference : sequences of N arrays (K, 4)
        Images without a reference box add false positives only.
    scores : sequence of N arrays (K,), finite; see `box_scores`
        Boxes with the same score enter together, so that the order of images does not matter.
    iou_thresholds : numbers in (0, 1]
        `WEAK_IOUS` by default; `COCO_IOUS` for COCO's 0.5 to 0.95.

    Returns
    -------
    DataFrame
        iou_threshold, ap (NaN where no image has a reference box), recall (largest reached), predicted, references
        (counts of boxes), images.
    """
    p, n_p = as_boxes(predicted)
    r, n_r = as_boxes(reference)
    limits = np.array([float(t) for t in iou_thresholds])
    s = np.concatenate([np.zeros(0), *(np.asarray(values, dtype=np.float64).reshape(-1) for values in scores)])
    hits = _matches(p, n_p, s, r, n_r, limits)
    total = int(n_r.sum())
    order = np.argsort(-s, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(s[order]) != 0, True))[: len(s)]  # last box of each score
    found = hits[:, order].cumsum(1)[:, ends]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = found / total
    precision = np.maximum.accumulate((found / (ends + 1))[:, ::-1], axis=1)[:, ::-1]
    ap = (np.diff(recall, axis=1, prepend=0) * precision).sum(1) if total else np.full(len(limits), np.nan)
    reached = recall[:, -1] if len(s) and total else np.full(len(limits), 0.0 if total else np.nan)
    table = {"iou_threshold": limits, "ap": ap, "recall": reached}
    return pd.DataFrame({**table, "predicted": len(p), "references": total, "images": len(n_p)})


def score_maps(
    maps,
    masks,
    boxes: Sequence,
    threshold: float,
    thresholds: Sequence[float] = THRESHOLDS,
    tolerance: float = 0.0,
    iou_thresholds: Sequence[float] = WEAK_IOUS,
    valid=None,
    **how,
) -> Suite:
    """Every metric of this module and of `metrics` for a batch of maps.

    Parameters
    ----------
    maps, masks, boxes, valid, how : see `metrics.at_thresholds`
        Maxima and energy in the padding do not count either; pixels above a threshold do.
    threshold : of the columns iou and fpr and of the boxes' precision; chosen on validation images
    thresholds : iou_all and fpr_all are means over them (fpr where a box is predicted)
    tolerance : see `pointing_game`; iou_thresholds : see `average_precision`
    """
    maps = as_maps(maps)
    masks = as_masks(masks, maps)
    grid = sorted({float(t) for t in thresholds} | {float(threshold)})
    predictions, _, curves = at_thresholds(maps, masks, boxes, grid, valid=valid, **how)
    chosen = grid.index(float(threshold))
    over = [grid.index(float(t)) for t in thresholds]
    flat, counts = predictions[chosen]
    predicted = np.split(flat, np.cumsum(counts)[:-1])
    # Maps are not negative: below all of them no maximum lies in the padding, and 0 adds nothing to a sum.
    below, empty = (maps if valid is None else np.where(np.asarray(valid, dtype=bool), maps, v) for v in (-1, 0))
    ranks = pixel_ranks(maps, masks, valid)
    per_image = pd.DataFrame(
        {
            "pixel_auroc": ranks[:, 0],
            "pixel_auprc": ranks[:, 1],
            "pointing_game": pointing_game(below, masks, tolerance),
            "energy_inside": energy_inside(empty, masks),
            "iou": curves["iou"][:, chosen],
            "fpr": curves["fpr"][:, chosen],
            "iou_all": curves["iou"][:, over].mean(1),
            "fpr_all": _defined_mean(curves["fpr"][:, over], axis=1),
            "best_iou": curves["iou"][:, over].max(1),
            "region_iou_all": curves["region_iou"][:, over].mean(1),
            "predicted_boxes": counts,
            "region_share": region_shares(masks, valid),
        }
    )
    means = {name: _defined_mean(values[:, over], axis=0) for name, values in curves.items()}
    table = pd.DataFrame({"threshold": np.array(grid)[over], **means, "images": len(maps)})
    precision = average_precision(predicted, box_scores(maps, predicted), boxes, iou_thresholds)
    return Suite(per_image, table, precision)


def _matches(predicted, n_predicted, scores, reference, n_reference, limits) -> np.ndarray:
    """Which predicted boxes are hits at each IoU threshold: bool (T, total); boxes of equal rank match together."""
    hits = np.zeros((len(limits), len(predicted)), dtype=bool)
    widest = int(n_reference.max(initial=0))
    if not widest or not len(predicted):
        return hits
    image = np.repeat(np.arange(len(n_predicted)), n_predicted)
    by_score = np.lexsort((-scores, image))  # stable: ties keep their order within the image
    rank = ragged_arange(n_predicted)
    by_rank = by_score[np.argsort(rank, kind="stable")]
    held = np.full((len(n_reference), widest, 4), np.nan)
    held[np.repeat(np.arange(len(n_reference)), n_reference), ragged_arange(n_reference)] = reference
    free = np.ones((len(limits), len(n_reference), widest), dtype=bool)
    for boxes in np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]):
        p, r = predicted[boxes][:, None].astype(np.float64), held[image[boxes]]
        iou = np.nan_to_num(ious(p, r), nan=-1)  # -1: no such reference box
        open_iou = np.where(free[:, image[boxes]], iou, -1)
        best = open_iou.argmax(-1)
        hit = np.take_along_axis(open_iou, best[..., None], -1)[..., 0] >= limits[:, None]
        hits[:, boxes] = hit
        which, row = np.nonzero(hit)
        free[which, image[boxes][row], best[which, row]] = False
    return hits


def _defined_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over what is not NaN; NaN where nothing is, without a warning."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)
