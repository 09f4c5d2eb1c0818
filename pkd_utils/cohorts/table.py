"""The cohort contract: one row an image, privileged information beside it, boxes, and the funnel that led there."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pkd_utils.images.decode import image_size, open_image
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import file_sha256

IMAGE_COLUMNS = ["image_id", "patient_id", "study_id", "path", "split", "view"]
SPLITS = ("train", "validate", "test")
CORNERS = ["x0", "y0", "x1", "y1"]
BOX_COLUMNS = ["image_id", "label", *CORNERS]
FUNNEL_COLUMNS = ["step", "rows", "patients", "paper", "note"]


@dataclass(frozen=True)
class CohortInfo:
    """What a data source is, and what of it may be shown.

    `shareable_text` and `shareable_images` decide whether a notebook or page may print report text or render pixels
    and identifiers; they are False unless the source's licence clearly allows it. `credentialed` sources are for people
    who have signed for them: nothing of them is shareable, and no count below 10 is shown. `splits` are the official
    splits that the source has, of `SPLITS`; a source without any says (). `finding_boxes`: a box's label is the name of
    a finding, as label columns are, and the box ground truth of that finding alone; else boxes (lungs, a lesion) are
    the image's, whatever its labels. `separator`: what stands between the values of one cell of the source's tables, a
    regular expression; "": a cell is one value, whatever marks it holds.
    """

    name: str
    title: str
    licence: str
    citation: str
    simulated: bool = False
    shareable_text: bool = False
    shareable_images: bool = False
    credentialed: bool = False
    splits: tuple[str, ...] = SPLITS
    finding_boxes: bool = False
    separator: str = ""

    def __post_init__(self) -> None:
        if self.credentialed and (self.simulated or self.shareable_text or self.shareable_images):
            raise DataError(f"{self.name}: credentialed data are not simulated, and nothing of them is shareable.")


def source_info(info: CohortInfo, simulated_title: str, root: Path, folders: Iterable[Path] = ()) -> CohortInfo:
    """`info`, or where `root` is marked as simulated (SIMULATED.txt) that of an embedded cohort in the source's layout.

    Real and simulated folders may not be mixed, since one of them may not be shown. A mark holds for the folder that it
    lies in and those right below; a folder that is not there holds nothing that could be mixed in.
    """
    simulated = (root / "SIMULATED.txt").is_file()
    here = [folder for folder in (root, *folders) if folder.is_dir()]
    marks = [any((place / "SIMULATED.txt").is_file() for place in (folder, folder.parent)) for folder in here]
    if any(mark != simulated for mark in marks):
        names = ", ".join(map(str, here))
        raise DataError(f"Of {names} some are simulated (SIMULATED.txt) and some are not; use one kind.")
    if not simulated:
        return info
    told = {"title": simulated_title, "licence": "see SIMULATED.txt", "citation": "made by pkd_utils.demo"}
    return replace(info, **told, credentialed=False, simulated=True, shareable_text=True, shareable_images=True)


class Funnel:
    """Collects the rows and patients that are left after each step of a loader."""

    def __init__(self) -> None:
        self._steps: list[tuple] = []

    def step(self, name: str, rows: pd.DataFrame, paper: float = np.nan, note: str = "") -> None:
        """Record one step: `rows` needs a column `patient_id`; `paper` is the publication's count of rows."""
        self._steps.append((name, len(rows), rows["patient_id"].nunique(), paper, note))

    def table(self) -> pd.DataFrame:
        """Return the steps as a table with columns step, rows, patients, paper, note."""
        return pd.DataFrame(self._steps, columns=FUNNEL_COLUMNS).astype({"paper": "float64"})


