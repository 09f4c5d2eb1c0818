"""CBIS-DDSM: mammographic masses and calcifications, as described in the case tables, with or without the pictures.

A row is a mammogram, or an abnormality on it: of the tables alone, and of crops. Radiologists' descriptors are the
privileged information of the tabular teacher.
`files` finds a row's pictures, `pixels` decides which is the mammogram, the crop and the mask.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from sklearn.model_selection import train_test_split

from pkd_utils.cohorts.boxes import ASPECT_TOLERANCE
from pkd_utils.cohorts.cbis import files as cbis_files
from pkd_utils.cohorts.cbis.pixels import NO_FILE, FileFacts, PictureCohort, assign_roles, cut, place_masks, regions_in
from pkd_utils.cohorts.checks import as_numbers, check_filled, check_unique, check_values, read_csv, require_columns
from pkd_utils.cohorts.table import (
    BOX_COLUMNS,
    CORNERS,
    SPLITS,
    Cohort,
    CohortInfo,
    Funnel,
    cell_values,
    empty_boxes,
    one_hot,
    source_info,
)
from pkd_utils.runs.errors import DataError

WHERE = "https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY (The Cancer Imaging Archive, CBIS-DDSM, csv files)"
PATHOLOGY = ("MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK")
DESCRIPTORS = {"mass": ("mass shape", "mass margins"), "calc": ("calc type", "calc distribution")}
ROWS_PUBLISHED = {("mass", "train"): 1318, ("mass", "test"): 378, ("calc", "train"): 1546, ("calc", "test"): 326}
# One descriptor is spelled in two ways.
DESCRIPTOR_ALIASES = {"LUCENT_CENTERED": "LUCENT_CENTER"}
_ORDINAL = ("breast density", "assessment", "subtlety")
_PATHS = {
    "image file path": "dicom_path",
    "cropped image file path": "cropped_dicom_path",
    "ROI mask file path": "roi_dicom_path",
}
# The files each choice of pixels needs.
NEEDED = {"full": ("mammogram", "mask"), "crop": ("crop", "mask"), "lesion_crop": ("mammogram", "mask")}
BOX_LABELS = {"mass": "mass", "calc": "calcification"}
_TITLES = {"none": "descriptions", "full": "mammograms", "crop": "crops", "lesion_crop": "cut-outs"}
INFO = CohortInfo(
    name="cbis",
    title="CBIS-DDSM",
    licence="CC BY 3.0",
    citation="Lee et al., Sci Data 4:170177 (2017), doi 10.7937/K9/TCIA.2016.7O02S9CY",
    shareable_text=True,
    shareable_images=True,
    separator="-",
)


def load(
    kind: Literal["mass", "calc"],
    root: Path,
    target: Literal["malignant", "pathology"] = "malignant",
    pixels: Literal["none", "full", "crop", "lesion_crop"] = "none",
    rows: Literal["image", "lesion"] = "image",
    margin: Annotated[float, Field(ge=0)] = 0.25,
    validate_share: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Cohort:
    """Read the official training and test tables of one abnormality type.

    Parameters
    ----------
    kind : {"mass", "calc"}
    root : Path
        Folder that holds `{mass,calc}_case_description_{train,test}_set.csv` as TCIA serves them (or `csv/` with them,
        as on Kaggle) and, for pixels, the pictures in a layout of `cbis.files.find_files`.
    target : {"malignant", "pathology"}
        "malignant": one label, 1 for MALIGNANT and 0 for both benign classes. "pathology": three labels `malignant`,
        `benign`, `benign_without_callback`, of which exactly one is 1.
    pixels : {"none", "full", "crop", "lesion_crop"}
        "none": the tables alone. "full": whole mammograms. "crop": the published crop; where it lies in the mammogram
        is not published, the lesion's mask is taken to be centred in it. "lesion_crop": a square cut from the mammogram
        around the lesion's mask, kept as PNG under `cache/` of the data folder. Which of them the paper trained on is
        not stated in the paper.
    rows : {"image", "lesion"}
        "image": a mammogram is one row, however many abnormalities it has. Its pathology is the worst of theirs
        (malignant before benign before benign without callback): it is malignant if any of them is. Its privileged row
        is that of the abnormality that gives the pathology; of several, the one of the lowest number. The paper does
        not state such a rule. "lesion": each abnormality on each view is a row; not with "full", where the same pixels
        would stand in several rows, with labels that can contradict each other. Crops show one lesion: they are always
        a row each.
    margin : float
        Of a "lesion_crop", on each side, as a share of the mask's longer side.
    validate_share : float
        Share of the training table's patients that become split "validate", chosen so that their worst pathology is
        distributed as in all; 0: none, as published. How the paper validated is not stated in the paper.

    Returns
    -------
    Cohort
        `image_id` is kind, patient, side and view, of a lesion also its abnormality id; `study_id` the mammogram
        (patient, side, view); `lesions` the abnormalities on it; `split` the official train or test, and validate if
        asked for; the tables' own DICOM paths are the columns `dicom_path`, `cropped_dicom_path`, `roi_dicom_path`.
        `privileged` is indexed by `image_id` with float columns:
        `breast_density`, `assessment` (BI-RADS), `subtlety` as in the table; `side=LEFT`, `view=MLO`; and one 0/1
        column a descriptor value, e.g. `mass_shape=IRREGULAR`, several of which can be 1 (values are joined by "-" in
        the table) and `mass_shape=missing`. Simulated tables can add `age` (years, NaN where empty) and `mass_density`
        (a number, or a 0/1 column a word). Without pixels `path` is NaN; with them it is the picture, `mammogram_path`,
        `mask_path` and `crop_path` are all three as found in `root`, and further columns are those of
        `cbis.pixels.place_masks`; of a row with several abnormalities they are those of the one that gives the label.
        Boxes and masks are of every abnormality that the picture shows.
    """
    if rows == "lesion" and pixels == "full":
        raise DataError('rows="lesion" repeats whole mammograms: choose rows="image", or pixels="lesion_crop".')
    files = _table_files(root, kind)
    parts = {split: _read_table(file, kind) for split, file in files.items()}
    table = pd.concat([part.assign(split=split) for split, part in parts.items()], ignore_index=True)

    funnel = Funnel()
    published = {split: ROWS_PUBLISHED[kind, split] for split in files}
    funnel.step("rows of both tables", table, sum(published.values()), "paper = rows of the published tables")
    other = "calc" if kind == "mass" else "mass"
    others = _table_files(root, other)
    both_kinds = all(file.is_file() for file in others.values())
    for split, opposite in (("train", "test"), ("test", "train")):
        note = ""
        if both_kinds:  # a model of both must not train on one table's patients and test on the other's
            shared = set(parts[split]["patient_id"]) & set(_read_table(others[opposite], other)["patient_id"])
            note = f"{len(shared)} patients are also in the {other} {opposite} table"
        funnel.step(f"{split} table", parts[split], published[split], note)

    if validate_share:
        table["split"] = _carve_validate(table, validate_share)
        part = table[table["split"] == "validate"]
        funnel.step("of the train table, now validate", part, note=f"{validate_share:g} of its patients")

    key = table["patient_id"] + "_" + table["side"] + "_" + table["view"]
    table["image_id"] = f"{kind}_" + key + "_" + table["abnormality id"]
    check_unique(table, "image_id", f"the {kind} tables")
    images = table[["image_id", "patient_id"]].assign(study_id=key, path=np.nan)
    images[["split", "view"]] = table[["split", "view"]]
    names = ["MALIGNANT"] if target == "malignant" else list(PATHOLOGY)
    for name in names:
        images[name.lower()] = (table["pathology"] == name).astype(float)
    images["side"], images["pathology"] = table["side"], table["pathology"]
    images["lesions"] = key.map(key.value_counts())
    for column, name in _PATHS.items():
        images[name] = table[column].str.strip('" \t\r\n')
    boxes, tables, privileged, folder = empty_boxes(), list(files.values()), _features(table, kind), root
    if pixels != "none":
        facts = FileFacts(root)
        images, listings = _with_pictures(images, kind, pixels, margin, facts, funnel)
        tables += listings
    lesions = images
    if pixels in ("none", "full") and rows == "image":
        images, privileged = _one_row_an_image(images, privileged, kind, funnel)
    make = Cohort
    if pixels != "none":
        regions = regions_in(images, lesions)
        boxes = regions.assign(label=BOX_LABELS[kind])[BOX_COLUMNS]
        images = images.drop(columns=CORNERS)
        if pixels == "lesion_crop":
            folder, images["path"] = cut(images, facts)
        make = partial(PictureCohort, regions=regions, source=root)
    for name in PATHOLOGY:
        funnel.step(f"pathology {name}", images[images["pathology"] == name])
    what, splits = f"{BOX_LABELS[kind]} {_TITLES[pixels]}", SPLITS if validate_share else ("train", "test")
    info = replace(INFO, name=f"cbis_{kind}", title=f"CBIS-DDSM {what}", splits=splits)
    info = source_info(info, f"Simulated {what} in the layout of CBIS-DDSM", root)
    labels = [name.lower() for name in names]
    return make(info, folder, labels, images, boxes, funnel.table(), privileged, tables)


# What `cohorts.SOURCES` names: `load` with the kind of abnormality fixed.
load_mass = partial(load, "mass")
load_calc = partial(load, "calc")


def _carve_validate(table: pd.DataFrame, share: float) -> pd.Series:
    """Column `split` with a share of the training patients moved to validate, stratified by their worst pathology."""
    severity = table["pathology"].map({name: rank for rank, name in enumerate(PATHOLOGY)})
    worst = severity[table["split"] == "train"].groupby(table["patient_id"]).min().sort_index()
    try:
        _, chosen = train_test_split(list(worst.index), test_size=share, stratify=worst, random_state=0)
    except ValueError as error:
        raise DataError(
            f"The {len(worst)} training patients cannot give a validate split of {share:g} with every pathology in it "
            f"({error}); choose another validate_share."
        ) from None
    return table["split"].mask(table["patient_id"].isin(chosen) & (table["split"] == "train"), "validate")


def _one_row_an_image(
    lesions: pd.DataFrame, privileged: pd.DataFrame, kind: str, funnel: Funnel
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of each mammogram the row and the privileged row of the lesion that gives the label, now named by the image."""
    rank = lesions["pathology"].map(PATHOLOGY.index)
    number = pd.to_numeric(lesions["image_id"].str.rsplit("_", n=1).str[1], errors="coerce")
    order = lesions.assign(rank=rank, number=number).sort_values(["rank", "number"], kind="stable")
    chosen = order.drop_duplicates(["study_id", "split"]).index.sort_values()
    images = lesions.loc[chosen].reset_index(drop=True)
    privileged = privileged.loc[images["image_id"]]
    images["image_id"] = f"{kind}_" + images["study_id"]
    privileged.index = pd.Index(images["image_id"])

    several = images[images["lesions"] > 1]
    told = lesions.groupby("study_id")["pathology"].agg(lambda values: (values == "MALIGNANT").nunique())
    note = f"{several['lesions'].sum()} abnormalities; {(told > 1).sum()} of them malignant and benign: malignant"
    funnel.step("mammograms, a row each", images)
    funnel.step("of them with several abnormalities", several, note=note)
    return images, privileged


