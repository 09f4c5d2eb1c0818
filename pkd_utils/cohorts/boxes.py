"""Boxes: of COCO files, from declared to stored size; around masks; and which of them are ground truth of what."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pkd_utils.cohorts.checks import require_file
from pkd_utils.cohorts.table import BOX_COLUMNS, CORNERS, SPLITS, Cohort, placed_mask, within
from pkd_utils.images.decode import image_size
from pkd_utils.runs.errors import DataError

ASPECT_TOLERANCE = 0.02  # a mask's frame and its stored image differ by rounding, as 943x751 and 768x612 do
ANY = "any finding"  # the regions of every finding, trained or not


def read_coco(path: Path, where: str) -> pd.DataFrame:
    """Read the boxes of a COCO annotation file, which `where` says where to get: one row an annotation.

    Columns: `file_name`, `label` (category name), `x, y, width, height` (float, pixels of the declared size),
    `declared_width, declared_height`.
    """
    require_file(path, where)
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in coco["images"]}
        names = {category["id"]: category["name"] for category in coco["categories"]}
        rows = []
        for number, annotation in enumerate(coco["annotations"], start=1):
            image = images[annotation["image_id"]]
            x, y, width, height = annotation["bbox"]
            box = (x, y, width, height, image["width"], image["height"])
            if not all(type(value) in (int, float) for value in box):
                raise ValueError(f"annotation {number} has bbox and size {', '.join(map(repr, box))}, not six numbers")
            texts = (image["file_name"], names[annotation["category_id"]])
            if not all(isinstance(text, str) for text in texts):
                raise ValueError(f"annotation {number} has file and category {texts!r}, not two texts")
            rows.append((*texts, *map(float, box)))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is not a COCO annotation file ({error}); fetch it again.") from None
    except KeyError as error:
        raise DataError(f"{path} lacks the COCO entry {error}; check that the file is the published one.") from None
    columns = ["file_name", "label", "x", "y", "width", "height", "declared_width", "declared_height"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"file_name": "str", "label": "str"} | dict.fromkeys(columns[2:], "float64"))


def boxes_of(images: pd.DataFrame, table: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, int]:
    """The boxes that are of these images, rescaled from the declared size to that of the stored file (its header).

    Parameters
    ----------
    images : DataFrame
        `image_id` and `path`, relative to `root`.
    table : DataFrame
        `image_id, label, x, y, width, height, declared_width, declared_height`, boxes of other images too. DataError
        if an image has another aspect ratio than its boxes were drawn on: it is turned, cropped or another one.

    Returns
    -------
    (DataFrame, int)
        The boxes of the contract (`table.BOX_COLUMNS`), in pixels of the stored image, and the number of images whose
        declared size differed.
    """
    paths = images[within(images["image_id"], pd.Index(table["image_id"].unique()))].set_index("image_id")["path"]
    boxes = table[table["image_id"].isin(paths.index)]
    declared = boxes[["declared_width", "declared_height"]].to_numpy()
    for image in boxes["image_id"][~(declared > 0).all(axis=1)]:
        raise DataError(f"The annotation of image {image!r} declares no image size; correct the annotation file.")
    sizes = pd.DataFrame([image_size(root / path) for path in paths], paths.index, ["width", "height"], dtype="float64")
    stored = sizes.loc[boxes["image_id"]].to_numpy().reshape(-1, 2)
    scale = stored / declared
    rounding = np.maximum(ASPECT_TOLERANCE, 1 / stored.min(axis=1))
    for row in np.flatnonzero(np.abs(np.log(scale[:, 0] / scale[:, 1])) > rounding):
        image, drawn, found = boxes["image_id"].iloc[row], *(f"{w:g}x{h:g}" for w, h in (declared[row], stored[row]))
        raise DataError(
            f"The boxes of image {image!r} were drawn on {drawn} pixels, but {root / paths[image]} has {found}: it is "
            "turned, cropped or another image; fetch both again."
        )
    result = boxes[["image_id", "label"]].copy()
    for axis, (start, length) in enumerate((("x", "width"), ("y", "height"))):
        result[f"{start}0"] = boxes[start].to_numpy() * scale[:, axis]
        result[f"{start}1"] = result[f"{start}0"] + boxes[length].to_numpy() * scale[:, axis]
    differing = boxes["image_id"][(scale != 1).any(axis=1)].nunique()
    return result[BOX_COLUMNS].reset_index(drop=True), differing


def boxes_around(images: pd.DataFrame, regions: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The box around each mask of `regions` (see `table.Cohort`) in its image, whose `path` is relative to `root`.

    DataError if a mask is black throughout, or its image has another aspect ratio than its frame.
    """
    paths, corners = images.set_index("image_id")["path"], []
    for region in regions.itertuples():
        file = root / paths[region.image_id]
        width, height = image_size(file)
        if abs(np.log(width / region.frame_width * region.frame_height / height)) > ASPECT_TOLERANCE:
            raise DataError(
                f"Mask {region.path} was drawn on an image of {region.frame_width}x{region.frame_height} pixels, but "
                f"{file} has {width}x{height}: it is another image; fetch both again."
            )
        mask = placed_mask(region, (width, height))
        columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
        if not len(rows):
            raise DataError(f"Mask {region.path} marks no pixel of its image; take it out of the table.")
        corners.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    result = pd.DataFrame(corners, columns=CORNERS, dtype="float64").set_axis(regions.index)
    return regions[["image_id", "label"]].join(result)[BOX_COLUMNS].reset_index(drop=True)


