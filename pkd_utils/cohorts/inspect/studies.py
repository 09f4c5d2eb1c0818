"""INSPECT: CT pulmonary angiograms with radiologists' impressions and outcomes, in both published layouts.

The radiographs that the second paper learns from are reconstructed from the volumes by notebook
`reports/00-reconstruct-radiographs`; this loader joins the tables and says which studies have which pixels.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pkd_utils.cohorts.checks import check_text, check_values
from pkd_utils.cohorts.inspect import tables as inspect_tables
from pkd_utils.cohorts.inspect.tables import CROSSWALK, WHERE, read_outcome, read_table, unique_rows
from pkd_utils.cohorts.table import IMAGE_COLUMNS, Cohort, CohortInfo, Funnel, empty_boxes, source_info
from pkd_utils.runs.errors import DataError

LABELS = ("12_month_PH", "12_month_readmission", "pe_positive_nlp")
ALL_LABELS = (
    *LABELS,
    *("1_month_readmission", "6_month_readmission", "1_month_mortality", "6_month_mortality", "12_month_mortality"),
    *("pe_positive", "pe_acute", "pe_subsegmentalonly"),
)
# Rows of the release, and positives of each label, as third parties counted them; images of the paper's balanced sets.
RELEASED = {"studies": 23_248, "volumes": 23_240, "train": 18_937, "validate": 1_089, "test": 3_214}
POSITIVE = {"12_month_PH": 2_724, "12_month_readmission": 2_825, "pe_positive_nlp": 4_684}
BALANCED = {"12_month_PH": 5_449, "12_month_readmission": 5_651, "pe_positive_nlp": 9_375}
INFO = CohortInfo(
    name="inspect",
    title="INSPECT",
    licence="Stanford University Dataset Research Use Agreement",
    citation="Huang et al., arXiv 2311.10798 (2023)",
    credentialed=True,
)
_SPLITS = {"train": "train", "valid": "validate", "test": "test"}  # the release's names to ours


def load(
    root: Path,
    labels: Annotated[tuple[Literal[ALL_LABELS], ...], Field(min_length=1)] = LABELS,
    pixels: Literal["radiograph", "ct", "none"] = "radiograph",
    duplicates: Literal["collapse", "all", "first", "drop"] = "collapse",
    report_missing: Literal["raise", "drop", "keep"] = "raise",
    tables_root: Path | str | None = None,
    ct_root: Path | str | None = None,
    radiographs_root: Path | str | None = None,
) -> Cohort:
    """Join studies, splits, labels and impressions, and find the pixels.

    Parameters
    ----------
    root : Path
        Folder of INSPECT: the tables (of the newest of `inspect.tables.RELEASES` that is whole),
        `CTPA/<image_id>.nii.gz` and, once made, `radiographs/<image_id>.jpg`.
    labels : tuple of str
        Some of `ALL_LABELS`. Censored outcomes are NaN, counted in the funnel.
    pixels : {"radiograph", "ct", "none"}
        What `path` names: the reconstructed radiograph; the CT volume, as the reconstruction needs; or nothing (NaN),
        for the tables alone. Studies whose file is not there are left out and counted.
    duplicates : {"collapse", "all", "first", "drop"}
        An impression (or image) that is listed more than once, as twelve are in the release: keep one of rows that
        agree in all that is read, and refuse rows that differ; the same, but keep all volumes of an impression as
        images of one study; keep the first whatever the others say; or leave all of them out. Not stated in the paper.
    report_missing : {"raise", "drop", "keep"}
        An impression that is empty or missing: refuse; leave the study out and count it; or keep it with no row in
        `privileged`.
    tables_root, ct_root, radiographs_root : Path, optional
        Where the tables, volumes and radiographs are, if not in `root`, `root/CTPA` and `root/radiographs`.

    Returns
    -------
    Cohort
        One row a study (with "all", one a volume): `image_id` (without .nii.gz), `patient_id` the person_id,
        `study_id` the impression_id, `split` train, validate (the release's "valid") or test, `view` "AP" for
        radiographs and "CT" for volumes. Further columns of `images`: `study_datetime` (NaT where unknown, as in 779
        rows of the release: their labels are there, so they are kept, which is not stated in the paper) and
        `ct_path`, the volume relative to `root`, NaN where it is not there. `privileged` is indexed by study_id:
        `text`, the impression.
    """
    tables_root = Path(tables_root or root)
    folders = {"ct": Path(ct_root or root / "CTPA"), "radiograph": Path(radiographs_root or root / "radiographs")}
    name, files = inspect_tables.find_tables(tables_root)
    simulated_title = f"Simulated CT and radiographs in the layout of INSPECT ({name})"
    info = replace(INFO, title=f"INSPECT (tables of {name})")
    info = source_info(info, simulated_title, root, [tables_root, *folders.values()])
    published = {} if info.simulated else RELEASED

    funnel = Funnel()
    images, tables, sources = _join(files, tables_root, labels, duplicates, funnel, published)
    for split in _SPLITS.values():
        funnel.step(f"official split: {split}", images[images["split"] == split], published.get(split, np.nan))
    if images["split"].isna().any():
        funnel.step("without a split (kept)", images[images["split"].isna()])
    timed = images["study_datetime"].notna()
    note = f"{int((~timed).sum())} without" + ("" if info.simulated else "; 779 in the release")
    funnel.step("time known (others kept)", images[timed], note=note)
    images, privileged = _add_text(images, tables["impressions"], files["impressions"], report_missing, funnel)
    images = _add_paths(images, root, folders, pixels, funnel, published)
    for label in labels:
        _count_label(funnel, images, label, info.simulated)
    images = images.reset_index(drop=True)
    privileged = privileged[privileged.index.isin(images["study_id"])]
    tables = [files["labels"], files["splits"], files["impressions"], *sources]
    return Cohort(info, root, list(labels), images, empty_boxes(), funnel.table(), privileged, tables)


def _join(
    files: dict[str, Path], tables_root: Path, labels: tuple[str, ...], duplicates: str, funnel: Funnel, published: dict
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], list[Path]]:
    """Studies with split and labels, one row each; the tables by name; and the files that the studies came from."""
    needed = {"labels": list(labels), "splits": ["split"], "impressions": ["impressions"]}
    tables = {}
    for kind, columns in needed.items():
        columns = ["impression_id", *columns]
        tables[kind] = read_table(files[kind], columns)[columns].rename(columns={"impression_id": "study_id"})
    studies, sources = inspect_tables.read_studies(files["studies"], inspect_tables.match(tables_root, CROSSWALK))
    note = "paper = the release's count" if published else ""
    funnel.step(f"rows of {files['studies'].name}", studies, published.get("studies", np.nan), note)

    policy, repeated = ("collapse" if duplicates == "all" else duplicates), {}
    for kind, table in tables.items():
        tables[kind], repeated[kind] = unique_rows(table, "study_id", files[kind], policy)
    if duplicates == "all":
        repeated["studies"] = set(studies.loc[studies["study_id"].duplicated(), "study_id"])
        images = studies.drop_duplicates()
        if (images.groupby("study_id")["patient_id"].nunique() > 1).any():
            raise DataError(f"{files['studies'].name} gives one impression to two persons; correct the table.")
    else:
        images, repeated["studies"] = unique_rows(studies, "study_id", files["studies"], policy)
    images, same_image = unique_rows(images, "image_id", files["studies"], policy)
    if duplicates == "drop":
        images = images[~images["study_id"].isin(set().union(*repeated.values()))]
    counts = ", ".join(f"{len(ids)} in {kind}" for kind, ids in repeated.items() if ids)
    counts = f"repeated ids: {counts or 'none'}" + (f", {len(same_image)} shared images" if same_image else "")
    unit = "an image" if duplicates == "all" else "an impression"
    funnel.step(f"one row {unit}", images, note=f"{counts}; {duplicates}")
    images = images[images["image_id"].notna()]
    funnel.step("has an image_id", images)

    values = {label: read_outcome(tables["labels"][label], label) for label in labels}
    tables["labels"] = tables["labels"].assign(**values)
    check_values(tables["splits"], "split", list(_SPLITS), files["splits"])
    images = images.merge(tables["labels"], on="study_id", how="inner", validate="many_to_one")
    if images.empty:
        raise DataError(
            f"No study of {files['studies'].name} has a row in {files['labels'].name}; use files of one release."
        )
    funnel.step("has a row of labels", images)
    images["split"] = images["study_id"].map(tables["splits"].set_index("study_id")["split"].map(_SPLITS))
    return images, tables, sources


def _add_text(
    images: pd.DataFrame, table: pd.DataFrame, file: Path, report_missing: str, funnel: Funnel
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Privileged text of the studies, and the studies that the policy leaves."""
    text = table.set_index("study_id")["impressions"].str.strip()
    privileged = text.reindex(images["study_id"].unique()).mask(lambda t: t == "").to_frame("text")
    if report_missing == "raise":
        check_text(privileged, file.name)
    without = int(privileged["text"].isna().sum())
    privileged = privileged.dropna()
    kept = images[images["study_id"].isin(privileged.index)]
    step = f"has an impression{' (others kept)' if report_missing == 'keep' else ''}"
    funnel.step(step, kept, note=f"{without} without" if without else "")
    return images if report_missing == "keep" else kept, privileged


def _add_paths(
    images: pd.DataFrame, root: Path, folders: dict[str, Path], pixels: str, funnel: Funnel, published: dict
) -> pd.DataFrame:
    """Paths of volume and radiograph relative to `root`; studies without the pixels asked for are left out."""
    names = {"ct": images["image_id"] + ".nii.gz", "radiograph": images["image_id"] + ".jpg"}
    there, paths = {}, {}
    for kind, folder in folders.items():
        # One listing instead of one look per study: the release has 23,248.
        there[kind] = names[kind].isin(os.listdir(folder) if folder.is_dir() else [])
        relative = Path(os.path.relpath(folder.resolve(), root.resolve())).as_posix()
        paths[kind] = (relative + "/" + names[kind]).where(there[kind])
    if pixels == "radiograph":
        note = f"{int((~there['ct']).sum())} without" + ("; 8 in the release" if published else "")
        note = note if folders["ct"].is_dir() else "no folder of volumes here"
        funnel.step("CT volume there (others kept)", images[there["ct"]], published.get("volumes", np.nan), note)
    images = images.assign(ct_path=paths["ct"], path=paths.get(pixels, np.nan))
    images["view"] = {"radiograph": "AP", "ct": "CT", "none": np.nan}[pixels]
    if pixels != "none":
        what, how = "reconstructed radiograph", "make them with notebook reports/00-reconstruct-radiographs"
        if pixels == "ct":
            what, how = "CT volume", f"get the volumes from {WHERE}"
        if not there[pixels].any():
            raise FileNotFoundError(
                f"{folders[pixels]} has no {what} of the {len(images):,} studies (such as {names[pixels].iloc[0]}); "
                f"{how}, or pass other pixels (radiograph, ct, none)."
            )
        images = images[there[pixels]]
        missing = int((~there[pixels]).sum())
        funnel.step(f"{what} there", images, published.get("volumes", np.nan), note=f"{missing} without")
    last = ["study_datetime", "ct_path"]
    return images[[*IMAGE_COLUMNS, *images.columns.difference([*IMAGE_COLUMNS, *last], sort=False), *last]]


def _count_label(funnel: Funnel, images: pd.DataFrame, label: str, simulated: bool) -> None:
    """Known, positive and balanced images of a label, beside the release's and the paper's counts."""
    known = images[label].notna()
    funnel.step(f"label known: {label}", images[known], note=f"{int((~known).sum())} censored")
    positive, balanced = ({} if simulated else counts for counts in (POSITIVE, BALANCED))
    note = "" if simulated else "paper = the release's count"
    funnel.step(f"positive: {label}", images[images[label] == 1], positive.get(label, np.nan), note)
    if label in BALANCED:  # the larger class sampled down to the smaller, image by image; splits may do so by patient
        classes = [images.index[images[label] == value] for value in (0, 1)]
        smaller, rng = min(map(len, classes)), np.random.default_rng(0)
        drawn = images.loc[np.concatenate([rng.permutation(members)[:smaller] for members in classes])]
        note = "negatives drawn with seed 0; every split draws its own"
        funnel.step(f"balanced: {label}", drawn, balanced.get(label, np.nan), note)
