"""Tell CBIS-DDSM's mammograms, crops and masks apart by what is in the files, and serve each lesion's mask.

The tables' crop and mask paths are swapped in part of the rows and the files' names (1-1, 1-2) say nothing. A mask has
the mammogram's size and (nearly) only black and white pixels; a crop is small. Sizes stand in the headers and settle
almost every row; pixels are decoded for the masks, whose extent is needed anyway, and where sizes settle nothing. What
was read of a file is kept and used again as long as the file's length and time of change stay.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from pkd_utils.cohorts.boxes import square_around
from pkd_utils.cohorts.table import CORNERS, Cohort
from pkd_utils.images.decode import image_size, open_image
from pkd_utils.images.depth import is_deep
from pkd_utils.runs import machine
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import atomic_path, hash_params, write
from pkd_utils.runs.paths import data_dir

# JPEG blurs a mask's edges: so many of its pixels may lie between black and white. A mammogram has 20 % and more there.
MIDDLE_SHARE = 0.05
MIDDLE = (0.1, 0.9)  # of the brightest pixel
# A black-and-white file with less than this share of the mammogram's pixels is no mask of it (smallest known: 0.75).
MASK_AREA = 0.25
NO_FILE = "no file of its series"
CACHE = ".cbis-files.parquet"
SIZE, FRAME, CORNER = ["width", "height"], ["mammogram_width", "mammogram_height"], ["crop_left", "crop_top"]
_FACTS = ["bytes", "mtime_ns", "width", "height", "middle", "x0", "y0", "x1", "y1"]


class FileFacts:
    """Size and, where asked for, content of picture files; remembers them between calls and sessions.

    File names are relative to `root`. The facts are kept there in `.cbis-files.parquet` or, where nothing can be
    written, under `cache/` of the data folder.
    """

    def __init__(self, root: Path):
        self.root = root
        name = f"cbis-{_short_hash(root)}.parquet"
        self.cache = root / CACHE if os.access(root, os.W_OK) else data_dir() / "cache" / name
        self._facts: dict[str, dict] = {}  # of the files that were asked for
        self._kept: dict[str, dict] = {}  # of an earlier session, perhaps out of date
        if self.cache.is_file():
            with contextlib.suppress(OSError, ValueError, KeyError):  # what cannot be read is written anew
                self._kept = pd.read_parquet(self.cache)[_FACTS].to_dict("index")

    def read(self, files: Iterable[str], pixels: bool = False) -> None:
        """Read what is not known yet of these files: headers, or pixels too."""
        files = list(dict.fromkeys(files))
        for file in files:
            if file not in self._facts:
                stat = (self.root / file).stat()
                kept = self._kept.get(file, {})
                fresh = (kept.get("bytes"), kept.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
                self._facts[file] = kept if fresh else {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        done = "middle" if pixels else "width"
        # A damaged file is looked at again at every load: it may have been mended without a trace in length and time.
        todo = [f for f in files if pd.isna(self._facts[f].get(done)) and not self._facts[f].get("problem")]
        if not todo:
            return

        def look(file: str) -> dict:
            try:
                return (_look_at_pixels if pixels else _look_at_header)(self.root / file)
            except DataError as error:
                return {"problem": str(error).rstrip(".")}

        what = "masks" if pixels else "headers"
        with ThreadPoolExecutor(machine.cores()) as pool:
            bar = tqdm(pool.map(look, todo), f"reading {what}", len(todo), unit="file", delay=5, mininterval=5)
            for file, facts in zip(todo, bar, strict=True):
                self._facts[file] = {**self._facts[file], **facts}
        # What is known of the other table's files is kept.
        write(self.cache, pd.DataFrame.from_dict(self._kept | self._facts, "index", columns=_FACTS))

    def __getitem__(self, file: str) -> dict:
        return self._facts[file]

    def size(self, file: str) -> tuple[int, int]:
        """(width, height) of a file that was read, in pixels."""
        return int(self._facts[file]["width"]), int(self._facts[file]["height"])

    def area(self, file: str) -> int:
        """Pixels of a file that was read."""
        return math.prod(self.size(file))

    def sound(self, files: Iterable[str]) -> list[str]:
        """The files without a problem, largest first."""
        return sorted((f for f in files if not self._facts[f].get("problem")), key=self.area, reverse=True)


def _short_hash(root: Path) -> str:
    return hashlib.sha256(str(root).encode()).hexdigest()[:12]


def read_picture(path: Path) -> np.ndarray:
    """Decode a picture of any role, (H, W) uint8 or of more bits; DataError where it cannot be read."""
    image = open_image(path)
    return np.asarray(image if is_deep(image) else image.convert("L"))


def _look_at_header(path: Path) -> dict:
    """Width and height."""
    width, height = image_size(path)
    return {"width": width, "height": height}


def _look_at_pixels(path: Path) -> dict:
    """Share of pixels between black and white, and the extent of the white ones, x1 and y1 exclusive."""
    pixels = read_picture(path)
    # One pass over all pixels; the rest looks at the rows that are not black, in a mask the lesion's alone.
    brightest = pixels.max(axis=1)
    peak = int(brightest.max())
    lit = pixels[brightest > MIDDLE[0] * peak]
    between = (lit > MIDDLE[0] * peak) & (lit < MIDDLE[1] * peak)
    extent = (0, 0, 0, 0)
    if peak:
        rows, columns = np.flatnonzero(brightest > peak / 2), np.flatnonzero(lit.max(axis=0) > peak / 2)
        extent = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    facts = dict(zip(("x0", "y0", "x1", "y1"), map(int, extent), strict=True))
    return {"middle": float(between.sum() / pixels.size), "height": pixels.shape[0], "width": pixels.shape[1], **facts}


def assign_roles(files: pd.DataFrame, facts: FileFacts) -> pd.DataFrame:
    """Decide for every row of `cbis.files.find_files` which file is the mammogram, which the mask and which the crop.

    Returns
    -------
    DataFrame
        Indexed as `files`: `mammogram_path`, `mask_path`, `crop_path` (None where there is none) and for each a column
        `mammogram_problem`, `mask_problem`, `crop_problem`: why not, None where nothing is wrong.
    """
    facts.read(file for column in files.columns for names in files[column] for file in names)
    mammograms = [_mammogram(names, facts) for names in files["mammogram_files"]]
    by_size = [_by_size(m, r, facts) for (m, _), r in zip(mammograms, files["roi_files"], strict=True)]
    pairs = list(zip(files["roi_files"], by_size, strict=True))
    facts.read((f for names, pair in pairs for f in (pair[:1] if pair else names)), pixels=True)
    # A file of the mammogram's size that is no mask after all.
    pairs = [(names, pair if pair and _is_mask(facts[pair[0]]) else None) for names, pair in pairs]
    facts.read((f for names, pair in pairs if not pair for f in names), pixels=True)
    rows = []
    for (mammogram, problem), (names, pair) in zip(mammograms, pairs, strict=True):
        mask, crop, mask_problem, crop_problem = (*pair, None, None) if pair else _by_pixels(mammogram, names, facts)
        broken = next((facts[name]["problem"] for name in names if facts[name].get("problem")), None)
        if mask is not None and facts[mask]["x1"] == 0:
            mask, mask_problem = None, f"{facts.root / mask} is a mask without a white pixel"
        rows.append(
            {
                "mammogram_path": mammogram,
                "mask_path": mask,
                "crop_path": crop,
                "mammogram_problem": problem,
                "mask_problem": None if mask else mask_problem or broken or NO_FILE,
                "crop_problem": None if crop else crop_problem or broken or NO_FILE,
            }
        )
    return pd.DataFrame(rows, index=files.index, dtype=object)


def _is_mask(facts: dict) -> bool:
    return not facts.get("problem") and facts["middle"] <= MIDDLE_SHARE


def _mammogram(names: list[str], facts: FileFacts) -> tuple[str | None, str | None]:
    """The mammogram of its series and the problem with it; its series holds one file, or the largest is meant."""
    sound = facts.sound(names)
    if not sound:
        return None, facts[names[0]]["problem"] if names else NO_FILE
    if len(sound) > 1 and facts.area(sound[0]) == facts.area(sound[1]):
        return None, f"{facts.root / sound[0]} and {sound[1].rsplit('/', 1)[-1]} beside it could both be the mammogram"
    return sound[0], None


def _by_size(mammogram: str | None, names: list[str], facts: FileFacts) -> tuple[str, str | None] | None:
    """(mask, crop or None) if one file has the mammogram's size and at most one other, smaller, is there."""
    mask, *crops = facts.sound(names) or [None]
    if mask is None or mammogram is None or len(crops) > 1 or facts.size(mask) != facts.size(mammogram):
        return None
    if crops and facts.area(crops[0]) == facts.area(mask):
        return None
    return mask, crops[0] if crops else None


