"""How well maps point at regions: pixel-wise AUROC, best-box IoU and false positive rate, for whole batches.

Maps and masks are (N, H, W); boxes are (K, 4) as x0, y0, x1, y1 in pixels of the map, x1 and y1 exclusive, so a box's
area is (x1 - x0)(y1 - y0). Table 1 of the paper reports, per image and then averaged::

    AUROC = mean over pixels i inside, j outside the region of [a_i > a_j] + [a_i = a_j] / 2
    IoU   = max over predicted p, reference r of area(p and r) / area(p or r)     ("best-matching box per image")
    FPR   = area(P and not R) / area(P), with P, R the unions of all predicted, all reference boxes
            ("% of non-overlapping area of all predicted boxes with ground truth")

Predicted boxes are the bounding boxes of the connected components of {map >= threshold}. The threshold, what it acts
on (here the map scaled to [0, 1] by its own minimum and maximum), the connectivity and a smallest area are not stated
in the paper: they are parameters. Choose the threshold on validation images (`choose_threshold`).

Results are exact: AUROC from integer counts of ordered and tied pairs, areas from integers held in float64.
"""

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from pkd_utils.localization.arrays import (
    as_boxes,
    as_maps,
    as_masks,
    as_valid,
    frames,
    in_parts,
    per_image,
    value_range,
)
from pkd_utils.localization.ranks import RowRanks, fastest_sort
from pkd_utils.localization.regions import best_ious, boxes_within, component_boxes, padded_raster, share, union_areas
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError


def pixel_auroc(maps, masks, valid=None) -> np.ndarray:
    """Pixel-wise AUROC of every map against its mask ("Obj. AUROC" of Table 1), exact, ties counted half (midranks).

    Parameters
    ----------
    maps : (N, H, W) array or Tensor, finite
        Compared in their own precision (half precision is widened, which changes neither order nor ties).
    masks : (N, H, W) array or Tensor, boolean or 0/1
        True inside the reference region.
    valid : (N, H, W) or (H, W), boolean or 0/1, optional
        The picture's own pixels. The others, padding of a picture that is no square, are neither inside nor outside: a
        map that only tells picture from padding scores 0.5.

    Returns
    -------
    float64 array (N,)
        NaN where the mask is empty or covers the whole map: AUROC is undefined there.

    Raises
    ------
    DataError
        If shapes differ, a map is not finite (its index is named) or a mask holds other values than 0 and 1.
    """
    maps, sort = as_maps(maps), fastest_sort()
    return per_image(lambda: RowRanks(maps[0].size, sort).auroc, maps, masks, valid)


def pixel_ranks(maps, masks, valid=None) -> np.ndarray:
    """`pixel_auroc` and pixel-wise average precision (AUPRC) of every map against its mask, from one sort, exact.

    AUPRC is the sum over values of (recall step) x precision; tied pixels enter together, as in scikit-learn. Chance is
    the region's share of the picture (`region_shares`): where regions are small an AUROC near 1 can hide that most of
    the brightest pixels lie elsewhere; this does not.
    Arguments and errors as `pixel_auroc`; float64 (N, 2), NaN where the mask is empty or covers the picture.
    """
    maps, sort = as_maps(maps), fastest_sort()
    return per_image(lambda: RowRanks(maps[0].size, sort).both, maps, masks, valid)


def region_shares(masks, valid=None) -> np.ndarray:
    """Share of each picture's own pixels that its mask (N, H, W) covers, float64 (N,): the chance level of AUPRC."""
    masks = np.asarray(masks, dtype=bool)
    picture = np.ones(masks.shape, dtype=bool) if valid is None else as_valid(valid, masks.shape)
    return (masks & picture).sum((1, 2)) / picture.sum((1, 2))


def pooled_auroc(maps, masks, valid=None) -> float:
    """One AUROC of the pixels of all images together, exact: another reading of "Obj. AUROC" (Table 1).

    Maps are compared across images as they are, so their scale counts: attention rows sum to at most 1 in every image.
    Arguments and errors as `pixel_auroc`; NaN without a pixel inside or outside a region.
    """
    maps = as_maps(maps)
    masks, row = as_masks(masks, maps), (1, 1, maps.size)
    valid = None if valid is None else as_valid(valid, maps.shape).reshape(row)
    return float(pixel_auroc(maps.reshape(row), masks.reshape(row), valid)[0])


def normalize_maps(maps) -> np.ndarray:
    """Scale every map to [0, 1] by its own minimum and maximum; the threshold acts on the result.

    (a - min a) / (max a - min a), not stated in the paper. A constant map points nowhere and becomes 0 everywhere.
    Maps are (N, H, W), finite; the result is float32 (float64 where the input has more than float32 holds).
    """
    maps = as_maps(maps)
    low, spread = np.array([value_range(map, index) for index, map in enumerate(maps)]).T[:, :, None, None]
    return (maps - low) / np.where(spread > 0, spread, 1)


