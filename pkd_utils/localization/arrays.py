"""Maps, masks and boxes as they are given: checked, as arrays, and shared among threads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pkd_utils.runs.errors import DataError

PART_PIXELS = 1_000_000  # a thread's piece of work: 20 maps of 224 x 224


def to_array(values) -> np.ndarray:
    """An array of an array or Tensor; half precision is widened."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype in (torch.float16, torch.bfloat16) else values).numpy()
    return np.asarray(values)


def as_maps(maps) -> np.ndarray:
    """Contiguous float32 or float64 array (N, H, W) with N, H, W > 0; `value_range` looks at the values."""
    maps = to_array(maps)
    if maps.ndim != 3 or 0 in maps.shape or maps.dtype.kind not in "fbiu":
        raise DataError(
            f"Maps have shape {maps.shape}, type {maps.dtype}: give numbers (N, H, W), at least one map and one pixel."
        )
    return np.ascontiguousarray(maps, dtype=np.result_type(maps, np.float32))


def as_masks(masks, maps: np.ndarray) -> np.ndarray:
    """Contiguous boolean array of the maps' shape."""
    masks = to_array(masks)
    if maps.shape != masks.shape:
        raise DataError(f"Maps {maps.shape} and masks {masks.shape} differ in shape: upsample the maps to the masks.")
    if masks.dtype != bool and not ((masks == 0) | (masks == 1)).all():
        raise DataError("Masks hold other values than 0 and 1: make them boolean, for example by mask > 127.")
    return np.ascontiguousarray(masks, dtype=bool)


def as_boxes(boxes: Sequence, shape: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All boxes as one float64 array (total, 4) and their number per image; checked against maps of shape (N, H, W)."""
    boxes = [to_array(b) for b in boxes]
    boxes = [b.reshape(0, 4) if b.size == 0 else b for b in boxes]
    for image, b in enumerate(boxes):
        if b.ndim != 2 or b.shape[1] != 4:
            raise DataError(f"Boxes of image {image} have shape {b.shape}: give (K, 4) as x0, y0, x1, y1.")
    if shape is not None and len(boxes) != shape[0]:
        raise DataError(f"{len(boxes)} lists of boxes for {shape[0]} maps: give one a map, empty where there is none.")
    counts = np.array([len(b) for b in boxes], dtype=np.int64)
    flat = np.concatenate([np.zeros((0, 4)), *boxes]).astype(np.float64)
    ordered = np.isfinite(flat).all(1) & (flat[:, :2] < flat[:, 2:]).all(1)
    rules = [(ordered, ": all finite, x0 < x1, y0 < y1 must hold")]
    if shape is not None:
        height, width = shape[1:]
        inside = (flat[:, :2] >= -1).all(1) & (flat[:, 2:] <= [width + 1, height + 1]).all(1)
        words = f" outside its map of height {height} and width {width}: scale the boxes to the pixels of the maps"
        rules.append((inside, words))
    for good, words in rules:
        if not good.all():
            row = int(np.argmin(good))
            image = int(np.repeat(np.arange(len(boxes)), counts)[row])
            raise DataError(f"Image {image} has the box {flat[row].tolist()}{words}.")
    return flat, counts


def as_valid(valid, shape: tuple[int, ...]) -> np.ndarray:
    """Boolean array (N, H, W) of `valid`, which is that or (H, W) for all."""
    valid = to_array(valid)
    if valid.shape not in (shape, shape[1:]):
        raise DataError(f"valid has shape {valid.shape}, maps have {shape}: say of every pixel whether it is picture.")
    return np.broadcast_to(valid.astype(bool), shape)


def frames(valid, shape: tuple[int, ...]) -> np.ndarray:
    """The picture's own rectangle in each map, float64 (N, 4) as x0, y0, x1, y1; the whole map where `valid` is None.

    `valid` is boolean or 0/1, (N, H, W), or (H, W) for all; resizing pads around a rectangle, so nothing else is taken.
    """
    n, height, width = shape
    if valid is None:
        return np.tile([0.0, 0, width, height], (n, 1))
    valid = as_valid(valid, shape)
    columns, rows = valid.any(1), valid.any(2)
    ends = [columns.argmax(1), rows.argmax(1)]
    ends += [width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)]
    found = np.stack(ends, axis=1).astype(np.float64)
    whole = valid.sum((1, 2)) == (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    if not whole.all():
        raise DataError(f"valid of map {int(np.argmin(whole))} is no rectangle: padding lies around a picture.")
    return found


def value_range(row: np.ndarray, index: int):
    """Minimum and width of one map's values; both are NaN where the map holds one."""
    low = row.min()
    with np.errstate(over="ignore", invalid="ignore"):
        width = row.max() - low
    if not np.isfinite(width):
        raise DataError(
            f"Map {index} holds values that are not finite (or too far apart for {row.dtype}): check its model."
        )
    return low, width


def in_parts(work, n: int, pixels: int) -> list:
    """`work(slice)` over pieces of n maps, in order, by as many threads as torch uses.

    numpy's sorts and loops release the interpreter's lock.
    """
    step = max(1, PART_PIXELS // pixels)
    parts = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    workers = torch.get_num_threads()
    if workers <= 1 or len(parts) == 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, parts))


def per_image(make, maps, masks, valid=None) -> np.ndarray:
    """`make()(map, mask, lowest value)` of every image, float64 (N,), by threads; maps and masks are checked before.
    Where it gives K numbers an image, (N, K).

    With `valid` (N, H, W) or (H, W), boolean, map and mask are rows of the pixels that it holds.

    What `make` gives works on one piece of the maps, one after the other, so it may keep room for them.
    """
    maps = as_maps(maps)
    masks = as_masks(masks, maps)
    valid = None if valid is None else as_valid(valid, maps.shape)

    def work(part: slice) -> np.ndarray:
        function, found = make(), []
        for i in range(part.start, part.stop):
            low = value_range(maps[i], i)[0]
            pair = (maps[i], masks[i]) if valid is None or valid[i].all() else (maps[i][valid[i]], masks[i][valid[i]])
            found.append(function(*pair, low))
        return np.array(found)

    return np.concatenate(in_parts(work, len(maps), maps[0].size))
