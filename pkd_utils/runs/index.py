"""The content of files by size, time and hash: what was hashed once is not read again until it changes.

Hashing 377,110 images takes long, asking for their sizes and times does not. So the SHA-256 of every file is kept with
its size and modification time, one Parquet file a folder: `<data>/.index/` for data, `<runs>/.index/` for runs. A file
that still has both is taken as it was; after `verify_all` it is read all the same. A file that was changed within
moments of being hashed may keep its time (git's "racy" rule), and is hashed again until it has rested.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import translate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pkd_utils.runs import machine, paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import Lock, atomic_path

REST_NS = 2_000_000_000  # ns: a file younger than this when it was hashed is hashed again; FAT keeps 2 s
SAVE_SECONDS = 10.0  # s: a first pass that is killed loses no more
QUIET_BYTES = 2_000_000_000  # bytes: less than this is hashed without a progress bar
verified: list[set[str]] = []  # after `verify_all`: the files that this process has read since
_COLUMNS = ("path", "size", "mtime_ns", "hashed_ns", "sha256")


def verify_all() -> None:
    """From now on this process reads each file once more, whatever its size and time say: `--verify`."""
    verified[:] = [set()]


def hashes(root: Path, patterns: Sequence[str] = ("*",), store: Path | None = None) -> dict[str, str]:
    """SHA-256 of the files of a folder, or of one file.

    Parameters
    ----------
    root : Path
        Folder, or one file.
    patterns : sequence of str
        Which paths below `root` count; `*` also crosses folders. Hidden files and folders never count.
    store : Path, optional
        The Parquet file that keeps the hashes; by default `store_of(root)`.

    Returns
    -------
    dict
        Path relative to `root` -> 64 hex digits, sorted; empty if nothing is there.

    Raises
    ------
    DataError
        A file cannot be read, a link leads nowhere or to a folder that holds it.
    """
    if root.is_file():
        root, patterns = root.parent, (re.sub(r"([*?[])", r"[\1]", root.name),)
    store = store or store_of(root)
    found = dict(walk(root, patterns))
    known = _read(store)
    again = {path for path in found if verified and f"{root}/{path}" not in verified[0]}
    new = [path for path, facts in found.items() if path in again or not _rested(known.get(path), facts)]
    if new:
        with Lock(store.with_suffix(".lock"), f"{root.name}/ is being hashed by another process"):
            known = _read(store)
            new = [path for path in new if path in again or not _rested(known.get(path), found[path])]
            _hash(root, found, new, known, store)
            for seen in verified:
                seen.update(f"{root}/{path}" for path in new)
    return {path: known[path][3] for path in sorted(found)}


def digest(hashed: dict[str, str]) -> str:
    """One SHA-256 of many files: of their paths and hashes."""
    return hashlib.sha256("".join(f"{path} {hashed[path]}\n" for path in sorted(hashed)).encode()).hexdigest()


def store_of(root: Path) -> Path:
    """Where the hashes of a folder are kept: with the runs for runs, else with the data."""
    real, runs = Path(os.path.realpath(root)), Path(os.path.realpath(paths.runs_dir()))
    base = runs if real.is_relative_to(runs) else paths.data_dir()
    return base / ".index" / f"{hashlib.sha256(str(real).encode()).hexdigest()[:16]}.parquet"


def walk(root: Path, patterns: Sequence[str] = ("*",)) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield (path relative to `root`, (size in bytes, mtime in ns)) of every file that counts, links followed."""
    wanted = re.compile("|".join(map(translate, patterns))).match
    starts = [re.split(r"[*?[]", pattern, maxsplit=1)[0] for pattern in patterns]
    waiting = [("", (os.path.realpath(root),))] if root.is_dir() else []
    while waiting:
        folder, above = waiting.pop()
        with _readable(root / folder):
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
            for entry in entries:
                path = folder + entry.name
                if entry.name[0] == ".":
                    continue
                if not entry.is_dir():
                    if wanted(path):
                        facts = entry.stat()
                        yield path, (facts.st_size, facts.st_mtime_ns)
                elif any(start.startswith(path + "/") or f"{path}/".startswith(start) for start in starts):
                    real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
                    if any(f"{one}/".startswith(f"{real}/") for one in above):
                        raise DataError(f"{entry.path} is a link to a folder that holds it: take the link away.")
                    waiting.append((f"{path}/", (*above, real)))


@contextlib.contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = error.filename or path
        raise DataError(f"{name} cannot be read ({error.strerror}): mend it, its link or its rights.") from None


def _rested(entry: tuple[int, int, int, str] | None, facts: tuple[int, int]) -> bool:
    """Whether what the index says of a file holds: same size and time, and hashed well after that time."""
    return entry is not None and entry[:2] == facts and abs(entry[2] - entry[1]) > REST_NS


def _hash(root: Path, found: dict, new: list[str], known: dict, store: Path) -> None:
    """Hash the files `new` into `known`, saved now and then and at the end."""

    def one(path: str) -> tuple[str, int, str]:
        now = time.time_ns()
        with _readable(root / path), open(root / path, "rb") as stream:
            return path, now, hashlib.file_digest(stream, "sha256").hexdigest()

    total = sum(found[path][0] for path in new)
    quiet = total < QUIET_BYTES and len(new) < 50_000
    bar = tqdm(total=total, desc=f"hashing {root.name}", unit="B", unit_scale=True, mininterval=2, disable=quiet)
    saved = time.monotonic()
    with bar, ThreadPoolExecutor(machine.cores()) as pool:
        try:
            for i in range(0, len(new), 2000):
                for path, now, sha in pool.map(one, new[i : i + 2000]):
                    known[path] = (*found[path], now, sha)
                    bar.update(found[path][0])
                    if time.monotonic() - saved > SAVE_SECONDS:
                        _write(store, known)
                        saved = time.monotonic()
        finally:
            _write(store, known)


def _read(store: Path) -> dict[str, tuple[int, int, int, str]]:
    """What the index says: path -> (size, mtime_ns, hashed_ns, sha256); nothing if it is not there or damaged."""
    try:
        table = pq.read_table(store, page_checksum_verification=True)
        path, *rest = (table.column(name).to_pylist() for name in _COLUMNS)
    except (OSError, KeyError, pa.ArrowException):
        return {}
    return dict(zip(path, zip(*rest, strict=True), strict=True))


def _write(store: Path, known: dict[str, tuple[int, int, int, str]]) -> None:
    columns = [list(known), *map(list, zip(*known.values(), strict=True))] if known else [[] for _ in _COLUMNS]
    with atomic_path(store) as temporary:
        pq.write_table(pa.table(dict(zip(_COLUMNS, columns, strict=True))), temporary, write_page_checksum=True)
