"""From image files to what a frozen encoder makes of their views: crops, decoding ahead of the encoder, half precision.

View 0 of an image is the encoder's own preprocessing (resize, centre crop). View v >= 1 is a random resized crop drawn
from (seed, image, v) alone: neither the order of work nor the other images change it.
"""

import collections
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from tqdm import tqdm

from pkd_utils.encoders.facts import known
from pkd_utils.encoders.transforms import eight_bit, random_resized_crop
from pkd_utils.images.decode import open_image, read_image
from pkd_utils.runs.checked import config
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import file_sha256

STORAGE = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""How tokens are kept. float16 has 11 significant bits up to 65,504; bfloat16 has 8 and float32's range."""


def storage_dtype(storage: str) -> torch.dtype:
    """The dtype that tokens are kept in; DataError if it is none of `STORAGE`."""
    return known(STORAGE, storage, "storage of tokens")


Share, Positive = Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0)]


@config
class Crops:
    """Random resized crops, stateless (Bergström et al., appendix A: scales 0.4 to 0.9).

    Attributes
    ----------
    seed : int
    scale : (low, high)
        Share of the stored image's area.
    ratio : (low, high)
        Width to height of the crop; not stated in the paper, torchvision's default.
    """

    seed: int = 0
    scale: tuple[Share, Share] = (0.4, 0.9)
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)

    def box(self, image_id: str, view: int, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """(left, top, width, height) in stored pixels of an image of `size` (width, height); None for view 0."""
        if view == 0:
            return None
        name = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")
        rng = np.random.default_rng([self.seed, view, name])
        return random_resized_crop(*size, rng, self.scale, self.ratio)


CROPS = Crops()


class ImageFile(NamedTuple):
    """One image to encode."""

    image_id: str
    path: Path


def list_images(image_ids: Sequence[str], paths: Sequence[str | Path]) -> list[ImageFile]:
    """Pair identifiers with files, after checking both.

    Raises
    ------
    DataError
        No images, lists of different lengths, an identifier that is not a string or occurs twice.
    FileNotFoundError
        Files that do not exist, the first five named.
    """
    image_ids, paths = list(image_ids), [Path(path) for path in paths]
    if len(image_ids) != len(paths) or not paths:
        raise DataError(f"{len(image_ids)} image identifiers came with {len(paths)} paths: give one path an image.")
    check_unique(image_ids, "image")
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} image files do not exist: {', '.join(missing[:5])}"
            f"{' and more' if len(missing) > 5 else ''}; check the data root."
        )
    return [ImageFile(*pair) for pair in zip(image_ids, paths, strict=True)]


def check_unique(names: Sequence[str], what: str) -> None:
    """Refuse identifiers that are not strings or occur twice; the first such is named."""
    counts = collections.Counter(names)
    wrong = [name for name, count in counts.items() if count > 1 or not isinstance(name, str)]
    if wrong:
        raise DataError(
            f"The {what} identifier {wrong[0]!r} occurs more than once or is no string: give every {what} once."
        )


def content_hashes(files: Sequence[ImageFile], workers: int, progress: bool) -> list[str]:
    """SHA-256 of every file's bytes."""
    found = in_order(lambda file: file_sha256(file.path), files, workers)
    return list(tqdm(found, total=len(files), desc="hashing", unit="img", disable=not progress, mininterval=5))


def check_readable(files: Sequence[ImageFile], workers: int, progress: bool) -> None:
    """Decode every image before hours of encoding begin, JPEGs at an eighth of their size, which reads the whole file.

    Raises
    ------
    DataError
        Files that are no whole images: how many, and the first twenty by name.
    """

    def fault(file: ImageFile) -> str:
        try:
            read_image(file.path, 1)
            return ""
        except DataError as error:
            return f"{file.image_id} ({error})"

    found = in_order(fault, files, workers)
    bar = tqdm(found, total=len(files), desc="checking", unit="img", disable=not progress, mininterval=5)
    if bad := [name for name in bar if name]:
        more = f"; and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise DataError(
            f"{len(bad)} of {len(files)} images cannot be read: {'; '.join(bad[:20])}{more}. Mend those files or leave "
            "their rows out."
        )


def read_views(file: ImageFile, views: Iterable[int], encoder, crops: Crops) -> torch.Tensor:
    """Decode an image once, at full resolution, and make several views of it.

    Returns
    -------
    (V, 3, S, S) float32 tensor, the encoder's input

    Raises
    ------
    DataError
        If the file is not a whole image; it is named.
    """
    try:
        grey = eight_bit(open_image(file.path), encoder.depth)  # once, not once a view
        boxes = [crops.box(file.image_id, int(view), grey.size) for view in views]
        return torch.stack([encoder.preprocess(grey, crop=box) for box in boxes])
    except DataError as error:
        raise DataError(f"Image {file.image_id} gives no views: {error}") from None


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


def encode_crops(encoder, crops: torch.Tensor, batch_size: int, storage: str, names: Sequence[str]):
    """Tokens of (n, 3, S, S) inputs as they are kept.

    Returns
    -------
    patches : (n, N, D) tensor of the dtype `storage`, on the CPU
    cls : (n, D) likewise, or None if the encoder has no class token
    """
    patches, cls = [], []
    for part, who in zip(crops.split(batch_size), _chunks(names, batch_size), strict=True):
        made = encoder.encode(part)
        patches.append(keep(made.patches, storage, who).cpu())
        if made.cls is not None:
            cls.append(keep(made.cls, storage, who).cpu())
    return torch.cat(patches), torch.cat(cls) if cls else None


def _chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    return (items[start : start + size] for start in range(0, len(items), size))


def keep(tokens: torch.Tensor, storage: str, names: Sequence[str]) -> torch.Tensor:
    """Round tokens (n, ...) to the dtype they are kept in; nothing may become infinite on the way.

    Raises
    ------
    DataError
        Values that are not finite, or too large for `storage`: how many, and the first image (or text) of `names`.
    """
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
