"""What a study of maps reads and does for every student: images with regions, maps by name, scores of a set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pkd_utils.cohorts.boxes import ground_truth, of_positives
from pkd_utils.distillation.students import build_student, predict_logits, random_student
from pkd_utils.images.augment import normalise
from pkd_utils.localization import attention, metrics, reference, saliency
from pkd_utils.localization.suite import Suite, score_maps
from pkd_utils.runs import files, run
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.paths import resolve
from pkd_utils.studies.maps.arms import STUDENT, methods_of

PICTURE = ["picture_x0", "picture_y0", "picture_x1", "picture_y1"]
"""Columns of images.parquet: the picture's own rectangle in packed pixels."""

# What a map's name asks of saliency.saliency_maps.
MAPS = {
    "attention_mean": {"method": "attention", "heads": "mean"},
    "attention_max": {"method": "attention", "heads": "max"},
    "rollout": {"method": "rollout"},
    "chefer": {"method": "chefer"},
    "grad_cam": {"method": "grad_cam"},
}


@dataclass(frozen=True)
class Prepared:
    """A run of `01-prepare-data`, opened; pixels and masks stay on disk.

    Ground truth are the regions of the trained `labels`; methods that take a `finding` give those of one label instead,
    or of every finding (`cohorts.boxes.ANY`). Regions that belong to no finding (lungs, a lesion) count always.
    """

    folder: Path
    labels: list[str]
    positives_only: bool = True  # count only images that are positive for a label whose region they have

    @cached_property
    def images(self) -> pd.DataFrame:
        """images.parquet by image_id."""
        return pd.read_parquet(self.folder / "images.parquet").set_index("image_id")

    @cached_property
    def splits(self) -> pd.DataFrame:
        """image_id, split, fold."""
        return pd.read_parquet(self.folder / "splits.parquet")

    @cached_property
    def _box_rows(self) -> pd.DataFrame:
        """boxes.parquet, in packed pixels; a box that packing cut off entirely is left out."""
        table = pd.read_parquet(self.folder / "boxes.parquet")
        return table[(table["x1"] > table["x0"]) & (table["y1"] > table["y0"])]

    @cached_property
    def boxes(self) -> dict[str, np.ndarray]:
        """Reference boxes (K, 4) by image_id, of the trained labels."""
        return self._boxes_by_image(None)

    def _boxes_by_image(self, finding: str | None) -> dict[str, np.ndarray]:
        table = self._box_rows[ground_truth(self._box_rows, self.labels, finding)]
        corners = table[["x0", "y0", "x1", "y1"]].to_numpy()
        return {i: corners[rows] for i, rows in table.groupby("image_id").indices.items()}

    @property
    def names_findings(self) -> bool:
        """Whether a region may belong to one finding, so that "any finding" is more than the trained labels'."""
        return bool((self._box_rows["finding"] != "").any())

    @property
    def cut_off(self) -> int:
        """Images that had regions, of which packing left nothing."""
        return len(set(self._mask_rows["image_id"]) - set(self._box_rows["image_id"]))

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 (N, S, S), in the order of `images`."""
        return np.load(self.folder / "pixels.npy", mmap_mode="r")

    @cached_property
    def _mask_rows(self) -> pd.DataFrame:
        return pd.DataFrame(files.read_json(self.folder / "mask_ids.json"), columns=["image_id", "finding"])

    def with_regions(self, fold: int, split: str, finding: str | None = None) -> list[str]:
        """Image ids of a split that have a reference region (and are positive for its label, if so asked)."""
        chosen = self.splits[(self.splits["fold"] == fold) & (self.splits["split"] == split)]["image_id"]
        boxes = self._box_rows[ground_truth(self._box_rows, self.labels, finding)]
        if self.positives_only:
            boxes = boxes[of_positives(boxes, self.images, self.labels, finding)]
        return chosen[chosen.isin(boxes["image_id"])].tolist()

    def without_findings(self, fold: int, split: str) -> list[str]:
        """Image ids of a split on which every trained label is known to be absent, and which have no region at all."""
        chosen = self.splits[(self.splits["fold"] == fold) & (self.splits["split"] == split)]["image_id"]
        absent = (self.images.loc[chosen, self.labels] == 0).all(axis=1).to_numpy()
        return chosen[absent & ~chosen.isin(self._box_rows["image_id"]).to_numpy()].tolist()

    def pixels_of(self, ids: Sequence[str]) -> np.ndarray:
        """uint8 (n, S, S)."""
        return self.pixels[self.images.index.get_indexer(ids)]

    def masks_of(self, ids: Sequence[str], finding: str | None = None) -> np.ndarray:
        """bool (n, S, S), regions of an image united."""
        masks = np.load(self.folder / "masks.npy", mmap_mode="r")
        rows = self._mask_rows[ground_truth(self._mask_rows, self.labels, finding)]
        rows = rows.groupby("image_id").groups
        return np.stack([masks[rows[i]].any(axis=0) for i in ids])

    def valid_of(self, ids: Sequence[str]) -> np.ndarray:
        """bool (n, S, S): where a packed image is picture, not the padding around it."""
        frame = np.rint(self.images.loc[list(ids), PICTURE].to_numpy(dtype=float))
        across, down = (
            (np.arange(side) >= frame[:, k, None]) & (np.arange(side) < frame[:, k + 2, None])
            for k, side in enumerate(self.pixels.shape[:0:-1])
        )
        return down[:, :, None] & across[:, None]

    def boxes_of(self, ids: Sequence[str], finding: str | None = None) -> list[np.ndarray]:
        """Reference boxes (K, 4) of each image."""
        boxes = self._boxes_by_image(finding)
        return [boxes[i] for i in ids]


def read_students(references: Sequence[str]) -> pd.DataFrame:
    """students.csv of runs of `03-distil-student`, with each student's method; `folder` becomes its whole path."""
    tables = []
    for name in references:
        folder = run.find_run(name)
        table = pd.read_csv(folder / "students.csv")
        table = table.assign(method=methods_of(name, table["weight"]))
        tables.append(table.assign(folder=f"{folder}/students/" + table["folder"]))
    students = pd.concat(tables, ignore_index=True)
    if students.duplicated(STUDENT).any():
        raise DataError("Two students have the same method, weight, temperature, fold and seed: name one run of each.")
    return students