def _by_pixels(mammogram: str | None, names: list[str], facts: FileFacts) -> tuple:
    """(mask, crop, problem of the mask, problem of the crop) from the share of pixels between black and white."""
    sound = facts.sound(names)
    masks = [name for name in sound if _is_mask(facts[name])]
    crops = [name for name in sound if name not in masks]
    mask = mask_problem = crop_problem = None
    if len(masks) > 1 and facts.area(masks[0]) > facts.area(masks[1]):
        crops += masks[1:]  # a crop without grey tones
        masks = masks[:1]
    if len(masks) > 1:
        mask_problem = f"{len(masks)} files could be the mask: {', '.join(str(facts.root / m) for m in masks)}"
    elif masks and mammogram and facts.area(masks[0]) < MASK_AREA * facts.area(mammogram):
        small, whole = ("x".join(map(str, facts.size(name))) for name in (masks[0], mammogram))
        sizes = f"({small}, its mammogram {whole})"
        mask_problem = f"{facts.root / masks[0]} is black and white but too small to be a mask {sizes}"
    elif masks:
        mask = masks[0]
    elif sound and len(sound) == len(names):
        mask_problem = f"none of {', '.join(str(facts.root / n) for n in names)} is black and white"
    if len(crops) > 1:
        crop_problem = f"{len(crops)} files could be the crop: {', '.join(str(facts.root / c) for c in crops)}"
    return mask, crops[0] if len(crops) == 1 else None, mask_problem, crop_problem


