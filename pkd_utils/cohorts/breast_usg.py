"""BrEaST: breast ultrasound with lesion masks, BI-RADS descriptors and a diagnosis by biopsy or follow-up.

One patient an image. The radiologist's descriptors are the privileged information of a tabular teacher. Calipers drawn
into pixels would be a shortcut: `marks` looks for them, and paints them over.
"""

import os
from pathlib import Path
from typing import Annotated, Literal
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field

from pkd_utils.cohorts import checks
from pkd_utils.cohorts.boxes import boxes_around, square_around
from pkd_utils.cohorts.table import Cohort, CohortInfo, Funnel, cell_values, one_hot
from pkd_utils.images.decode import image_size, open_image
from pkd_utils.images.marks import drawn_marks, paint_over
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import atomic_path, file_sha256, hash_params
from pkd_utils.runs.paths import data_dir

WHERE = "https://doi.org/10.7937/9WKK-Q141 (The Cancer Imaging Archive, BrEaST-Lesions-USG)"
TABLE, PICTURES = "BrEaST-Lesions-USG-clinical-data*.xlsx", "BrEaST-Lesions_USG-images_and_masks*"
ROWS_PUBLISHED = 256
DESCRIPTORS = (
    *("Tissue_composition", "Shape", "Margin", "Echogenicity", "Posterior_features", "Halo", "Calcifications"),
    *("Skin_thickening", "BIRADS"),
)
# Signs and symptoms are no description of the image; the others come with the diagnosis or after it.
FURTHER = ("Signs", "Symptoms", "Interpretation", "Verification", "Diagnosis")
BIRADS = ("1", "2", "3", "4a", "4b", "4c", "5")
VALUES = {
    "BIRADS": BIRADS,
    "Verification": ("confirmed by biopsy", "confirmed by follow-up care", "not applicable"),
    "Classification": ("benign", "malignant", "normal"),
}
MASKS = {"Mask_tumor_filename": "tumour", "Mask_other_filename": "other"}
CROP = ["crop_left", "crop_top", "crop_width", "crop_height"]

INFO = CohortInfo(
    name="breast_usg",
    title="BrEaST breast ultrasound",
    licence="CC BY 4.0",
    citation="Pawlowska et al., Sci Data 11:148 (2024), doi 10.1038/s41597-024-02984-z; data doi 10.7937/9WKK-Q141",
    shareable_text=True,
    shareable_images=True,
    splits=(),
    separator=r"&|\s+-\s+",  # "not circumscribed - angular&indistinct" has three values
)


