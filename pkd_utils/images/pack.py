"""Images decoded and resized once, into one packed uint8 array, so that a kill costs little.

While it is filled, the array lies in the folder `<stem>.parts`, beside marks, one every few seconds: a JSON file with a
row for each image whose pixels are on disk. A row carries the stamp of its file (name, bytes, time of change), so that
another call reads what is in no mark, what has changed since, and what could not be read; no more.
"""

import contextlib
import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from pkd_utils.images.decode import read_image
from pkd_utils.images.geometry import Aspect, Geometry, packed_geometry
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import Parts, hash_params, read_json, write, write_blank
from pkd_utils.runs.workers import results_of

FORMAT = 4  # of index and marks: a change packs anew
BATCH = 16  # files that a worker takes at once, at most
MARK_SECONDS = 5.0  # between two marks: with the batches under way, what a kill can cost
ARRAY = "pixels.npy"


@checked
def pack_images(
    paths: Annotated[Sequence[str | Path], Field(min_length=1)],
    size: Annotated[int, Field(ge=1)],
    target: str | Path,
    workers: Annotated[int, Field(ge=1)] = 1,
    aspect: Aspect = "squash",
    max_unreadable: Annotated[int, Field(ge=0)] = 0,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Decode, resize and pack images into one uint8 array on disk; continues where an earlier call was killed.

    Parameters
    ----------
    paths : sequence of N paths
    size, aspect : see `read_image`
    target : path of the `.npy` file; the index lies beside it as `<stem>.index.parquet`
    workers : int
        Processes; 1 works in this process. The result does not depend on it.
    max_unreadable : int
        How many files may be missing or no images. They are black in `pixels`, not `readable` in `index`, and listed in
        `<stem>.unreadable.csv`; leaving them out is the caller's to do. More are refused; after some were mended,
        another call reads those alone.

    Returns
    -------
    pixels : (N, size, size) uint8 memory map, read only
    index : table of N rows: path, sha256, bytes, width, height (stored), scale_x, scale_y, offset_x, offset_y, readable
        (bool), error (why not, else empty); width and height are 0 and scales and offsets NaN where not readable
    """
    paths, target = [Path(path) for path in paths], Path(target)
    stamps = _file_stamps(paths, max_unreadable)
    options = {"size": size, "aspect": aspect}
    key = hash_params([FORMAT, options, stamps])
    index_path, listing = target.with_suffix(".index.parquet"), target.with_suffix(".unreadable.csv")
    parts = Parts(target.with_suffix(".parts"), [FORMAT, options, len(paths)])
    index = pd.read_parquet(index_path) if target.exists() and index_path.exists() else pd.DataFrame()
    fresh = index.attrs.get("key") != key
    if fresh:
        index = _fill(parts, paths, stamps, options, workers)
        index.attrs["key"] = key
    unreadable = index[~index["readable"]]
    if len(unreadable):
        write(listing, unreadable[["path", "error"]])
    else:
        listing.unlink(missing_ok=True)
    if len(unreadable) > max_unreadable:
        named = "; ".join(f"{row.path} ({row.error})" for row in unreadable.head(20).itertuples())
        raise DataError(
            f"{len(unreadable)} of {len(paths)} images cannot be read (max_unreadable allows {max_unreadable}): {named}"
            f"{' and more' if len(unreadable) > 20 else ''}. All are listed in {listing}; mend those files, or allow "
            "as many, then run again: the others are kept."
        )
    if fresh:
        target.unlink(missing_ok=True)  # never an old array beside a new index
        write(index_path, index)
        os.replace(parts.path(ARRAY), target)
    parts.remove()
    return np.load(target, mmap_mode="r"), pd.read_parquet(index_path)


def _file_stamps(paths: Sequence[Path], allowed: int) -> list[str]:
    """Identity of every file as it is on disk: name, bytes, time of change; at most `allowed` may be missing."""
    stamps, missing = [], []
    for path in paths:
        try:
            stat = path.stat()
            stamps.append(f"{path}|{stat.st_size}|{stat.st_mtime_ns}")
        except (FileNotFoundError, NotADirectoryError):
            missing.append(str(path))
            stamps.append(f"{path}|missing")
    if len(missing) > allowed:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} image files do not exist, the first are {', '.join(missing[:5])}; "
            "check the data root."
        )
    return stamps


def _fill(parts: Parts, paths: Sequence[Path], stamps: Sequence[str], options: dict, workers: int) -> pd.DataFrame:
    """Fill the array of `parts` with every image that no mark vouches for; the index of all."""
    if ARRAY not in parts:
        parts.remove()
        with parts.write(ARRAY, in_place=True) as file:
            shape = (len(paths), options["size"], options["size"])
            write_blank(file, np.dtype(np.uint8), shape)
    marks = [name for name in parts.names() if name != ARRAY]
    # In the order of the calls that wrote them: the last word on a file counts.
    rows = {row["position"]: row for mark in marks for row in read_json(parts.path(mark))}
    rows = {i: row for i, row in rows.items() if row["stamp"] == stamps[i] and row["readable"]}
    packed = np.load(parts.path(ARRAY), mmap_mode="r")
    rows = {i: row for i, row in rows.items() if zlib.crc32(packed[i]) == row["crc"]}

    todo = [i for i in range(len(paths)) if i not in rows]
    step = max(1, min(BATCH, len(todo) // (4 * workers)))  # of few files, some for every core
    files = [(i, str(paths[i]), stamps[i]) for i in todo]
    jobs = [(parts.path(ARRAY), files[start : start + step], options) for start in range(0, len(files), step)]
    mark = int(Path(marks[-1]).stem) + 1 if marks else 0
    unmarked, last = [], time.monotonic()
    with (
        open(parts.path(ARRAY), "r+b") as array,
        # A long average: batches arrive in bursts, and the time left should not jump with them.
        tqdm(total=len(paths), initial=len(paths) - len(todo), desc="packing", unit="img", smoothing=0.02) as bar,
        contextlib.closing(results_of(_pack_batch, jobs, workers)) as batches,
    ):
        try:
            for batch in batches:
                rows |= {row["position"]: row for row in batch}
                unmarked += batch
                bar.update(len(batch))
                if time.monotonic() - last > MARK_SECONDS:
                    _mark(parts, mark, array, unmarked)
                    mark, unmarked, last = mark + 1, [], time.monotonic()
        finally:
            _mark(parts, mark, array, unmarked)
    return pd.DataFrame([rows[i] for i in range(len(paths))]).drop(columns=["position", "stamp", "crc"])


def _mark(parts: Parts, number: int, array: BinaryIO, rows: list[dict]) -> None:
    """Write down what is done: pixels first, then the mark that says they are there."""
    if rows:
        os.fsync(array.fileno())
        with parts.write(f"{number:08d}.json") as file:
            file.write_text(json.dumps(rows))


def _pack_batch(array: Path, files: Sequence[tuple[int, str, str]], options: dict) -> list[dict]:
    """Put the pixels of some files where they belong; only the rows travel between processes."""
    offset, length, rows = np.load(array, mmap_mode="r").offset, options["size"] ** 2, []
    with open(array, "r+b") as stream:
        for position, path, stamp in files:
            pixels, row = _pack_one(path, **options)
            pixels = bytes(length) if pixels is None else pixels.tobytes()
            stream.seek(offset + position * length)
            stream.write(pixels)
            rows.append({"position": position, "stamp": stamp, "crc": zlib.crc32(pixels), **row})
    return rows


def _pack_one(path: str, size: int, aspect: Aspect) -> tuple[np.ndarray | None, dict]:
    """Read, hash, decode and resize one file; a failure is returned, not raised, so that all can be listed."""
    row = {"path": path, "sha256": "", "bytes": 0, "width": 0, "height": 0, **Geometry(*[math.nan] * 4)._asdict()}
    try:
        data = Path(path).read_bytes()
        row |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        pixels, (width, height) = read_image(data, size, aspect)
    except Exception as error:  # a file that is no image fails in many ways
        return None, row | {"readable": False, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    geometry = packed_geometry(width, height, size, aspect)._asdict()
    return pixels, {**row, "width": width, "height": height, **geometry, "readable": True, "error": ""}