def square_around(boxes: pd.DataFrame, frames: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Squares to cut around lesions: wider by `margin` times the longer side on each side, moved inside the frame.

    Parameters
    ----------
    boxes : `table.CORNERS`, a row a lesion, pixels of its frame
    frames : (N, 2) width and height; where one is shorter than the square, the square is cut off there

    Returns
    -------
    left and top, width and height : int (N, 2) each
    """
    low, high = boxes[CORNERS[:2]].to_numpy(float), boxes[CORNERS[2:]].to_numpy(float)
    side = np.ceil((1 + 2 * margin) * (high - low).max(axis=1, keepdims=True))
    size = np.minimum(side, frames).astype(int)
    return np.clip((low + high - size) // 2, 0, frames - size).astype(int), size


def regions_of(cohort: Cohort) -> pd.DataFrame:
    """`cohort.boxes` with `finding`: the label that a box is ground truth of, or "" where it is the image's."""
    return cohort.boxes.assign(finding=cohort.boxes["label"] if cohort.info.finding_boxes else "")


def ground_truth(regions: pd.DataFrame, labels: Sequence[str], finding: str | None = None) -> np.ndarray:
    """Which regions count (bool): those of one finding, of all trained `labels` (None), or of `ANY` finding.

    `regions` has a column `finding`, see `regions_of`; what belongs to the image counts for every finding.
    """
    wanted = labels if finding is None else [finding]
    return regions["finding"].isin(["", *wanted]).to_numpy() | (finding == ANY)


def of_positives(
    regions: pd.DataFrame, images: pd.DataFrame, labels: Sequence[str], finding: str | None = None
) -> np.ndarray:
    """Which regions (bool) lie on an image that is positive (1) for their finding.

    Regions of no trained finding ask for one positive label, or for `finding` if that is one. `images` is indexed by
    image_id.
    """
    positive = images[list(labels)] == 1
    one = positive[[finding] if finding in labels else list(labels)].any(axis=1)
    result = np.array(regions["image_id"].map(one), dtype=bool)
    for label in labels:
        mine = (regions["finding"] == label).to_numpy() & (finding != ANY)
        result[mine] = positive.loc[regions["image_id"][mine], label]
    return result


def boxed_by_split(cohort: Cohort, splits: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Count images with regions by fold and split, and say in a sentence if a validation part has none ("" if not).

    Parameters
    ----------
    splits : DataFrame
        `image_id, split, fold`.

    Returns
    -------
    (DataFrame, str)
        A row a fold and split: images with any region, of them with one of a trained label, of them positive for it.
    """
    regions = regions_of(cohort)
    own = regions[ground_truth(regions, cohort.labels)]
    sets = {
        "with a region": regions,
        "of a trained label": own,
        "positive for it": own[of_positives(own, cohort.rows, cohort.labels)],
    }
    index = pd.MultiIndex.from_product([sorted(splits["fold"].unique()), SPLITS], names=["fold", "split"])
    counts = {
        name: splits[splits["image_id"].isin(table["image_id"])].groupby(["fold", "split"]).size()
        for name, table in sets.items()
    }
    table = pd.DataFrame(counts, index).fillna(0).astype(int)
    held = table["of a trained label"].xs("validate", level="split")
    without = ", ".join(str(fold) for fold in held.index[held == 0])
    if not without:
        return table, ""
    way = "set folds to 3 or more, or take a split whose validation part is boxed"
    way += " (mimic_cxr: split_from='ms_cxr')" if cohort.info.finding_boxes else ""
    return table, (
        f"No validation image of fold {without} has a region of a trained label, so no threshold can be chosen there "
        f"and maps cannot be scored: {way}."
    )
