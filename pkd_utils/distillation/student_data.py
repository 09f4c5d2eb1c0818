"""The arrays a student learns from, checked once, so that no step of the training has to look at them again."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from pkd_utils.distillation.loss import check_targets
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import macro_auroc

SPLITS = ("train", "validate", "test")


class StudentData(NamedTuple):
    """Checked input of `student_training.fit_student`."""

    pixels: torch.Tensor  # (N, S, S) uint8
    targets: torch.Tensor  # (N, K) float32, or (N,) int64 class numbers
    soft: torch.Tensor | None  # (N, K) float32; None for the baseline
    rows: dict[str, torch.Tensor]  # split -> row numbers
    splits: np.ndarray  # (N,) str, "" where a row is not used
    image_ids: list[str]
    labels: list[str]

    def content_hash(self) -> str:
        """SHA-256 of everything; of more than 256 MB of pixels, 4,096 images spread evenly."""
        digest = hashlib.sha256()
        many = self.pixels.nbytes > 2**28
        rows = torch.linspace(0, len(self.pixels) - 1, 4096).long() if many else slice(None)
        for part in (self.pixels[rows], self.targets, self.soft):
            if part is not None:
                digest.update(str((tuple(part.shape), part.dtype)).encode())
                digest.update(np.ascontiguousarray(part.numpy()).data)
        digest.update(json.dumps([self.splits.tolist(), self.image_ids, self.labels]).encode())
        return digest.hexdigest()


def check_student_data(
    pixels: np.ndarray,
    targets: np.ndarray,
    soft_targets: np.ndarray | None,
    splits: Sequence[str],
    image_size: int,
    activation: str,
    weight: float,
    image_ids: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> StudentData:
    """Check the arguments of `student_training.fit_student` against each other and make tensors of them.

    Raises
    ------
    DataError
        One sentence: which argument, which row or label, what to do.
    """
    n = len(pixels)
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[1:] != (image_size, image_size):
        raise DataError(
            f"pixels must be uint8 (N, {image_size}, {image_size}), not {pixels.dtype} {pixels.shape}: pack the images "
            "at the student's image_size."
        )
    numbers = np.asarray(targets)
    classes = activation == "softmax" and numbers.dtype.kind in "iu"
    targets = torch.from_numpy(np.array(numbers, dtype=np.int64 if classes else np.float32))
    if len(targets) != n or targets.ndim != (1 if classes else 2):
        raise DataError(f"targets must be {'(N,)' if classes else '(N, K)'} with N = {n}, not {tuple(targets.shape)}.")
    used_rows, names = _split_rows(splits, n)
    ids = [str(i) for i in (range(n) if image_ids is None else image_ids)]
    if len(ids) != n or len(set(ids)) != n:
        raise DataError(f"There are {len(ids)} image_ids ({len(set(ids))} different) for {n} images: one each.")
    soft = _checked_soft(soft_targets, weight, used_rows["train"], n, ids)
    labels = _checked_labels(labels, targets, soft, classes)
    if soft is not None and soft.shape[1] != len(labels):
        raise DataError(f"soft_targets have {soft.shape[1]} columns, but there are {len(labels)} labels.")
    used = torch.cat(list(used_rows.values()))
    check_targets(targets[used], None if soft is None else soft[used_rows["train"]], activation, len(labels))
    if activation == "sigmoid" and targets[used_rows["train"]].isnan().all():
        raise DataError("No training image has a known label: there is nothing to learn from.")
    _check_validation(targets[used_rows["validate"]], classes)
    with warnings.catch_warnings():  # a read-only memory map: nothing here writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        tensor = torch.from_numpy(np.asarray(pixels))
    return StudentData(tensor, targets, soft, used_rows, names, ids, labels)


def _split_rows(splits, n: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    names = np.array(["" if pd.isna(s) else str(s) for s in splits])
    if len(names) != n:
        raise DataError(f"There are {len(names)} splits for {n} images: one each.")
    unknown = sorted(set(names.tolist()) - set(SPLITS) - {""})
    if unknown:
        raise DataError(f"A split is one of {', '.join(SPLITS)}, or missing, not {unknown[0]!r}.")
    rows = {s: torch.from_numpy(np.flatnonzero(names == s)) for s in SPLITS if (names == s).any()}
    for needed in ("train", "validate"):
        if needed not in rows:
            raise DataError(f"No image is in the split {needed!r}: a student needs training and validation images.")
    return rows, names


def _checked_soft(soft_targets, weight, train, n, ids) -> torch.Tensor | None:
    if weight == 0:
        return None  # the baseline is the same whatever the teacher says
    if soft_targets is None:
        raise DataError(f"weight (lambda) is {weight}, but there are no soft targets: give them, or weight 0.")
    soft = torch.from_numpy(np.array(soft_targets, dtype=np.float32))
    if soft.ndim != 2 or len(soft) != n:
        raise DataError(f"soft_targets must be (N, K) with N = {n}, not {tuple(soft.shape)}.")
    without = soft[train].isnan().any(1)
    if without.any():
        first = ids[int(train[without.nonzero()[0, 0]])]
        raise DataError(
            f"{int(without.sum())} of {len(train)} training images have no soft label (first: {first}): let the "
            "teacher predict them, or take them out of the training split."
        )
    return soft


def _checked_labels(labels, targets, soft, classes) -> list[str]:
    if classes:
        k = soft.shape[1] if soft is not None else len(labels) if labels is not None else int(targets.max()) + 1
    else:
        k = targets.shape[1]
    names = [f"label_{i}" for i in range(k)] if labels is None else [str(label) for label in labels]
    if len(names) != k or len({*names, "image_id", "split"}) != k + 2:
        raise DataError(f"labels must be {k} different names, none of them image_id or split, not {names}.")
    return names


def _check_validation(targets: torch.Tensor, classes: bool) -> None:
    table = torch.nn.functional.one_hot(targets).double() if classes else targets.double()
    if not ((table == 1).any(0) & (table == 0).any(0)).any():
        raise DataError(
            f"None of the labels has both 1 and 0 among the {len(targets)} validation images, so no epoch can be "
            "chosen by AUROC: make the validation split larger."
        )
    if not classes and table.shape[1] and np.isnan(macro_auroc(table.numpy(), np.zeros(table.shape))):
        raise DataError("The validation AUROC is not defined: targets must be 1, 0 or NaN.")
