"""Random streams that follow from numbers alone, so that interrupted work continues to the same result."""

import numpy as np


def stream(*key: int) -> int:
    """A 63-bit seed that is a function of the non-negative numbers in `key` alone, such as seed, epoch, purpose."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
