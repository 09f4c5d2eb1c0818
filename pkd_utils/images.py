"""Decode and resize every image once, into one packed uint8 array.

Packed pixels are related to stored pixels by `packed = scale * stored + offset` along each axis; the four numbers stand
in the index beside every image, and `transform_boxes` and `transform_mask` apply them. Coordinates are pixel edges:
a box (x0, y0, x1, y1) has exclusive x1, y1, and an image of width W spans 0 ... W.
"""

import hashlib
import io
import json
import math
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from pkd_utils.errors import DataError
from pkd_utils.pixel_depth import eight_bit_range
from pkd_utils.runs import read_json, write_json, write_parquet

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
        Anything PIL reads. Colour becomes luma (ITU-R 601), transparency is ignored, EXIF orientation is not applied
        (boxes refer to stored pixels).
    size : int, side of the result in pixels
    aspect : {"squash", "pad", "crop"}, see `packed_geometry`
    invert : bool
        True for MONOCHROME1-like images, where high values are dark.
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
        Whatever PIL says of a file that is not an image.
    """
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        stored = image.size
        if image.format == "JPEG" and math.isfinite(detail):
            geometry = packed_geometry(*stored, size, aspect)
            # draft() keeps both sides at least as large as asked for.
            image.draft(
                "L", (round(geometry.scale_x * stored[0] * detail), round(geometry.scale_y * stored[1] * detail))
            )
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            grey = Image.fromarray(eight_bit_range(np.asarray(image), depth))
        else:
            grey = image.convert("RGB").convert("L") if image.mode in ("P", "PA", "CMYK") else image.convert("L")
    grey = _resize(grey, stored, size, aspect, RESAMPLING[resample])
    pixels = np.asarray(grey)
    if pixels.dtype != np.uint8:
        pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if invert:
        pixels = 255 - pixels
        if aspect == "pad":  # padding stays black
            inner = np.zeros_like(pixels)
            rows, columns = _inner(stored, size)
            inner[rows, columns] = pixels[rows, columns]
            pixels = inner
    return pixels, stored


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


def _leave_with_parent(parent: int) -> None:
    """End a worker whose parent was killed: nothing else would tell it."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _pack_one(task) -> tuple[np.ndarray | None, dict]:
    """Read, hash, decode and resize one file; a failure is returned, not raised, so that all can be listed."""
    path, size, options = task
    try:
        data = Path(path).read_bytes()
        pixels, (width, height) = read_image(data, size, **options)
    except Exception as error:
        return None, {"path": str(path), "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    geometry = packed_geometry(width, height, size, options["aspect"])
    row = {"path": str(path), "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return pixels, {**row, "width": width, "height": height, **geometry._asdict()}


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
        Images between two marks of progress: what a kill can cost.
    progress : bool
        Show a tqdm bar.

    Returns
    -------
    pixels : (N, size, size) uint8 memory map, read only
    index : table of N rows: path, sha256, bytes, width, height (stored), scale_x, scale_y, offset_x, offset_y

    Raises
    ------
    DataError
        Images that cannot be read, all named in one sentence; the readable ones are kept for the next call.
    FileNotFoundError
        A path that does not exist.
    """
    paths, target = [Path(p) for p in paths], Path(target)
    inverts = [bool(invert)] * len(paths) if isinstance(invert, bool | np.bool_) else [bool(i) for i in invert]
    _check_request(paths, size, target, aspect, resample, depth, inverts)
    options = {"aspect": aspect, "resample": resample, "detail": float(detail), "depth": depth}
    key = _request_key(paths, size, options, inverts)
    index_path, marks = target.with_suffix(".index.parquet"), target.with_suffix(".parts")
    if target.exists() and index_path.exists() and pd.read_parquet(index_path).attrs.get("key") == key:
        return open_packed(target)

    if not (marks / "key.json").exists() or read_json(marks / "key.json") != key:
        shutil.rmtree(marks, ignore_errors=True)
        marks.mkdir(parents=True)
        np.lib.format.open_memmap(marks / "pixels.npy", "w+", np.uint8, (len(paths), size, size)).flush()
        write_json(marks / "key.json", key)
    pixels = np.lib.format.open_memmap(marks / "pixels.npy", "r+")
    starts = range(0, len(paths), chunk)
    todo = [s for s in starts if not (marks / f"{s:09d}.json").exists()]
    unreadable = []
    pool = ProcessPoolExecutor(workers, _context(), _leave_with_parent, (os.getpid(),)) if workers > 1 else None
    try:
        done = sum(min(chunk, len(paths) - s) for s in starts if s not in set(todo))
        with tqdm(total=len(paths), initial=done, desc="packing", unit="img", disable=not progress) as bar:
            for start in todo:
                tasks = [
                    (paths[i], size, {**options, "invert": inverts[i]})
                    for i in range(start, min(start + chunk, len(paths)))
                ]
                results = pool.map(_pack_one, tasks, chunksize=4) if pool else map(_pack_one, tasks)
                rows = []
                for i, (image, row) in enumerate(results, start):
                    if image is not None:
                        pixels[i] = image
                    rows.append(row)
                    bar.update()
                bad = [row for row in rows if "error" in row]
                unreadable += bad
                if not bad:  # pixels first, then the mark that says they are there
                    pixels.flush()
                    write_json(marks / f"{start:09d}.json", rows)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    if unreadable:
        raise DataError(_unreadable_sentence(unreadable, len(paths)))
    rows = [row for s in starts for row in read_json(marks / f"{s:09d}.json")]
    index = pd.DataFrame(rows)
    index.attrs["key"] = key
    target.unlink(missing_ok=True)  # never an old array beside a new index
    write_parquet(index_path, index)
    os.replace(marks / "pixels.npy", target)
    shutil.rmtree(marks)
    return open_packed(target)


def open_packed(target: str | Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Open what `pack_images` wrote: pixels (N, size, size) uint8, a read-only memory map, and its index."""
    target = Path(target)
    for path in (target, target.with_suffix(".index.parquet")):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: pack the images again with pkd_utils.images.pack_images.")
    return np.load(target, mmap_mode="r"), pd.read_parquet(target.with_suffix(".index.parquet"))


def _context():
    # fork starts in milliseconds where spawn would import torch once a worker; the workers use PIL and NumPy alone.
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


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
    missing = [str(p) for p in paths if not p.exists()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} image files do not exist: {', '.join(missing[:5])}{more}; "
            "check the data root."
        )


def _request_key(paths, size, options, inverts) -> str:
    """Identity of a request: the files as they are on disk (name, bytes, time of change) and every option."""
    digest = hashlib.sha256(json.dumps([int(size), options, inverts], default=str).encode())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _unreadable_sentence(unreadable, total):
    listed = "; ".join(f"{row['path']} ({row['error']})" for row in unreadable[:20])
    more = f"; and {len(unreadable) - 20} more" if len(unreadable) > 20 else ""
    return (
        f"{len(unreadable)} of {total} images cannot be read: {listed}{more}. "
        "Mend those files or leave their rows out, then run again: the others are kept."
    )
