"""From image files to what a frozen encoder makes of their views: crops, decoding ahead of the encoder, half precision.

View 0 of an image is the encoder's own preprocessing (resize, centre crop). View v >= 1 is a random resized crop drawn
from (seed, image, v) alone: neither the order of work nor the other images change it.
"""

import collections
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import AfterValidator, Field
from tqdm import tqdm

from pkd_utils.encoders.facts import known
from pkd_utils.encoders.transforms import eight_bit, random_resized_crop
from pkd_utils.encoders.weights import some
from pkd_utils.images.decode import upright
from pkd_utils.runs.checked import config, ordered
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import file_sha256

STORAGE = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""How tokens are kept. float16 has 11 significant bits up to 65,504; bfloat16 has 8 and float32's range."""

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""Whatever PIL says of a file that is no image."""


def storage_dtype(storage: str) -> torch.dtype:
    """The dtype that tokens are kept in; DataError if it is none of `STORAGE`."""
    return known(STORAGE, storage, "storage of tokens")


Share, Positive = Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0)]


@config
class Crops:
    """Random resized crops, stateless."""

    seed: int = Field(0, ge=0)
    # Share of the stored image's area, as in Bergström et al., appendix A.
    scale: Annotated[tuple[Share, Share], AfterValidator(ordered)] = (0.4, 0.9)
    # Width to height; not stated in the paper, torchvision's default.
    ratio: Annotated[tuple[Positive, Positive], AfterValidator(ordered)] = (0.75, 4 / 3)

    def box(self, image_id: str, view: int, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """(left, top, width, height) in stored pixels of an image of `size` (width, height); None for view 0."""
        if view == 0:
            return None
        name = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")
        rng = np.random.default_rng([self.seed, view, name])
        return random_resized_crop(*size, rng, self.scale, self.ratio)


CROPS = Crops()  # the default; frozen, so that it may be shared


class ImageFile(NamedTuple):
    image_id: str
    path: Path


def list_images(image_ids: Sequence[str], paths: Sequence[str | Path]) -> list[ImageFile]:
    """Pair identifiers, each of them a string and given once, with files that exist."""
    paths = [Path(path) for path in paths]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} image files do not exist: {some(missing, most=5)}; check the data root."
        )
    return [ImageFile(*pair) for pair in zip(image_ids, paths, strict=True)]


def check_readable(files: Sequence[ImageFile], workers: int) -> None:
    """Decode every image before hours of encoding begin, JPEGs at an eighth of their size, which reads the whole file.

    Files that are no whole images are counted, and the first twenty named.
    """

    def fault(file: ImageFile) -> str:
        try:
            with Image.open(file.path) as image:
                image.draft("L", (1, 1))
                image.load()
        except UNREADABLE as error:
            return f"{file.image_id} ({file.path}: {_reason(error)})"
        return ""

    bad = [said for said in bar(in_order(fault, files, workers), len(files), "checking") if said]
    if bad:
        raise DataError(
            f"{len(bad)} of {len(files)} images cannot be read: {some(bad, '; ', 20)}. Mend those files or leave their "
            "rows out."
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def bar(items: Iterable | None, total: int, what: str, done: int = 0) -> tqdm:
    """A progress bar over images, drawn every five seconds."""
    return tqdm(items, initial=done, total=total, desc=what, unit="img", mininterval=5)


def in_order(function: Callable, items: Iterable, workers: int, ahead: int = 0) -> Iterator:
    """`map` by threads that work at most `ahead + 2 * workers` items ahead; 0 workers: in the caller's thread.

    Threads are enough: PIL lets others run while it decodes and resizes, and nothing is copied between processes.
    """
    if workers < 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    waiting = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead + 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Pipeline:
    """From image files to what is kept of their views: decoded ahead of the encoder, encoded, rounded."""

    encoder: Any  # encoders.image.ImageEncoder
    files: list[ImageFile]
    crops: Crops
    batch_size: int  # views in one pass of the encoder
    workers: int  # threads that decode ahead; 0: none
    storage: str  # "float16", "bfloat16" or "float32"

    def hashes(self) -> Iterator[str]:
        """SHA-256 of every file's bytes."""
        return in_order(lambda file: file_sha256(file.path), self.files, self.workers)

    def run(self, groups: Sequence[Sequence[tuple[int, Sequence[int]]]]) -> Iterator[list[torch.Tensor]]:
        """Encode groups of (row, its views), decoding a group ahead.

        Yields
        ------
        [patches (n, N, D), and class tokens (n, D) if the encoder has any] of a group's n views, in the dtype `storage`
        """
        jobs, largest = itertools.chain.from_iterable(groups), max(map(len, groups), default=0)
        read = in_order(lambda job: self.read(*job), jobs, self.workers, largest)
        for group in groups:
            inputs = torch.cat(list(itertools.islice(read, len(group))))
            names = [self.files[row].image_id for row, views in group for _ in views]
            made = []
            for start in range(0, len(inputs), self.batch_size):
                part = slice(start, start + self.batch_size)
                tokens = self.encoder.encode(inputs[part])
                found = [tokens.patches] if tokens.cls is None else [tokens.patches, tokens.cls]
                made.append([keep(values, self.storage, names[part]).cpu() for values in found])
            yield [torch.cat(values) for values in zip(*made, strict=True)]

    def read(self, row: int, views: Sequence[int]) -> torch.Tensor:
        """Decode an image once, at full resolution, and make views of it: (V, 3, S, S) float32, the encoder's input."""
        name, path = self.files[row]
        try:
            with Image.open(path) as image:
                whole = upright(image)
            if not self.encoder.preprocessing.stretch:  # which brings any depth to 8 bits by itself
                whole = eight_bit(whole, self.encoder.depth)  # once, not once a view
            boxes = [self.crops.box(name, int(view), whole.size) for view in views]
            return torch.stack([self.encoder.preprocess(whole, crop=box) for box in boxes])
        except UNREADABLE as error:
            raise DataError(
                f"Image {name} ({path}) cannot be read ({_reason(error)}): mend it or leave its row out."
            ) from error


def keep(tokens: torch.Tensor, storage: str, names: Sequence[str]) -> torch.Tensor:
    """Round tokens (n, ...) of n images to the dtype they are kept in; values that this would lose are refused."""
    kept = tokens.to(storage_dtype(storage))
    if torch.isfinite(kept).all():
        return kept
    wrong, reason, advice = ~torch.isfinite(tokens), "are NaN or infinite: the weights or the image are damaged", ""
    if not wrong.any():
        wrong, reason = ~torch.isfinite(kept), f"exceed the largest {storage}, {torch.finfo(kept.dtype).max:,.0f}"
        advice = ": keep tokens as storage='bfloat16' (same range as float32)"
    rows = wrong.flatten(1).any(1).nonzero().flatten().tolist()
    more = f", and {len(rows) - 1} more views" if len(rows) > 1 else ""
    raise DataError(f"{int(wrong.sum())} token values {reason}; first in {names[rows[0]]}{more}{advice}.")