def boxes_from_map(map, threshold: float, connectivity: int = 1, min_area: int = 1) -> np.ndarray:
    """Bounding boxes (K, 4) of the connected components of {map >= threshold}; see `boxes_from_maps`.

    The map, (H, W), is taken as it is: scale it first with `normalize_maps`.
    """
    return boxes_from_maps(map[None], threshold, connectivity, min_area)[0]


def boxes_from_maps(maps, threshold: float, connectivity: int = 1, min_area: int = 1) -> list[np.ndarray]:
    """Bounding boxes of the connected components of {map >= threshold} of every map, taken as they are.

    Parameters
    ----------
    maps : (N, H, W) array or Tensor, finite (a boolean mask with threshold 0.5 gives the boxes of its regions)
    threshold : compared in the precision of the map
    connectivity : 1, pixels touch by their sides (4 neighbours), or 2, also by their corners (8)
    min_area : components of fewer pixels give no box

    Returns
    -------
    list of N int64 arrays (K, 4): x0, y0, x1, y1, in the raster order of the components' first pixels
    """
    ((boxes, counts),), _ = threshold_boxes(as_maps(maps), None, [threshold], connectivity, min_area, False)
    return np.split(boxes, np.cumsum(counts)[:-1])


def best_iou(predicted, reference) -> float:
    """IoU of the best-matching pair of boxes of one image (Table 1, "IoU").

    `predicted` (K, 4) and `reference` (M, 4) are x0, y0, x1, y1. 0 where nothing is predicted; NaN without a reference
    box (there is nothing to match).
    """
    return float(best_ious(*as_boxes([predicted]), *as_boxes([reference]))[0])


def false_positive_rate(predicted, reference, shape: tuple[int, int]) -> float:
    """Share of the area of the union of all predicted boxes of one image that no reference box covers (Table 1, "FPR").

    Parameters
    ----------
    predicted, reference : (K, 4), (M, 4); x0, y0, x1, y1, whole or fractional
    shape : (H, W)
        Boxes are clipped to the image.

    Returns
    -------
    float in [0, 1]
        1 where boxes are predicted and there is no reference; NaN where nothing is predicted (0 / 0).
    """
    return float(share(*union_areas(*as_boxes([predicted]), *as_boxes([reference]), frames(None, (1, *shape))))[0])


class Thresholded(NamedTuple):
    """Maps at T thresholds, see `at_thresholds`."""

    boxes: list[tuple[np.ndarray, np.ndarray]]  # at each threshold all predicted boxes (total, 4), and how many (N,)
    area: np.ndarray  # float64 (T, N), of the union of the predicted boxes
    curves: dict[str, np.ndarray]  # float64 (N, T): iou and fpr of boxes, region_iou and region_fpr of pixels


def at_thresholds(
    maps,
    masks,
    boxes: Sequence,
    thresholds: Sequence[float],
    connectivity: int = 1,
    min_area: int = 1,
    normalize: bool = True,
    valid=None,
) -> Thresholded:
    """IoU and false positive rate at every threshold, of the predicted boxes and, with masks, of the pixels themselves.

    Parameters
    ----------
    maps : (N, H, W); masks : (N, H, W) or None, then without curves of pixels; see `pixel_auroc`
    boxes : sequence of N arrays (K, 4)
        Reference boxes in pixels of the maps: x0, y0, x1, y1, exclusive ends, fractions allowed.
    thresholds : increasing numbers
    connectivity, min_area : see `boxes_from_maps`; of boxes only
    normalize : bool
        Whether thresholds act on `normalize_maps(maps)` (default) or on the maps as they are.
    valid : see `pixel_auroc`, a rectangle each; boxes that lie outside it are none, and false positives count within it
        alone (IoU is of whole boxes)

    Returns
    -------
    Thresholded
        `iou`: see `best_iou`; `fpr`: see `false_positive_rate`. With A = {map >= threshold} and region M
        region_iou = area(A and M) / area(A or M), NaN without a region, and region_fpr = area(A and not M) / area(A),
        NaN where A is empty.

    Raises
    ------
    DataError
        As `pixel_auroc`; also if the number of box lists is not N or a box leaves the map by more than a pixel.
    """
    levels = [float(t) for t in thresholds]
    if not levels or any(a >= b for a, b in itertools.pairwise(levels)):
        raise DataError(f"Thresholds {levels} are not an increasing list: give at least one, sorted, none twice.")
    maps = as_maps(maps)
    masks = None if masks is None else as_masks(masks, maps)
    reference = as_boxes(boxes, maps.shape)
    found, pixels = threshold_boxes(maps, masks, levels, connectivity, min_area, normalize)
    frame = frames(valid, maps.shape)
    if valid is not None:
        found = [boxes_within(*predicted, frame) for predicted in found]
    unions = [union_areas(*predicted, *reference, frame) for predicted in found]
    curves = {"iou": np.array([best_ious(*predicted, *reference) for predicted in found]).T}
    curves["fpr"] = np.array([share(*union) for union in unions]).T
    if masks is not None:
        area, inside = pixels
        region = np.count_nonzero(masks, axis=(1, 2))[:, None]
        with np.errstate(invalid="ignore"):
            curves["region_iou"] = np.where(region > 0, inside / (area + region - inside), np.nan)
            curves["region_fpr"] = (area - inside) / area
    return Thresholded(found, np.array([union[0] for union in unions]), curves)


