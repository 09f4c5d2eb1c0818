"""Images of the reports study's tasks, as `report_budget` counts them: those of one seed, and of several together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskCount:
    """Images of one task: classes, seeds, evaluation images a seed, and (training images, epochs) of each size.

    `pool` is the number of images that every seed draws its own from; None where all draws are counted as different.
    """

    classes: int
    seeds: tuple[int, ...]
    evaluation: int
    sizes: tuple[tuple[int, int], ...]
    pool: float | None = None

    def together(self, images: int, seeds: float) -> float:
        """Different images, as expected, where each of some seeds has so many."""
        if self.pool is None:
            return seeds * images
        return self.pool * (1 - max(0.0, 1 - images / self.pool) ** seeds)

    def fresh_passes(self, sizes: Sequence[tuple[int, int]], seeds: int, waves: int) -> float:
        """Training images that are encoded in all epochs: in each, those of the largest subset still in training.

        Subsets of a seed are nested. The seeds are spread over the waves, of which each has passes of its own.
        """
        passes, done = 0.0, 0
        for epochs in sorted({epochs for _, epochs in sizes}):
            largest = max(samples for samples, longer in sizes if longer >= epochs)
            passes += (epochs - done) * waves * self.together(largest, max(1.0, seeds / waves))
            done = epochs
        return passes


def pool_of(different: int, drawn: float, seeds: int) -> float | None:
    """Size of the pool of which some seeds, each drawing so many images, cover so many different ones.

    None if no image was drawn twice: the pool then has no end.
    """
    if different >= seeds * drawn:
        return None
    low, high = float(different), 1e6 * different
    for _ in range(60):
        middle = math.sqrt(low * high)
        covered = middle * (1 - (1 - drawn / middle) ** seeds)
        low, high = (middle, high) if covered < different else (low, middle)
    return high
