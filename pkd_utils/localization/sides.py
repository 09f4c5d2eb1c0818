"""Does a map look at the side that a report names? A target for films with findings of a coded side, without any box.

In a frontal film the patient's left is on the image's right, and "left" here is always the patient's. Films that were
stored mirrored, and a heart on the right, are not seen: the image's middle stands for the patient's.
"""

import numpy as np

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
