"""The public `covid-chestxray-dataset`: radiographs with clinical notes, outcomes, lung boxes, lesion masks.

Site is confounded with label and a note can state the outcome, so results on this set prove a pipeline on real pixels,
text and outcomes and support no clinical claim.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pkd_utils.cohorts import checks
from pkd_utils.cohorts.boxes import boxes_around, boxes_of, read_coco
from pkd_utils.cohorts.table import Cohort, CohortInfo, Funnel, empty_boxes
from pkd_utils.images.decode import image_size
from pkd_utils.runs.errors import DataError

WHERE = "https://github.com/ieee8023/covid-chestxray-dataset"
# Older versions of metadata.csv spell these differently.
ALIASES = {
    "Patientid": "patientid",
    "notes": "clinical_notes",
    "clinical notes": "clinical_notes",
    "pO2 saturation": "pO2_saturation",
}
YES_NO = (  # columns that hold Y or N, and can be labels under their own names
    *("went_icu", "in_icu", "intubated", "intubation_present", "needed_supplemental_O2", "extubated", "survival"),
    "RT_PCR_positive",
)
SOURCE_OF = {"death": "survival", "COVID-19": "finding"}  # labels that are read from a column of another name
LABELS = (*YES_NO, "death", "COVID-19")
DEFAULT_LABELS = ("went_icu", "in_icu", "intubated", "death", "COVID-19")
FRONTAL_VIEWS = ("PA", "AP", "AP Supine", "AP semi erect", "AP Erect")
UNKNOWN_FINDINGS = {"todo", "unknown"}
# The same COCO layout under two names: the open-data folder's, and the public repository's.
ANNOTATIONS = ("annotations/annotations.json", "annotations/imageannotation_ai_lung_bounding_boxes.json")
WHERE_MASKS = "https://github.com/GeneralBlockchain/covid-19-chest-xray-segmentations-dataset"
STRUCTURE = "segmentations/structure.csv"
LESIONS = ("ground glass", "consolidation", "pleural effusion", "pneumothorax")
REGIONS = (  # names of the published templates, small, without "opacities"
    *(*LESIONS, "right lung", "left lung", "cardiomediastinum", "airways", "tubings", "nosogastric tube"),
    *("monitoring probes", "central venous line", "endotracheal tube"),
)

# Most images may be shared, but under per-image terms (attribution, share-alike, non-commercial) that this project's
# own licence does not carry: so neither pixels nor notes are shown.
INFO = CohortInfo(
    name="covid_chestxray",
    title="covid-chestxray-dataset",
    licence="per image, column `licence`",
    citation="Cohen et al., arXiv 2003.11597 and 2006.11988",
    splits=(),
)


def load(
    root: Path,
    labels: Annotated[tuple[Literal[LABELS], ...], Field(min_length=1)] = DEFAULT_LABELS,
    views: tuple[str, ...] | None = FRONTAL_VIEWS,
    report_missing: Literal["drop", "keep", "raise"] = "drop",
    boxes: bool = True,
    regions: tuple[Literal[REGIONS], ...] = (),
) -> Cohort:
    """Read `metadata.csv`, `images/`, the lung boxes of `annotations/` and masks of `segmentations/`.

    Parameters
    ----------
    root : Path
        Folder in the public repository's layout.
    labels : tuple of str
        Some of `LABELS`. Y is 1 and N is 0; anything else ("?", "Not visible", "Would have been stated", ...) is
        missing, and the funnel counts it by value. `death` is the reverse of `survival`. `COVID-19` is 1 if
        the finding names it, 0 for any other finding ("No Finding" included), missing for "todo" and "Unknown".
    views : tuple of str, optional
        Values of `view` to keep; None keeps all. An empty or "?" view is kept too: most of these films are frontal, the
        rows are just not filled in.
    report_missing : {"drop", "keep", "raise"}
        Images without a note: leave them out; keep them with no row in `privileged` (a student may use them);
        or raise.
    boxes : bool
        Read the lung boxes ("Right Lung", "Left Lung") and rescale them to the stored images; False where the
        annotation file is not wanted.
    regions : tuple of str
        Masks to read, some of `REGIONS`, such as `LESIONS`; few images have any. Each gives a box of its label too, and
        `mask(image_id)` of an image with masks is theirs alone, without its lung boxes.

    Returns
    -------
    Cohort
        `image_id` is the file name, `study_id` equals it (the table numbers no studies), `split` is NaN: see
        `folds.patient_folds`. Further columns of `images`: `age` (years), `sex`, `finding`, `location`, `licence`,
        `url`. `privileged` is indexed by `image_id`, column `text`; a note repeats over one patient's images.
    """
    file = root / "metadata.csv"
    table = checks.read_csv(file, [], WHERE).rename(columns=ALIASES)
    required = ["patientid", "finding", "view", "modality", "filename", "license", "clinical_notes"]
    checks.require_columns(table, [*required, *(SOURCE_OF.get(label, label) for label in labels)], file)
    checks.check_filled(table, ["filename"], file)
    table = table.rename(columns={"filename": "image_id", "patientid": "patient_id", "license": "licence"})
    absent = {"folder": "images"} | dict.fromkeys(("age", "sex", "location", "url"), np.nan)  # from older versions
    table = table.assign(**{column: value for column, value in absent.items() if column not in table.columns})

    funnel = Funnel()
    funnel.step("rows of metadata.csv", table)
    table = table[(table["modality"] == "X-ray") & (table["folder"] == "images")]  # the public table also has CT
    funnel.step("modality X-ray, stored under images/", table)
    checks.check_unique(table, "image_id", file.name)
    table["view"] = table["view"].mask(table["view"] == "?")
    unknown_view = table["view"].isna()
    if views is not None:
        if not table["view"].isin(views).any():
            there = ", ".join(sorted(table["view"].dropna().unique()))
            raise DataError(f"{file.name} has no X-ray of view {', '.join(views)}; its views are {there}.")
        table = table[table["view"].isin(views) | unknown_view]
        note = f"{int(unknown_view.sum())} without a view, kept"
        funnel.step(f"view {', '.join(views)}", table, note=note)

    text = table["clinical_notes"].fillna("").str.strip()
    table["text"] = text.mask(text == "?", "")
    without = table["text"] == ""
    if report_missing == "raise":
        checks.check_text(table.set_index("image_id"), file.name)
    if report_missing == "drop":
        table = table[~without]
        funnel.step("with a clinical note", table)
    else:
        funnel.step("with a clinical note (others kept)", table[~without])
    table = table.reset_index(drop=True)

    images = table[["image_id", "patient_id"]].assign(study_id=table["image_id"], path="images/" + table["image_id"])
    images = images.assign(split=np.nan, view=table["view"])
    for label in labels:
        source = table[SOURCE_OF.get(label, label)]
        images[label] = _label_values(source, label)
        lost = source[images[label].isna()].fillna("empty").value_counts()
        note = "" if lost.empty else "missing: " + ", ".join(f"{value} {count}" for value, count in lost.items())
        funnel.step(f"label known: {label}", images[images[label].notna()], note=note)
    images["age"] = pd.to_numeric(table["age"], errors="coerce")
    images = pd.concat([images, table[["sex", "finding", "location", "licence", "url"]]], axis=1)

    tables, box_table = [file], empty_boxes()
    if boxes:
        annotation = next((root / name for name in ANNOTATIONS if (root / name).is_file()), root / ANNOTATIONS[0])
        coco = read_coco(annotation, f"{WHERE} (folder annotations), or pass boxes=False")
        box_table, _ = boxes_of(images, coco.rename(columns={"file_name": "image_id"}), root)
        tables.append(annotation)
        funnel.step("with lung boxes", images[images["image_id"].isin(box_table["image_id"])])
    masks = None
    if regions:
        masks = _read_regions(root, images, regions)
        box_table = pd.concat([box_table, boxes_around(images, masks, root)], ignore_index=True)
        tables += [root / STRUCTURE, *masks["path"]]
        for label in regions:
            ids = masks["image_id"][masks["label"] == label]
            funnel.step(f"with region: {label}", images[images["image_id"].isin(ids)], note=f"{len(ids)} masks")
    notes = table.loc[table["text"] != "", ["image_id", "text"]].set_index("image_id")
    return Cohort(INFO, root, list(labels), images, box_table, funnel.table(), notes, tables, regions=masks)


def _read_regions(root: Path, images: pd.DataFrame, labels: tuple[str, ...]) -> pd.DataFrame:
    """Masks of these images and labels, each with the place of its crop in the annotator's image (`Resolution`)."""
    file, numbers = root / STRUCTURE, ["Top", "Left", "Width", "Height"]
    columns = ["Template Name", "Filename", "Mask", "Resolution", *numbers]
    table = checks.read_csv(file, columns, f"{WHERE_MASKS} (as {STRUCTURE})")
    checks.check_filled(table, columns, file)
    table = checks.as_numbers(table, numbers, file)
    frame = table["Resolution"].str.extract(r"^([1-9]\d*)x([1-9]\d*)$").astype("float64")
    checks.refuse(table, "Resolution", frame[0].isna(), file, "is not a size such as 943x751")
    outside = (table["Left"] + table["Width"] > frame[0]) | (table["Top"] + table["Height"] > frame[1])
    outside |= (table[["Left", "Top"]] < 0).any(axis=1)
    checks.refuse(table, "Mask", outside, file, "does not lie inside its Resolution")

    table = table.assign(label=table["Template Name"].str.lower().str.removesuffix(" opacities"))
    table = table.assign(
        path=[file.parent / name for name in table["Mask"]], frame_width=frame[0], frame_height=frame[1]
    )
    table = table[table["label"].isin(labels) & table["Filename"].isin(images["image_id"])].reset_index(drop=True)
    checks.require_files(table["path"][~table["path"].map(Path.is_file)], len(table), file, WHERE_MASKS)
    for row in table.itertuples():
        if image_size(row.path) != (row.Width, row.Height):
            raise DataError(f"{row.path} has another size than the {row.Width:g}x{row.Height:g} of {file.name}.")
    table = table.rename(columns={"Filename": "image_id", "Left": "left", "Top": "top"})
    table = table[["image_id", "label", "path", "left", "top", "frame_width", "frame_height"]]
    return table.astype(dict.fromkeys(table.columns[3:], int))


def _label_values(source: pd.Series, label: str) -> pd.Series:
    """1, 0 or NaN from the column that a label is read from."""
    if label == "COVID-19":
        parts = source.fillna("").str.split(r"\s*[,/]\s*", regex=True)
        known = ~source.fillna("unknown").str.strip().str.lower().isin(UNKNOWN_FINDINGS)
        return parts.map(lambda names: float("COVID-19" in names)).where(known).astype("float64")
    return source.map({"Y": 0.0, "N": 1.0} if label == "death" else {"Y": 1.0, "N": 0.0}).astype("float64")
