"""MIMIC-CXR-JPG 2.1.0 with MIMIC-CXR's reports, MIMIC-IV's patients and MS-CXR's boxes, in their published layouts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pkd_utils.cohorts.boxes import boxes_of
from pkd_utils.cohorts.checks import as_numbers, check_filled, check_text, check_unique, check_values, read_csv, refuse
from pkd_utils.cohorts.report_sections import SECTIONS, read_reports
from pkd_utils.cohorts.table import SPLITS, Cohort, CohortInfo, Funnel, empty_boxes, source_info, within
from pkd_utils.runs.errors import DataError

WHERE = "https://physionet.org/content/mimic-cxr-jpg/2.1.0/ (access is by credential)"
WHERE_BOXES = "https://physionet.org/content/ms-cxr/ (access is by credential), or pass boxes=False"
LABELS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
ALL_LABELS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion"),
    *("Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax"),
    "Support Devices",
)
# What CheXpert's authors found best for each of the five: uncertain counts as present or as absent.
ONES_ZEROS = dict(zip(LABELS, ("one", "zero", "zero", "one", "one"), strict=True))
_POLICY = {"ignore": np.nan, "zero": 0.0, "one": 1.0}
# Rows of release 2.1.0 (images); the paper states none of its own.
RELEASED = {"all": 377_110, "AP": 147_169, "PA": 96_155, "train": 368_960, "validate": 2_991, "test": 5_159,
            "studies": 227_835}  # fmt: skip
MS_CXR = "MS_CXR_Local_Alignment_v1.1.0.csv"
INFO = CohortInfo(
    name="mimic_cxr",
    title="MIMIC-CXR-JPG 2.1.0",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation="Johnson et al., Sci Data 6:317 (2019), arXiv 1901.07042",
    credentialed=True,
    finding_boxes=True,
)


def load(
    root: Path,
    views: tuple[str, ...] | None = ("AP", "PA"),
    labels: Annotated[tuple[Literal[ALL_LABELS], ...], Field(min_length=1)] = LABELS,
    labeller: Literal["chexpert", "negbio"] = "chexpert",
    uncertain: str | Mapping[str, str] = "ignore",
    blank: Literal["zero", "ignore"] = "zero",
    sections: Annotated[tuple[Literal[SECTIONS], ...], Field(min_length=1)] = ("findings", "impression"),
    report_missing: Literal["raise", "drop", "keep"] = "raise",
    boxes: bool = True,
    split_from: Literal["mimic_cxr", "ms_cxr"] = "mimic_cxr",
    reports_root: Path | str | None = None,
    mimic_iv_root: Path | str | None = None,
    ms_cxr_root: Path | str | None = None,
) -> Cohort:
    """Index the images; reports are read when `privileged` is first asked for. The paper states none of the options.

    Parameters
    ----------
    root : Path
        MIMIC-CXR-JPG: `files/`, `mimic-cxr-2.0.0-metadata.csv.gz`, `-split.csv.gz`, `-chexpert.csv.gz` or
        `-negbio.csv.gz` (these names stay 2.0.0 in release 2.1.0).
    views : tuple of str, optional
        Values of ViewPosition to keep (an image without one is left out); None keeps all.
    labels : tuple of str
        Some of `ALL_LABELS`.
    labeller : {"chexpert", "negbio"}
        Which labeller's table to read. Labels hold for a study, so all its images share them.
    uncertain : {"ignore", "zero", "one", "ones-zeros"} or mapping
        What -1 (uncertain) becomes: NaN, 0, 1, or one of these by label ("ones-zeros": `ONES_ZEROS`; a mapping names
        the policy of every label).
    blank : {"zero", "ignore"}
        What an empty field (not mentioned) becomes: 0 or NaN.
    sections : tuple of str
        Sections of the report that make the text, and what stands in where it has none of them; see
        `report_sections.report_text`.
    report_missing : {"raise", "drop", "keep"}
        A report without text: refuse when `privileged` is read; leave the study out and count it in the funnel
        (this reads all selected reports now); or keep the images with no row in `privileged`.
    boxes : bool
        Read MS-CXR 1.1.0, rescaled to the size of the JPG where the declared size differs. All eight
        categories are read: a box is ground truth of the label that it names.
    split_from : {"mimic_cxr", "ms_cxr"}
        The official split, or that of MS-CXR for all images of a patient whose boxed images it has in one part.
        Everybody else keeps the official one, also patients whom MS-CXR has in several parts: nobody is in two.
    reports_root, mimic_iv_root, ms_cxr_root : Path, optional
        Where reports (`files/.../s<study>.txt` or the zip), `hosp/patients.csv.gz` and MS-CXR are, if not in `root`.

    Returns
    -------
    Cohort
        `image_id` is the dicom_id, `patient_id` the subject_id. Further columns of `images`: `study_datetime` (shifted
        dates), and, where MIMIC-IV's patients are found, `age` (years at the study; 91 stands for all over 89; NaN if
        negative or unknown) and `sex`. `privileged` is indexed by `study_id`: `text`, and `sections` (its origin).
        Masks are used where the root has a folder `masks/` (the simulated cohort does).
    """
    roots = [root if other is None else Path(other) for other in (reports_root, mimic_iv_root, ms_cxr_root)]
    reports_root, mimic_iv_root, ms_cxr_root = roots
    policies = _uncertain_policies(uncertain, labels)
    info = source_info(INFO, "Simulated chest radiographs in the layout of MIMIC-CXR-JPG", root, roots)

    files = {name: root / f"mimic-cxr-2.0.0-{name}.csv.gz" for name in ("metadata", "split", labeller)}
    funnel = Funnel()
    published = {} if info.simulated else RELEASED
    images, unlisted = _index(files["metadata"], files["split"])
    note = "paper = release 2.1.0" + (" (not shown beside simulated data)" if info.simulated else "")
    note += f"; {unlisted} rows of {files['split'].name} have none" if unlisted else ""
    funnel.step("images with metadata", images, published.get("all", np.nan), note)
    for split in SPLITS:
        funnel.step(f"official split: {split}", images[images["split"] == split], published.get(split, np.nan))
    if views is not None:
        count = sum(published.get(view, np.nan) for view in views)
        images = images[images["view"].isin(views)]
        funnel.step(f"view {', '.join(views)}", images, count)
    images = _add_labels(images, files[labeller], labels, policies, blank)
    funnel.step(f"study has {labeller} labels", images)

    tables = list(files.values())
    patients = mimic_iv_root / "hosp" / "patients.csv.gz"
    if patients.is_file():
        images = _add_ages(images, patients)
        tables.append(patients)
        funnel.step("age known (others kept)", images[images["age"].notna()])

    def read(selected: pd.DataFrame) -> pd.DataFrame:
        studies = selected[["study_id", "patient_id"]].drop_duplicates("study_id")
        table = read_reports(reports_root, studies, sections)
        if report_missing == "raise":
            check_text(table, info.title)
        return table.dropna(subset=["text"])

    privileged = read
    if report_missing == "drop":
        privileged = read(images)
        images = images[within(images["study_id"], privileged.index)]
        funnel.step(f"report has text ({', '.join(sections)} or what stands in)", images)
    images = images.reset_index(drop=True)
    for label in labels:
        funnel.step(f"label known: {label}", images[images[label].notna()], note=f"uncertain: {policies[label]}")

    box_table = empty_boxes()
    if boxes:
        file, annotated = _read_ms_cxr(ms_cxr_root)
        box_table, rescaled = boxes_of(images, annotated, root)
        left_out = annotated["image_id"].nunique() - box_table["image_id"].nunique()
        tables.append(file)
        note = f"{left_out} boxed images are not among the selected; {rescaled} images rescaled"
        funnel.step("with MS-CXR boxes", images[images["image_id"].isin(box_table["image_id"])], note=note)
    if split_from == "ms_cxr":
        if not boxes:
            raise DataError(
                "split_from='ms_cxr' takes the split from MS-CXR's file, so boxes=False does not go with it."
            )
        images = _split_of_ms_cxr(images, annotated, file, funnel)
    masks_root = root / "masks" if (root / "masks").is_dir() else None
    return Cohort(info, root, list(labels), images, box_table, funnel.table(), privileged, tables, masks_root)


def _uncertain_policies(uncertain: str | Mapping[str, str], labels: tuple[str, ...]) -> dict[str, str]:
    """Return the policy of each label."""
    if uncertain == "ones-zeros":
        uncertain = ONES_ZEROS
    policies = {label: uncertain if isinstance(uncertain, str) else uncertain.get(label) for label in labels}
    for label, policy in policies.items():
        if policy not in _POLICY:
            raise DataError(
                f"uncertain gives {policy!r} for label {label!r}; use 'ignore', 'zero', 'one', "
                "'ones-zeros' (the five labels of CheXpert), or a mapping that names one of the first three a label."
            )
    return policies


def _index(metadata: Path, split: Path) -> tuple[pd.DataFrame, int]:
    """Join metadata and official split into the image table, without looking at the image tree; rows of split alone."""
    columns = ["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime"]
    table = read_csv(metadata, columns, WHERE, only=True)
    check_filled(table, columns[:3], metadata)
    check_unique(table, "dicom_id", metadata.name)
    splits = read_csv(split, ["dicom_id", "split"], WHERE, only=True)
    check_unique(splits, "dicom_id", split.name)
    check_values(splits, "split", SPLITS, split)
    table = table.merge(splits, on="dicom_id", how="left")
    lacking = table["dicom_id"][table["split"].isna()]
    if len(lacking):
        raise DataError(
            f"{split.name} has no row for {len(lacking)} image(s) of {metadata.name}, the first is "
            f"{lacking.iloc[0]!r}; use files of one release."
        )
    dicom, subject, study = (table[name] for name in columns[:3])
    images = pd.DataFrame({"image_id": dicom, "patient_id": subject, "study_id": study})
    images["path"] = "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + dicom + ".jpg"
    images[["split", "view"]] = table[["split", "ViewPosition"]]
    return images.assign(study_datetime=_study_datetime(table, metadata)), len(splits) - len(table)


def _study_datetime(table: pd.DataFrame, file: Path) -> pd.Series:
    """Join StudyDate (YYYYMMDD) and StudyTime (HHMMSS.sss without leading zeros) to timestamps; empty gives NaT."""
    day = pd.to_datetime(table["StudyDate"], format="%Y%m%d", errors="coerce")
    clock = pd.to_numeric(table["StudyTime"], errors="coerce")
    hours, minutes, seconds = clock // 10_000, clock % 10_000 // 100, clock % 100
    good_time = (clock >= 0) & (hours <= 23) & (minutes <= 59) & (seconds < 61)  # none of them of NaN or infinity
    for name, bad in (("StudyDate", ~day.between("1700", "2261")), ("StudyTime", ~good_time)):  # what fits nanoseconds
        refuse(table, name, bad & table[name].notna(), file, "is not a date or time in DICOM's form")
    return day + pd.to_timedelta((hours * 3600 + minutes * 60 + seconds).round(3), unit="s")


def read_labels(file: Path, labels: Sequence[str]) -> pd.DataFrame:
    """Read a labeller's table: `study_id` (once each) and labels as floats: 1, 0, -1 (uncertain) and NaN (blank)."""
    table = read_csv(file, ["study_id", *labels], WHERE, only=True)
    check_filled(table, ["study_id"], file)
    check_unique(table, "study_id", file.name)
    values = table[["study_id"]].copy()
    for label in labels:
        values[label] = pd.to_numeric(table[label], errors="coerce").astype("float64")
        wrong = ~values[label].isin([1, 0, -1]) & table[label].notna()
        refuse(table, label, wrong, file, "is not 1, 0, -1 or empty")
    return values


