"""How well maps point at regions: pixel-wise AUROC, best-box IoU and false positive rate, for whole batches.

Maps and masks are (N, H, W); boxes are (K, 4) as x0, y0, x1, y1 in pixels of the map, x1 and y1 exclusive, so a box's
area is (x1 - x0)(y1 - y0). Table 1 of the paper reports, per image and then averaged::

    AUROC = sum over pixels i inside, j outside the region of [a_i > a_j] + [a_i = a_j] / 2, over their number
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
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch

from pkd_utils.localization.auroc import RowAuroc
from pkd_utils.localization.regions import best_ious, component_boxes, padded_raster, union_areas
from pkd_utils.runs.errors import DataError

_PART_PIXELS = 1_000_000  # a thread's piece of work: 20 maps of 224 x 224


def pixel_auroc(maps, masks, workers: int | None = None) -> np.ndarray:
    """Pixel-wise AUROC of every map against its mask ("Obj. AUROC" of Table 1), exact, ties counted half (midranks).

    Parameters
    ----------
    maps : (N, H, W) array or Tensor, finite
        Compared in their own precision (half precision is widened, which changes neither order nor ties).
    masks : (N, H, W) array or Tensor, boolean or 0/1
        True inside the reference region.
    workers : int, optional
        Threads; default is torch's number of threads.

    Returns
    -------
    float64 array (N,)
        NaN where the mask is empty or covers the whole map: AUROC is undefined there.

    Raises
    ------
    DataError
        If shapes differ, a map is not finite (its index is named) or a mask holds other values than 0 and 1.
    """
    maps = _as_maps(maps)
    return _run(maps, _as_masks(masks, maps), [], False, 1, 1, workers)[0]


def normalize_maps(maps) -> np.ndarray:
    """Scale every map to [0, 1] by its own minimum and maximum; the threshold acts on the result.

    (a - min a) / (max a - min a), not stated in the paper. A constant map points nowhere and becomes 0 everywhere.

    Parameters
    ----------
    maps : (N, H, W) array or Tensor, finite

    Returns
    -------
    array (N, H, W), float32 (float64 where the input has more than float32 holds)
    """
    maps = _as_maps(maps)
    low, spread = np.array([_range(map, index) for index, map in enumerate(maps)]).T[:, :, None, None]
    return (maps - low) / np.where(spread > 0, spread, 1)


def boxes_from_map(map, threshold: float, connectivity: int = 1, min_area: int = 1) -> np.ndarray:
    """Bounding boxes (K, 4) of the connected components of {map >= threshold}; see `boxes_from_maps`.

    The map, (H, W), is taken as it is: scale it first with `normalize_maps`.
    """
    if np.ndim(map) != 2:
        raise DataError(f"One map has shape (H, W), this has {np.shape(map)}: use boxes_from_maps for a batch.")
    return boxes_from_maps(map[None], threshold, connectivity, min_area)[0]


def boxes_from_maps(
    maps, threshold: float, connectivity: int = 1, min_area: int = 1, workers: int | None = None
) -> list[np.ndarray]:
    """Bounding boxes of the connected components of {map >= threshold} of every map, taken as they are.

    Parameters
    ----------
    maps : (N, H, W) array or Tensor, finite (a boolean mask with threshold 0.5 gives the boxes of its regions)
    threshold : float
        Compared in the precision of the map.
    connectivity : {1, 2}
        1: pixels touch by their sides (4 neighbours); 2: also by their corners (8). As in scikit-image. Not stated in
        the paper.
    min_area : int
        Components of fewer pixels give no box; 1 keeps all. Not stated in the paper.
    workers : int, optional

    Returns
    -------
    list of N int64 arrays (K, 4): x0, y0, x1, y1, in the raster order of the components' first pixels
    """
    maps = _as_maps(maps)
    ((boxes, counts),) = _run(maps, None, [threshold], False, connectivity, min_area, workers)[1]
    return np.split(boxes, np.cumsum(counts)[:-1])


def masks_from_boxes(boxes: Sequence, shape: tuple[int, int]) -> np.ndarray:
    """Fill boxes: a pixel belongs to the mask if its centre lies in a box. Returns bool (N, H, W).

    Parameters
    ----------
    boxes : sequence of N arrays (K, 4); shape : (H, W)
    """
    flat, counts = _as_boxes(boxes)
    masks = np.zeros((len(counts), *shape), dtype=bool)
    for image, (x0, y0, x1, y1) in zip(
        np.repeat(np.arange(len(counts)), counts), np.ceil(np.maximum(flat, 0) - 0.5).astype(int), strict=True
    ):
        masks[image, y0:y1, x0:x1] = True
    return masks


def best_iou(predicted, reference) -> float:
    """IoU of the best-matching pair of boxes of one image (Table 1, "IoU").

    Parameters
    ----------
    predicted, reference : (K, 4), (M, 4); x0, y0, x1, y1

    Returns
    -------
    float
        0 where nothing is predicted; NaN without a reference box (there is nothing to match).
    """
    return float(best_ious(*_as_boxes([predicted]), *_as_boxes([reference]))[0])


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
    areas = union_areas(*_as_boxes([predicted]), *_as_boxes([reference]), shape)
    return float(_share(*areas)[0])


def evaluate_maps(
    maps,
    masks,
    boxes: Sequence,
    threshold: float,
    connectivity: int = 1,
    min_area: int = 1,
    normalize: bool = True,
    workers: int | None = None,
) -> pd.DataFrame:
    """All three metrics of Table 1 for a batch, one row an image.

    Parameters
    ----------
    maps, masks : (N, H, W); see `pixel_auroc`
    boxes : sequence of N arrays (K, 4)
        Reference boxes in pixels of the maps: x0, y0, x1, y1, exclusive ends, fractions allowed.
    threshold, connectivity, min_area : see `boxes_from_maps`
    normalize : bool
        Whether the threshold acts on `normalize_maps(maps)` (default) or on the maps as they are.
    workers : int, optional

    Returns
    -------
    DataFrame with N rows
        auroc, iou, fpr (NaN where undefined: see `pixel_auroc`, `best_iou`, `false_positive_rate`), predicted_boxes,
        reference_boxes (counts), predicted_share (area of the predicted boxes' union over that of the map).

    Raises
    ------
    DataError
        As `pixel_auroc`; also if the number of box lists is not N or a box leaves the map by more than a pixel.
    """
    maps = _as_maps(maps)
    masks = _as_masks(masks, maps)
    reference, n_reference = _as_boxes(boxes, maps.shape)
    auroc, ((predicted, n_predicted),) = _run(maps, masks, [threshold], normalize, connectivity, min_area, workers)
    area, outside = union_areas(predicted, n_predicted, reference, n_reference, maps.shape[1:])
    return pd.DataFrame(
        {
            "auroc": auroc,
            "iou": best_ious(predicted, n_predicted, reference, n_reference),
            "fpr": _share(area, outside),
            "predicted_boxes": n_predicted,
            "reference_boxes": n_reference,
            "predicted_share": area / (maps.shape[1] * maps.shape[2]),
        }
    )


def choose_threshold(
    maps,
    boxes: Sequence,
    thresholds: Sequence[float],
    criterion: str = "iou",
    connectivity: int = 1,
    min_area: int = 1,
    normalize: bool = True,
    workers: int | None = None,
) -> tuple[float, pd.DataFrame]:
    """The threshold with the best mean over images, to be used on validation images only.

    How the paper chose its threshold is not stated in the paper.

    Parameters
    ----------
    maps, boxes, connectivity, min_area, normalize, workers : see `evaluate_maps`; every image needs a reference box
    thresholds : increasing numbers
    criterion : {"iou", "fpr"}
        Highest mean IoU, or lowest mean false positive rate (which tends to the single brightest pixel).

    Returns
    -------
    best : float
        Of equally good thresholds the lowest.
    table : DataFrame
        threshold, iou, fpr (means over the images where defined), predicted_boxes (mean), images, images_without_boxes.
    """
    if criterion not in ("iou", "fpr"):
        raise DataError(f"criterion={criterion!r} is unknown: use 'iou' or 'fpr'.")
    thresholds = [float(t) for t in thresholds]
    if not thresholds or any(a >= b for a, b in itertools.pairwise(thresholds)):
        raise DataError(f"Thresholds {thresholds} are not an increasing list: give at least one, sorted, none twice.")
    maps = _as_maps(maps)
    reference, n_reference = _as_boxes(boxes, maps.shape)
    if not n_reference.all():
        raise DataError(f"Image {int(np.argmin(n_reference))} has no reference box: leave such images out.")
    rows = []
    predictions = _run(maps, None, thresholds, normalize, connectivity, min_area, workers)[1]
    for threshold, (predicted, count) in zip(thresholds, predictions, strict=True):
        iou = best_ious(predicted, count, reference, n_reference)
        fpr = _share(*union_areas(predicted, count, reference, n_reference, maps.shape[1:]))[count > 0]
        rows.append(
            (threshold, iou.mean(), fpr.mean() if len(fpr) else np.nan, count.mean(), len(maps), sum(count == 0))
        )
    table = pd.DataFrame(rows, columns=["threshold", "iou", "fpr", "predicted_boxes", "images", "images_without_boxes"])
    score = table["iou"] if criterion == "iou" else -table["fpr"]
    if score.isna().all():
        raise DataError("No threshold gives any box on these maps: they are constant or the thresholds too high.")
    return thresholds[int(np.nanargmax(score))], table


# --- input -----------------------------------------------------------------------------------------------------------


def _to_array(values) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype in (torch.float16, torch.bfloat16) else values).numpy()
    return np.asarray(values)


def _as_maps(maps) -> np.ndarray:
    """Contiguous float32 or float64 array (N, H, W) with N, H, W > 0; `_range` looks at the values."""
    maps = _to_array(maps)
    if maps.ndim != 3 or 0 in maps.shape:
        raise DataError(f"Maps have shape {maps.shape}: give (N, H, W) with at least one map and one pixel.")
    if maps.dtype.kind not in "fbiu":
        raise DataError(f"Maps are of type {maps.dtype}: give numbers.")
    return np.ascontiguousarray(maps, dtype=np.result_type(maps, np.float32))


def _as_masks(masks, maps: np.ndarray) -> np.ndarray:
    masks = _to_array(masks)
    if maps.shape != masks.shape:
        raise DataError(f"Maps {maps.shape} and masks {masks.shape} differ in shape: upsample the maps to the masks.")
    if masks.dtype != bool and not ((masks == 0) | (masks == 1)).all():
        raise DataError("Masks hold other values than 0 and 1: make them boolean, for example by mask > 127.")
    return np.ascontiguousarray(masks, dtype=bool)


def _as_boxes(boxes: Sequence, shape: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All boxes as one float64 array (total, 4) and their number per image; checked against maps of shape (N, H, W)."""
    boxes = [_to_array(b) for b in boxes]
    boxes = [b.reshape(0, 4) if b.size == 0 else b for b in boxes]
    for image, b in enumerate(boxes):
        if b.ndim != 2 or b.shape[1] != 4:
            raise DataError(f"Boxes of image {image} have shape {b.shape}: give (K, 4) as x0, y0, x1, y1.")
    if shape is not None and len(boxes) != shape[0]:
        raise DataError(f"{len(boxes)} lists of boxes for {shape[0]} maps: give one a map, empty where there is none.")
    counts = np.array([len(b) for b in boxes], dtype=np.int64)
    flat = np.concatenate([np.zeros((0, 4)), *boxes]).astype(np.float64)
    image = np.repeat(np.arange(len(boxes)), counts)
    good = np.isfinite(flat).all(1) & (flat[:, :2] < flat[:, 2:]).all(1)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(f"Image {image[row]} has the box {flat[row].tolist()}: all finite, x0 < x1, y0 < y1 must hold.")
    if shape is not None:
        good = (flat[:, :2] >= -1).all(1) & (flat[:, 2] <= shape[2] + 1) & (flat[:, 3] <= shape[1] + 1)
        if not good.all():
            row = int(np.argmin(good))
            raise DataError(
                f"Image {image[row]} has the box {flat[row].tolist()} outside its map of height {shape[1]} and width "
                f"{shape[2]}: scale the boxes to the pixels of the maps."
            )
    return flat, counts


def _range(row: np.ndarray, index: int):
    """Minimum and width of one map's values; both are NaN where the map holds one."""
    low = row.min()
    with np.errstate(over="ignore", invalid="ignore"):
        width = row.max() - low
    if not np.isfinite(width):
        raise DataError(
            f"Map {index} holds values that are not finite (or too far apart for {row.dtype}): check its model."
        )
    return low, width


# --- one thread's part of a batch ------------------------------------------------------------------------------------


def _parts(work, n: int, pixels: int, workers: int | None) -> list:
    """`work(slice)` over pieces of n maps, in order; numpy's sorts and loops release the interpreter's lock."""
    step = max(1, _PART_PIXELS // pixels)
    parts = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    workers = torch.get_num_threads() if workers is None else workers
    if workers <= 1 or len(parts) == 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, parts))


