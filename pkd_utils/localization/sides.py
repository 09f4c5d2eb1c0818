"""Does a map look at the side that a report names? A target for films with findings of a coded side, without any box.

In a frontal film the patient's left is on the image's right, and "left" here is always the patient's. Films that were
stored mirrored, and a heart on the right, are not seen: the image's middle stands for the patient's.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from pkd_utils.localization.arrays import as_maps, as_valid, frames, value_range
from pkd_utils.runs.errors import DataError


def side_scores(maps, valid=None) -> np.ndarray:
    """Mass of each map on the patient's left minus that on the right, as a share of all: float64 (N,), from -1 to 1.

    Parameters
    ----------
    maps : (N, H, W), finite and not negative
        Of frontal films as they are read: the image's right half is the patient's left.
    valid : optional, boolean (N, H, W) or (H, W)
        The picture's own area, a rectangle: its middle divides the sides, and mass in the padding does not count.

    Returns
    -------
    ndarray
        0 where a map is zero everywhere. A middle column counts half on either side.
    """
    maps = as_maps(maps)
    if min(value_range(row, i)[0] for i, row in enumerate(maps)) < 0:
        raise DataError("A map holds negative values, which are no mass: take its positive part or magnitude first.")
    frame = frames(valid, maps.shape)
    columns = (maps if valid is None else np.where(as_valid(valid, maps.shape), maps, 0)).sum(1, dtype=np.float64)
    middle = (frame[:, [0]] + frame[:, [2]]) / 2
    patients_right = (columns * np.clip(middle - np.arange(maps.shape[2]), 0, 1)).sum(1)
    total = columns.sum(1)
    return np.divide(total - 2 * patients_right, total, out=np.zeros(len(total)), where=total > 0)


def side_auroc(maps, sides: Sequence[str], mirrored=None, valid=None) -> float:
    """AUROC of `side_scores` against the coded side: 0.5 for a map that does not know it, NaN without both sides.

    It is the probability that a film with a finding on the left has more of its map's mass on the left than one with a
    finding on the right; ties count half.

    Parameters
    ----------
    maps : (N, H, W); valid : optional; see `side_scores`
    sides : N of "left" and "right", the patient's
    mirrored : (N, H, W), optional
        The control: maps of the same films mirrored left to right before the model saw them, not mirrored back. The
        score is then half of the difference between a film's two scores, in which what stays in the frame cancels.
    """
    sides = np.asarray(sides, dtype=object)
    wrong = [side for side in sides.tolist() if side not in ("left", "right")]
    if wrong:
        raise DataError(f"A side is {wrong[0]!r}: give left or right for every map, and only films with one side.")
    scores = side_scores(maps, valid)
    if mirrored is not None:
        flipped = valid if valid is None else np.flip(np.asarray(valid), -1)
        scores = (scores - side_scores(mirrored, flipped)) / 2
    if len(scores) != len(sides):
        raise DataError(f"{len(scores)} maps, {len(sides)} sides: give one side a map.")
    left = sides == "left"
    positives, negatives = int(left.sum()), int((~left).sum())
    if not positives or not negatives:
        return float("nan")
    above = rankdata(scores)[left].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))
