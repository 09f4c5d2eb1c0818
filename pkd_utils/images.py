"""Decode and resize every image once, into one packed uint8 array.

Packed pixels are related to stored pixels by `packed = scale * stored + offset` along each axis; the four numbers stand
in the index beside every image, and `transform_boxes` and `transform_mask` apply them. Coordinates are pixel edges:
a box (x0, y0, x1, y1) has exclusive x1, y1, and an image of width W spans 0 ... W.
"""

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from pkd_utils import packing
from pkd_utils.dicom import is_dicom, read_grey
from pkd_utils.errors import DataError
from pkd_utils.pixel_depth import eight_bit_range
from pkd_utils.runs import write_csv, write_parquet

FORMAT = 2  # of index and marks: a change packs anew
ASPECTS = ("squash", "pad", "crop")
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
              "lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}  # fmt: skip


class Geometry(NamedTuple):
    """Stored to packed coordinates: `x_packed = scale_x * x + offset_x`, likewise y."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


def packed_geometry(width: int, height: int, size: int, aspect: str = "squash") -> Geometry:
    """How a stored image of `width` x `height` pixels lands in `size` x `size` packed pixels.

    Parameters
    ----------
    width, height, size : int, pixels
    aspect : {"squash", "pad", "crop"}
        "squash": both sides to `size`, the aspect ratio changes. "pad": the longer side to `size`, black around the
        rest, centred. "crop": the shorter side to `size`, the overhang cut off, centred.

    Raises
    ------
    DataError
        For an unknown `aspect`.
    """
    if aspect == "squash":
        return Geometry(size / width, size / height, 0.0, 0.0)
    if aspect == "pad":
        # Whole packed pixels, so that no pixel is half picture and half padding.
        fraction = size / max(width, height)
        inner_w, inner_h = max(1, round(width * fraction)), max(1, round(height * fraction))
        offset_x, offset_y = float((size - inner_w) // 2), float((size - inner_h) // 2)
        return Geometry(inner_w / width, inner_h / height, offset_x, offset_y)
    if aspect == "crop":
        scale = size / min(width, height)
        return Geometry(scale, scale, (size - scale * width) / 2, (size - scale * height) / 2)
    raise DataError(f"aspect must be one of {', '.join(ASPECTS)}, not {aspect!r}.")


def transform_boxes(boxes, geometry: Geometry, size: int) -> np.ndarray:
    """Boxes of the stored image in packed coordinates, clipped to the packed image.

    Parameters
    ----------
    boxes : (K, 4) array, x0, y0, x1, y1 in stored pixels, x1 and y1 exclusive
    geometry : Geometry, or a row of the index with those four columns
    size : int, side of the packed image in pixels

    Returns
    -------
    (K, 4) float64 array; a box that "crop" cut off has no area.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    scale = np.array([geometry.scale_x, geometry.scale_y] * 2)
    offset = np.array([geometry.offset_x, geometry.offset_y] * 2)
    return np.clip(boxes * scale + offset, 0, size)


def transform_mask(mask, size: int, aspect: str = "squash", coverage: float = 0.5) -> np.ndarray:
    """Mask of the stored image in packed pixels.

    Parameters
    ----------
    mask : (H, W) bool array, of the stored image
    size, aspect : as given to `pack_images`
    coverage : float
        A packed pixel belongs to the region if at least this share of it is covered. A region so small that no pixel
        reaches it keeps its best covered pixel(s): a lesion never vanishes by resizing (but "crop" may cut it off).

    Returns
    -------
    (size, size) bool array
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 2:
        raise DataError(f"A mask must have the shape (height, width), not {mask.shape}.")
    share = _resize(Image.fromarray(mask.astype(np.float32)), mask.shape[::-1], size, aspect, Image.Resampling.BOX)
    share = np.asarray(share)
    top = share.max()
    return share >= min(coverage, top) if top > 0 else np.zeros((size, size), dtype=bool)


def read_image(
    source: str | Path | bytes,
    size: int,
    aspect: str = "squash",
    invert: bool = False,
    resample: str = "bilinear",
    detail: float = 1.0,
    depth: str = "full",
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode one image to grey and resize it, in one decode and one resize.

    Parameters
    ----------
    source : path, or the file's bytes
        Anything PIL reads, or DICOM (see `dicom.read_grey`, the whole range of the bits stored). Colour becomes luma
        (ITU-R 601), transparency is ignored, EXIF orientation is not applied (boxes refer to stored pixels).
    size : int, side of the result in pixels
    aspect : {"squash", "pad", "crop"}, see `packed_geometry`
    invert : bool
        True for images where high values are dark; DICOM files that say so (MONOCHROME1) are turned already.
    resample : {"bilinear", "bicubic", "lanczos", "box"}, all with PIL's anti-aliasing
    detail : float
        JPEG only: libjpeg may decode at 1/2, 1/4 or 1/8 size, as long as what is left has at least `detail * size`
        pixels along each resized side. 1.0 is fastest; `inf` decodes at full size.
    depth : {"full", "minmax"}
        How more than 8 bits become 8: the whole range of 16 bits, or the image's own minimum to maximum (always so
        for 32-bit and floating point images, whose range says nothing).

    Returns
    -------
    pixels : (size, size) uint8 array
    stored_size : (width, height) of the file

    Raises
    ------
    OSError, ValueError, SyntaxError, DecompressionBombError
        Whatever PIL says of a file that is not an image; a DataError (a ValueError) of a DICOM file.
    """
    grey, stored = _decode(source, depth, (size, aspect, detail) if math.isfinite(detail) else None)
    pixels = _eight_bits(_resize(grey, stored, size, aspect, RESAMPLING[resample]))
    if invert:
        pixels = 255 - pixels
        if aspect == "pad":  # padding stays black
            inner = np.zeros_like(pixels)
            rows, columns = _inner(stored, size)
            inner[rows, columns] = pixels[rows, columns]
            pixels = inner
    return pixels, stored