def place_masks(roles: pd.DataFrame, facts: FileFacts, pixels: str, margin: float) -> pd.DataFrame:
    """Sizes of each lesion's picture ("full", "crop" or "lesion_crop") and mask, for `assign_roles` without problems.

    Returns
    -------
    DataFrame
        Indexed as `roles`. `width`, `height`: of the picture; `mammogram_width`, `mammogram_height`: the size the mask
        is brought to (its own where the mammogram is not here); `mask_width`, `mask_height`: as stored; `mask_resized`:
        the two differ; `crop_left`, `crop_top`: where the picture lies in the mammogram (0 for pixels="full");
        `x0`, `y0`, `x1`, `y1`: the lesion in the mammogram, float pixels.
    """
    rows = []
    for row in roles.itertuples():
        mask, stored = facts[row.mask_path], facts.size(row.mask_path)
        size = facts.size(row.mammogram_path) if row.mammogram_path else stored
        picture = facts.size(row.crop_path) if pixels == "crop" else size
        edges = ((mask["x0"], mask["x1"]), (mask["y0"], mask["y1"]))
        across, down = map(_edges, edges, stored, size)
        corner = map(_centred, (across, down), size, picture)
        lesion = (across[0], down[0], across[1], down[1])
        rows.append((*picture, *size, *stored, stored != size, *corner, *map(float, lesion)))
    columns = [*SIZE, *FRAME, "mask_width", "mask_height", "mask_resized", *CORNER, *CORNERS]
    placed = pd.DataFrame(rows, index=roles.index, columns=columns)
    if pixels == "lesion_crop":
        squares = square_around(placed, placed[FRAME].to_numpy(), margin)
        placed[CORNER], placed[SIZE] = squares
    return placed


def _edges(edges: tuple[int, int], stored: int, size: int) -> tuple[int, int]:
    """Edges of a lesion in the mammogram along one axis; at least one pixel of a stored mask stays there."""
    return edges if stored == size else tuple(np.searchsorted(_nearest(stored, size), edges))


def _centred(lesion: tuple[int, int], size: int, picture: int) -> int:
    """Where a picture begins along one axis of its mammogram: centred on the lesion, inside; a whole one at 0."""
    return int(np.clip(round((sum(lesion) - picture) / 2), 0, max(size - picture, 0)))