def _run(maps, masks, thresholds, normalize, connectivity, min_area, workers) -> tuple[np.ndarray | None, list]:
    """AUROC (N,), or None without masks, and for every threshold all predicted boxes with their number per image.

    A map is read from memory once: its AUROC, its scaling and its thresholding follow while it is in the cache.
    """
    if connectivity not in (1, 2):
        raise DataError(f"connectivity={connectivity}: use 1 (sides) or 2 (sides and corners).")

    n, height, width = maps.shape
    thresholds = [maps.dtype.type(threshold) for threshold in thresholds]

    def work(part: slice) -> tuple[np.ndarray, list]:
        size = part.stop - part.start
        auroc = np.empty(size)
        row_auroc = RowAuroc(height * width) if masks is not None else None
        rasters = [padded_raster(size, height, width) for _ in thresholds]
        scaled = np.empty((height, width), dtype=maps.dtype)
        for i, index in enumerate(range(part.start, part.stop)):
            map = maps[index]
            low, spread = _range(map, index)
            if row_auroc is not None:
                auroc[i] = row_auroc(map.reshape(-1), masks[index].reshape(-1), low >= 0)
            if normalize and rasters:
                np.subtract(map, low, out=scaled)
                map = np.divide(scaled, spread if spread > 0 else 1, out=scaled)
            for threshold, (_, inner) in zip(thresholds, rasters, strict=True):
                np.greater_equal(map, threshold, out=inner[i])
        shape = (size, height, width)
        return auroc, [component_boxes(flat, shape, connectivity, min_area) for flat, _ in rasters]

    aurocs, boxes = zip(*_parts(work, n, height * width * max(1, len(thresholds) // 4), workers), strict=True)
    joined = [tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*boxes, strict=True)]
    return np.concatenate(aurocs), joined


def _share(area: np.ndarray, outside: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return outside / area
