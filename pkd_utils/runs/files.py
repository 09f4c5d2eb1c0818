"""Files written whole or not at all, and their hashes."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pkd_utils.runs.errors import DataError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place, whole, when the block ends without an error.

    It may become a file or a folder; missing parent folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last, because writers choose a format by it.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with full_disk_told(path.parent):
            yield temporary
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Say in one sentence that the disk of `folder` is full where a library says it in its own words."""
    try:
        yield
    except Exception as error:  # OSError, or what safetensors and numpy make of it
        said = [os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "requested and"]
        if isinstance(error, DataError) or not any(words in str(error) for words in said):
            raise
        what = "make room, or name another in PKD_RUNS, and start again; what was done is kept."
        raise DataError(f"The disk of {folder} is full: {what}") from error


def reserve(stream: BinaryIO, size: int, folder: Path) -> None:
    """Take so many bytes of the disk of `folder` for an open file that will be written to through a map.

    A map's page that finds the disk full ends the process without a word; this is DataError before.
    """
    if hasattr(os, "posix_fallocate"):  # Linux; elsewhere the file stays sparse
        with full_disk_told(folder):
            os.posix_fallocate(stream.fileno(), 0, size)


def write_blank(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Write an `.npy` file of zeros that is to be filled later, and has its place on the disk."""
    np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
    with open(path, "r+b") as stream:
        reserve(stream, path.stat().st_size, path.parent)


@contextlib.contextmanager
def sealed(path: str | Path, in_place: bool = False) -> Iterator[Path]:
    """As `atomic_path`, for work that may be taken up again: with a checksum in a hidden file beside it.

    What the file held before is kept as `.previous-<name>`, until `unseal` removes all three. SHA-256 costs a second
    for 0.4 to 2 GB. Of a file that will be changed `in_place` only the size is sealed.
    """
    path = Path(path)
    seal, previous = _beside(path)
    with atomic_path(path) as temporary:
        yield temporary
        kept = seal.read_text().split()[:1] if seal.exists() else []
        with atomic_path(seal) as file:  # vouches for both, so that a kill from here on leaves one of them whole
            file.write_text("\n".join([_sum(temporary, in_place), *kept]))
        if path.exists():
            previous.unlink(missing_ok=True)
            try:
                os.link(path, previous)  # so that the file is there at every moment
            except OSError:  # where the disk knows no links
                os.replace(path, previous)


def last_whole(path: str | Path) -> Path | None:
    """The file that `sealed` wrote, or what it held before, the first that is whole; of a damaged one a warning."""
    path = Path(path)
    seal, previous = _beside(path)
    sums = seal.read_text().split() if seal.exists() else []
    for file in (path, previous):
        if file.exists() and (not sums or _sum(file, True) in sums or _sum(file) in sums):
            return file
        if file.exists():
            warnings.warn(f"{file} is damaged (its checksum is another): work goes on from before it.", stacklevel=3)
    return None


def unseal(path: str | Path) -> None:
    """Remove what `sealed` wrote: the work is done."""
    for file in (Path(path), *_beside(Path(path))):
        file.unlink(missing_ok=True)


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.sum"), path.with_name(f".previous-{path.name}")


def _sum(path: Path, size: bool = False) -> str:
    return f"bytes:{path.stat().st_size}" if size else file_sha256(path)


class Lock:
    """The one lock of a name, held from its making to `release`, the end of a `with`, or that of the process.

    Whoever comes second says `busy` and waits. The lock is the kernel's (flock), so that of a dead process holds nobody
    up; its file goes with it.
    """

    def __init__(self, path: str | Path, busy: str):
        self.path, self._process, self._stream = Path(path), os.getpid(), None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            self._stream = open(self.path, "a+")  # noqa: SIM115
            try:
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._stream.seek(0)
                print(f"{busy} ({self._stream.read()}); waiting for it.", file=sys.stderr, flush=True)
                fcntl.flock(self._stream, fcntl.LOCK_EX)
            # Whoever held it before took the file away: then this is the lock of nobody.
            if self.path.exists() and os.path.samestat(os.fstat(self._stream.fileno()), self.path.stat()):
                break
            self._stream.close()
        self._stream.truncate(0)
        self._stream.write(f"process {os.getpid()} on {platform.node()}")
        self._stream.flush()

    def release(self) -> None:
        """Let the next one in."""
        if self._stream and not self._stream.closed and os.getpid() == self._process:
            self.path.unlink(missing_ok=True)
            fcntl.flock(self._stream, fcntl.LOCK_UN)  # for workers too, which hold it open
            self._stream.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()

    def __del__(self):
        self.release()


def _plain(value: Any) -> Any:
    """Turn numpy and path values into what JSON knows; NaN and infinities become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; numpy values become plain, NaN becomes null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read one JSON file."""
    return json.loads(Path(path).read_text())


def write(path: str | Path, value: Any) -> None:
    """Write a value in the format that the file's suffix names, whole or not at all.

    `.parquet` and `.csv` are for a table (CSV without its index), `.json` for anything plain, `.npy` for an array,
    `.npz` for a dict of arrays, which are compressed.
    """
    path = Path(path)
    writers = {
        ".parquet": lambda file: value.to_parquet(file),
        ".csv": lambda file: value.to_csv(file, index=False),
        ".json": lambda file: write_json(file, value),
        ".npy": lambda file: np.save(file, value),
        ".npz": lambda file: np.savez_compressed(file, **value),
    }
    if path.suffix not in writers:
        raise DataError(f"{path.name}: end the name in one of {', '.join(writers)}, which says how it is written.")
    with atomic_path(path) as temporary:
        writers[path.suffix](temporary)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_params(parameters: Any) -> str:
    """SHA-256 of parameters, independent of the order of names."""
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Parts:
    """Named parts of a long piece of work, each written whole, so that a killed run continues where it was.

    A part that was damaged meanwhile is thrown away, with a warning that names it.

    Parameters
    ----------
    folder : str or Path
        Where the parts lie until the work is done; made when the first part is written.
    identity : JSON-like
        What the work is made of: sizes, hashes, options. Parts that another identity left are thrown away.
    """

    def __init__(self, folder: str | Path, identity: Any):
        self.folder = Path(folder)
        self.identity = json.loads(json.dumps(_plain(identity)))
        mark = self.folder / "identity.json"
        if self.folder.exists() and not (mark.exists() and read_json(mark) == self.identity):
            shutil.rmtree(self.folder)
        before = {path.name.removeprefix(".previous-") for path in self.folder.glob(".previous-*")}
        for path in map(self.path, before.union(self.names())):
            whole = last_whole(path)
            if whole is None:
                unseal(path)
            elif whole != path:
                os.replace(whole, path)

    def path(self, name: str) -> Path:
        """Where the part of this name lies, or would lie."""
        return self.folder / name

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def names(self) -> list[str]:
        """Names of the parts that are whole, sorted."""
        if not self.folder.exists():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.name != "identity.json" and p.name[0] != ".")

    @contextlib.contextmanager
    def write(self, name: str, in_place: bool = False) -> Iterator[Path]:
        """Yield a temporary path that becomes the part, whole, when the block ends without an error; see `sealed`."""
        if not (self.folder / "identity.json").exists():
            write_json(self.folder / "identity.json", self.identity)
        with sealed(self.path(name), in_place) as temporary:
            yield temporary

    def remove(self) -> None:
        """Throw all parts away: the work is done and its result lies elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)