def load(
    root: Path,
    cases: Literal["biopsied", "lesions", "all"] = "lesions",
    descriptors: Annotated[tuple[Literal[(*DESCRIPTORS, *FURTHER)], ...], Field(min_length=1)] = DESCRIPTORS,
    pixels: Literal["full", "crop"] = "full",
    margin: Annotated[float, Field(ge=0)] = 0.25,
    marks: Literal["keep", "paint"] = "keep",
) -> Cohort:
    """Read the table, the pictures and their masks.

    Parameters
    ----------
    root : Path
        Folder with the archive's `.xlsx` table and its folder of pictures and masks.
    cases : {"biopsied", "lesions", "all"}
        Lesions confirmed by biopsy; all lesions (those confirmed by follow-up are all benign); normal breasts too.
    descriptors : tuple of str
        Columns of the table that become privileged information.
    pixels : {"full", "crop"}
        The whole frame; or a square around the tumour, cut off at the frame's edge and kept as PNG under `cache/` of
        the data folder. A normal breast has no tumour to crop and is left out.
    margin : float
        Of a crop, on each side, as a share of the tumour's longer side.
    marks : {"keep", "paint"}
        Calipers and coloured dots that a scanner drew (`images.marks.drawn_marks`): as they are; or painted over, in
        copies under `cache/` too, with the pictures that had any counted in the funnel.

    Returns
    -------
    Cohort
        `image_id` = `study_id` = `patient_id`, e.g. "case001"; label `malignant`; `split` NaN: no split is official.
        Further columns of `images`: `age` (years) and `pixel_size` (cm), NaN where unknown; `birads`, `verification`,
        `classification` as in the table; of crops `crop_left`, `crop_top`, `crop_width`, `crop_height`, in pixels of
        the frame. Boxes and masks are labelled "tumour", or "other" for further findings in the frame. `privileged` is
        indexed by `image_id`: `birads` is the place in 1, 2, 3, 4a, 4b, 4c, 5, counted from 1; each value of another
        descriptor is a 0/1 column such as `margin=indistinct`, of which several can be 1, only `margin=missing` where
        it is not available, and none where it is not applicable.
    """
    file, folder = _only(root, TABLE), _only(root, PICTURES)
    table = _read_table(file)
    files = pd.concat([table["Image_filename"], *(_names(table[column]) for column in MASKS)])
    checks.require_files(folder.name + "/" + files[~files.isin(os.listdir(folder))], len(files), file, WHERE)
    funnel = Funnel()
    funnel.step("rows of the table", table, ROWS_PUBLISHED)
    for name in VALUES["Classification"]:
        funnel.step(f"classification {name}", table[table["Classification"] == name])
    privileged = _features(table, descriptors)  # of all rows: every choice of cases has the same columns
    if cases != "all" or pixels == "crop":
        table = table[table["Classification"] != "normal"]
        funnel.step("with a lesion", table)
    if cases == "biopsied":
        table = table[table["Verification"] == "confirmed by biopsy"]
        funnel.step("confirmed by biopsy", table)
    table = table.reset_index(drop=True)

    images = table[["image_id", "patient_id", "study_id"]].assign(path=f"{folder.name}/" + table["Image_filename"])
    images = images.assign(split=np.nan, view=np.nan, malignant=(table["Classification"] == "malignant").astype(float))
    images = images.join(table[["Age", "Pixel_size", *VALUES]].rename(columns=str.lower))
    regions = _regions(table, folder)
    boxes = boxes_around(images, regions, root)
    if pixels == "crop" or marks == "paint":
        frames = np.array([image_size(root / path) for path in images["path"]])
        squares = np.zeros_like(frames), frames
        if pixels == "crop":
            tumours = boxes[boxes["label"] == "tumour"].set_index("image_id").loc[images["image_id"]]
            squares = square_around(tumours, frames, margin)
        found = _copies(root, images, squares, marks == "paint")
        root, images["path"] = crops_root(), found["path"]
        if marks == "paint":
            funnel.step("with drawn marks, painted over", images[found["marked"].to_numpy()])
        if pixels == "crop":
            images[CROP] = np.concatenate(squares, axis=1)
            boxes, regions = _in_crops(images, boxes, regions)
    for label in MASKS.values():
        marked = images[images["image_id"].isin(boxes["image_id"][boxes["label"] == label])]
        funnel.step(f"with a mask: {label}", marked, note=f"{(boxes['label'] == label).sum()} masks")
    return Cohort(
        info=INFO,
        root=root,
        labels=["malignant"],
        images=images,
        boxes=boxes,
        funnel=funnel.table(),
        privileged_source=privileged[privileged.index.isin(images["image_id"])],
        tables=[file, *regions["path"]],
        regions=regions,
    )


def crops_root() -> Path:
    """Folder of crops and painted pictures, which are made here; the archive has none."""
    return data_dir() / "cache" / "breast_usg-crops"


def _only(root: Path, pattern: str) -> Path:
    """The one file (`*.xlsx`) or folder of this name, which carries the archive's date."""
    found = [path for path in sorted(root.glob(pattern)) if path.is_dir() != pattern.endswith(".xlsx")]
    if len(found) > 1:
        raise DataError(f"{root} holds {' and '.join(path.name for path in found)}; keep one of them.")
    if not found:
        raise FileNotFoundError(f"{root / pattern} is missing; get it from {WHERE}.")
    return found[0]