def _with_pictures(
    images: pd.DataFrame, kind: str, pixels: str, margin: float, facts: FileFacts, funnel: Funnel
) -> tuple[pd.DataFrame, list[Path]]:
    """Lesions with their files, sizes, places and flags; the listings that were read."""
    needed = NEEDED[pixels]
    found, listings = cbis_files.find_files(facts.root, images)
    roles = assign_roles(found, facts)
    problems = roles[[f"{role}_problem" for role in needed]].set_axis(list(needed), axis=1)
    lacking = problems.notna().any(axis=1)
    if lacking.any():
        first = problems[lacking].iloc[0].dropna()
        absent = (problems == NO_FILE).any(axis=None)
        raise (FileNotFoundError if absent else DataError)(
            f"CBIS-DDSM {kind}: {int(lacking.sum())} of {len(images)} rows lack a usable picture "
            f"({_problem_counts(problems)}), first {images['image_id'][lacking].iloc[0]!r} ({first.index[0]}: "
            f"{first.iloc[0]}); get the files from {cbis_files.WHERE}, or take these rows out of the table."
        )
    roles = roles[["mammogram_path", "mask_path", "crop_path"]]
    images = pd.concat([images, roles, place_masks(roles, facts, pixels, margin)], axis=1)
    images["path"] = images["crop_path" if pixels == "crop" else "mammogram_path"]
    funnel.step(f"with {' and '.join(needed)}", images)

    aspect = images["mask_width"] / images["mammogram_width"] * images["mammogram_height"] / images["mask_height"]
    bent = int((np.abs(np.log(aspect)) > ASPECT_TOLERANCE).sum())
    note = f"nearest pixel; {bent} of them also of another aspect ratio"
    funnel.step("mask of another size than its mammogram, resized", images[images["mask_resized"]], note=note)
    return images, listings


