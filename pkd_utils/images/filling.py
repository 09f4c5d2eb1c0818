"""Fill one array on disk from many files with all cores, so that a kill costs little; `pack.pack_images` uses it.

While it is being filled, the array lies in a folder with one mark a chunk of files: a JSON file with a row a file,
written after the pixels of the whole chunk are on disk. A row carries the stamp of its file (name, bytes, time of
change), so that another call redoes what is not marked, what has changed since, and what could not be read; no more.
"""

import contextlib
import math
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import read_json, write_json

BATCH = 8  # files a worker takes at once, at most
IN_FLIGHT = 8  # batches under way for each worker
ARRAY = "pixels.npy"


def fill_array(
    read: Callable[[Any], tuple[np.ndarray | None, dict]],
    task_of: Callable[[int], Any],
    stamps: Sequence[str],
    side: int,
    folder: str | Path,
    key: str,
    workers: int = 1,
    chunk: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """Fill `<folder>/pixels.npy` (N, side, side) uint8 and return a table of its rows; continues an interrupted call.

    Parameters
    ----------
    read : function
        Takes a task; returns the pixels, (side, side) uint8, and a row for the table, or None and a row with a text
        under `error`: then the pixels are zero. With several workers it and the tasks must be picklable.
    task_of : function
        Task of a position, 0 ... N - 1.
    stamps : sequence of N str
        What a file is: a marked file whose stamp is another is read again.
    side : int, pixels
    folder : path
        Array and marks; made where it is missing.
    key : str
        What all files share. A folder with another key (or number of files, side, or chunk) is begun anew.
    workers : int
        Processes; 1 works in this process.
    chunk : int
        Files between two marks: with the `8 * 8` files a worker that may be under way, what a kill can cost.
    progress : bool
        Show a tqdm bar: files done, files a second in this call, time left.

    Returns
    -------
    DataFrame
        The N rows that `read` gave, in order.

    Raises
    ------
    RuntimeError
        A worker was ended from outside; what it had marked is kept.
    """
    folder = Path(folder)
    key = {"key": key, "files": len(stamps), "side": side, "chunk": chunk}
    whole = (folder / "key.json").exists() and (folder / ARRAY).exists()
    if not whole or read_json(folder / "key.json") != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        np.lib.format.open_memmap(folder / ARRAY, "w+", np.uint8, (len(stamps), side, side)).flush()
        write_json(folder / "key.json", key)
    array = np.load(folder / ARRAY, mmap_mode="r")
    # Processes write with seek and write, not through a map: a map's pages would count as their resident memory.
    place = (folder / ARRAY, array.offset, side * side)
    del array

    chunks = [_Chunk(folder, start, stamps[start : start + chunk]) for start in range(0, len(stamps), chunk)]
    left = sum(len(part.todo) for part in chunks)
    batch_size = max(1, min(BATCH, left // (4 * workers)))  # few files: some for every core
    batches = (part.todo[i : i + batch_size] for part in chunks for i in range(0, len(part.todo), batch_size))
    jobs = ((read, [task_of(position) for position in batch], batch, *place) for batch in batches)
    with (
        open(folder / ARRAY, "r+b") as file,
        # A long average: batches arrive in bursts, and the time left should not jump with them.
        tqdm(total=len(stamps), initial=len(stamps) - left, desc="packing", unit="img", smoothing=0.02,
             disable=not progress) as bar,
        contextlib.closing(_in_order(jobs, workers)) as results,
    ):  # fmt: skip
        for part in chunks:
            rows = []
            while len(rows) < len(part.todo):
                batch = next(results)
                rows += batch
                bar.update(len(batch))
            if rows:  # pixels first, then the mark that says they are there
                os.fsync(file.fileno())
                part.mark(rows)
    return pd.concat([part.table() for part in chunks], ignore_index=True)


def allowed_count(max_unreadable: int | float, total: int) -> int:
    """How many of `total` files may be unreadable: `max_unreadable` itself (int), or that share of them (float).

    Raises
    ------
    DataError
        Neither a number from 0 nor a share from 0.0 to 1.0.
    """
    share = isinstance(max_unreadable, float)
    number = isinstance(max_unreadable, int | float | np.integer) and not isinstance(max_unreadable, bool)
    if not number or not 0 <= max_unreadable <= (1 if share else math.inf):
        raise DataError(
            "max_unreadable must be a number of images (0, 1, 2 ...) or a share of them (0.0 to 1.0), not "
            f"{max_unreadable!r}."
        )
    return math.floor(max_unreadable * total) if share else int(max_unreadable)


def file_stamps(paths: Sequence[Path], inverts: Sequence[bool], allowed: int = 0) -> list[str]:
    """Identity of every file as it is on disk (name, bytes, time of change) and is read, from one look at each.

    Raises
    ------
    FileNotFoundError
        More than `allowed` of them do not exist.
    """
    stamps, missing = [], []
    for path, invert in zip(paths, inverts, strict=True):
        try:
            stat = os.stat(path)
            stamps.append(f"{path}|{stat.st_size}|{stat.st_mtime_ns}|{int(invert)}")
        except (FileNotFoundError, NotADirectoryError):
            missing.append(str(path))
            stamps.append(f"{path}|missing")
    if len(missing) > allowed:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} image files do not exist: {', '.join(missing[:5])}{more}; "
            "check the data root."
        )
    return stamps


class _Chunk:
    """Consecutive files that share a mark."""

    def __init__(self, folder: Path, start: int, stamps: Sequence[str]):
        self.file, self.start, self.stamps = folder / f"{start:09d}.json", start, stamps
        self.todo = [start + i for i, row in enumerate(self._kept()) if row is None]

    def _kept(self) -> list[dict | None]:
        """Rows of the mark that still hold."""
        rows = read_json(self.file) if self.file.exists() else [None] * len(self.stamps)
        return [
            row if row and row["stamp"] == stamp and not row["error"] else None
            for row, stamp in zip(rows, self.stamps, strict=True)
        ]

    def mark(self, rows: list[dict]) -> None:
        """Write the mark: what was kept, and the new rows of `todo`."""
        merged = self._kept()
        for position, row in zip(self.todo, rows, strict=True):
            i = position - self.start
            merged[i] = {**row, "stamp": self.stamps[i]}
        write_json(self.file, merged)

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(read_json(self.file)).drop(columns="stamp")


def _fill_batch(read, tasks, positions, file: Path, offset: int, length: int) -> list[dict]:
    """Read some files and put their pixels where they belong; only the rows travel between processes."""
    rows = []
    with open(file, "r+b") as stream:
        for task, position in zip(tasks, positions, strict=True):
            pixels, row = read(task)
            stream.seek(offset + position * length)
            stream.write(bytes(length) if pixels is None else pixels.tobytes())
            rows.append(row)
    return rows


def _in_order(jobs: Iterable[tuple], workers: int) -> Iterator[list[dict]]:
    """Results of `_fill_batch` in the jobs' order, with enough jobs under way that no core waits for another."""
    if workers == 1:
        yield from (_fill_batch(*job) for job in jobs)
        return
    pool = ProcessPoolExecutor(workers, _context(), _leave_with_parent, (os.getpid(),))
    waiting = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(_fill_batch, *job))
            if len(waiting) == IN_FLIGHT * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise RuntimeError(
            f"One of {workers} worker processes was ended from outside, perhaps for want of memory; run again with "
            "fewer workers: it continues where it was."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _context():
    # fork starts in milliseconds where spawn would import torch once a worker; the workers use PIL and NumPy alone.
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def _leave_with_parent(parent: int) -> None:
    """End a worker whose parent was killed: nothing else would tell it."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