def draw(ids: Sequence[str], most: int, seed: int) -> list[str]:
    """`most` of these ids drawn without replacement, in their own order; all with 0 or where there are fewer."""
    if most < 0:
        raise DataError(f"{most} images cannot be drawn: give 0 for all, or a number above 0.")
    if not most or len(ids) <= most:
        return list(ids)
    rows = np.sort(np.random.default_rng(seed).choice(len(ids), most, replace=False))
    return [ids[row] for row in rows]


def student_maps(
    model: nn.Module,
    built: dict[str, Any],
    pixels: np.ndarray,
    names: Sequence[str],
    layer: int = -1,
    targets: np.ndarray | torch.Tensor | None = None,
    batch_size: int = 64,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Maps of a student by name, on the patch grid, and its logits, from one pass over the images.

    Parameters
    ----------
    model, built : as `students.load_student` gives them; the model may be on any device
    pixels : uint8 (N, S, S)
    names : some of `MAPS`
    layer, targets : see `saliency.saliency_maps`; -1 is the last transformer block. Without targets, a student of
        classes (softmax) explains the likeliest one.

    Returns
    -------
    maps : {name: float32 (N, grid_h, grid_w)}, not negative
    logits : float32 (N, n_outputs)
    """
    unknown = [name for name in names if name not in MAPS]
    if unknown:
        raise DataError(f"{unknown[0]!r} is no map: use some of {', '.join(MAPS)}.")
    if targets is None and built.get("activation") == "softmax":
        device = next(model.parameters()).device
        likeliest = predict_logits(model, pixels, built["mean"], built["std"], device).argmax(axis=1)
        targets = np.eye(model.num_classes)[likeliest]
    parts = torch.from_numpy(np.asarray(pixels)).split(batch_size)
    batches = (normalise(part, built["mean"], built["std"]) for part in parts)
    methods = {name: {**MAPS[name], "layer": layer} for name in names}
    return saliency.saliency_maps(model, batches, methods, targets=targets)


def choose_and_score(
    prepared: Prepared,
    validation: tuple[Sequence[str], np.ndarray],
    test: tuple[Sequence[str], np.ndarray],
    thresholds: Sequence[float],
    criterion: str = "iou",
    connectivity: int = 1,
    min_area: int = 1,
    normalize: bool = True,
    finding: str | None = None,
    threshold: float | None = None,
    **options: Any,
) -> tuple[float, Suite]:
    """Choose the threshold on validation maps, score test maps with it; both come back.

    Parameters
    ----------
    validation, test : (image ids, maps (n, h, w)); maps are enlarged to the packed images where they are smaller
    thresholds, criterion, connectivity, min_area, normalize : see `metrics.choose_threshold`
    finding : score against its regions alone; None: those of the trained labels
    threshold : use this one instead of choosing
    options : further arguments of `suite.score_maps`
    """
    ids, boxes = validation[0], {"connectivity": connectivity, "min_area": min_area, "normalize": normalize}
    if threshold is None:
        held, truth = _enlarged(prepared, validation[1]), prepared.boxes_of(ids, finding)
        picture = {"valid": prepared.valid_of(ids)}
        threshold, _ = metrics.choose_threshold(held, truth, thresholds, criterion, **boxes, **picture)
    return threshold, score(prepared, *test, threshold, finding, thresholds=thresholds, **boxes, **options)


def score(
    prepared: Prepared,
    ids: Sequence[str],
    maps: np.ndarray,
    threshold: float,
    finding: str | None = None,
    **options: Any,
) -> Suite:
    """Score maps (n, h, w) of these images against the regions of the trained labels, or of one `finding`.

    `options` are further arguments of `suite.score_maps`.
    """
    regions = prepared.masks_of(ids, finding), prepared.boxes_of(ids, finding)
    return score_maps(_enlarged(prepared, maps), *regions, threshold, **options, valid=prepared.valid_of(ids))


def reference_maps(
    prepared: Prepared,
    fold: int,
    parts: Sequence[Sequence[str]],
    built: dict[str, Any],
    seeds: Sequence[int] = (0,),
    width: float = 0.25,
    attention_map: str = "attention_mean",
    layer: int = -1,
    device: str | torch.device = "cpu",
    start: str | Path | None = None,
) -> Iterator[tuple[str, float, bool, list[np.ndarray]]]:
    """Maps that know nothing of the finding (`localization.reference`), for each set of image ids in `parts`.

    The mean training mask is left out where no training image of the fold has a region.

    Parameters
    ----------
    built : what `load_student` says of a student: the random ones are built like it
    seeds, attention_map, layer, device : of the random students, and the map of theirs
    width : of the centre prior
    start : file of the weights that the students start from, see `start_weights`; None: they start from random ones

    Yields
    ------
    name, seed (NaN but for a random student), whether a threshold acts on the scaled map, maps (n, h, w) of each part
    """
    size = prepared.pixels.shape[1:]
    uniform, centre, mean, random, body, before = reference.NAMES
    fixed = {uniform: np.ones(size, dtype=np.float32), centre: reference.centre_prior(size, width)}
    if train := prepared.with_regions(fold, "train"):
        fixed[mean] = reference.mean_training_mask(prepared.masks_of(train))
    for name, one in fixed.items():
        yield name, np.nan, False, [np.broadcast_to(one, (len(part), *size)) for part in parts]
    pixels = [prepared.pixels_of(part) for part in parts]
    yield body, np.nan, False, [reference.body_masks(some) for some in pixels]
    untrained = [(random, float(seed), random_student(built["build"], seed)) for seed in seeds]
    if start is not None:
        untrained.append((before, np.nan, build_student(**{**built["build"], "weights": start}).eval()))
    for name, seed, model in untrained:
        model.to(device)
        found = [student_maps(model, built, some, [attention_map], layer)[0][attention_map] for some in pixels]
        yield name, seed, True, found


def start_weights(reference: str) -> Path | None:
    """The file of weights that the students of a run of `03-distil-student` start from; None: random ones."""
    asked = files.read_json(run.find_run(reference) / "run.json")["parameters"]
    if asked.get("start_run"):
        folder = run.find_run(asked["start_run"])
        return folder / "students" / pd.read_csv(folder / "students.csv")["folder"].iloc[0] / "model.safetensors"
    return resolve(asked["student_weights"]) if asked.get("student_weights") else None


def _enlarged(prepared: Prepared, maps: np.ndarray) -> np.ndarray:
    size = prepared.pixels.shape[1:]
    return maps if maps.shape[1:] == size else attention.upsample_maps(maps, size)