def regions_in(pictures: pd.DataFrame, lesions: pd.DataFrame) -> pd.DataFrame:
    """Every lesion that a picture shows, its own and others of the same mammogram: a row each, cut off at the edge.

    Both tables have `study_id` and the columns of `place_masks`; `pictures` has `image_id`, too. The result has the
    picture's `image_id` and place, the lesion's `mask_path` and `mask_resized`, and its corners in the picture.
    """
    mine = [*FRAME, "study_id"]
    shown = pictures[["image_id", *SIZE, *CORNER, *mine]].merge(
        lesions[["mask_path", "mask_resized", *CORNERS, *mine]], on=mine, sort=False
    )
    for axis, (start, length) in enumerate(zip(CORNER, SIZE, strict=True)):
        for corner in (CORNERS[axis], CORNERS[axis + 2]):
            shown[corner] = (shown[corner] - shown[start]).clip(0, shown[length].astype(float))
    inside = (shown["x0"] < shown["x1"]) & (shown["y0"] < shown["y1"])
    return shown[inside].reset_index(drop=True)


def cut(pictures: pd.DataFrame, facts: FileFacts) -> tuple[Path, list[str]]:
    """Cut each picture out of its mammogram, once: the folder of the PNG files, and their names.

    A file is named by what is cut, and cut again where the mammogram is newer.
    """
    folder = data_dir() / "cache" / f"cbis-crops-{_short_hash(facts.root)}"

    def one(row) -> str:
        source = facts[row.mammogram_path]
        window = (row.crop_left, row.crop_top, row.crop_left + row.width, row.crop_top + row.height)
        name = f"{row.image_id}-{hash_params([row.mammogram_path, source['bytes'], window])[:12]}.png"
        target = folder / name
        if not target.exists() or target.stat().st_mtime_ns < source["mtime_ns"]:
            with atomic_path(target) as temporary:
                open_image(facts.root / row.mammogram_path).crop(window).save(temporary, "PNG")
        return name

    with ThreadPoolExecutor(machine.cores()) as pool:
        names = pool.map(one, pictures.itertuples())
        return folder, list(tqdm(names, "cutting lesions", len(pictures), unit="file", delay=5, mininterval=5))


def _nearest(stored: int, size: int) -> np.ndarray:
    """For each of `size` pixels the stored pixel under its centre."""
    return ((np.arange(size) + 0.5) * stored / size).astype(int)


@dataclass(repr=False)
class PictureCohort(Cohort):
    """A cohort whose rows carry their own picture size; `regions` is `regions_in`, whose masks lie below `source`."""

    source: Path = Path()

    def image_size(self, image_id: str) -> tuple[int, int]:
        """Return (width, height) in pixels of the stored picture, as read when the cohort was loaded."""
        return int(self.rows.at[image_id, "width"]), int(self.rows.at[image_id, "height"])

    def mask(self, image_id: str, label: str | None = None) -> np.ndarray:
        """Return every lesion that this picture shows, (H, W) bool."""
        width, height = self.image_size(image_id)
        if label is not None and label not in set(self.boxes.loc[self.boxes["image_id"] == image_id, "label"]):
            raise DataError(f"Image {image_id!r} has no region labelled {label!r}; see cohort.boxes.")
        united = np.zeros((height, width), dtype=bool)
        for region in self.regions[self.regions["image_id"] == image_id].itertuples():
            pixels = read_picture(self.source / region.mask_path)
            mask = pixels > pixels.max() / 2
            if region.mask_resized:
                lines = _nearest(mask.shape[0], region.mammogram_height)
                mask = mask[lines][:, _nearest(mask.shape[1], region.mammogram_width)]
            top, left = region.crop_top, region.crop_left
            part = mask[top : top + height, left : left + width]
            united[: part.shape[0], : part.shape[1]] |= part
        return united

    def data_hash(self) -> str:
        """Return the cohort's SHA-256 (see `Cohort.data_hash`), with the names and lengths of the masks."""
        digest = hashlib.sha256(super().data_hash().encode())
        shown = self.regions[self.regions["image_id"].isin(self.images["image_id"])]
        for path in sorted(set(shown["mask_path"])):
            digest.update(f"{path} {(self.source / path).stat().st_size}\n".encode())
        return digest.hexdigest()