def _problem_counts(problems: pd.DataFrame) -> str:
    """For each role, how many rows have no file and how many an unusable one: "mask missing 3, mask unusable 1"."""
    kinds = problems.mask(problems.notna(), "unusable").mask(problems == NO_FILE, "missing")
    counted = kinds.melt(var_name="role", value_name="kind").groupby(["role", "kind"], sort=False).size()
    return ", ".join(f"{role} {kind} {count}" for (role, kind), count in counted.items())


def _table_files(root: Path, kind: str) -> dict[str, Path]:
    """The official tables of a type by split: in `root`, or in `root/csv` (Kaggle) if they are only there."""
    here = any(root.glob("*_case_description_*_set.csv"))
    folder = root / "csv" if not here and any((root / "csv").glob("*_case_description_*_set.csv")) else root
    return {split: folder / f"{kind}_case_description_{split}_set.csv" for split in ("train", "test")}


def _read_table(file: Path, kind: str) -> pd.DataFrame:
    """Read one table, bring the column spellings together, and check the coded columns."""
    table = read_csv(file, [], WHERE).rename(columns={"breast_density": "breast density"})
    required = ["patient_id", "left or right breast", "image view", "abnormality id", "pathology"]
    require_columns(table, [*required, *_ORDINAL, *DESCRIPTORS[kind], *_PATHS], file)
    table = table.rename(columns={"left or right breast": "side", "image view": "view"})
    allowed = {"side": ["LEFT", "RIGHT"], "view": ["CC", "MLO"], "pathology": PATHOLOGY}
    allowed |= dict.fromkeys(_ORDINAL, ("0", "1", "2", "3", "4", "5"))
    for column in ("patient_id", "abnormality id", *allowed):
        table[column] = table[column].str.strip()
        check_filled(table, [column], file)
        if column in allowed:
            check_values(table, column, allowed[column], file)
    # Like "mass density", a column that the published tables lack and a simulated cohort may add.
    return as_numbers(table, ["age"], file) if "age" in table.columns else table


def _features(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Turn descriptors into named float columns, indexed by image_id."""
    columns = {name.replace(" ", "_"): table[name].astype(float) for name in _ORDINAL}
    columns["side=LEFT"] = (table["side"] == "LEFT").astype(float)
    columns["view=MLO"] = (table["view"] == "MLO").astype(float)
    if "age" in table.columns:
        columns["age"] = table["age"]
    if "mass density" in table.columns:  # a number, or words
        density = table["mass density"]
        numbers = pd.to_numeric(density, errors="coerce").astype(float)
        if (density.notna() & numbers.isna()).any():
            columns |= one_hot("mass_density", cell_values(density.fillna("missing"), ""))
        else:
            columns["mass_density"] = numbers
    for name in DESCRIPTORS[kind]:
        values = table[name].mask(table[name].isin(["N/A", "NA"])).fillna("missing")
        words = cell_values(values, INFO.separator)
        values = words.map(lambda found: [DESCRIPTOR_ALIASES.get(word, word) for word in found])
        columns |= one_hot(name.replace(" ", "_"), values)
    return pd.DataFrame(columns).set_index(table["image_id"])
