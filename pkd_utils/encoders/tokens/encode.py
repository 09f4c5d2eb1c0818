"""Run frozen encoders over images and reports once and keep what they produce: see `tokens.stored` for reading it.

Work is done in `<folder>.partial`, marked every few seconds, continued after a kill to the same bytes and renamed last;
what another identity left there is thrown away. What identifies a store (encoder with its weights, images by content,
crops, storage) stands in its `store.json`; a finished store of another identity is refused, never overwritten.
"""

import os
import shutil
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pkd_utils.encoders.facts import known
from pkd_utils.encoders.tokens.stored import TextStore, TokenStore, store_facts
from pkd_utils.encoders.tokens.views import CROPS, Crops, Pipeline, bar, check_readable, list_images, storage_dtype
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import Parts, atomic_path, hash_params, read_json, write, write_blank, write_json

MARK_SECONDS = 2.0
"""Seconds between two marks of progress: what a kill can cost, beside the batch under way."""


@dataclass(frozen=True)
class Estimate:
    """What encoding will cost: bytes on disk, and seconds by a timed probe."""

    images: int
    views: int
    bytes: int
    seconds: float

    def fits(self, limit_gib: float) -> bool:
        """Whether the store stays below `limit_gib` (0: no limit)."""
        return not limit_gib or self.bytes <= limit_gib * 2**30

    def mode(self, crops: str, limit_gib: float) -> str:
        """How tokens of crops that are "kept" or "fresh" are had, "stored" or "live".

        Crops to be kept that do not fit are refused, not made fresh: encoders that are compared must have seen alike.
        """
        if crops == "kept" and not self.fits(limit_gib):
            raise DataError(
                f"{self.images} images x ({self.views} + 1) views need {self.bytes / 2**30:.1f} GiB, above limit_gib "
                f"{limit_gib:g}: raise it, or give every encoder of the comparison fewer `views`, or crops: fresh."
            )
        return known({"kept": "stored", "fresh": "live"}, crops, "kind of crops")

    def __str__(self) -> str:
        return (
            f"{self.images} images x ({self.views} + 1) views: {self.bytes / 2**30:.2f} GiB, about "
            f"{self.seconds / 60:.1f} minutes ({self.images / self.seconds:.1f} images/s, "
            f"{self.images * (self.views + 1) / self.seconds:.1f} views/s)"
        )