@dataclass(repr=False)
class Cohort:
    """A data source as tables, the same for every source.

    Attributes
    ----------
    info : CohortInfo
        Name, licence, citation, and what may be shown.
    root : Path
        Folder that image paths are relative to.
    labels : list of str
        Names of the label columns of `images`.
    images : DataFrame
        One row an image: `image_id, patient_id, study_id, path, split, view`, then one float column a label with 1, 0
        or NaN (unknown), then what else the source gives. Identifiers are strings; `path` is relative to `root`;
        `split` is one of `info.splits`, or NaN for an image that is in none.
    boxes : DataFrame
        `image_id, label, x0, y0, x1, y1` in float pixels of the stored image, origin top left, x1 and y1 exclusive.
    funnel : DataFrame
        `step, rows, patients, paper, note`: what every filter left, beside the paper's count.
    privileged_source : DataFrame or callable
        The privileged table, or a function of the `images` table that reads it; see `privileged`.
    tables : list of Path
        The table files that were read; `data_hash` covers them.
    masks_root : Path or None
        Folder of `<image_id>/<Label_with_underscores>.png` masks, for sources that have them.
    regions : DataFrame or None
        Masks of sources that lay them out otherwise, a row a file: `image_id, label`, and what `placed_mask` needs.
    """

    info: CohortInfo
    root: Path
    labels: list[str]
    images: pd.DataFrame
    boxes: pd.DataFrame
    funnel: pd.DataFrame
    privileged_source: pd.DataFrame | Callable[[pd.DataFrame], pd.DataFrame]
    tables: list[Path] = field(default_factory=list)
    masks_root: Path | None = None
    regions: pd.DataFrame | None = None

    @cached_property
    def privileged(self) -> pd.DataFrame:
        """Privileged information, indexed by `study_id` or `image_id` (the index's name): `text` or named features.

        Large sources are read at first access and only for the studies that are selected: call `select` first.
        """
        if callable(self.privileged_source):
            table = self.privileged_source(self.images)
            for problem in privileged_problems(table, self.images):
                raise DataError(f"{self.info.name}: {problem}")
            return table
        keys = self.images[self.privileged_source.index.name].unique()
        return self.privileged_source.loc[self.privileged_source.index.isin(keys)]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """`images`, indexed by `image_id`."""
        return self.images.set_index("image_id")

    def select(self, image_ids: Iterable[str], step: str = "selected images") -> "Cohort":
        """Return the cohort with these images only, in the cohort's own order, and one more funnel row."""
        index = pd.Index(sorted(set(image_ids)))
        unknown = index.difference(self.images["image_id"])
        if len(unknown):
            raise DataError(
                f"{len(unknown)} image_id(s) are not in cohort {self.info.name}, the first is {unknown[0]!r}; "
                "select from cohort.images['image_id']."
            )
        kept = (table[within(table["image_id"], index)] for table in (self.images, self.boxes))
        images, boxes = (table.reset_index(drop=True) for table in kept)
        funnel = Funnel()
        funnel.step(step, images)
        funnel = pd.concat([self.funnel, funnel.table()], ignore_index=True)
        return replace(self, images=images, boxes=boxes, funnel=funnel)

    def image_path(self, image_id: str) -> Path:
        """Return the absolute path of an image; the file need not exist."""
        return self.root / self.rows.at[image_id, "path"]

    def image_size(self, image_id: str) -> tuple[int, int]:
        """Return (width, height) in pixels of the stored image, from its header."""
        return image_size(self.image_path(image_id))

    def mask(self, image_id: str, label: str | None = None) -> np.ndarray:
        """Return the region of one label (a value of `boxes["label"]`), or of all together, in the stored image.

        Returns
        -------
        ndarray of bool, shape (H, W)
            From the source's mask files where it has them for this image, else its boxes filled. Without any it is a
            DataError: an image that nobody annotated must not pass for one without lesion.
        """

        def of_image(table: pd.DataFrame) -> pd.DataFrame:
            rows = table[table["image_id"] == image_id]
            return rows if label is None else rows[rows["label"] == label]

        width, height = self.image_size(image_id)
        mask = np.zeros((height, width), dtype=bool)
        stem = "*" if label is None else label.replace(" ", "_")
        files = list((self.masks_root / image_id).glob(f"{stem}.png")) if self.masks_root else []
        for file in files:
            region = np.asarray(open_image(file).convert("L")) > 127
            if region.shape != mask.shape or not region.any():
                raise DataError(
                    f"Mask {file} marks no pixel of its image, or is not of its {width}x{height} pixels; fetch it "
                    "again, or take it out."
                )
            mask |= region
        regions = [] if self.regions is None else list(of_image(self.regions).itertuples())
        for region in regions:
            mask |= placed_mask(region, (width, height))
        if files or regions:
            return mask
        boxes = of_image(self.boxes)
        if boxes.empty:
            which = "region" if label is None else f"region labelled {label!r}"
            raise DataError(f"Image {image_id!r} has no {which}; ask only for images and labels of cohort.boxes.")
        for box in boxes.itertuples():
            # A pixel belongs to the box if its centre does; a box too thin to hold one keeps the nearest.
            columns, rows = (
                slice(start := min(max(round(low), 0), side - 1), max(round(high), start + 1))
                for low, high, side in ((box.x0, box.x1, width), (box.y0, box.y1, height))
            )
            mask[rows, columns] = True
        return mask

    def data_hash(self) -> str:
        """Return a SHA-256 over the table files, the names and sizes of the images, and the privileged table.

        Looks at every selected image's size on disk and reads the privileged table, so call it once a run.
        """
        digest = hashlib.sha256()
        for table in sorted(self.tables):
            digest.update(bytes.fromhex(file_sha256(table)))
        for path in sorted(self.images["path"]) if self.has_images else ():
            file = f"{self.root}/{path}"  # a Path for each of 377,110 images takes longer than asking for its size
            if not os.path.isfile(file):
                raise FileNotFoundError(f"Image {file} is missing; cohort {self.info.name} lists it.")
            digest.update(f"{path} {os.path.getsize(file)}\n".encode())
        digest.update(pd.util.hash_pandas_object(self.privileged.sort_index()).to_numpy().tobytes())
        return digest.hexdigest()

    @property
    def has_images(self) -> bool:
        """True if the source has image files here; False for report or table sources, whose `path` is NaN."""
        return bool(self.images["path"].notna().all()) and len(self.images) > 0

    def __repr__(self) -> str:  # no row of any patient
        kind = " (SIMULATED)" if self.info.simulated else ""
        counts = f"{len(self.images):,} images or reports, {self.images['patient_id'].nunique():,} patients"
        return f"{self.info.title}{kind}: {counts}"


