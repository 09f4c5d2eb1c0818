"""Refusals shared by all loaders: each raises with one sentence that says what is wrong, where, and what to do."""

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from pkd_utils.cohorts.table import BOX_COLUMNS, IMAGE_COLUMNS, Cohort
from pkd_utils.runs.errors import DataError

BOX_TOLERANCE = 1.0  # pixels: annotation tools round outwards


def require_file(path: Path, where: str) -> Path:
    """Return `path`, or raise FileNotFoundError that names it and says where to get it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; get it from {where}.")
    return path


def require_columns(table: pd.DataFrame, columns: Sequence[str], file: Path) -> None:
    """Raise DataError if a column is missing from a table that was read from `file`."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(
            f"{file.name} has no column {', '.join(map(repr, missing))} (it has {', '.join(table.columns)}); "
            "check that the file is the published one."
        )


def read_csv(path: Path, columns: Sequence[str], where: str, usecols: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a CSV (plain or .gz) with every field as a string; empty fields are NaN and 'NA' stays text.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        Columns that must be there.
    where : str
        Where to get the file, for the error message.
    usecols : sequence of str, optional
        Read only these columns (those that exist), to save memory on large tables.
    """
    require_file(path, where)
    try:
        header = pd.read_csv(path, nrows=0)
        require_columns(header, columns, path)
        keep = None if usecols is None else [name for name in usecols if name in header.columns]
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], usecols=keep)
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
        EOFError,
        OSError,
        zlib.error,
    ) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); fetch the file again.") from None


def check_unique(table: pd.DataFrame, columns: str | list[str], source: str) -> None:
    """Raise DataError if two rows carry the same identifier."""
    duplicated = table.duplicated(columns, keep=False)
    if duplicated.any():
        first = table.loc[duplicated, columns].iloc[0]
        first = first if isinstance(first, str) else " / ".join(map(str, first))
        name = columns if isinstance(columns, str) else " + ".join(columns)
        raise DataError(
            f"{source}: {name} {first!r} occurs more than once ({int(duplicated.sum())} such rows); "
            "remove the duplicate rows."
        )


def check_patient_ids(images: pd.DataFrame, source: str) -> None:
    """Raise DataError if a row has no patient id: without it no split can keep patients apart."""
    missing = images["patient_id"].isna() | (images["patient_id"].astype("str").str.strip() == "")
    if missing.any():
        first = images.loc[missing, "image_id"].iloc[0]
        raise DataError(
            f"{source}: {int(missing.sum())} row(s) have no patient id, the first is image {first!r}; "
            "add the id or remove the row."
        )


def check_patient_splits(images: pd.DataFrame, source: str) -> None:
    """Raise DataError if one patient has images in more than one split."""
    counts = images.dropna(subset=["split"]).groupby("patient_id")["split"].nunique()
    shared = counts[counts > 1]
    if len(shared):
        patient = shared.index[0]
        splits = sorted(images.loc[images["patient_id"] == patient, "split"].dropna().unique())
        raise DataError(
            f"{source}: patient {patient!r} is in splits {' and '.join(splits)} ({len(shared)} such patients); "
            "move each patient to one split."
        )


def check_boxes(cohort: Cohort) -> None:
    """Raise DataError if a box has no area, is not finite, or leaves its stored image by more than a pixel.

    Reads the header of every image that carries a box.
    """
    boxes = cohort.boxes
    numbers = boxes[["x", "y", "width", "height"]].to_numpy(dtype=float)
    bad = ~np.isfinite(numbers).all(axis=1) | ~(numbers[:, 2:] > 0).all(axis=1)
    if bad.any():
        raise DataError(
            f"{cohort.info.name}: a box of image {boxes['image_id'][bad].iloc[0]!r} has no area or is not a number; "
            "correct it in the annotation file."
        )
    # First down to the few boxed images: `isin` takes a long list of strings one by one.
    known = cohort.images["image_id"]
    unknown = ~boxes["image_id"].isin(known[known.isin(boxes["image_id"].unique())])
    if unknown.any():
        raise DataError(
            f"{cohort.info.name}: a box names image {boxes['image_id'][unknown].iloc[0]!r}, which is not in the images."
        )
    ids = boxes["image_id"].unique()
    sizes = pd.DataFrame([cohort.image_size(i) for i in ids], index=ids, columns=["w", "h"], dtype=float)
    sizes = sizes.loc[boxes["image_id"]].to_numpy().reshape(-1, 2)
    low, high = numbers[:, :2], numbers[:, :2] + numbers[:, 2:]
    outside = (low < -BOX_TOLERANCE).any(axis=1) | (high > sizes + BOX_TOLERANCE).any(axis=1)
    if outside.any():
        box, size = boxes[outside].iloc[0], sizes[outside][0]
        raise DataError(
            f"{cohort.info.name}: box {box['label']!r} of image {box['image_id']!r} (x {box['x']:g}, y {box['y']:g}, "
            f"width {box['width']:g}, height {box['height']:g}) lies outside its image of {size[0]:g}x{size[1]:g} "
            "pixels; correct it in the annotation file."
        )


def check_text(privileged: pd.DataFrame, source: str) -> None:
    """Raise DataError if a report has no text."""
    empty = privileged["text"].isna() | (privileged["text"].astype("str").str.strip() == "")
    if empty.any():
        raise DataError(
            f"{source}: {int(empty.sum())} report(s) have no text, the first is {privileged.index[empty][0]!r}; "
            "remove them, or pass report_missing='drop' to leave them out and count them in the funnel."
        )


def check_images_readable(cohort: Cohort) -> None:
    """Decode every image; DataError (or FileNotFoundError) for the first that cannot be read. Slow: shows progress."""

    def decode(image_ids: Sequence[str]) -> int:
        for image_id in image_ids:
            cohort.image_size(image_id)  # missing files and files that are no image at all
            try:
                with Image.open(cohort.image_path(image_id)) as image:
                    image.load()
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(
                    f"Image {cohort.image_path(image_id)} is damaged ({error}); fetch the file again."
                ) from None
        return len(image_ids)

    ids = cohort.images["image_id"].tolist()
    batches = [ids[i : i + 32] for i in range(0, len(ids), 32)]
    # Threads: PIL's decoders let each other run.
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=len(ids), desc="decoding images", unit="image") as bar:
        for done in pool.map(decode, batches):
            bar.update(done)


def check_cohort(cohort: Cohort) -> None:
    """Check what every cohort must satisfy; see `load_cohort` for the errors; reads headers of images with boxes."""
    name, images = cohort.info.name, cohort.images
    missing = [column for column in [*IMAGE_COLUMNS, *cohort.labels] if column not in images.columns]
    if missing or list(cohort.boxes.columns) != BOX_COLUMNS:
        raise DataError(
            f"{name}: the loader's tables lack columns {missing or BOX_COLUMNS}; this is a fault of the loader."
        )
    if images.empty:
        raise DataError(f"{name}: no image is left after the filters; cohort options and the files do not fit.")
    check_patient_ids(images, name)
    check_unique(images, "image_id", name)
    check_patient_splits(images, name)
    for label in cohort.labels:
        if not images[label].isin([0.0, 1.0]).where(images[label].notna(), True).all():
            raise DataError(f"{name}: label {label!r} has values other than 1, 0 and missing.")
    if len(cohort.boxes):
        check_boxes(cohort)