def estimate(
    encoder, image_ids, paths, views: int = 2, crops: Crops = CROPS, batch_size: int = 32, workers: int = 1,
    storage: str = "float16",
) -> Estimate:  # fmt: skip
    """Time two batches, after one that warms up, and say what all would take; parameters as in `encode_images`."""
    line = Pipeline(encoder, list_images(image_ids, paths), crops, batch_size, workers, storage)
    count = len(line.files)
    # Three batches, but of few images no more than about a third.
    together = min(max(1, batch_size // (views + 1)), count // 9 + 1)
    probe = replace(line, files=[line.files[i % count] for i in range(3 * together)], batch_size=together * (views + 1))
    batches = _encode(probe, views)
    next(batches)
    began = time.perf_counter()
    for _ in batches:
        pass
    seconds = (time.perf_counter() - began) / (2 * together) * count
    return Estimate(count, views, _bytes(line, views), seconds)


def encode_images(
    encoder,
    image_ids: Sequence[str],
    paths: Sequence[str | Path],
    target: str | Path,
    views: int = 2,
    crops: Crops = CROPS,
    batch_size: int = 32,
    workers: int = 1,
    storage: str = "float16",
) -> TokenStore:
    """Run a frozen encoder once per image and view and keep its tokens; continues where an earlier call was killed.

    Parameters
    ----------
    encoder, crops, batch_size, workers, storage : see `views.Pipeline`
    image_ids, paths : sequences of length M
    target : folder of the store; work happens in `<target>.partial`
    views : int
        K augmented views beside the clean one; not stated in the paper, which crops afresh every epoch (`LiveTokens`).

    Raises
    ------
    DataError
        An image that cannot be read, values that `storage` cannot hold, too little disk space, or a target that holds
        something else (other weights, other images ...).
    FileNotFoundError
        Image files that do not exist.
    """
    line, target = Pipeline(encoder, list_images(image_ids, paths), crops, batch_size, workers, storage), Path(target)
    count, has_cls = len(line.files), encoder.facts.class_token
    index = pd.DataFrame({"image_id": [file.image_id for file in line.files]})
    index["sha256"] = list(bar(line.hashes(), count, "hashing"))
    key = {
        "encoder": encoder.identity,
        "images": hash_params(index.values.tolist()),
        "views": views,
        "crops": asdict(crops) if views else {},
        "storage": storage,
    }
    if _already_there(target, key):
        return TokenStore(target)
    parts = Parts(target.with_name(target.name + ".partial"), key)
    shapes = {"tokens.npy": (encoder.grid[0] * encoder.grid[1], encoder.width)}
    shapes |= {"cls.npy": (encoder.width,)} if has_cls else {}
    needed = _bytes(line, views)
    if any(name not in parts for name in (*shapes, "progress.json")):
        _check_space(target, needed)
        check_readable(line.files, workers)
        for name, shape in shapes.items():
            with parts.write(name, in_place=True) as temporary:
                # NumPy has no bfloat16, so that is kept as the same 16 bits under the name int16.
                dtype = np.dtype("int16" if storage == "bfloat16" else storage)
                write_blank(temporary, dtype, (views + 1, count, *shape))
        _mark(parts, [])
    arrays = [np.load(parts.path(name), mmap_mode="r+") for name in shapes]
    done, marks = 0, []  # of each mark: images that were done, checksum of what came with them
    for until, checksum in read_json(parts.path("progress.json"))["marks"]:
        if _checksum(arrays, done, until) != checksum:
            warnings.warn(f"{parts.folder}: tokens from image {done} on are damaged and made anew.", stacklevel=2)
            break
        done, marks = until, [*marks, [until, checksum]]
    first = done
    began = marked = time.perf_counter()
    with bar(None, count, "encoding", done) as shown:
        for made in _encode(line, views, done):
            some = made[0].shape[1]
            for array, values in zip(arrays, made, strict=True):
                bits = values.contiguous().view(torch.int16) if storage == "bfloat16" else values
                array[:, done : done + some] = bits.numpy()
            done += some
            shown.update(some)
            if time.perf_counter() - marked >= MARK_SECONDS or done == count:
                for array in arrays:  # tokens first, then the mark that says they are there
                    array.flush()
                marks.append([done, _checksum(arrays, marks[-1][0] if marks else 0, done)])
                _mark(parts, marks)
                marked = time.perf_counter()
    del arrays
    write(parts.path("index.parquet"), index)
    facts = {
        "encoder": encoder.facts.name, "feature": encoder.feature.what, "grid": encoder.grid, "width": encoder.width,
        "input_size": encoder.input_size, "preprocessing": str(encoder.preprocessing), "views": views,
        "has_cls": has_cls, "storage": storage, "images": count, "bytes": needed,
        "seconds_of_last_session": time.perf_counter() - began, "images_of_last_session": count - first,
    }  # fmt: skip
    _finish(parts.folder, target, facts, key)
    return TokenStore(target)


def encode_texts(
    encoder,
    ids: Sequence[str],
    texts: Sequence[str],
    target: str | Path,
    longest: int | None = None,
    on_long: str = "error",
    batch_size: int = 32,
) -> TextStore:
    """Run a frozen text encoder once per report and keep its tokens; continues where an earlier call was killed.

    Parameters
    ----------
    encoder : encoders.text.TextEncoder
    ids, texts : sequences of str, length M, each id once
    target, batch_size : see `encode_images`
    longest, on_long : see `TextEncoder.tokenize`
    """
    ids, texts, target = list(ids), list(texts), Path(target)
    packed = encoder.tokenize(texts, longest, on_long)
    key = {"encoder": encoder.identity, "texts": packed.identity, "ids": hash_params(ids)}
    if _already_there(target, key):
        return TextStore(target)
    partial = target.with_name(target.name + ".partial")
    file = partial / "tokens.safetensors"
    _check_space(target, len(packed.tokens) * (2 * encoder.width + 4))
    encoder.encode_all(packed, batch_size, file)
    write(partial / "index.parquet", pd.DataFrame({"id": ids}))
    facts = {
        "encoder": encoder.facts.name, "layer": str(encoder.layer), "width": encoder.width, "storage": "float16",
        "reports": len(ids), "tokens": len(packed.tokens), "truncated": packed.truncated, "empty": packed.empty,
        "bytes": file.stat().st_size, "texts": packed.identity,
    }  # fmt: skip
    _finish(partial, target, facts, key)
    return TextStore(target)


def take_over(source: str | Path, target: str | Path) -> None:
    """Give another run's finished store a second name, or copy it where the file system has no hard links.

    A later `encode_images` or `encode_texts` into `target` finds the work done, or refuses it as of other settings.
    """
    store_facts(Path(source))
    if not Path(target).exists():
        with atomic_path(target) as temporary:
            shutil.copytree(source, temporary, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _encode(line: Pipeline, views: int, done: int = 0) -> Iterator[list[torch.Tensor]]:
    """[patches (K + 1, n, N, D), and cls (K + 1, n, D) if there is one] of n images after n images.

    Always the same images share a batch, whenever work began.
    """
    together = max(1, line.batch_size // (views + 1))
    jobs = [(row, range(views + 1)) for row in range(done, len(line.files))]
    for made in line.run([jobs[start : start + together] for start in range(0, len(jobs), together)]):
        yield [values.unflatten(0, (-1, views + 1)).transpose(0, 1) for values in made]


def _bytes(line: Pipeline, views: int) -> int:
    """Size of the arrays."""
    tokens = line.encoder.grid[0] * line.encoder.grid[1] + line.encoder.facts.class_token
    return len(line.files) * (views + 1) * tokens * line.encoder.width * storage_dtype(line.storage).itemsize


def _mark(parts: Parts, marks: list[list[int]]) -> None:
    """Say how many images are encoded: after their tokens are on disk."""
    with parts.write("progress.json") as temporary:
        write_json(temporary, {"images": marks[-1][0] if marks else 0, "marks": marks})


def _checksum(arrays: Sequence[np.ndarray], start: int, stop: int) -> int:
    """CRC-32 of the tokens of some images, view by view."""
    value = 0
    for view in (view for array in arrays for view in array):
        value = zlib.crc32(view[start:stop], value)
    return value


def _finish(partial: Path, target: Path, facts: dict[str, Any], key: dict[str, Any]) -> None:
    """Write what a store is, and give its folder its name."""
    write_json(partial / "store.json", {**facts, "identity": hash_params(key), "key": key})
    for checksum in partial.glob(".*"):
        checksum.unlink()
    os.replace(partial, target)


def _already_there(folder: Path, key: dict[str, Any]) -> bool:
    """Whether a folder holds exactly these tokens; DataError if it holds others."""
    if not folder.exists():
        return False
    if not (folder / "store.json").exists():
        raise DataError(f"{folder} exists and is no token store: choose another folder.")
    there = read_json(folder / "store.json")["key"]
    # Compared as JSON, where a tuple is a list.
    different = [name for name in key if hash_params(there.get(name)) != hash_params(key[name])]
    if different:
        raise DataError(
            f"{folder} holds tokens of other settings ({', '.join(different)} differ): delete it to encode anew, or "
            "choose another folder."
        )
    return True


def _check_space(folder: Path, needed: int) -> None:
    """DataError if the disk has less room than `needed` bytes."""
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DataError(
            f"The tokens need {needed:,} bytes and the disk of {there} has {free:,} free: choose fewer views, another "
            "disk (PKD_RUNS), or take crops: fresh."
        )