def is_text(values: pd.Series | pd.Index) -> bool:
    """True if every value that is there is a string."""
    return pd.api.types.infer_dtype(values, skipna=True) in ("string", "empty")


def within(values: pd.Series | pd.Index, index: pd.Index) -> np.ndarray:
    """`values.isin(index)` as a bool array; isin() looks through a long list of strings anew for every value."""
    return index.get_indexer(values) >= 0


def privileged_problems(table: pd.DataFrame, images: pd.DataFrame) -> Iterator[str]:
    """What is wrong with a privileged table: its index, identifiers without image, or columns of another kind."""
    key = table.index.name
    if key not in ("study_id", "image_id"):
        yield f"the privileged table's index is named {key!r}; name it study_id or image_id, whichever it holds."
        return
    if not is_text(table.index) or table.index.hasnans or not table.index.is_unique:
        yield f"the privileged table must have one row a {key}, each a string; drop repeated and empty ones."
        return
    unknown = ~within(table.index, pd.Index(images[key].unique()))
    if unknown.any():
        yield (
            f"{int(unknown.sum())} of {len(table)} privileged rows belong to no image, the first is {key} "
            f"{table.index[unknown][0]!r} (images have e.g. {images[key].iloc[0]!r}); leave them out or mend their ids."
        )
    damaged = table.index[table["text"].str.contains("\0", regex=False, na=False)] if "text" in table else []
    for name in damaged:
        yield f"the text of {key} {name!r} holds NUL characters ({len(damaged)} such texts); fetch its file again."
    for column in [] if "text" in table else table.columns:
        if not pd.api.types.is_float_dtype(table[column]):
            yield f"privileged column {column!r} holds {table[column].dtype}; give floats, or one column `text`."


def empty_boxes() -> pd.DataFrame:
    """Return a box table without rows, for sources that have none."""
    return pd.DataFrame(columns=BOX_COLUMNS).astype(
        dict.fromkeys(BOX_COLUMNS, "str") | dict.fromkeys(CORNERS, "float64")
    )


def cell_values(cells: pd.Series, separator: str) -> pd.Series:
    """The values of each cell, a list of words cut at `CohortInfo.separator`; NaN stays."""
    cut = re.compile(separator or "(?!)")  # which is nowhere
    return cells.map(lambda cell: [value.strip() for value in cut.split(str(cell))], na_action="ignore")


def one_hot(name: str, values: pd.Series) -> dict[str, pd.Series]:
    """One 0/1 column `name=word` a word that stands in a field's list of words."""
    words = sorted(set(values.explode().dropna()))
    return {f"{name}={word}": values.map(lambda row, word=word: float(word in row)) for word in words}


def placed_mask(region: tuple, size: tuple[int, int]) -> np.ndarray:
    """A mask file in an image of `size` (W, H): (H, W) bool.

    What is not black in the file `path` lies with its corner at `left`, `top` of a frame of `frame_width` times
    `frame_height` pixels; what leaves the frame is cut off; the frame is brought to the image's size, nearest pixel.
    """
    frame = Image.new("L", (region.frame_width, region.frame_height))
    frame.paste(open_image(region.path).convert("L"), (region.left, region.top))
    return np.asarray(frame.resize(size, Image.Resampling.NEAREST)) > 0