def _read_table(file: Path) -> pd.DataFrame:
    """The first sheet with checked columns; all but `Age` and `Pixel_size` are text."""
    try:
        table = pd.read_excel(file, dtype=str, keep_default_na=False, na_values=[""])
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise DataError(f"{file} cannot be read as an .xlsx table ({error}); fetch it again.") from None
    table = table.rename(columns=str.strip).apply(lambda column: column.str.strip())
    columns = ["Image_filename", *MASKS, "Age", "Pixel_size", *DESCRIPTORS, *FURTHER, "Classification"]
    checks.require_columns(table, columns, file)
    for column, values in VALUES.items():
        checks.check_values(table, column, values, file)
    checks.check_filled(table, ["Image_filename"], file)
    lost = table["Mask_tumor_filename"].isna() & (table["Classification"] != "normal")
    checks.refuse(table, "Mask_tumor_filename", lost, file, "is empty")
    table["image_id"] = table["Image_filename"].str.removesuffix(".png")
    checks.check_unique(table, "image_id", file.name)
    numbers = ["Age", "Pixel_size"]
    table[numbers] = table[numbers].mask(table[numbers] == "not available")
    return checks.as_numbers(table, numbers, file).assign(patient_id=table["image_id"], study_id=table["image_id"])


def _names(masks: pd.Series) -> pd.Series:
    """Files of a column of masks, one a row; a field can name several."""
    return cell_values(masks.dropna(), INFO.separator).explode()


def _features(table: pd.DataFrame, descriptors: tuple[str, ...]) -> pd.DataFrame:
    """Descriptors as named float columns, indexed by image_id."""
    columns = {}
    for name in descriptors:
        if name == "BIRADS":
            columns["birads"] = table[name].map(dict(zip(BIRADS, range(1, 8), strict=True))).astype("float64")
            continue
        values = cell_values(table[name].fillna("missing").replace("not available", "missing"), INFO.separator)
        found = one_hot(name.lower(), values)
        found.pop(f"{name.lower()}=not applicable", None)
        columns |= found
    return pd.DataFrame(columns).set_index(table["image_id"])


def _regions(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Every mask of these rows, as `table.Cohort` wants them: each as large as its picture."""
    parts = []
    for column, label in MASKS.items():
        names = _names(table.set_index("image_id")[column])
        parts.append(pd.DataFrame({"image_id": names.index, "label": label, "path": [folder / name for name in names]}))
    regions = pd.concat(parts, ignore_index=True).assign(left=0, top=0)
    regions[["frame_width", "frame_height"]] = [image_size(path) for path in regions["path"]]
    return regions


def _copies(root: Path, images: pd.DataFrame, squares: tuple[np.ndarray, np.ndarray], paint: bool) -> pd.DataFrame:
    """Cut a square of each picture, named by content and place and written once: `path`; `marked`: if it had marks."""
    rows = []
    for image_id, path, start, size in zip(images["image_id"], images["path"], *squares, strict=True):
        window, picture = [*start.tolist(), *(start + size).tolist()], open_image(root / path)
        found = drawn_marks(np.asarray(picture.convert("RGB"))) if paint else np.zeros(1, bool)
        content = [file_sha256(root / path), window, *(["painted"] * int(found.any()))]
        name = f"{image_id}-{hash_params(content)[:12]}.png"
        if not (crops_root() / name).exists():
            if found.any():
                picture = Image.fromarray(paint_over(np.asarray(picture.convert("RGB")), found))
            with atomic_path(crops_root() / name) as temporary:
                picture.crop(window).save(temporary, "PNG")
        rows.append((name, bool(found.any())))
    return pd.DataFrame(rows, columns=["path", "marked"])


def _in_crops(images: pd.DataFrame, boxes: pd.DataFrame, regions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Boxes and regions (row by row the same) as they lie in the crops; what lies outside is left out."""
    left, top, width, height = images.set_index("image_id").loc[boxes["image_id"], CROP].to_numpy().T
    boxes = boxes.assign(x0=(boxes["x0"] - left).clip(lower=0), y0=(boxes["y0"] - top).clip(lower=0))
    boxes = boxes.assign(x1=np.minimum(boxes["x1"] - left, width), y1=np.minimum(boxes["y1"] - top, height))
    regions = regions.assign(left=-left, top=-top, frame_width=width, frame_height=height)
    inside = (boxes["x0"] < boxes["x1"]) & (boxes["y0"] < boxes["y1"])
    return boxes[inside].reset_index(drop=True), regions[inside].reset_index(drop=True)
