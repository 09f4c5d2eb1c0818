"""Images decoded and resized once, into one packed uint8 array."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pkd_utils.images import filling
from pkd_utils.images.decode import RESAMPLING, read_image
from pkd_utils.images.geometry import ASPECTS, Geometry, packed_geometry
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import write_csv, write_parquet

FORMAT = 2  # of index and marks: a change packs anew


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
        Images between two marks of progress: what a kill can cost, see `filling.fill_array`.
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
    allowed = filling.allowed_count(max_unreadable, len(paths))
    stamps = filling.file_stamps(paths, inverts, allowed)
    options = {"aspect": aspect, "resample": resample, "detail": float(detail), "depth": depth}
    key = hashlib.sha256(json.dumps([FORMAT, int(size), options, stamps], default=str).encode()).hexdigest()
    index_path, listing = target.with_suffix(".index.parquet"), target.with_suffix(".unreadable.csv")
    parts = target.with_suffix(".parts")
    index = pd.read_parquet(index_path) if target.exists() and index_path.exists() else pd.DataFrame()
    fresh = index.attrs.get("key") != key
    if fresh:
        index = filling.fill_array(
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
        os.replace(parts / filling.ARRAY, target)
    shutil.rmtree(parts, ignore_errors=True)
    return open_packed(target)


def open_packed(target: str | Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Open what `pack_images` wrote: pixels (N, size, size) uint8, a read-only memory map, and its index."""
    target = Path(target)
    for path in (target, target.with_suffix(".index.parquet")):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: pack the images again with pkd_utils.images.pack.pack_images.")
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
