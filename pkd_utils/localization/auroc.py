"""Exact AUROC of one map, as fast as one sort of its pixels; the public side is `metrics.pixel_auroc`."""

import numpy as np


class RowAuroc:
    """AUROC of one map at a time, from one sort of integers that carry the value above and the label as lowest bit.

    It keeps its working arrays: fresh ones of this size cost more in page faults than the sort itself.
    """

    def __init__(self, pixels: int):
        self.position = np.arange(pixels, dtype=np.float64)
        self.is_positive = np.empty(pixels)
        self.keys = np.empty(pixels, dtype=np.uint32)
        self.mixed = np.empty(pixels - 1, dtype=bool)

    def __call__(self, map: np.ndarray, mask: np.ndarray, low: float) -> float:
        """Exact AUROC of a finite map, float32 or float64, whose lowest value is `low`; NaN without both labels."""
        values, labels = map.reshape(-1), mask.reshape(-1)
        pixels = len(values)
        positives = np.count_nonzero(labels)
        if positives in (0, pixels):
            return np.nan
        position, is_positive, mixed = self.position[:pixels], self.is_positive[:pixels], self.mixed[: pixels - 1]
        if values.dtype == np.float32 and low >= 0:
            # Finite IEEE floats order like their bits. The sign bit is free (the shift drops that of -0.0).
            keys = np.left_shift(values.view(np.uint32), np.uint32(1), out=self.keys[:pixels])
            np.bitwise_or(keys, labels.view(np.uint8), out=keys)
        else:
            keys = _signed_keys(values) << np.uint64(1) | labels
        keys.sort()
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


def _signed_keys(values: np.ndarray) -> np.ndarray:
    """uint64 below 2**63 in the order of the values, equal where they are equal."""
    signed = np.int32 if values.dtype == np.float32 else np.int64
    bits = values.view(signed).astype(np.int64)
    bits = np.where(bits < 0, np.iinfo(signed).min - bits, bits)  # negative floats order backwards; -0.0 becomes 0
    keys = (bits - bits.min()).view(np.uint64)
    if keys.max() >= 2**63:  # float64 of both signs and far apart: no bit is free, ranks take the values' place
        keys = np.unique(bits, return_inverse=True)[1].astype(np.uint64)
    return keys
