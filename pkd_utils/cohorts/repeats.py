"""One picture under two patients: equal files, and pictures that differ by their coding, size or brightness alone.

Patients are kept together in a split, so only a picture that stands under two of them can be on both sides of one.
Which of the two it shows is not known; neither is which label and report are its own.
"""

import itertools
from typing import Literal

import cv2
import numpy as np
import pandas as pd

from pkd_utils.cohorts.table import Cohort
from pkd_utils.runs import index
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError

SIDE = 16  # of the perceptual hash: SIDE x SIDE bits
STEP = 2  # grey levels that make a step, so that noise on black is none
BITS = 10  # of 256 that may differ: 9 of 10 pictures coded anew, halved or made brighter differ by no more
CORRELATION = 0.99  # of the pixels, then, but for those that are black in both; embedded cohorts with these reach 0.976


@checked
def repeated_pictures(
    cohort: Cohort, pixels: np.ndarray | None = None, policy: Literal["refuse", "leave_out", "keep"] = "refuse"
) -> tuple[pd.DataFrame, list[str]]:
    """Find pictures that stand under two patients.

    Parameters
    ----------
    cohort : Cohort
    pixels : (N, S, S) uint8 array, optional
        Packed pictures, a row one of `cohort.images`: equal or nearly equal ones are found, by a difference hash (the
        signs of horizontal steps of the picture at 17 x 16 pixels) and then by the pixels' correlation. Without, only
        files of equal content are, by the index of hashes that a run's identity rests on. All pairs are compared:
        8 s for 30,000 pictures, 20 minutes for 377,110.
    policy : {"refuse", "leave_out", "keep"}

    Returns
    -------
    pairs : DataFrame
        `image_id, other`, of different patients.
    left_out : list of str
        With "leave_out" every image of a pair; else none.

    Raises
    ------
    DataError
        With "refuse", if there is any.
    """
    images = cohort.images
    patients = images["patient_id"].astype("category").cat.codes.to_numpy()
    found = _equal_files(cohort, patients) if pixels is None else _alike(pixels, patients)
    names = images["image_id"].to_numpy()
    pairs = pd.DataFrame([(names[i], names[j]) for i, j in found], columns=["image_id", "other"])
    if len(pairs) and policy == "refuse":
        first = " and ".join(map(repr, pairs.iloc[0]))
        raise DataError(
            f"{cohort.info.name}: images {first} of two patients are one picture ({len(pairs)} such pairs): correct "
            "the source, or set repeated to leave_out (they take part in no split) or keep."
        )
    out = sorted({*pairs["image_id"], *pairs["other"]}) if policy == "leave_out" else []
    return pairs, out


def _equal_files(cohort: Cohort, patients: np.ndarray) -> list[tuple[int, int]]:
    """Rows of different patients whose files have the same SHA-256."""
    paths = cohort.images["path"].dropna()
    kinds = sorted({f"*.{path.rsplit('.', 1)[-1]}" for path in paths})
    hashed = index.hashes(cohort.root, kinds) if kinds else {}
    content = cohort.images["path"].map(hashed)
    rows = np.flatnonzero(content.duplicated(keep=False) & content.notna())
    groups = pd.Series(rows).groupby(content.iloc[rows].to_numpy())
    pairs = (pair for _, group in groups for pair in itertools.combinations(group, 2))
    return [(i, j) for i, j in pairs if patients[i] != patients[j]]


def _alike(pixels: np.ndarray, patients: np.ndarray) -> list[tuple[int, int]]:
    """Rows of different patients whose hashes differ by at most `BITS` and whose pixels are correlated."""
    small = np.stack([cv2.resize(p, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA) for p in pixels]).astype(np.int16)
    words = np.packbits((np.diff(small) > STEP).reshape(len(small), -1), axis=1).view(np.uint64).T.copy()
    pairs = []
    for i in range(len(pixels) - 1):
        near = sum(np.bitwise_count(word[i] ^ word[i + 1 :]) for word in words) <= BITS
        for j in i + 1 + np.flatnonzero(near & (patients[i + 1 :] != patients[i])):
            shown = (pixels[i] | pixels[j]) > 0  # bars beside two pictures of one shape are alike, whatever they show
            one, other = (pixels[k][shown].astype(float) for k in (i, j))
            one, other = (values - values.sum() / max(1, values.size) for values in (one, other))
            norm = np.linalg.norm(one) * np.linalg.norm(other)  # 0 of an even picture, which shows nothing
            if norm and one @ other >= CORRELATION * norm:
                pairs.append((i, int(j)))
    return pairs