def open_grey(path: str | Path, depth: str = "full") -> Image.Image:
    """Open one image for display, whole, as it is stored: what `read_image` reads, in PIL's mode "L" (8-bit grey).

    Parameters
    ----------
    path : path
        Anything PIL reads, or DICOM.
    depth : {"full", "minmax"}, see `read_image`

    Raises
    ------
    OSError, ValueError, SyntaxError, DecompressionBombError
        As `read_image`.
    """
    return Image.fromarray(_eight_bits(_decode(path, depth)[0]))


def _decode(source, depth: str, reduced: tuple[int, str, float] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Grey image (mode L, or F for more than 8 bits) and its stored size; `reduced`: size, aspect, detail of a JPEG."""
    if is_dicom(source):
        values = read_grey(source)
        grey = values if values.dtype == np.uint8 else eight_bit_range(values, depth)
        return Image.fromarray(grey), values.shape[::-1]
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        stored = image.size
        if image.format == "JPEG" and reduced:
            size, aspect, detail = reduced
            geometry = packed_geometry(*stored, size, aspect)
            # draft() keeps both sides at least as large as asked for.
            image.draft(
                "L", (round(geometry.scale_x * stored[0] * detail), round(geometry.scale_y * stored[1] * detail))
            )
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return Image.fromarray(eight_bit_range(np.asarray(image), depth)), stored
        return image.convert("RGB").convert("L") if image.mode in ("P", "PA", "CMYK") else image.convert("L"), stored


def _eight_bits(grey: Image.Image) -> np.ndarray:
    pixels = np.asarray(grey)
    return pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _inner(stored: tuple[int, int], size: int) -> tuple[slice, slice]:
    g = packed_geometry(*stored, size, "pad")
    x, y, w, h = int(g.offset_x), int(g.offset_y), round(g.scale_x * stored[0]), round(g.scale_y * stored[1])
    return slice(y, y + h), slice(x, x + w)


def _resize(image: Image.Image, stored: tuple[int, int], size: int, aspect: str, resample) -> Image.Image:
    """One resize of what was decoded, possibly at reduced size, to the packed size."""
    # libjpeg rounds a reduced size up; the picture itself ends at stored / reduction.
    shrink_x, shrink_y = (_reduction(stored[i], image.size[i]) for i in (0, 1))
    width, height = stored[0] / shrink_x, stored[1] / shrink_y
    if aspect == "crop":
        g = packed_geometry(*stored, size, aspect)
        x0, y0 = -g.offset_x / g.scale_x / shrink_x, -g.offset_y / g.scale_y / shrink_y
        box = (x0, y0, min(width, x0 + size / g.scale_x / shrink_x), min(height, y0 + size / g.scale_y / shrink_y))
        return image.resize((size, size), resample, box=box)
    if aspect == "squash":
        return image.resize((size, size), resample, box=(0, 0, width, height))
    rows, columns = _inner(stored, size)
    inner = image.resize((columns.stop - columns.start, rows.stop - rows.start), resample, box=(0, 0, width, height))
    canvas = Image.new(image.mode, (size, size))
    canvas.paste(inner, (columns.start, rows.start))
    return canvas


def _reduction(stored: int, decoded: int) -> int:
    return next(r for r in (1, 2, 4, 8) if -(-stored // r) == decoded)


def _pack_one(task) -> tuple[np.ndarray | None, dict]:
    """Read, hash, decode and resize one file; a failure is returned, not raised, so that all can be listed."""
    path, size, options = task
    row = {"path": str(path), "sha256": "", "bytes": 0, "width": 0, "height": 0, **Geometry(*[math.nan] * 4)._asdict()}
    try:
        data = Path(path).read_bytes()
        row |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        pixels, (width, height) = read_image(data, size, **options)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return None, {**row, "readable": False, "error": reason}
    geometry = packed_geometry(width, height, size, options["aspect"])._asdict()
    return pixels, {**row, "width": width, "height": height, **geometry, "readable": True, "error": ""}


def pack_images(
    paths: Sequence[str | Path],
    size: int,
    target: str | Path,
    workers: int = 1,
    aspect: str = "squash",
    invert: bool | Sequence[bool] = False,
    resample: str = "bilinear",
    detail: float = 1.0,
    depth: str = "full",
    chunk: int = 256,
    max_unreadable: int | float = 0,
    progress: bool = True,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Decode, resize and pack images into one uint8 array on disk; continues where an earlier call was killed.

    Parameters
    ----------
    paths : sequence of N paths
    size : int, side of the packed images in pixels
    target : path of the `.npy` file; the index lies beside it as `<stem>.index.parquet`
    workers : int
        Processes; 1 works in this process. The result does not depend on it.
    aspect, invert, resample, detail, depth : see `read_image`; `invert` may be one flag an image
    chunk : int
        Images between two marks of progress: what a kill can cost, see `packing.fill_array`.
    max_unreadable : int or float
        How many files may be missing or no images: a number (int), or a share of all (float, 0.0 ... 1.0). They are
        black in `pixels`, not `readable` in `index`, and listed in `<stem>.unreadable.csv`; leaving them out is the
        caller's to do. 0: none.
    progress : bool
        Show a tqdm bar: images done, images a second, time left.

    Returns
    -------
    pixels : (N, size, size) uint8 memory map, read only
    index : table of N rows: path, sha256, bytes, width, height (stored), scale_x, scale_y, offset_x, offset_y, readable
        (bool), error (why not, else empty); width and height are 0 and scales and offsets NaN where not readable

    Raises
    ------
    DataError
        More unreadable images than `max_unreadable`: the first are named, and all are in `<stem>.unreadable.csv`. The
        readable ones are kept, and after some files were mended, another call reads those alone.
    FileNotFoundError
        More missing files than `max_unreadable`.
    """
    paths, target = [Path(p) for p in paths], Path(target)
    inverts = [bool(invert)] * len(paths) if isinstance(invert, bool | np.bool_) else [bool(i) for i in invert]
    _check_request(paths, size, target, aspect, resample, depth, inverts)
    allowed = packing.allowed_count(max_unreadable, len(paths))
    stamps = packing.file_stamps(paths, inverts, allowed)
    options = {"aspect": aspect, "resample": resample, "detail": float(detail), "depth": depth}
    key = hashlib.sha256(json.dumps([FORMAT, int(size), options, stamps], default=str).encode()).hexdigest()
    index_path, listing = target.with_suffix(".index.parquet"), target.with_suffix(".unreadable.csv")
    parts = target.with_suffix(".parts")
    index = pd.read_parquet(index_path) if target.exists() and index_path.exists() else pd.DataFrame()
    fresh = index.attrs.get("key") != key
    if fresh:
        index = packing.fill_array(
            _pack_one,
            lambda i: (paths[i], size, {**options, "invert": inverts[i]}),
            stamps,
            int(size),
            parts,
            json.dumps([FORMAT, options]),
            workers,
            chunk,
            progress,
        )
        index.attrs["key"] = key
    unreadable = index[~index["readable"]]
    if len(unreadable):
        write_csv(listing, unreadable[["path", "error"]])
    else:
        listing.unlink(missing_ok=True)
    if len(unreadable) > allowed:
        raise DataError(_unreadable_sentence(unreadable, len(paths), allowed, listing))
    if fresh:
        target.unlink(missing_ok=True)  # never an old array beside a new index
        write_parquet(index_path, index)
        os.replace(parts / packing.ARRAY, target)
    shutil.rmtree(parts, ignore_errors=True)
    return open_packed(target)


def open_packed(target: str | Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Open what `pack_images` wrote: pixels (N, size, size) uint8, a read-only memory map, and its index."""
    target = Path(target)
    for path in (target, target.with_suffix(".index.parquet")):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: pack the images again with pkd_utils.images.pack_images.")
    return np.load(target, mmap_mode="r"), pd.read_parquet(target.with_suffix(".index.parquet"))


def _check_request(paths, size, target, aspect, resample, depth, inverts):
    if not paths:
        raise DataError("There are no images to pack: the list of paths is empty.")
    if size < 1 or int(size) != size:
        raise DataError(f"size must be a whole number of pixels above 0, not {size}.")
    if target.suffix != ".npy":
        raise DataError(f"The packed array is a .npy file, but the target is named {target.name}.")
    for value, known, name in (
        (aspect, ASPECTS, "aspect"),
        (resample, tuple(RESAMPLING), "resample"),
        (depth, ("full", "minmax"), "depth"),
    ):
        if value not in known:
            raise DataError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
    if len(inverts) != len(paths):
        raise DataError(f"invert has {len(inverts)} flags for {len(paths)} images.")


def _unreadable_sentence(unreadable: pd.DataFrame, total: int, allowed: int, listing: Path) -> str:
    first = unreadable.head(20)
    listed = "; ".join(f"{path} ({error})" for path, error in zip(first["path"], first["error"], strict=True))
    more = f"; and {len(unreadable) - 20} more" if len(unreadable) > 20 else ""
    return (
        f"{len(unreadable)} of {total} images cannot be read (max_unreadable allows {allowed}): {listed}{more}. "
        f"All are listed in {listing}; mend those files, or allow as many, then run again: the others are kept."
    )