def _add_labels(
    images: pd.DataFrame, file: Path, labels: tuple[str, ...], policies: dict[str, str], blank: str
) -> pd.DataFrame:
    """Join study-level labels; images whose study has no row in the label table are left out."""
    table = read_labels(file, labels)
    for label in labels:
        uncertain = table[label] == -1
        table[label] = table[label].fillna(_POLICY[blank]).mask(uncertain, _POLICY[policies[label]])
    joined = images.merge(table, on="study_id", how="inner", validate="many_to_one")
    return joined[[*images.columns.drop("study_datetime"), *labels, "study_datetime"]]


def _add_ages(images: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Add age at the study, anchor_age + year of study - anchor_year, and sex from MIMIC-IV's patients."""
    columns = ["subject_id", "gender", "anchor_age", "anchor_year"]
    table = read_csv(file, columns, "https://physionet.org/content/mimiciv/", only=True)
    check_unique(table, "subject_id", file.name)
    table = as_numbers(table, ["anchor_age", "anchor_year"], file).set_index("subject_id")
    shift = images["patient_id"].map(table["anchor_age"] - table["anchor_year"]).astype("float64")
    age = (images["study_datetime"].dt.year + shift).astype("float64")
    return images.assign(age=age.where(age >= 0), sex=images["patient_id"].map(table["gender"]))


def _read_ms_cxr(root: Path) -> tuple[Path, pd.DataFrame]:
    """MS-CXR's file, in the folder itself or in `ms-cxr/` below it, and its boxes as `boxes.boxes_of` takes them."""
    folders = (root, root / "ms-cxr", root / "ms-cxr" / "1.1.0")
    file = next((folder / MS_CXR for folder in folders if (folder / MS_CXR).is_file()), root / MS_CXR)
    names = {"x": "x", "y": "y", "w": "width", "h": "height"}
    names |= {"image_width": "declared_width", "image_height": "declared_height"}
    table = as_numbers(read_csv(file, ["dicom_id", "category_name", *names], WHERE_BOXES), list(names), file)
    return file, table.rename(columns={"dicom_id": "image_id", "category_name": "label", **names})


def _split_of_ms_cxr(images: pd.DataFrame, annotated: pd.DataFrame, file: Path, funnel: Funnel) -> pd.DataFrame:
    """Give the patients whom MS-CXR has in one part, with all their images, that part as split."""
    patient = annotated["image_id"].map(images.set_index("image_id")["patient_id"])
    named = annotated["split"] if "split" in annotated else pd.Series(None, annotated.index, dtype="object")
    part = named.map({"train": "train", "val": "validate", "validate": "validate", "test": "test"})
    if part[patient.notna()].isna().any():
        raise DataError(
            f"{file} does not say train, val or test as split of every box; use release 1.1.0, "
            "or split_from='mimic_cxr'."
        )
    parts = part.groupby(patient).agg(["nunique", "first"])
    taken = images["patient_id"].map(parts["first"][parts["nunique"] == 1])
    funnel.step("of patients split as in MS-CXR", images[taken.notna()])
    crossing = images["patient_id"].isin(parts.index[parts["nunique"] > 1])
    funnel.step("of patients in several parts of MS-CXR", images[crossing], note="they keep the official split")
    images = images.assign(split=taken.fillna(images["split"]))
    for split in SPLITS:
        funnel.step(f"split taken: {split}", images[images["split"] == split])
    return images
