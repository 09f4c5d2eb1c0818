"""Exact AUROC and average precision of one map from one sort of its pixels; the public side is in `metrics`."""

import functools
import time
from collections.abc import Callable

import numpy as np

BLOCK = 256  # the longest row that vector sorts of 32 and 64 bits take in one go, without splitting it first
FEW = 16 * BLOCK  # pixels that are sorted at once in any case
Sort = Callable[[np.ndarray], None]


class RowRanks:
    """AUROC and average precision of one map at a time, from one sort of integers: the value, its label as lowest bit.

    `sort` orders them in place; see `fastest_sort`. It keeps its working arrays: fresh ones of this size cost more in
    page faults than the sort itself.
    """

    def __init__(self, pixels: int, sort: Sort):
        self.sort = sort
        self.position = np.arange(pixels, dtype=np.float64)
        self.is_positive = np.empty(pixels)
        self.keys = np.empty(pixels, dtype=np.uint32)
        self.mixed = np.empty(pixels - 1, dtype=bool)

    def auroc(self, map: np.ndarray, mask: np.ndarray, low: float) -> float:
        """Exact AUROC of a finite map, float32 or float64, whose lowest value is `low`; NaN without both labels."""
        return self._auroc(*self._sorted(map, mask, low))

    def both(self, map: np.ndarray, mask: np.ndarray, low: float) -> tuple[float, float]:
        """AUROC, and exact average precision, where tied pixels enter together."""
        ordered = self._sorted(map, mask, low)
        return self._auroc(*ordered), self._precision(*ordered)

    def _sorted(self, map: np.ndarray, mask: np.ndarray, low: float) -> tuple[np.ndarray, int]:
        """Sorted keys, and how many of them are positive; no keys without both labels."""
        values, labels = map.reshape(-1), mask.reshape(-1)
        positives = np.count_nonzero(labels)
        if positives in (0, len(values)):
            return self.keys[:0], positives
        if values.dtype == np.float32 and low >= 0:
            # Finite IEEE floats order like their bits. The sign bit is free (the shift drops that of -0.0).
            keys = np.left_shift(values.view(np.uint32), np.uint32(1), out=self.keys[: len(values)])
            np.bitwise_or(keys, labels.view(np.uint8), out=keys)
        else:
            keys = _signed_keys(values) << np.uint64(1) | labels
        self.sort(keys)
        return keys, positives

    def _auroc(self, keys: np.ndarray, positives: int) -> float:
        pixels = len(keys)
        if not pixels:
            return np.nan
        position, is_positive, mixed = self.position[:pixels], self.is_positive[:pixels], self.mixed[: pixels - 1]
        one = keys.dtype.type(1)
        # The k-th positive, at position p_k, has p_k - k negatives before it. Sums of integers below 2**53 are exact.
        np.bitwise_and(keys, one, out=is_positive)
        before = np.einsum("i,i->", is_positive, position) - positives * (positives - 1) // 2
        # That counts negatives of the same value as whole. Neighbours that differ in the label alone mark such ties.
        np.equal(keys[1:] ^ keys[:-1], one, out=mixed)
        first = np.flatnonzero(mixed) + 1  # first positive of each tied group
        if len(first):
            group = keys[first]
            tied_negatives = first - np.searchsorted(keys, group - one, side="left")
            tied_positives = np.searchsorted(keys, group, side="right") - first
            before -= (tied_negatives * tied_positives).sum() / 2
        return before / (positives * (pixels - positives))

    def _precision(self, keys: np.ndarray, positives: int) -> float:
        pixels = len(keys)
        if not pixels:
            return np.nan
        one = keys.dtype.type(1)
        first = np.flatnonzero(keys[1:] ^ keys[:-1] > one) + 1  # of each group of equal values but the lowest
        first = np.append(first[::-1], 0)
        found = positives - np.append(0, np.cumsum(keys & one, dtype=np.int64))[first]  # at or above this value
        return float((np.diff(found, prepend=0) * found / (pixels - first)).sum() / positives)


def sort_directly(keys: np.ndarray) -> None:
    """numpy's own sort, in place."""
    keys.sort()


def sort_by_radix(keys: np.ndarray) -> None:
    """Sort unsigned keys, whose lowest bit is a label, in place: by their leading bits, then in short blocks.

    A stable sort of 16 bits is a radix sort in numpy: of the 15 leading bits of the keys' range and of the label. What
    it leaves together, of more than one value, is next to each other, and falls into one of the blocks of either
    pass unless it is longer than half a block; then, which is looked at, the whole is sorted directly.
    """
    if len(keys) <= FEW:
        keys.sort()
        return
    one = keys.dtype.type(1)
    spread = keys - (keys.min() & ~one)
    spread >>= keys.dtype.type(max(0, int(spread.max()).bit_length() - 16))
    digits = spread.astype(np.uint16)
    digits &= np.uint16(0xFFFE)
    digits |= np.bitwise_and(keys, one, out=spread).astype(np.uint16)
    keys[:] = np.take(keys, np.argsort(digits, kind="stable"), out=spread, mode="clip")
    for start in (0, BLOCK // 2):
        end = start + (len(keys) - start) // BLOCK * BLOCK
        keys[start:end].reshape(-1, BLOCK).sort(axis=1)
        keys[end:].sort()
    if (keys[1:] < keys[:-1]).any():
        keys.sort()


@functools.cache
def fastest_sort() -> Sort:
    """The faster of the two on this processor, measured once, in milliseconds; the order that they give is the same.

    numpy's sort of 32 bits with AVX-512 stores what it has split in a way that takes AMD's Zen 4 a hundred cycles an
    instruction: there it is six times slower than the same sort with AVX2. In short blocks it splits nothing.
    """
    keys = np.random.default_rng(0).integers(0, 2**31, 224 * 224, dtype=np.uint32)
    seconds: dict[Sort, float] = {sort_directly: np.inf, sort_by_radix: np.inf}
    for _ in range(5):
        for sort in seconds:
            some = keys.copy()
            start = time.perf_counter()
            sort(some)
            seconds[sort] = min(seconds[sort], time.perf_counter() - start)
    return min(seconds, key=seconds.__getitem__)


def _signed_keys(values: np.ndarray) -> np.ndarray:
    """uint64 below 2**63 in the order of the values, equal where they are equal."""
    signed = np.int32 if values.dtype == np.float32 else np.int64
    bits = values.view(signed).astype(np.int64)
    bits = np.where(bits < 0, np.iinfo(signed).min - bits, bits)  # negative floats order backwards; -0.0 becomes 0
    keys = (bits - bits.min()).view(np.uint64)
    if keys.max() >= 2**63:  # float64 of both signs and far apart: no bit is free, ranks take the values' place
        keys = np.unique(bits, return_inverse=True)[1].astype(np.uint64)
    return keys
