"""Where a pixel goes when an image is resized to a packed square: boxes and masks move with it.

Packed pixels are related to stored pixels by `packed = scale * stored + offset` along each axis. Coordinates are pixel
edges: a box (x0, y0, x1, y1) has exclusive x1, y1, and an image of width W spans 0 ... W.
"""

from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

Aspect = Literal["squash", "pad", "crop"]


class Geometry(NamedTuple):
    """The four numbers that take stored to packed coordinates; they stand in the index beside every packed image."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


def packed_geometry(width: int, height: int, size: int, aspect: Aspect = "squash") -> Geometry:
    """How a stored image of `width` x `height` pixels lands in `size` x `size` packed pixels.

    Parameters
    ----------
    width, height, size : int, pixels
    aspect : {"squash", "pad", "crop"}
        "squash": both sides to `size`, the aspect ratio changes. "pad": the longer side to `size`, black around the
        rest, centred. "crop": the shorter side to `size`, the overhang cut off, centred.
    """
    if aspect == "squash":
        return Geometry(size / width, size / height, 0.0, 0.0)
    if aspect == "pad":
        # Whole packed pixels, so that no pixel is half picture and half padding.
        fraction = size / max(width, height)
        inner_w, inner_h = max(1, round(width * fraction)), max(1, round(height * fraction))
        offset_x, offset_y = float((size - inner_w) // 2), float((size - inner_h) // 2)
        return Geometry(inner_w / width, inner_h / height, offset_x, offset_y)
    scale = size / min(width, height)
    # Rounding must not push the picture inwards: what lies beyond its edge cannot be read.
    return Geometry(scale, scale, *(min(0.0, (size - scale * side) / 2) for side in (width, height)))


def transform_boxes(boxes, geometry: Geometry, size: int) -> np.ndarray:
    """Boxes of the stored image in packed coordinates, clipped to the packed image of `size` pixels a side.

    Parameters
    ----------
    boxes : (K, 4) array, x0, y0, x1, y1 in stored pixels
    geometry : Geometry, or a row of the index with those four columns

    Returns
    -------
    (K, 4) float64 array; a box that "crop" cut off has no area.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    scale = np.array([geometry.scale_x, geometry.scale_y] * 2)
    offset = np.array([geometry.offset_x, geometry.offset_y] * 2)
    return np.clip(boxes * scale + offset, 0, size)


def transform_mask(mask, size: int, aspect: Aspect = "squash") -> np.ndarray:
    """Mask (H, W) of the stored image as a bool array (size, size) of packed pixels.

    A packed pixel belongs to the region if at least half of it is covered. A region so small that no pixel reaches that
    keeps its best covered pixel(s): a lesion never vanishes by resizing (but "crop" may cut it off).
    """
    mask = np.asarray(mask, dtype=bool)
    stored = Image.fromarray(mask.astype(np.float32)), mask.shape[::-1], size, aspect
    share = np.asarray(resize(*stored, Image.Resampling.BOX))
    if not share.any():  # a pixel on the border of two boxes can be in neither
        share = np.asarray(resize(*stored, Image.Resampling.BILINEAR))
    top = share.max()
    return share >= min(0.5, top) if top > 0 else np.zeros((size, size), dtype=bool)


def resize(image: Image.Image, stored: tuple[int, int], size: int, aspect: Aspect, resample) -> Image.Image:
    """One resize of what was decoded, possibly at reduced size, to the packed size."""
    # libjpeg rounds a reduced size up; the picture itself ends at stored / reduction.
    shrink_x, shrink_y = (next(r for r in (1, 2, 4, 8) if -(-stored[i] // r) == image.size[i]) for i in (0, 1))
    width, height = stored[0] / shrink_x, stored[1] / shrink_y
    g = packed_geometry(*stored, size, aspect)
    if aspect == "crop":
        x0, y0 = -g.offset_x / g.scale_x / shrink_x, -g.offset_y / g.scale_y / shrink_y
        box = (x0, y0, min(width, x0 + size / g.scale_x / shrink_x), min(height, y0 + size / g.scale_y / shrink_y))
        return image.resize((size, size), resample, box=box)
    if aspect == "squash":
        return image.resize((size, size), resample, box=(0, 0, width, height))
    inner = round(g.scale_x * stored[0]), round(g.scale_y * stored[1])
    canvas = Image.new(image.mode, (size, size))
    canvas.paste(image.resize(inner, resample, box=(0, 0, width, height)), (int(g.offset_x), int(g.offset_y)))
    return canvas