def evaluate_maps(maps, masks, boxes: Sequence, threshold: float, valid=None, **how) -> pd.DataFrame:
    """All three metrics of Table 1 for a batch; arguments and errors as `at_thresholds`.

    Returns
    -------
    DataFrame with N rows
        auroc, iou, fpr (NaN where undefined: see `pixel_auroc`, `best_iou`, `false_positive_rate`), predicted_boxes,
        reference_boxes (counts), predicted_share (area of the predicted boxes' union over that of the picture).
    """
    maps = as_maps(maps)
    found = at_thresholds(maps, None, boxes, [threshold], valid=valid, **how)
    frame = frames(valid, maps.shape)
    return pd.DataFrame(
        {
            "auroc": pixel_auroc(maps, masks, valid),
            "iou": found.curves["iou"][:, 0],
            "fpr": found.curves["fpr"][:, 0],
            "predicted_boxes": found.boxes[0][1],
            "reference_boxes": [len(some) for some in boxes],
            "predicted_share": found.area[0] / (frame[:, 2:] - frame[:, :2]).prod(1),
        }
    )


@checked
def choose_threshold(
    maps, boxes, thresholds, criterion: Literal["iou", "fpr"] = "iou", **how
) -> tuple[float, pd.DataFrame]:
    """The threshold with the best mean over images, to be used on validation images only.

    How the paper chose its threshold is not stated in the paper.

    Parameters
    ----------
    maps, boxes, thresholds, how : see `at_thresholds`; every image needs a reference box
    criterion : {"iou", "fpr"}
        Highest mean IoU, or lowest mean false positive rate (which tends to the single brightest pixel).

    Returns
    -------
    best : float
        Of equally good thresholds the lowest.
    table : DataFrame
        threshold, iou, fpr (means over the images where defined), predicted_boxes (mean), images, images_without_boxes.
    """
    found = at_thresholds(maps, None, boxes, thresholds, **how)
    without = [image for image, some in enumerate(boxes) if not len(some)]
    if without:
        raise DataError(f"Image {without[0]} has no reference box: leave such images out.")
    rows = []
    columns = (found.curves[name].T for name in ("iou", "fpr"))
    for threshold, (_, count), iou, fpr in zip(thresholds, found.boxes, *columns, strict=True):
        fpr = fpr[count > 0]
        rows.append((float(threshold), iou.mean(), fpr.mean() if len(fpr) else np.nan, count.mean(), len(iou),
                     sum(count == 0)))  # fmt: skip
    table = pd.DataFrame(rows, columns=["threshold", "iou", "fpr", "predicted_boxes", "images", "images_without_boxes"])
    score = table["iou"] if criterion == "iou" else -table["fpr"]
    if score.isna().all():
        raise DataError("No threshold gives any box on these maps: they are constant or the thresholds too high.")
    return float(table["threshold"][int(np.nanargmax(score))]), table


def threshold_boxes(
    maps: np.ndarray, masks: np.ndarray | None, thresholds, connectivity: int, min_area: int, normalize: bool
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray | None]:
    """`boxes` of `Thresholded`, of checked maps and masks.

    With masks also int64 (2, N, T): pixels at or above each threshold, and those of them in the mask.
    """

    def work(part: slice) -> tuple[list, np.ndarray | None]:
        some = maps[part]
        scaled = np.empty_like(some) if normalize else some
        for i, map in enumerate(some):
            low, spread = value_range(map, part.start + i)
            if normalize:
                np.subtract(map, low, out=scaled[i])
                np.divide(scaled[i], spread if spread > 0 else 1, out=scaled[i])
        inside = None if masks is None else [values[mask] for values, mask in zip(scaled, masks[part], strict=True)]
        flat, inner = padded_raster(*some.shape)
        rows = flat[:-1].reshape(len(some), -1)
        areas = None if masks is None else np.empty((2, len(some), len(thresholds)), dtype=np.int64)
        found = []
        for k, level in enumerate(np.array(thresholds, dtype=maps.dtype)):
            np.greater_equal(scaled, level, out=inner)
            if inside is not None:
                areas[0, :, k] = [np.count_nonzero(row) for row in rows]
                areas[1, :, k] = [np.count_nonzero(values >= level) for values in inside]
            found.append(component_boxes(flat, some.shape, connectivity, min_area))
        return found, areas

    found, areas = zip(*in_parts(work, len(maps), maps[0].size), strict=True)
    predictions = [tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*found, strict=True)]
    return predictions, None if masks is None else np.concatenate(areas, axis=1)
